//! Writes a plan as a patch that `git apply` takes, and counts its lines.
//!
//! An entry is written only once its contents have been read and hashed, so that a file which
//! cannot be read leaves no half of an entry behind. Never runs git.

use std::io::{self, Write};

use agentfs_fsd::core::types::Kind;
use agentfs_fsd::review::{Blob, ContentReader, Node};

use super::git;
use super::hunk::LineDiff;
use super::plan::{Item, Status};
use super::style::{Paint, Style};

/// Files up to this many bytes are compared by lines; larger ones go into a patch as binary.
const TEXT_BYTES: u64 = 64 << 20;

/// Writes entries of a patch.
pub struct PatchWriter<'a> {
    contents: ContentReader<'a>,
    out: &'a mut dyn Write,
    style: Style,
}

/// Why an entry is not there.
#[derive(Debug)]
pub enum PatchError {
    /// Its contents cannot be read; nothing of it was written.
    Unreadable(io::Error),
    /// The patch cannot be written; it ends in the middle.
    Output(io::Error),
}

/// The contents of one side.
enum Side {
    /// The file does not exist.
    Absent,
    /// In memory.
    Text { bytes: Vec<u8>, id: String },
    /// Too large, or not text.
    Binary { blob: Blob, id: String },
}

/// How many lines an entry changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Lines added and removed.
    Lines(u64, u64),
    /// Bytes before and after.
    Binary(u64, u64),
}

impl<'a> PatchWriter<'a> {
    /// Writes to `out`.
    pub fn new(contents: ContentReader<'a>, out: &'a mut dyn Write, style: Style) -> Self {
        PatchWriter {
            contents,
            out,
            style,
        }
    }

    /// Writes the entry (a type change: two entries) of an item that belongs in a patch.
    pub fn item(&mut self, item: &Item<'_>) -> Result<(), PatchError> {
        match (item.status, item.before, item.after) {
            (Status::TypeChanged, before, after) => {
                // Both sides first: half a type change would be a deletion.
                let old = self.side(before)?;
                let new = self.side(after)?;
                self.entry(item, before, None, &old, &Side::Absent)?;
                self.entry(item, None, after, &Side::Absent, &new)
            }
            (Status::Renamed, before, after) => self.rename(item, before, after),
            (_, before, after) => {
                let same = before.is_some() && after.is_some() && !item.change.difference.content;
                let (old, new) = if same {
                    (Side::Absent, Side::Absent)
                } else {
                    (self.side(before)?, self.side(after)?)
                };
                self.entry(item, before, after, &old, &new)
            }
        }
    }

    fn side(&self, node: Option<&Node>) -> Result<Side, PatchError> {
        read_side(&self.contents, node).map_err(PatchError::Unreadable)
    }

    fn rename(
        &mut self,
        item: &Item<'_>,
        before: Option<&Node>,
        after: Option<&Node>,
    ) -> Result<(), PatchError> {
        let from = item.from.as_deref().unwrap_or(&item.path);
        self.header(&format!(
            "diff --git {} {}",
            git::quote("a/", from),
            git::quote("b/", &item.path)
        ))?;
        self.modes(before, after)?;
        self.header("similarity index 100%")?;
        self.header(&format!("rename from {}", git::quote("", from)))?;
        self.header(&format!("rename to {}", git::quote("", &item.path)))
    }

    fn entry(
        &mut self,
        item: &Item<'_>,
        before: Option<&Node>,
        after: Option<&Node>,
        old: &Side,
        new: &Side,
    ) -> Result<(), PatchError> {
        let (a, b) = (git::quote("a/", &item.path), git::quote("b/", &item.path));
        self.header(&format!("diff --git {a} {b}"))?;
        self.modes(before, after)?;
        if matches!((old, new), (Side::Absent, Side::Absent)) {
            return Ok(());
        }
        let mode = match (before.and_then(git::mode), after.and_then(git::mode)) {
            (Some(old), Some(new)) if old == new => format!(" {new:06o}"),
            _ => String::new(),
        };
        self.header(&format!("index {}..{}{mode}", old.id(), new.id()))?;
        match (old.text(), new.text()) {
            (Some(old_text), Some(new_text)) => {
                if old_text == new_text {
                    return Ok(());
                }
                let (no_a, no_b) = (before.is_none(), after.is_none());
                self.header(&format!("--- {}", if no_a { "/dev/null" } else { &a }))?;
                self.header(&format!("+++ {}", if no_b { "/dev/null" } else { &b }))?;
                let lines = LineDiff::new(old_text, new_text);
                lines
                    .write(self.out, self.style)
                    .map_err(PatchError::Output)
            }
            _ => self.binary(old, new),
        }
    }

    fn binary(&mut self, old: &Side, new: &Side) -> Result<(), PatchError> {
        self.header("GIT binary patch")?;
        for side in [new, old] {
            side.write_literal(self.out).map_err(PatchError::Output)?;
        }
        Ok(())
    }

    fn modes(&mut self, before: Option<&Node>, after: Option<&Node>) -> Result<(), PatchError> {
        match (before.and_then(git::mode), after.and_then(git::mode)) {
            (None, Some(new)) => self.header(&format!("new file mode {new:06o}")),
            (Some(old), None) => self.header(&format!("deleted file mode {old:06o}")),
            (Some(old), Some(new)) if old != new => {
                self.header(&format!("old mode {old:06o}"))?;
                self.header(&format!("new mode {new:06o}"))
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, text: &str) -> Result<(), PatchError> {
        self.style
            .line(self.out, Paint::Header, text.as_bytes())
            .map_err(PatchError::Output)
    }
}

/// How much an item changes, for counting.
pub fn extent(contents: &ContentReader<'_>, item: &Item<'_>) -> io::Result<Extent> {
    let same = !item.change.difference.content && item.before.is_some() && item.after.is_some();
    if same && item.status != Status::TypeChanged {
        return Ok(Extent::Lines(0, 0));
    }
    let old = read_side(contents, item.before)?;
    let new = read_side(contents, item.after)?;
    Ok(match (old.text(), new.text()) {
        (Some(old), Some(new)) => {
            let (added, removed) = LineDiff::new(old, new).counts();
            Extent::Lines(added, removed)
        }
        _ => Extent::Binary(old.len(), new.len()),
    })
}

fn read_side(contents: &ContentReader<'_>, node: Option<&Node>) -> io::Result<Side> {
    let Some(node) = node else {
        return Ok(Side::Absent);
    };
    let blob = contents.open(node)?;
    if blob.len() > TEXT_BYTES {
        let id = git::blob_id(&blob)?;
        return Ok(Side::Binary { blob, id });
    }
    let bytes = blob.read_all()?;
    let id = git::bytes_id(&bytes);
    if node.kind == Kind::File && bytes.contains(&0) {
        // The bytes that were hashed are the ones to write, whatever a live branch does meanwhile.
        return Ok(Side::Binary {
            blob: Blob::of_bytes(bytes.into()),
            id,
        });
    }
    Ok(Side::Text { bytes, id })
}

impl Side {
    fn id(&self) -> &str {
        match self {
            Side::Absent => git::NO_BLOB,
            Side::Text { id, .. } | Side::Binary { id, .. } => id,
        }
    }

    /// The bytes, if lines can be made of them; none for an absent file.
    fn text(&self) -> Option<&[u8]> {
        match self {
            Side::Absent => Some(b""),
            Side::Text { bytes, .. } => Some(bytes),
            Side::Binary { .. } => None,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Side::Absent => 0,
            Side::Text { bytes, .. } => bytes.len() as u64,
            Side::Binary { blob, .. } => blob.len(),
        }
    }

    fn write_literal(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Side::Absent => git::write_literal(out, &Blob::of_bytes(b"".as_slice().into())),
            Side::Text { bytes, .. } => {
                git::write_literal(out, &Blob::of_bytes(bytes.as_slice().into()))
            }
            Side::Binary { blob, .. } => git::write_literal(out, blob),
        }
    }
}
