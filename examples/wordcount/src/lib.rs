//! Counts words: a small library for a small project to test.

use std::collections::BTreeMap;

/// How often each word occurs in `text`, upper and lower case being the same.
pub fn count(text: &str) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    words
}

/// The `most` most frequent words, the most frequent first, equal ones in alphabetical order.
pub fn top(text: &str, most: usize) -> Vec<(String, usize)> {
    let mut words: Vec<_> = count(text).into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    words.truncate(most);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_do_not_count() {
        let words = count("A branch, a Branch; the BASE.");
        assert_eq!(words["branch"], 2);
        assert_eq!(words["base"], 1);
        assert_eq!(words.len(), 4);
    }

    #[test]
    fn nothing_has_no_words() {
        assert!(count(" -- \n").is_empty());
    }

    #[test]
    fn frequent_words_come_first() {
        let words = top("b a b c a b", 2);
        assert_eq!(words, [("b".to_owned(), 3), ("a".to_owned(), 2)]);
    }
}
