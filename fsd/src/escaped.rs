//! Bytes in JSON: paths and words need not be UTF-8, JSON strings must. A leaf, for serde's `with`.
//!
//! UTF-8 stays as it is, except that `\` is `\\`; other bytes and controls are `\xNN`. So plain
//! paths are plain strings, and any others come back byte for byte.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The text of these bytes.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    out.push_str(&format!("\\x{:02x}", c as u32));
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// The text of a path.
pub fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The bytes of such a text. Errors: what is wrong with it.
pub fn unescape(text: &str) -> Result<OsString, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
        } else if let Some(tail) = tail.strip_prefix(b"\\") {
            out.push(b'\\');
            rest = tail;
        } else {
            let digits = tail.strip_prefix(b"x").and_then(|t| t.split_at_checked(2));
            let byte = digits
                .and_then(|(hex, _)| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
            match (byte, digits) {
                (Some(byte), Some((_, tail))) => {
                    out.push(byte);
                    rest = tail;
                }
                _ => return Err("a stray backslash".into()),
            }
        }
    }
    Ok(OsString::from_vec(out))
}

/// For a field that is a path.
pub mod path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{escape_path, unescape};

    /// Writes it.
    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape_path(path))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        unescape(&text).map(PathBuf::from).map_err(D::Error::custom)
    }
}

/// For a field that is a path or nothing. Wants `#[serde(default)]` beside it.
pub mod maybe_path {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{escape_path, unescape};

    /// Writes it.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => to.serialize_some(&escape_path(path)),
            None => to.serialize_none(),
        }
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let path = text.map(|text| unescape(&text).map(PathBuf::from));
        path.transpose().map_err(D::Error::custom)
    }
}

/// For a field of bytes that may be absent.
pub mod bytes {
    use std::os::unix::ffi::OsStringExt;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::{escape, unescape};

    /// For serde's `with`.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(escape).serialize(to)
    }

    /// For serde's `with`. Errors: the text is not one of [`escape`].
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| unescape(&text).map(OsStringExt::into_vec))
            .transpose()
            .map_err(D::Error::custom)
    }
}

/// For a field that is a list of words or of paths.
pub mod list {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{escape, unescape};

    /// Writes it.
    pub fn serialize<S: Serializer>(list: &[impl AsRef<OsStr>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|word| escape(word.as_ref().as_bytes())))
    }

    /// Reads it.
    pub fn deserialize<'de, D, W>(from: D) -> Result<Vec<W>, D::Error>
    where
        D: Deserializer<'de>,
        W: From<OsString>,
    {
        let list = Vec::<String>::deserialize(from)?;
        list.iter()
            .map(|text| unescape(text).map(W::from).map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [
            &all[..],
            b"plain",
            b"\\x41",
            b"\xff\\",
            "gr\u{fc}n \u{1f980}".as_bytes(),
        ] {
            let text = escape(bytes);
            assert_eq!(unescape(&text).unwrap().as_bytes(), bytes, "{text}");
        }
        assert_eq!(escape("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        for bad in ["\\", "\\x", "\\x4", "\\xzz", "\\n"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }
}
