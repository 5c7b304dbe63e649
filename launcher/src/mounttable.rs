//! Reads the table of mounts of this mount namespace, as bytes: a mount point need not be UTF-8.
//!
//! Source: proc(5), `/proc/[pid]/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::CmdError;

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// The type of the file system, with its subtype.
    pub fs_type: OsString,
    /// What the mounter named as its source.
    pub source: OsString,
}

/// All mounts, in the order in which they were made.
pub fn read() -> Result<Vec<Mount>, CmdError> {
    let table = std::fs::read(TABLE).map_err(|e| CmdError::io("read", TABLE, e))?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// What is mounted at exactly `point`, a real path; of several mounts the one on top.
pub fn top_at(point: &Path) -> Result<Option<Mount>, CmdError> {
    Ok(read()?.into_iter().rfind(|mount| mount.point == point))
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    let point = words.nth(4)?;
    let mut tail = words.skip_while(|word| *word != b"-").skip(1);
    Some(Mount {
        point: unescaped(point).into(),
        fs_type: unescaped(tail.next()?),
        source: unescaped(tail.next()?),
    })
}

/// Undoes the octal escapes of the table.
fn unescaped(word: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let code = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let code = code.and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(word[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_bytes_are_read() {
        let line =
            b"9 8 0:4 / /a\\040b\xff rw,nosuid shared:7 master:2 - fuse.x s\\134\\011\xfe rw";
        let found = parse(line).unwrap();
        assert_eq!(found.point.into_os_string().into_vec(), b"/a b\xff");
        assert_eq!(found.fs_type, "fuse.x");
        assert_eq!(found.source.into_vec(), b"s\\\t\xfe");
        for not in [&b""[..], b"9 8 0:4 / /a rw", b"9 8 0:4 / /a rw - tmpfs"] {
            assert_eq!(parse(not), None);
        }
    }

    #[test]
    fn only_what_is_an_escape_is_undone() {
        assert_eq!(unescaped(br"/plain\9"), r"/plain\9");
        assert_eq!(unescaped(br"/end\04"), r"/end\04");
        assert_eq!(unescaped(br"/big\777"), r"/big\777");
    }

    #[test]
    fn the_root_is_found() {
        assert!(read().unwrap().iter().any(|m| m.point == Path::new("/")));
        assert_eq!(top_at(Path::new("/no/such")).unwrap(), None);
    }
}
