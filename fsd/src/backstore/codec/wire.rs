//! The plain values that records are made of: numbers, byte strings, times, ids.

use crate::core::record::{LayerId, ObjectId};
use crate::core::types::{Ino, Kind, NameError, Time};

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a value.
    #[error("ends inside {0}")]
    Truncated(&'static str),
    /// Bytes are left after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A tag or flag this version does not know.
    #[error("unknown {what} {tag}")]
    BadTag {
        /// What the tag selects.
        what: &'static str,
        /// The tag.
        tag: u64,
    },
    /// A number outside of what the field can hold.
    #[error("{0} out of range")]
    OutOfRange(&'static str),
    /// Entries that must ascend do not.
    #[error("{0} out of order")]
    OutOfOrder(&'static str),
    /// A name that cannot be one.
    #[error(transparent)]
    BadName(#[from] NameError),
}

pub(super) type Result<T> = std::result::Result<T, CodecError>;

/// Takes values off the front of a byte slice.
pub(super) struct Input<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn u64_le(&mut self, what: &'static str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        let mut out = [0; 8];
        out.copy_from_slice(bytes);
        Ok(u64::from_le_bytes(out))
    }

    /// Little-endian base 128, shortest form only, so that equal values have equal bytes.
    pub(super) fn varint(&mut self, what: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(CodecError::OutOfRange(what));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(CodecError::OutOfRange(what));
                }
                return Ok(value);
            }
        }
        Err(CodecError::OutOfRange(what))
    }

    pub(super) fn varint_u32(&mut self, what: &'static str) -> Result<u32> {
        u32::try_from(self.varint(what)?).map_err(|_| CodecError::OutOfRange(what))
    }

    pub(super) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).map_err(|_| CodecError::Truncated(what))?;
        self.take(len, what)
    }

    /// A count of entries that take at least `least` bytes each.
    pub(super) fn count(&mut self, least: usize, what: &'static str) -> Result<usize> {
        let count = self.varint(what)?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() / least => Ok(count),
            _ => Err(CodecError::Truncated(what)),
        }
    }

    pub(super) fn time(&mut self, what: &'static str) -> Result<Time> {
        let raw = self.varint(what)?;
        let sec = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        let nsec = self.varint_u32(what)?;
        if nsec >= 1_000_000_000 {
            return Err(CodecError::OutOfRange(what));
        }
        Ok(Time { sec, nsec })
    }

    pub(super) fn kind(&mut self) -> Result<Kind> {
        Ok(match self.u8("a file type")? {
            1 => Kind::File,
            2 => Kind::Dir,
            3 => Kind::Symlink,
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::Char,
            7 => Kind::Block,
            tag => {
                return Err(CodecError::BadTag {
                    what: "file type",
                    tag: tag.into(),
                });
            }
        })
    }

    pub(super) fn ino(&mut self) -> Result<Ino> {
        Ok(Ino(self.varint("an inode number")?))
    }

    pub(super) fn object(&mut self) -> Result<ObjectId> {
        let layer = LayerId(self.u64_le("a layer id")?);
        Ok(ObjectId {
            layer,
            number: self.varint("an object number")?,
        })
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.rest.len()))
        }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Time) {
    put_varint(out, ((time.sec << 1) ^ (time.sec >> 63)) as u64);
    put_varint(out, time.nsec.into());
}

pub(super) fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::Char => 6,
        Kind::Block => 7,
    }
}

pub(super) fn put_object(out: &mut Vec<u8>, id: ObjectId) {
    out.extend_from_slice(&id.layer.0.to_le_bytes());
    put_varint(out, id.number);
}
