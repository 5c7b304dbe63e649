//! Which environment variables reach the command.
//!
//! A name is matched without regard to case; `*` stands for any run of characters. A variable that
//! both lists name stays: `keep` is the more deliberate word.

use std::collections::BTreeMap;

/// Which variables are dropped, which are kept all the same, and which are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvPolicy {
    /// Patterns of names that stay whatever `drop` says.
    pub keep: Vec<String>,
    /// Patterns of names that go.
    pub drop: Vec<String>,
    /// Names and values that are set, last.
    pub set: BTreeMap<String, String>,
}

impl EnvPolicy {
    /// Whether a variable called `name` reaches the command.
    pub fn keeps(&self, name: &[u8]) -> bool {
        let hit = |list: &[String]| list.iter().any(|p| matches(p.as_bytes(), name));
        !hit(&self.drop) || hit(&self.keep)
    }

    /// Adds another source's words to these.
    pub fn extend(&mut self, other: EnvPolicy) {
        self.keep.extend(other.keep);
        self.drop.extend(other.drop);
        self.set.extend(other.set);
    }
}

/// Whether `pattern` with its `*`s covers the whole of `name`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p, n));
            p += 1;
        } else if p < pattern.len() && pattern[p].eq_ignore_ascii_case(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            p = star + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_cover_any_run() {
        let yes = [
            ("*_KEY", "API_KEY"),
            ("*_key", "X_KEY"),
            ("A*B*C", "AxxByyBC"),
            ("*", ""),
        ];
        let no = [
            ("*_KEY", "KEYRING"),
            ("*_KEY", "X_KEYS"),
            ("A*B", "Ab_"),
            ("", "A"),
        ];
        for (pattern, name) in yes {
            assert!(
                matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
        for (pattern, name) in no {
            assert!(
                !matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn keep_is_stronger_than_drop() {
        let env = EnvPolicy {
            keep: vec!["MY_KEY".into()],
            drop: vec!["*_KEY".into()],
            ..EnvPolicy::default()
        };
        assert!(env.keeps(b"MY_KEY") && env.keeps(b"PATH") && !env.keeps(b"OTHER_KEY"));
    }
}
