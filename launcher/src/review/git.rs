//! The small formats of git that a patch is made of: blob ids, quoted names, base 85, and which
//! names git refuses. Pure but for writing what it is told to; never runs git.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};

use agentfs_fsd::core::types::Kind;
use agentfs_fsd::review::{Blob, Node};

/// The id that git gives to "no object".
pub const NO_BLOB: &str = "0000000000000000000000000000000000000000";

/// The modes a patch can tell apart: plain, executable, symbolic link. `None` for anything else.
pub fn mode(node: &Node) -> Option<u32> {
    match node.kind {
        Kind::File if node.perm & 0o100 != 0 => Some(0o100_755),
        Kind::File => Some(0o100_644),
        Kind::Symlink => Some(0o120_000),
        Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => None,
    }
}

/// The blob id of `blob`, as 40 hexadecimal digits.
pub fn blob_id(blob: &Blob) -> io::Result<String> {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", blob.len()));
    blob.each_piece(&mut |piece| -> io::Result<()> {
        hash.update(piece);
        Ok(())
    })?;
    Ok(hex(&hash.finalize()))
}

/// The blob id of bytes in memory.
pub fn bytes_id(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name behind `prefix` ("a/", "b/" or nothing), in double quotes and escaped if anything in it
/// could be taken for something else. Every byte survives, and none reaches a terminal raw.
pub fn quote(prefix: &str, name: &[u8]) -> String {
    let plain = |b: &u8| (0x21..0x7f).contains(b) && !matches!(b, b'"' | b'\\');
    if name.iter().all(plain) {
        return format!("{prefix}{}", name.escape_ascii());
    }
    let mut quoted = format!("\"{prefix}");
    for &byte in name {
        match byte {
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            b'\n' => quoted.push_str("\\n"),
            b'\t' => quoted.push_str("\\t"),
            b'\r' => quoted.push_str("\\r"),
            0x20..0x7f => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\{byte:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Why `git apply` would refuse a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is `.git`, or lies inside one.
    GitDir,
    /// git takes it for `.git` or a link `.gitmodules` on some other system.
    Disguised,
}

/// Whether `git apply` refuses `path` (relative), which is a symbolic link or not.
pub fn refusal(path: &[u8], is_symlink: bool) -> Option<Refusal> {
    let mut found = None;
    for part in path.split(|b| *b == b'/') {
        if part == b".git" {
            return Some(Refusal::GitDir);
        }
        // A backslash separates components where git fears NTFS, and it does so everywhere.
        for piece in part.split(|b| *b == b'\\') {
            if is_dot_git(piece) || (is_symlink && is_dot_gitmodules(piece)) {
                found = Some(Refusal::Disguised);
            }
        }
    }
    found
}

/// Whether `name` up to a colon, without trailing dots and spaces, is one of `words` in any case.
fn ntfs_equals(name: &[u8], words: &[&[u8]]) -> bool {
    let name = name.split(|b| *b == b':').next().unwrap_or(name);
    let kept = name
        .iter()
        .rposition(|b| !matches!(b, b'.' | b' '))
        .map_or(0, |at| at + 1);
    words
        .iter()
        .any(|word| name[..kept].eq_ignore_ascii_case(word))
}

fn is_dot_git(name: &[u8]) -> bool {
    ntfs_equals(name, &[b".git", b"git~1"])
}

fn is_dot_gitmodules(name: &[u8]) -> bool {
    let short: [&[u8]; 5] = [
        b".gitmodules",
        b"gitmod~1",
        b"gitmod~2",
        b"gitmod~3",
        b"gitmod~4",
    ];
    let lower = name.to_ascii_lowercase();
    // The 8.3 names that NTFS falls back to: a hash of the long name, shortened as numbers grow.
    let hashed = lower.contains(&b'~') && lower.starts_with(b"gi");
    ntfs_equals(name, &short) || hashed
}

/// Writes `blob` as one `literal` of a `GIT binary patch`.
///
/// Errors: the blob cannot be read, or `out` not be written.
pub fn write_literal(out: &mut dyn Write, blob: &Blob) -> io::Result<()> {
    writeln!(out, "literal {}", blob.len())?;
    let mut packer = ZlibEncoder::new(Base85::new(&mut *out), Compression::default());
    blob.each_piece(&mut |piece| packer.write_all(piece))?;
    packer.finish()?.finish()?;
    writeln!(out)
}

/// Splits what is written into the lines of a binary patch: a letter for the length, then base 85.
struct Base85<'a> {
    out: &'a mut dyn Write,
    line: Vec<u8>,
}

const BASE85_LINE_BYTES: usize = 52;
const BASE85: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

impl<'a> Base85<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Base85 {
            out,
            line: Vec::with_capacity(BASE85_LINE_BYTES),
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let mut text = Vec::with_capacity(BASE85_LINE_BYTES / 4 * 5 + 2);
        text.push(match self.line.len() as u8 {
            len @ 1..=26 => b'A' + len - 1,
            len => b'a' + len - 27,
        });
        for group in self.line.chunks(4) {
            let mut word = [0; 4];
            word[..group.len()].copy_from_slice(group);
            let mut number = u32::from_be_bytes(word);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = BASE85[(number % 85) as usize];
                number /= 85;
            }
            text.extend_from_slice(&digits);
        }
        text.push(b'\n');
        self.line.clear();
        self.out.write_all(&text)
    }

    fn finish(mut self) -> io::Result<()> {
        if self.line.is_empty() {
            Ok(())
        } else {
            self.end_line()
        }
    }
}

impl Write for Base85<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = bytes;
        while !left.is_empty() {
            let step = left.len().min(BASE85_LINE_BYTES - self.line.len());
            self.line.extend_from_slice(&left[..step]);
            left = &left[step..];
            if self.line.len() == BASE85_LINE_BYTES {
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_ids_are_those_of_git() {
        assert_eq!(bytes_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(
            bytes_id(b"hello\n"),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
    }

    #[test]
    fn names_are_quoted_as_soon_as_anything_is_odd() {
        assert_eq!(quote("a/", b"src/lib.rs"), "a/src/lib.rs");
        assert_eq!(quote("b/", b"a b"), "\"b/a b\"");
        assert_eq!(
            quote("", b"\x1b]\n\t\"\\\xff'"),
            "\"\\033]\\n\\t\\\"\\\\\\377'\""
        );
        assert_eq!(quote("", "\u{e9}".as_bytes()), "\"\\303\\251\"");
    }

    #[test]
    fn git_refuses_dot_git_in_every_guise() {
        use Refusal::{Disguised, GitDir};
        for (path, link, expected) in [
            (&b".git"[..], false, Some(GitDir)),
            (b".git/config", false, Some(GitDir)),
            (b"sub/.git/hooks/x", false, Some(GitDir)),
            (b".GIT/config", false, Some(Disguised)),
            (b"a/git~1", false, Some(Disguised)),
            (b".git .", false, Some(Disguised)),
            (b".git::$INDEX_ALLOCATION", false, Some(Disguised)),
            (b"x\\.git\\y", false, Some(Disguised)),
            (b".gitmodules", true, Some(Disguised)),
            (b".gitmodules", false, None),
            (b".gitignore", false, None),
            (b".github/x", true, None),
            (b"git", false, None),
            (b"x.git", false, None),
        ] {
            assert_eq!(refusal(path, link), expected, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn base_85_lines_are_those_of_git() {
        let mut out = Vec::new();
        let mut lines = Base85::new(&mut out);
        // The deflated form of nothing, as every binary deletion shows it.
        lines.write_all(&[0x78, 0x9c, 3, 0, 0, 0, 0, 1]).unwrap();
        lines.finish().unwrap();
        assert_eq!(out, b"Hc$@<O00001\n");
    }
}
