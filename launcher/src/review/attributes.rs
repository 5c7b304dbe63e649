//! Which files git would convert on their way in or out of the working tree, by its attributes:
//! `ident`, `filter` and `working-tree-encoding`. `git apply` compares and writes such files in
//! converted form, so a patch of their bytes does not fit.
//!
//! Reads attribute files as plain text, bounded; executes nothing. Refuses to know what a filter
//! does. Source: gitattributes(5).

mod glob;

use std::collections::HashMap;

/// Largest attribute file that is read, in bytes; longer ones say nothing here.
pub const FILE_BYTES: u64 = 1 << 20;
/// Longest line that git looks at, in bytes.
const LINE_BYTES: usize = 2048;
/// The attributes that matter, in the order in which they are told.
const CONVERTING: [&str; 3] = ["filter", "working-tree-encoding", "ident"];

/// What a line says of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Set,
    Unset,
    Unspecified,
    Value(Vec<u8>),
}

#[derive(Debug)]
struct Rule {
    pattern: Vec<u8>,
    states: Vec<(Vec<u8>, State)>,
}

/// What one attribute file says.
#[derive(Debug, Default)]
pub struct Attributes {
    rules: Vec<Rule>,
    macros: HashMap<Vec<u8>, Vec<(Vec<u8>, State)>>,
}

impl Attributes {
    /// Reads the text of such a file; `with_macros`: at the top of a working tree or outside of it.
    pub fn parse(text: &[u8], with_macros: bool) -> Self {
        let mut all = Attributes::default();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for line in text.split(|b| *b == b'\n').filter(|l| l.len() < LINE_BYTES) {
            let line = line.trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let Some((pattern, rest)) = pattern(line) else {
                continue;
            };
            let words = rest.split(|b| b.is_ascii_whitespace());
            let states: Vec<_> = words.filter(|w| !w.is_empty()).map(state).collect();
            if let Some(name) = line.strip_prefix(b"[attr]") {
                // The name is the rest of the first word.
                let end = name.iter().position(u8::is_ascii_whitespace);
                let name = &name[..end.unwrap_or(name.len())];
                if with_macros {
                    all.macros.insert(name.to_vec(), states);
                }
            } else if !pattern.starts_with(b"!") && !pattern.ends_with(b"/") {
                all.rules.push(Rule { pattern, states });
            }
        }
        all
    }
}

/// The attribute files that speak of a path, the ones with the last word first, each with the path
/// relative to where it is.
pub type Stack<'a> = [(&'a Attributes, &'a [u8])];

/// The attribute for which git would convert the file that `stack` is about; `None`: as it is.
pub fn converts(stack: &Stack<'_>) -> Option<&'static str> {
    let mut known: HashMap<Vec<u8>, State> = HashMap::new();
    for (file, path) in stack {
        for rule in file.rules.iter().rev() {
            if glob::matches(&rule.pattern, path) {
                fill(&rule.states, stack, &mut known);
            }
        }
    }
    CONVERTING
        .into_iter()
        .find(|name| match (*name, known.get(name.as_bytes())) {
            ("ident", state) => state == Some(&State::Set),
            ("filter", Some(State::Value(_))) => true,
            (_, Some(State::Value(value))) => !is_utf8(value),
            _ => false,
        })
}

/// What was said first stays: the last word of a line, the last line, the nearest file.
fn fill(states: &[(Vec<u8>, State)], stack: &Stack<'_>, known: &mut HashMap<Vec<u8>, State>) {
    let mut todo: Vec<_> = states.iter().collect();
    while let Some((name, state)) = todo.pop() {
        if known.contains_key(name) {
            continue;
        }
        known.insert(name.clone(), state.clone());
        let expand = || stack.iter().find_map(|(file, _)| file.macros.get(name));
        if *state == State::Set
            && let Some(states) = expand()
        {
            todo.extend(states);
        }
    }
}

fn is_utf8(encoding: &[u8]) -> bool {
    encoding.is_empty()
        || encoding.eq_ignore_ascii_case(b"utf-8")
        || encoding.eq_ignore_ascii_case(b"utf8")
}

/// The pattern at the start of a line, and the rest of it.
fn pattern(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        let end = line.iter().position(u8::is_ascii_whitespace);
        let (pattern, rest) = line.split_at(end.unwrap_or(line.len()));
        return Some((pattern.to_vec(), rest));
    };
    let (mut pattern, mut at) = (Vec::new(), 0);
    loop {
        let byte = *quoted.get(at)?;
        at += 1;
        match byte {
            b'"' => return Some((pattern, &quoted[at..])),
            b'\\' => {
                let escape = *quoted.get(at)?;
                at += 1;
                pattern.push(match escape {
                    b'a' => 7,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    b'\\' | b'"' => escape,
                    b'0'..=b'3' => {
                        let digits = quoted.get(at - 1..at + 2)?;
                        at += 2;
                        let text = std::str::from_utf8(digits).ok()?;
                        u8::from_str_radix(text, 8).ok()?
                    }
                    _ => return None,
                });
            }
            byte => pattern.push(byte),
        }
    }
}

fn state(word: &[u8]) -> (Vec<u8>, State) {
    match word {
        [b'-', name @ ..] => (name.to_vec(), State::Unset),
        [b'!', name @ ..] => (name.to_vec(), State::Unspecified),
        word => match word.iter().position(|b| *b == b'=') {
            Some(at) => (word[..at].to_vec(), State::Value(word[at + 1..].to_vec())),
            None => (word.to_vec(), State::Set),
        },
    }
}

#[cfg(test)]
mod tests;
