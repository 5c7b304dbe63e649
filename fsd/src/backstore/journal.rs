//! The journal of a layer: an append-only file of checksummed frames.
//!
//! [`Journal`] appends, [`Frames`] reads. A frame is handed to the OS with a write(2) before
//! `append` returns, so a killed process loses nothing that was acknowledged; [`SyncHandle`] makes
//! it durable from outside any lock. Refuses to know what frames mean.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::StoreError;
use super::media::{Media, MediaFile, OpenMode, read_exact_at, write_all_at};
use crate::core::record::LayerId;

/// First bytes of every journal.
pub const MAGIC: [u8; 8] = *b"AGFSJRNL";
/// Newest journal format this code knows.
pub const VERSION: u32 = 1;
/// Bytes of the file header.
pub const HEADER_BYTES: u64 = 40;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Largest payload of a frame, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// What a journal's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// The layer it belongs to.
    pub layer: LayerId,
    /// The generation of the layer's table that it goes on from.
    pub generation: u64,
    /// Sequence number of its first frame.
    pub first_seq: u64,
}

impl JournalHeader {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..20].copy_from_slice(&self.layer.0.to_le_bytes());
        out[20..28].copy_from_slice(&self.generation.to_le_bytes());
        out[28..36].copy_from_slice(&self.first_seq.to_le_bytes());
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn read(file: &dyn MediaFile, path: &Path) -> Result<Self, StoreError> {
        let mut bytes = [0; HEADER_BYTES as usize];
        match read_exact_at(file, &mut bytes, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(StoreError::damaged(path, "ends inside its header"));
            }
            Err(e) => return Err(StoreError::io("read", path, e)),
        }
        if bytes[..8] != MAGIC {
            return Err(StoreError::damaged(path, "is no journal"));
        }
        if crc32c::crc32c(&bytes[..36]) != le_u32(&bytes, 36) {
            return Err(StoreError::damaged(path, "bad checksum of the header"));
        }
        let found = le_u32(&bytes, 8);
        if found > VERSION {
            return Err(StoreError::NewerFormat {
                path: path.into(),
                found,
                known: VERSION,
            });
        }
        Ok(Self {
            layer: LayerId(le_u64(&bytes, 12)),
            generation: le_u64(&bytes, 20),
            first_seq: le_u64(&bytes, 28),
        })
    }
}

pub(super) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

pub(super) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

/// Why reading stopped before the end of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// Where the first bad frame starts, in bytes.
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub cut_bytes: u64,
    /// What is wrong with it.
    pub why: &'static str,
    /// Whether a whole frame with the next sequence number lies behind it: then this is no torn
    /// append, something in the middle went bad.
    pub frames_follow: bool,
}

/// Reads the frames of a journal, in order.
pub struct Frames<'a> {
    file: &'a dyn MediaFile,
    path: PathBuf,
    header: JournalHeader,
    next_seq: u64,
    offset: u64,
    buf: Vec<u8>,
    start: usize,
    /// Bytes that the file had when it was last asked: a live one grows.
    len: u64,
    broken: Option<Break>,
}

const READ_AHEAD_BYTES: usize = 128 << 10;

impl<'a> Frames<'a> {
    /// Reads and checks the header.
    pub fn open(
        file: &'a dyn MediaFile,
        path: PathBuf,
        layer: LayerId,
        generation: u64,
    ) -> Result<Self, StoreError> {
        let header = JournalHeader::read(file, &path)?;
        if header.layer != layer || header.generation != generation {
            return Err(StoreError::damaged(
                path,
                "belongs to another layer or generation",
            ));
        }
        Ok(Self {
            file,
            path,
            header,
            next_seq: header.first_seq,
            offset: HEADER_BYTES,
            buf: Vec::new(),
            start: 0,
            len: 0,
            broken: None,
        })
    }

    /// What the header says.
    pub fn header(&self) -> JournalHeader {
        self.header
    }

    /// End of the last good frame, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Sequence number that the next frame must have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Why reading stopped, if before the end of the file.
    pub fn broken(&self) -> Option<&Break> {
        self.broken.as_ref()
    }

    /// The next payload; `None` at the end or at the first frame that is not whole.
    pub fn next_payload(&mut self) -> Result<Option<&[u8]>, StoreError> {
        if self.broken.is_some() {
            return Ok(None);
        }
        match self.whole_frame_at(0, self.next_seq)? {
            Probe::Frame { payload_bytes } => {
                let at = self.start + FRAME_HEADER_BYTES;
                self.start = at + payload_bytes;
                self.offset += (FRAME_HEADER_BYTES + payload_bytes) as u64;
                self.next_seq += 1;
                Ok(Some(&self.buf[at..at + payload_bytes]))
            }
            Probe::End => Ok(None),
            Probe::Bad { why, claimed_bytes } => {
                let frames_follow = match claimed_bytes {
                    Some(n) => {
                        matches!(
                            self.whole_frame_at(n, self.next_seq + 1)?,
                            Probe::Frame { .. }
                        )
                    }
                    None => false,
                };
                self.ask_len()?;
                self.broken = Some(Break {
                    offset: self.offset,
                    cut_bytes: self.len.saturating_sub(self.offset),
                    why,
                    frames_follow,
                });
                Ok(None)
            }
        }
    }

    /// Looks at the frame that starts `ahead` bytes after the current position.
    fn whole_frame_at(&mut self, ahead: usize, seq: u64) -> Result<Probe, StoreError> {
        let have = self.fill(ahead + FRAME_HEADER_BYTES)?;
        if have <= ahead {
            return Ok(Probe::End);
        }
        if have < ahead + FRAME_HEADER_BYTES {
            return Ok(Probe::Bad {
                why: "frame header cut short",
                claimed_bytes: None,
            });
        }
        let head = self.start + ahead;
        let payload_bytes = le_u32(&self.buf, head) as usize;
        if payload_bytes == 0 || payload_bytes > MAX_PAYLOAD_BYTES {
            return Ok(Probe::Bad {
                why: "impossible frame length",
                claimed_bytes: None,
            });
        }
        let frame_bytes = FRAME_HEADER_BYTES + payload_bytes;
        let end = self.offset + (ahead + frame_bytes) as u64;
        // Not once a frame: a journal has ten thousands.
        if end > self.len {
            self.ask_len()?;
        }
        if end > self.len || self.fill(ahead + frame_bytes)? < ahead + frame_bytes {
            return Ok(Probe::Bad {
                why: "frame cut short",
                claimed_bytes: None,
            });
        }
        let head = self.start + ahead;
        let frame = &self.buf[head..head + frame_bytes];
        let claimed_bytes = Some(ahead + frame_bytes);
        if frame_crc(frame) != le_u32(frame, 4) {
            return Ok(Probe::Bad {
                why: "bad checksum",
                claimed_bytes,
            });
        }
        if le_u64(frame, 8) != seq {
            return Ok(Probe::Bad {
                why: "break in the sequence",
                claimed_bytes,
            });
        }
        Ok(Probe::Frame { payload_bytes })
    }

    fn ask_len(&mut self) -> Result<(), StoreError> {
        let stat = self.file.stat();
        self.len = stat.map_err(|e| StoreError::io("stat", &self.path, e))?.len;
        Ok(())
    }

    /// Makes at least `want` bytes from the current position available, if the file has them;
    /// says how many there are.
    fn fill(&mut self, want: usize) -> Result<usize, StoreError> {
        let have = self.buf.len() - self.start;
        if have >= want {
            return Ok(have);
        }
        let mut buf = vec![0; want.max(READ_AHEAD_BYTES)];
        buf[..have].copy_from_slice(&self.buf[self.start..]);
        self.buf = buf;
        self.start = 0;
        let mut have = have;
        while have < self.buf.len() {
            match self
                .file
                .read_at(&mut self.buf[have..], self.offset + have as u64)
            {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) => return Err(StoreError::io("read", &self.path, e)),
            }
        }
        self.buf.truncate(have);
        Ok(have)
    }
}

enum Probe {
    Frame {
        payload_bytes: usize,
    },
    End,
    Bad {
        why: &'static str,
        claimed_bytes: Option<usize>,
    },
}

/// Over the length, the sequence number and the payload.
fn frame_crc(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..])
}

/// The file name of a layer's journal of `generation`.
pub fn file_name(generation: u64) -> PathBuf {
    PathBuf::from(format!("journal.{generation}"))
}

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    file: Arc<dyn MediaFile>,
    path: PathBuf,
    header: JournalHeader,
    len: u64,
    next_seq: u64,
    poisoned: bool,
    sync_failed: Arc<AtomicBool>,
    frame: Vec<u8>,
}

impl Journal {
    /// Makes an empty journal in the layer directory `media`, over one that was never used. Neither
    /// it nor its entry is durable before the caller syncs both.
    pub fn create(media: &dyn Media, header: JournalHeader) -> Result<Self, StoreError> {
        let name = file_name(header.generation);
        let path = media.describe(&name);
        let made = (|| {
            let file = match media.open(&name, OpenMode::CreateNew) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    media.unlink(&name)?;
                    media.open(&name, OpenMode::CreateNew)?
                }
                other => other?,
            };
            write_all_at(&*file, &header.encode(), 0)?;
            Ok(file)
        })();
        match made {
            Ok(file) => Ok(Self::at(
                file.into(),
                path,
                header,
                HEADER_BYTES,
                header.first_seq,
            )),
            Err(e) => Err(StoreError::io("create", path, e)),
        }
    }

    /// Writes the header of a journal that is there anew, durably: the frames carry their own
    /// numbers and checksums.
    pub fn write_header(media: &dyn Media, header: JournalHeader) -> Result<(), StoreError> {
        let name = file_name(header.generation);
        let written = media.open(&name, OpenMode::ReadWrite).and_then(|file| {
            write_all_at(&*file, &header.encode(), 0)?;
            file.sync(true)
        });
        written.map_err(|e| StoreError::io("write", media.describe(&name), e).while_writing())
    }

    /// The sequence number at which a layer's journal begins, if its header is sound.
    pub fn first_seq(media: &dyn Media, layer: LayerId, generation: u64) -> Option<u64> {
        let name = file_name(generation);
        let file = media.open(&name, OpenMode::Read).ok()?;
        let header = JournalHeader::read(&*file, &name).ok()?;
        ((header.layer, header.generation) == (layer, generation)).then_some(header.first_seq)
    }

    /// Goes on with a journal that [`Frames`] has read up to `len` and `next_seq`; what lies
    /// behind is cut.
    pub fn resume(
        media: &dyn Media,
        header: JournalHeader,
        len: u64,
        next_seq: u64,
    ) -> Result<Self, StoreError> {
        let name = file_name(header.generation);
        let path = media.describe(&name);
        let file = media
            .open(&name, OpenMode::ReadWrite)
            .map_err(|e| StoreError::io("open", &path, e).while_writing())?;
        let now = file
            .stat()
            .map_err(|e| StoreError::io("stat", &path, e))?
            .len;
        if now > len {
            file.set_len(len)
                .map_err(|e| StoreError::io("truncate", &path, e))?;
            file.sync(true)
                .map_err(|e| StoreError::io("sync", &path, e))?;
        }
        Ok(Self::at(file.into(), path, header, len, next_seq))
    }

    fn at(
        file: Arc<dyn MediaFile>,
        path: PathBuf,
        header: JournalHeader,
        len: u64,
        next_seq: u64,
    ) -> Self {
        Self {
            file,
            path,
            header,
            len,
            next_seq,
            poisoned: false,
            sync_failed: Arc::default(),
            frame: Vec::new(),
        }
    }

    /// The generation it belongs to.
    pub fn generation(&self) -> u64 {
        self.header.generation
    }

    /// Bytes of frames so far.
    pub fn bytes(&self) -> u64 {
        self.len - HEADER_BYTES
    }

    /// Sequence number of the next frame.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether a sync has failed: what it covered may never reach the disk from this file.
    pub fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Whether no append can succeed any more.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// No append succeeds from now on.
    pub fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Appends one frame; its payload is what `fill` puts into the buffer. It is with the OS when
    /// this returns.
    ///
    /// Errors: on any, the file is as before, or the journal is poisoned.
    pub fn append(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned {
                path: self.path.clone(),
            });
        }
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
        fill(&mut self.frame);
        let payload_bytes = self.frame.len() - FRAME_HEADER_BYTES;
        if payload_bytes == 0 || payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(StoreError::Invalid("a frame of no bytes, or of too many"));
        }
        self.frame[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        self.frame[8..16].copy_from_slice(&self.next_seq.to_le_bytes());
        let crc = frame_crc(&self.frame);
        self.frame[4..8].copy_from_slice(&crc.to_le_bytes());
        match write_all_at(&*self.file, &self.frame, self.len) {
            Ok(()) => {
                self.len += self.frame.len() as u64;
                self.next_seq += 1;
                if self.frame.capacity() > READ_AHEAD_BYTES {
                    self.frame = Vec::new();
                }
                Ok(())
            }
            Err(e) => {
                if let Err(again) = self.file.set_len(self.len) {
                    tracing::error!(path = %self.path.display(), error = %again,
                        "a frame is half written and cannot be cut off");
                    self.poisoned = true;
                }
                Err(StoreError::io("append to", &self.path, e))
            }
        }
    }

    /// A handle that syncs this journal.
    pub fn sync_handle(&self) -> SyncHandle {
        SyncHandle {
            file: self.file.clone(),
            path: self.path.clone(),
            failed: self.sync_failed.clone(),
        }
    }
}

/// Makes the frames appended so far durable. Holds no lock and needs none.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    file: Arc<dyn MediaFile>,
    path: PathBuf,
    failed: Arc<AtomicBool>,
}

impl SyncHandle {
    /// Syncs; blocks as long as the disk takes.
    ///
    /// Errors: once one sync has failed, every later one of the same journal does too, since the
    /// kernel may have dropped what it could not write.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            let e = io::Error::other("an earlier sync of this journal failed");
            return Err(StoreError::io("sync", &self.path, e));
        }
        self.file.sync(true).map_err(|e| {
            self.failed.store(true, Ordering::Release);
            StoreError::io("sync", &self.path, e)
        })
    }
}

/// Copies what a journal holds from `offset` on to the file `kept`, durably.
pub fn keep_tail(
    media: &dyn Media,
    journal: &Path,
    offset: u64,
    kept: &Path,
) -> Result<(), StoreError> {
    let result = (|| {
        let from = media.open(journal, OpenMode::Read)?;
        let to = match media.open(kept, OpenMode::CreateNew) {
            // A crash during an earlier opening left it; the journal still has all the bytes.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let to = media.open(kept, OpenMode::ReadWrite)?;
                to.set_len(0)?;
                to
            }
            other => other?,
        };
        let mut chunk = vec![0u8; READ_AHEAD_BYTES];
        let mut at = 0;
        loop {
            match from.read_at(&mut chunk, offset + at)? {
                0 => break,
                n => {
                    write_all_at(&*to, &chunk[..n], at)?;
                    at += n as u64;
                }
            }
        }
        to.sync(true)?;
        media.sync_dir(kept.parent().unwrap_or(Path::new("")))
    })();
    result.map_err(|e| StoreError::io("keep the cut bytes in", media.describe(kept), e))
}

#[cfg(test)]
mod tests;
