//! What a branch lost, in words.

use agentfs_fsd::backstore::Loss;

use super::stat::plural;
use super::style::escape_word;

/// Names told before the rest is only counted.
const NAMED_MAX: usize = 8;

/// `2 files: /a, inode 7; 5 directories made again; 3 records and 0 names of table.1`.
pub fn lost_words<'a>(losses: impl Iterator<Item = &'a Loss>) -> String {
    let (mut files, mut dirs, mut others) = (Vec::new(), 0, Vec::new());
    for loss in losses {
        let word = match (&loss.path, loss.ino) {
            _ if loss.remade => {
                dirs += 1;
                continue;
            }
            (Some(path), _) => escape_word(path).to_string(),
            (None, Some(ino)) => format!("inode {ino}"),
            (None, None) => {
                others.push(escape_word(loss.what.as_bytes()).to_string());
                continue;
            }
        };
        if !files.contains(&word) {
            files.push(word);
        }
    }
    let list = |words: &[String]| {
        let more = if words.len() > NAMED_MAX { ", .." } else { "" };
        let shown = &words[..words.len().min(NAMED_MAX)];
        format!("{}{more}", shown.join(", "))
    };
    let mut parts = Vec::new();
    let n = files.len() as u64;
    if n > 0 {
        parts.push(format!("{n} {}: {}", plural(n, "file"), list(&files)));
    }
    match dirs {
        0 => {}
        1 => parts.push("1 directory, made again".to_owned()),
        n => parts.push(format!("{n} directories, made again")),
    }
    if !others.is_empty() {
        parts.push(list(&others));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use agentfs_fsd::core::types::Ino;

    use super::*;

    #[test]
    fn names_come_first_then_numbers_then_the_rest() {
        let loss = |path: Option<&str>, ino, what: &str| Loss {
            path: path.map(|path| path.as_bytes().to_vec()),
            ino,
            what: what.into(),
            remade: false,
        };
        let part = loss(None, None, "8 records of t");
        let (named, numbered) = (
            loss(Some("/a"), Some(Ino(7)), "x"),
            loss(None, Some(Ino(9)), "y"),
        );
        let words = |losses: &[&Loss]| lost_words(losses.iter().copied());
        assert_eq!(words(&[&part]), "8 records of t");
        assert_eq!(words(&[&named, &named]), "1 file: /a");
        assert_eq!(
            words(&[&part, &named, &numbered]),
            "2 files: /a, inode 9; 8 records of t"
        );
        let dir = Loss {
            remade: true,
            ..loss(Some("/d"), Some(Ino(3)), "")
        };
        assert_eq!(words(&[&dir]), "1 directory, made again");
        assert_eq!(
            words(&[&dir, &dir, &named]),
            "1 file: /a; 2 directories, made again"
        );
        let many: Vec<Loss> = (0..12).map(|n| loss(None, Some(Ino(n)), "")).collect();
        let text = lost_words(many.iter());
        assert!(
            text.starts_with("12 files: inode 0, ") && text.ends_with("inode 7, .."),
            "{text}"
        );
    }
}
