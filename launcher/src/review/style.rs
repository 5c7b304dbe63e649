//! How output looks: colour on a terminal, plain bytes elsewhere, and no control character of a
//! branch ever raw on a terminal.

use std::io::{self, IsTerminal, Write};

/// Parts of a patch that differ in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Header,
    Hunk,
    Added,
    Removed,
    Context,
}

/// How to write lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colour: bool,
    escape: bool,
}

impl Style {
    /// Bytes as they are: for pipes and files.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Style {
            colour: false,
            escape: false,
        }
    }

    /// For stdout: on a terminal coloured (unless NO_COLOR or TERM=dumb ask otherwise) and escaped.
    pub fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Style {
            colour: terminal && !refused,
            escape: terminal,
        }
    }

    /// Writes one line and its end.
    pub fn line(self, out: &mut dyn Write, paint: Paint, text: &[u8]) -> io::Result<()> {
        let (on, off) = if self.colour {
            (code(paint), "\x1b[m")
        } else {
            ("", "")
        };
        if on.is_empty() {
            self.text(out, text)?;
        } else {
            out.write_all(on.as_bytes())?;
            self.text(out, text)?;
            out.write_all(off.as_bytes())?;
        }
        out.write_all(b"\n")
    }

    /// Wraps a short plain text in a colour.
    pub fn painted(self, paint: Paint, text: &str) -> String {
        match code(paint) {
            on if self.colour && !on.is_empty() => format!("{on}{text}\x1b[m"),
            _ => text.to_owned(),
        }
    }

    fn text(self, out: &mut dyn Write, text: &[u8]) -> io::Result<()> {
        if self.escape {
            out.write_all(escape(text).as_bytes())
        } else {
            out.write_all(text)
        }
    }
}

fn code(paint: Paint) -> &'static str {
    match paint {
        Paint::Header => "\x1b[1m",
        Paint::Hunk => "\x1b[36m",
        Paint::Added => "\x1b[32m",
        Paint::Removed => "\x1b[31m",
        Paint::Context => "",
    }
}

/// Bytes as text that a terminal only shows: what is not printable UTF-8 becomes `\xNN` or `\u{N}`.
/// Tabs stay.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push(c),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", c as u32)),
                c if c.is_control() || reorders(c) => {
                    text.push_str(&format!("\\u{{{:x}}}", c as u32));
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A path or word for a table or a message: like [`escape`], tabs too, and a backslash doubled so
/// that the original can be told.
pub fn escape_word(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.split_inclusive(|b| matches!(b, b'\\' | b'\t')) {
        match part.split_last() {
            Some((b'\\', head)) => text.push_str(&(escape(head) + "\\\\")),
            Some((b'\t', head)) => text.push_str(&(escape(head) + "\\x09")),
            _ => text.push_str(&escape(part)),
        }
    }
    text
}

/// Characters that show nothing themselves but change how, or whether, others show.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}' | '\u{061c}' | '\u{00ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_survives() {
        assert_eq!(
            escape(b"a\x1b]52;c;x\x07\r\tb\n"),
            "a\\x1b]52;c;x\\x07\\x0d\tb\\x0a"
        );
        assert_eq!(
            escape("\u{9b}31m\u{202e}caf\u{e9}".as_bytes()),
            "\\u{9b}31m\\u{202e}caf\u{e9}"
        );
        assert_eq!(escape(b"\xff\xc3("), "\\xff\\xc3(");
        assert_eq!(escape_word(b"a\tb\\n"), "a\\x09b\\\\n");
    }
}
