//! What is known of a branch besides its records: the files `branch.json` and `run.json`.
//!
//! Each is one line of JSON with a `version` and one line with the CRC-32C of the first, so that
//! `head -1` gives plain JSON and a flipped bit is seen. Bytes that are no UTF-8 are escaped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};

/// Newest version of `branch.json` and of a branch as a whole.
pub const BRANCH_VERSION: u32 = 1;
/// Newest version of `run.json`.
pub const RUN_VERSION: u32 = 1;
/// Largest such file, in bytes.
pub const LIMIT_BYTES: u64 = 16 << 20;

/// A branch, as `ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// Its name.
    pub name: BranchName,
    /// Its id: random, never reused, stays when the name changes.
    pub id: u64,
    /// The branch it was made from, by the name it had then; `None`: the base.
    pub parent: Option<BranchName>,
    /// When it was made.
    pub created: Time,
    /// The workspace it was made for.
    pub workspace: PathBuf,
    /// The newest run on it.
    pub last_run: Option<RunRecord>,
    /// Its layers, lowest first; the last one is its own.
    pub layers: Vec<LayerId>,
}

/// What the caller knows of a new branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBranch {
    /// The workspace it is made for.
    pub workspace: PathBuf,
}

/// One run on a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The command and its arguments.
    #[serde(with = "escaped::list")]
    pub command: Vec<OsString>,
    /// Where it was started.
    #[serde(with = "escaped::path")]
    pub cwd: PathBuf,
    /// The pid of the launcher, in the host's pid namespace.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// When it started.
    pub started: Time,
    /// When it ended; `None` while it runs, or if nobody saw the end.
    pub ended: Option<Time>,
    /// How it ended.
    pub exit: Option<RunExit>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunExit {
    /// With this exit status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// `branch.json`. The name is the directory's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BranchFile {
    pub version: u32,
    pub id: HexId,
    pub parent: Option<BranchName>,
    pub created: Time,
    #[serde(with = "escaped::path")]
    pub workspace: PathBuf,
    /// Lowest first.
    pub layers: Vec<HexId>,
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    pub version: u32,
    pub run: RunRecord,
}

/// 64 bits as 16 hex digits: JSON numbers do not hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct HexId(pub u64);

impl From<HexId> for String {
    fn from(id: HexId) -> String {
        format!("{:016x}", id.0)
    }
}

impl TryFrom<String> for HexId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u64::from_str_radix(&text, 16) {
            Ok(id) if text.len() == 16 => Ok(HexId(id)),
            _ => Err(format!("'{}' is no id", text.escape_default())),
        }
    }
}

/// The bytes of a metadata file.
pub(super) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut out = serde_json::to_vec(value)
        .map_err(|_| StoreError::Invalid("metadata that JSON cannot hold"))?;
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
    Ok(out)
}

/// Reads the bytes of a metadata file: checksum first, then version, then the rest.
pub(super) fn unseal<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    known: u32,
) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |what: String| StoreError::damaged(path, what);
    let mut lines = bytes.split(|b| *b == b'\n');
    let (json, sum) = match (lines.next(), lines.next(), lines.next(), lines.next()) {
        (Some(json), Some(sum), Some(b""), None) => (json, sum),
        _ => return Err(damaged("is not two lines".into())),
    };
    if sum != format!("{:08x}", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("bad checksum".into()));
    }
    let Versioned { version: found } =
        serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
    if found > known {
        return Err(StoreError::NewerFormat {
            path: path.into(),
            found,
            known,
        });
    }
    serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))
}

/// Bytes as text: UTF-8 as it is, except that `\` is `\\` and other bytes and controls are `\xNN`.
pub(super) mod escaped {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

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
                let byte = digits.and_then(|(hex, _)| {
                    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
                });
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

    pub mod path {
        use super::{OsStrExt, escape, unescape};
        use serde::{Deserialize, Deserializer, Serializer, de::Error};
        use std::path::{Path, PathBuf};

        pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(&escape(path.as_os_str().as_bytes()))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
            let text = String::deserialize(from)?;
            unescape(&text).map(PathBuf::from).map_err(D::Error::custom)
        }
    }

    pub mod bytes {
        use super::{OsStringExt, escape, unescape};
        use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

        pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
            bytes.as_deref().map(escape).serialize(to)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            text.map(|text| unescape(&text).map(OsStringExt::into_vec))
                .transpose()
                .map_err(D::Error::custom)
        }
    }

    pub mod list {
        use super::{OsStrExt, OsString, escape, unescape};
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        pub fn serialize<S: Serializer>(list: &[OsString], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(list.iter().map(|word| escape(word.as_bytes())))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<OsString>, D::Error> {
            let list = Vec::<String>::deserialize(from)?;
            list.iter()
                .map(|text| unescape(text).map_err(D::Error::custom))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_metadata_file_is_seen() {
        let file = BranchFile {
            version: BRANCH_VERSION,
            id: HexId(7),
            parent: None,
            created: Time { sec: 5, nsec: 6 },
            workspace: "/w".into(),
            layers: vec![HexId(u64::MAX)],
        };
        let bytes = seal(&file).unwrap();
        let path = Path::new("branch.json");
        assert!(unseal::<BranchFile>(path, &bytes, BRANCH_VERSION).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let answer = unseal::<BranchFile>(path, &bad, BRANCH_VERSION);
            assert!(
                matches!(answer, Err(StoreError::Damaged { .. })),
                "bit {bit}: {answer:?}"
            );
        }
        for cut in 0..bytes.len() {
            assert!(unseal::<BranchFile>(path, &bytes[..cut], BRANCH_VERSION).is_err());
        }
    }

    #[test]
    fn a_newer_version_with_unknown_fields_is_told_apart() {
        #[derive(Serialize)]
        struct Newer {
            version: u32,
            surprise: bool,
        }
        let bytes = seal(&Newer {
            version: 9,
            surprise: true,
        })
        .unwrap();
        let answer = unseal::<BranchFile>(Path::new("b"), &bytes, BRANCH_VERSION);
        assert!(matches!(
            answer,
            Err(StoreError::NewerFormat {
                found: 9,
                known: 1,
                ..
            })
        ));
    }
}
