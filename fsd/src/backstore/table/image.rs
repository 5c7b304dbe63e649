//! The file around a table: a header page of ours, the blocks of the store engine's image that are
//! not all zeros, and a list that gives each block its place and its checksum.
//!
//! The engine checks nothing when it reads a page, and may panic on a bad one. So every block is
//! checked here before the engine sees it: a flipped bit is an error that names the block.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use redb::StorageBackend;

use crate::backstore::error::StoreError;
use crate::backstore::journal::{le_u32, le_u64};
use crate::backstore::media::{MediaFile, read_exact_at, write_all_at};
use crate::core::record::LayerId;

/// First bytes of every table.
pub const MAGIC: [u8; 8] = *b"AGFSTABL";
/// Newest table format this code knows.
pub const VERSION: u32 = 1;
/// Bytes of the header page: where the image starts.
pub const HEADER_BYTES: u64 = 4096;
/// Bytes that one checksum covers.
pub const BLOCK_BYTES: u64 = 4096;

/// What a table says besides its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// The layer it belongs to.
    pub layer: LayerId,
    /// Its generation: the journal of the same number goes on from it.
    pub generation: u64,
    /// No inode number from here on was ever given out.
    pub next_ino: u64,
    /// No object number from here on was ever given out.
    pub next_object: u64,
    /// Sequence number of the first frame after it.
    pub next_seq: u64,
    /// Records of inodes, those that say "gone" included.
    pub inodes: u64,
    /// Records of names.
    pub dentries: u64,
}

/// Bytes of an entry of the block list: where the block is, and its checksum.
const ENTRY_BYTES: u64 = 8;
/// Where the header page keeps its own checksum.
const HEADER_CRC_AT: usize = 88;

/// Finishes a stage file whose image of `image_bytes` lies behind the header page: closes the gaps
/// that the engine left, adds the list of blocks and the header.
pub fn seal(file: &dyn MediaFile, image_bytes: u64, facts: &TableFacts) -> io::Result<()> {
    let mut list = Vec::with_capacity((image_bytes / BLOCK_BYTES * ENTRY_BYTES) as usize);
    let mut chunk = vec![0u8; 64 * BLOCK_BYTES as usize];
    let mut stored = 0u32;
    let mut at = 0;
    while at < image_bytes {
        let n = (image_bytes - at).min(chunk.len() as u64) as usize;
        chunk[n..].fill(0);
        read_exact_at(file, &mut chunk[..n], HEADER_BYTES + at)?;
        for block in chunk[..n.next_multiple_of(BLOCK_BYTES as usize)].chunks(BLOCK_BYTES as usize)
        {
            if block.iter().all(|b| *b == 0) {
                list.extend_from_slice(&[0; ENTRY_BYTES as usize]);
            } else {
                let to = HEADER_BYTES + u64::from(stored) * BLOCK_BYTES;
                // Never past what was read already: the blocks before this one fit before it.
                if to != HEADER_BYTES + at {
                    write_all_at(file, block, to)?;
                }
                stored += 1;
                list.extend_from_slice(&stored.to_le_bytes());
                list.extend_from_slice(&crc32c::crc32c(block).to_le_bytes());
            }
            at += BLOCK_BYTES;
        }
    }
    let list_at = HEADER_BYTES + u64::from(stored) * BLOCK_BYTES;
    write_all_at(file, &list, list_at)?;
    file.set_len(list_at + list.len() as u64)?;

    let mut head = vec![0u8; HEADER_BYTES as usize];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&crc32c::crc32c(&list).to_le_bytes());
    let numbers = [
        facts.layer.0,
        facts.generation,
        image_bytes,
        u64::from(stored),
        facts.next_ino,
        facts.next_object,
        facts.next_seq,
        facts.inodes,
        facts.dentries,
    ];
    for (i, number) in numbers.iter().enumerate() {
        head[16 + 8 * i..24 + 8 * i].copy_from_slice(&number.to_le_bytes());
    }
    let crc = header_crc(&head);
    head[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    write_all_at(file, &head, 0)
}

/// Over the whole header page but the field that holds it.
fn header_crc(head: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c(&head[..HEADER_CRC_AT]),
        &head[HEADER_CRC_AT + 4..],
    )
}

/// A sealed table's image, every read checked.
pub struct CheckedImage {
    file: Arc<dyn MediaFile>,
    path: PathBuf,
    image_bytes: u64,
    stored_bytes: u64,
    /// Per block its place, counted from 1 (0: all zeros), and its checksum.
    list: Vec<u8>,
    /// The first read that went wrong; the engine forgets why and only says "earlier failure".
    cause: Arc<OnceLock<Cause>>,
}

/// Why reading a table failed first.
#[derive(Clone, Debug)]
pub enum Cause {
    /// This block does not match its checksum.
    BadBlock(u64),
    /// The host answered this.
    Io(io::ErrorKind, Option<i32>, String),
}

impl fmt::Debug for CheckedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedImage")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl CheckedImage {
    /// Reads and checks the header and the list of checksums.
    pub fn open(
        file: Box<dyn MediaFile>,
        path: PathBuf,
        layer: LayerId,
        generation: u64,
    ) -> Result<(Self, TableFacts), StoreError> {
        let damaged = |what: &str| StoreError::damaged(path.clone(), what);
        let io = |e: io::Error| StoreError::io("read", path.clone(), e);
        let len = file.stat().map_err(io)?.len;
        if len < HEADER_BYTES {
            return Err(damaged("ends inside its header"));
        }
        let mut head = vec![0u8; HEADER_BYTES as usize];
        read_exact_at(&*file, &mut head, 0).map_err(io)?;
        if head[..8] != MAGIC {
            return Err(damaged("is no table"));
        }
        if header_crc(&head) != le_u32(&head, HEADER_CRC_AT) {
            return Err(damaged("bad checksum of the header"));
        }
        let found = le_u32(&head, 8);
        if found > VERSION {
            return Err(StoreError::NewerFormat {
                path,
                found,
                known: VERSION,
            });
        }
        let number = |i: usize| le_u64(&head, 16 + 8 * i);
        let facts = TableFacts {
            layer: LayerId(number(0)),
            generation: number(1),
            next_ino: number(4),
            next_object: number(5),
            next_seq: number(6),
            inodes: number(7),
            dentries: number(8),
        };
        if (facts.layer, facts.generation) != (layer, generation) {
            return Err(damaged("belongs to another layer or generation"));
        }
        let (image_bytes, stored) = (number(2), number(3));
        let list_bytes = image_bytes
            .div_ceil(BLOCK_BYTES)
            .saturating_mul(ENTRY_BYTES);
        let list_at = stored
            .saturating_mul(BLOCK_BYTES)
            .saturating_add(HEADER_BYTES);
        if list_at.checked_add(list_bytes) != Some(len) {
            return Err(damaged("has not the length that its header says"));
        }
        let mut list = vec![0u8; list_bytes as usize];
        read_exact_at(&*file, &mut list, list_at).map_err(io)?;
        if crc32c::crc32c(&list) != le_u32(&head, 12) {
            return Err(damaged("bad checksum of the list of blocks"));
        }
        let image = Self {
            file: file.into(),
            path,
            image_bytes,
            stored_bytes: stored * BLOCK_BYTES,
            list,
            cause: Arc::new(OnceLock::new()),
        };
        Ok((image, facts))
    }

    /// Opens a table of which header or list may be bad, to save what can be: a block counts only
    /// if its own checksum is right. `None`: not even the list can be found. The facts, where the
    /// header can be believed.
    pub fn open_damaged(
        file: Box<dyn MediaFile>,
        path: PathBuf,
    ) -> Option<(Self, Option<TableFacts>)> {
        let len = file.stat().ok()?.len;
        let mut head = vec![0u8; HEADER_BYTES as usize];
        read_exact_at(&*file, &mut head, 0).ok()?;
        let number = |i: usize| le_u64(&head, 16 + 8 * i);
        let is_sound = head[..8] == MAGIC && header_crc(&head) == le_u32(&head, HEADER_CRC_AT);
        let (image_bytes, stored) = (number(2), number(3));
        let list_bytes = image_bytes.div_ceil(BLOCK_BYTES).checked_mul(ENTRY_BYTES)?;
        let list_at = stored.checked_mul(BLOCK_BYTES)?.checked_add(HEADER_BYTES)?;
        if list_at.checked_add(list_bytes)? != len {
            return None;
        }
        let mut list = vec![0u8; usize::try_from(list_bytes).ok()?];
        read_exact_at(&*file, &mut list, list_at).ok()?;
        let facts = is_sound.then(|| TableFacts {
            layer: LayerId(number(0)),
            generation: number(1),
            next_ino: number(4),
            next_object: number(5),
            next_seq: number(6),
            inodes: number(7),
            dentries: number(8),
        });
        let image = Self {
            file: file.into(),
            path,
            image_bytes,
            stored_bytes: stored * BLOCK_BYTES,
            list,
            cause: Arc::new(OnceLock::new()),
        };
        Some((image, facts))
    }

    /// Blocks of the image.
    pub fn blocks(&self) -> u64 {
        self.list.len() as u64 / ENTRY_BYTES
    }

    /// Reads one block; whether it is as it was written.
    pub fn read_good(&self, block: u64, buf: &mut [u8]) -> bool {
        block < self.blocks() && self.read_block(block, buf).is_ok()
    }

    /// The blocks that cannot be read as they were written.
    pub fn bad_blocks(&self, each: &mut dyn FnMut(u64)) -> Vec<u64> {
        let mut buf = [0u8; BLOCK_BYTES as usize];
        let mut bad = Vec::new();
        for block in 0..self.blocks() {
            if self.read_block(block, &mut buf).is_err() {
                bad.push(block);
            }
            each(BLOCK_BYTES);
        }
        bad
    }

    /// Where the first failed read leaves its cause.
    pub fn cause(&self) -> Arc<OnceLock<Cause>> {
        self.cause.clone()
    }

    /// Bytes of the blocks that are stored.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn read_block(&self, block: u64, buf: &mut [u8]) -> io::Result<()> {
        let entry = (block * ENTRY_BYTES) as usize;
        let Some(place) = u64::from(le_u32(&self.list, entry)).checked_sub(1) else {
            buf.fill(0);
            return Ok(());
        };
        read_exact_at(&*self.file, buf, HEADER_BYTES + place * BLOCK_BYTES)
            .inspect_err(|e| self.note(Cause::Io(e.kind(), e.raw_os_error(), e.to_string())))?;
        if crc32c::crc32c(buf) != le_u32(&self.list, entry + 4) {
            self.note(Cause::BadBlock(block));
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("bad checksum of block {block}"),
            ));
        }
        Ok(())
    }

    fn note(&self, cause: Cause) {
        // Only the first cause counts; later ones follow from it.
        let _ = self.cause.set(cause);
    }
}

impl StorageBackend for CheckedImage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image_bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset
            .checked_add(out.len() as u64)
            .filter(|end| *end <= self.image_bytes)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut block = [0u8; BLOCK_BYTES as usize];
        let mut at = offset;
        while at < end {
            let within = (at % BLOCK_BYTES) as usize;
            let n = (BLOCK_BYTES as usize - within).min((end - at) as usize);
            let into = &mut out[(at - offset) as usize..][..n];
            if n == block.len() {
                self.read_block(at / BLOCK_BYTES, into)?;
            } else {
                self.read_block(at / BLOCK_BYTES, &mut block)?;
                into.copy_from_slice(&block[within..within + n]);
            }
            at += n as u64;
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// The engine's view of a stage file while a table is built. Nobody sees the file before it is
/// sealed and synced, so the engine's own syncs do nothing.
#[derive(Debug)]
pub struct StageImage {
    file: Arc<dyn MediaFile>,
    len: Mutex<u64>,
}

impl StageImage {
    /// An empty image in `file`.
    pub fn new(file: Arc<dyn MediaFile>) -> Arc<Self> {
        Arc::new(Self {
            file,
            len: Mutex::new(0),
        })
    }

    /// Bytes of the image.
    pub fn len_bytes(&self) -> u64 {
        *self.len.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What is given to the engine, which wants to own its backend.
#[derive(Debug)]
pub struct StageBackend(pub Arc<StageImage>);

impl StorageBackend for StageBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len_bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.0.file, out, HEADER_BYTES + offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.file.set_len(HEADER_BYTES + len)?;
        *self.0.len.lock().unwrap_or_else(|e| e.into_inner()) = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_all_at(&*self.0.file, data, HEADER_BYTES + offset)
    }
}
