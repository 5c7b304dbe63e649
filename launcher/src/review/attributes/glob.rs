//! Matches a path against a pattern of an attribute file. Pure; its cost is bounded by the product
//! of the lengths, whatever the pattern. Source: gitignore(5), "PATTERN FORMAT"; glob(7).

/// Whether `pattern` is about `path`, which is relative to the directory of the pattern's file.
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.contains(&b'/') {
        true => full(pattern.strip_prefix(b"/").unwrap_or(pattern), path, true),
        false => {
            let start = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
            full(pattern, &path[start..], false)
        }
    }
}

/// One step of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Token<'p> {
    Byte(u8),
    /// `?`: any byte but, in paths, a slash.
    Any,
    /// The inside of `[..]`, and whether it is negated.
    Class(&'p [u8], bool),
    /// `*`: any bytes but, in paths, a slash.
    Star,
    /// `**`: any bytes; `**/` at the start of a component also nothing.
    Deep {
        slash: bool,
    },
}

fn full(pattern: &[u8], text: &[u8], in_path: bool) -> bool {
    let Some(tokens) = tokens(pattern, in_path) else {
        return false;
    };
    // Which lengths of the text the tokens so far can stand for.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for token in &tokens {
        let mut next = vec![false; text.len() + 1];
        match token {
            Token::Star | Token::Deep { slash: false } => {
                let deep = !in_path || *token != Token::Star;
                let mut open = false;
                for at in 0..=text.len() {
                    open |= ends[at];
                    next[at] = open;
                    open &= deep || text.get(at) != Some(&b'/');
                }
            }
            Token::Deep { slash: true } => {
                let mut open = false;
                for at in 0..=text.len() {
                    next[at] = ends[at] || open && text[at - 1] == b'/';
                    open |= ends[at];
                }
            }
            token => {
                for (at, byte) in text.iter().enumerate() {
                    next[at + 1] = ends[at] && takes(token, *byte, in_path);
                }
            }
        }
        ends = next;
    }
    ends[text.len()]
}

fn takes(token: &Token<'_>, byte: u8, in_path: bool) -> bool {
    match token {
        Token::Byte(wanted) => *wanted == byte,
        Token::Any => !in_path || byte != b'/',
        Token::Class(inside, negated) => {
            (!in_path || byte != b'/') && in_class(inside, byte) != *negated
        }
        Token::Star | Token::Deep { .. } => false,
    }
}

/// `None`: a pattern that matches nothing.
fn tokens(pattern: &[u8], in_path: bool) -> Option<Vec<Token<'_>>> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(byte) = pattern.get(at) {
        at += 1;
        match byte {
            b'\\' => {
                tokens.push(Token::Byte(*pattern.get(at)?));
                at += 1;
            }
            b'?' => tokens.push(Token::Any),
            b'*' => {
                let start = at - 1;
                while pattern.get(at) == Some(&b'*') {
                    at += 1;
                }
                let begins = start == 0 || pattern[start - 1] == b'/';
                let next = pattern.get(at);
                let deep = in_path && at - start > 1 && begins;
                match next {
                    Some(b'/') if deep => {
                        at += 1;
                        tokens.push(Token::Deep { slash: true });
                    }
                    None if deep => tokens.push(Token::Deep { slash: false }),
                    _ => tokens.push(Token::Star),
                }
            }
            b'[' => {
                let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
                let start = at + usize::from(negated);
                let end = class_end(pattern, start)?;
                tokens.push(Token::Class(&pattern[start..end], negated));
                at = end + 1;
            }
            byte => tokens.push(Token::Byte(*byte)),
        }
    }
    Some(tokens)
}

/// Where the `]` is that ends the class whose inside begins at `start`.
fn class_end(pattern: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match pattern.get(at)? {
            b']' if at > start => return Some(at),
            b'\\' => at += 2,
            b'[' if pattern.get(at + 1) == Some(&b':') => {
                let rest = &pattern[at + 2..];
                at += match rest.windows(2).position(|pair| pair == b":]") {
                    Some(len) => len + 4,
                    None => 1,
                };
            }
            _ => at += 1,
        }
    }
}

fn in_class(inside: &[u8], byte: u8) -> bool {
    let mut at = 0;
    let mut found = false;
    while at < inside.len() {
        if let Some(rest) = inside[at..].strip_prefix(b"[:")
            && let Some(len) = rest.windows(2).position(|pair| pair == b":]")
        {
            found |= is_named(&rest[..len], byte);
            at += len + 4;
            continue;
        }
        let (low, after) = literal(inside, at);
        at = after;
        // A `-` at the end stands for itself.
        if inside.get(at) == Some(&b'-') && at + 1 < inside.len() {
            let (high, after) = literal(inside, at + 1);
            at = after;
            found |= (low..=high).contains(&byte);
        } else {
            found |= low == byte;
        }
    }
    found
}

fn literal(inside: &[u8], at: usize) -> (u8, usize) {
    match (inside[at], inside.get(at + 1)) {
        (b'\\', Some(byte)) => (*byte, at + 2),
        (byte, _) => (byte, at + 1),
    }
}

fn is_named(name: &[u8], byte: u8) -> bool {
    match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => byte == b' ' || byte == b'\t',
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 11,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}
