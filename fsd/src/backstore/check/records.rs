//! What the layers of a branch say together: a tree, with counts and bytes that fit.
//!
//! One pass over the records keeps 32 bytes of each, one pass over the names counts them; names
//! themselves are not kept. The rules are those the core keeps with every frame, so they hold at
//! every frame's end, also in what is read of a branch that is live.

use std::collections::HashMap;

use super::objects::{Looked, Objects};
use super::{Code, Finding, Progress, whereabouts};
use crate::backstore::error::StoreError;
use crate::backstore::stack::{Records, Stack};
use crate::core::record::{Content, Dentry, ExtentSource, InodeRec, ObjectId};
use crate::core::types::{Ino, Kind, Name};

/// Bits of a base inode number below the device index.
const HOST_INO_BITS: u32 = 48;
/// Base inode numbers from here on are hashes, which carry no device.
const FIRST_HASHED: u64 = 1 << 60;
/// Records between two calls of the progress.
const PROGRESS_EVERY: u64 = 4096;

/// What would make it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Nothing can be done here.
    Nothing,
    /// Take the name away.
    HideName(Ino, Name),
    /// Take the name away from a directory that goes as well.
    ForgetName(Ino, Name),
    /// Show what the host has for the inode, of which the record is lost, or at the name.
    ShowHost(Ino, Name, Ino),
    /// Give a directory of the base its name in another one again.
    Reattach(Ino, Name, Ino),
    /// Say what the record says of the type.
    SetKind(Ino, Name, Ino, Kind),
    /// Make a directory again whose record is lost, with the names in it: by this name in the other.
    RemakeDir(Ino, Ino, Name),
    /// Put the count right.
    SetLinks(Ino, u32),
    /// Put the size right.
    SetSize(Ino, u64),
    /// Cut what the record shows of layers below to its size.
    CutExtents(Ino, u64),
    /// Lengthen the object, with a hole.
    Lengthen(ObjectId, u64),
    /// Give the object back to its owner.
    MakePrivate(ObjectId),
    /// Take the inode out, keeping its object aside.
    Detach(Ino),
}

/// Something wrong, and the cure. Without a finding: it goes with another one.
#[derive(Clone, Debug)]
pub struct Problem {
    /// In words.
    pub finding: Option<Finding>,
    /// The cure.
    pub fix: Fix,
}

/// What was found in the records of a branch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything wrong.
    pub problems: Vec<Problem>,
    /// Records seen.
    pub inodes: u64,
    /// Names seen.
    pub names: u64,
    /// Objects in use.
    pub objects: u64,
}

/// What is kept of one inode.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ino: u64,
    /// As recorded.
    nlink: u32,
    /// Names that lead here.
    names: u32,
    /// Names of directories in it.
    subdirs: u32,
    /// Index of the directory that a directory is in.
    parent: u32,
    kind: Kind,
    is_base: bool,
    /// Bytes of the file are the branch's own.
    is_changed: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    OnTheWay,
    Reachable,
    Lost,
}

const NO_PARENT: u32 = u32::MAX;

/// Checks the merged view of a stack.
pub fn check(
    stack: &Stack,
    live: bool,
    progress: &mut Progress<'_>,
) -> Result<Outcome, StoreError> {
    let mut walk = Walk {
        stack,
        objects: Objects::of(stack, live),
        out: Outcome::default(),
        seen: Vec::new(),
        owners: Vec::new(),
        progress,
    };
    walk.devices()?;
    walk.records()?;
    walk.shared_objects();
    walk.names()?;
    walk.reach();
    walk.take_lost_names()?;
    walk.counts()?;
    whereabouts::describe(stack, &mut walk.out.problems)?;
    Ok(walk.out)
}

struct Walk<'a, 'p> {
    stack: &'a Stack,
    objects: Objects,
    out: Outcome,
    /// Ascending by inode.
    seen: Vec<Seen>,
    owners: Vec<(ObjectId, u64)>,
    progress: &'a mut Progress<'p>,
}

impl Walk<'_, '_> {
    fn problem(&mut self, finding: Finding, fix: Fix) {
        let finding = match fix {
            Fix::Nothing => finding.beyond_repair(),
            _ => finding,
        };
        self.out.problems.push(Problem {
            finding: Some(finding),
            fix,
        });
    }

    fn at(&self, ino: Ino) -> Option<usize> {
        self.seen.binary_search_by_key(&ino.0, |seen| seen.ino).ok()
    }

    /// An index stands for one device, in all layers.
    fn devices(&mut self) -> Result<(), StoreError> {
        let mut known = HashMap::new();
        for layer in &self.stack.layers {
            for (index, dev) in layer.devices()? {
                let before = *known.entry(index).or_insert(dev);
                if before != dev || index == 0 {
                    let what = format!("device index {index} stands for two devices, or for none");
                    let at = layer.media.describe(std::path::Path::new(""));
                    self.problem(Finding::damage(Code::Devices, what).file(at), Fix::Nothing);
                }
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), StoreError> {
        let stack = self.stack;
        let devices = stack.devices();
        stack.each_inode(&mut |ino, rec| {
            self.out.inodes += 1;
            if self.out.inodes.is_multiple_of(PROGRESS_EVERY) {
                (self.progress)("checking records", self.out.inodes, 0);
            }
            self.record(ino, rec, &devices)
        })?;
        if self.at(Ino::ROOT).is_none() {
            // The root has names in it before it has a record.
            let root = Seen {
                ino: Ino::ROOT.0,
                nlink: 2,
                names: 0,
                subdirs: 0,
                parent: NO_PARENT,
                kind: Kind::Dir,
                is_base: true,
                is_changed: false,
                state: State::Unknown,
            };
            let at = self.seen.partition_point(|seen| seen.ino < root.ino);
            self.seen.insert(at, root);
        }
        Ok(())
    }

    fn record(
        &mut self,
        ino: Ino,
        rec: &InodeRec,
        devices: &[(u16, u64)],
    ) -> Result<(), StoreError> {
        self.seen.push(Seen {
            ino: ino.0,
            nlink: rec.nlink,
            names: 0,
            subdirs: 0,
            parent: NO_PARENT,
            kind: rec.kind,
            is_base: rec.origin.is_some(),
            is_changed: matches!(rec.content, Content::Object(_) | Content::Extents { .. }),
            state: State::Unknown,
        });
        if let Some(what) = contradiction(ino, rec) {
            let finding = Finding::damage(Code::Record, what).ino(ino);
            self.problem(finding, Fix::Nothing);
        }
        let index = ino.0 >> HOST_INO_BITS;
        if ino != Ino::ROOT
            && ino.0 < FIRST_HASHED
            && !devices.iter().any(|(known, _)| u64::from(*known) == index)
        {
            let what = format!("its number is of device {index}, which is not listed");
            self.problem(Finding::damage(Code::Devices, what).ino(ino), Fix::Nothing);
        }
        match rec.content {
            Content::Object(id) => self.object(ino, rec, id, None),
            Content::Extents { own, base_bytes } => self.object(ino, rec, own, Some(base_bytes)),
            Content::Empty | Content::Base => Ok(()),
        }
    }

    /// Looks at the bytes behind a record.
    fn object(
        &mut self,
        ino: Ino,
        rec: &InodeRec,
        id: ObjectId,
        base_bytes: Option<u64>,
    ) -> Result<(), StoreError> {
        self.out.objects += 1;
        self.owners.push((id, ino.0));
        let Some(len) = self.one_object(ino, id) else {
            return Ok(());
        };
        // Writers may have changed the object since: then its own length counts.
        let size = if rec.dirty { len } else { rec.size };
        if len != size {
            let what = format!(
                "the object has {len} bytes, the record says {size}{}",
                why_short(len, size)
            );
            let finding = Finding::damage(Code::ObjectSize, what)
                .ino(ino)
                .file(self.objects.path(id));
            let is_top = self
                .stack
                .layers
                .last()
                .is_some_and(|top| top.id == id.layer);
            let fix = match base_bytes {
                // What layers below show of the file must not be cut with it.
                Some(_) if len < size && is_top => Fix::Lengthen(id, size),
                _ => Fix::SetSize(ino, len),
            };
            self.problem(finding, fix);
        }
        let Some(base_bytes) = base_bytes else {
            return Ok(());
        };
        let mut end = base_bytes;
        for (offset, (bytes, source)) in self.stack.extents(ino)?.iter() {
            end = end.max(offset + bytes);
            if let ExtentSource::Object(other) = source
                && *other != id
                && let Some(other_len) = self.one_object(ino, *other)
                && offset + bytes > other_len
            {
                let what = format!(
                    "an extent ends at byte {}, its object at {other_len}",
                    offset + bytes
                );
                let finding = Finding::damage(Code::Extents, what)
                    .ino(ino)
                    .file(self.objects.path(*other));
                self.problem(finding, Fix::Nothing);
            }
        }
        // A crash between the cut of a file and its record leaves more; the next opening cuts it.
        if end > size && !rec.dirty {
            let what = format!("extents reach to byte {end}, the file to {size}");
            let finding = Finding::damage(Code::Extents, what).ino(ino);
            self.problem(finding, Fix::CutExtents(ino, size));
        }
        Ok(())
    }

    /// The length of an object that is as it must be.
    fn one_object(&mut self, ino: Ino, id: ObjectId) -> Option<u64> {
        let at = self.objects.path(id);
        let missing = |what: &str| {
            Finding::damage(Code::ObjectMissing, what)
                .ino(ino)
                .file(at.clone())
        };
        match self.objects.look(id) {
            Looked::Unknown => None,
            Looked::NoLayer => {
                let finding = missing("the object is of a layer that the branch has not");
                self.problem(finding, Fix::Detach(ino));
                None
            }
            Looked::Missing => {
                self.problem(missing("the object is missing"), Fix::Detach(ino));
                None
            }
            Looked::There(facts) => {
                if let Some(what) = self.objects.access_problem(id, &facts) {
                    let finding = Finding::damage(Code::ObjectAccess, what).ino(ino).file(at);
                    let fix = match facts.is_file {
                        true => Fix::MakePrivate(id),
                        false => Fix::Nothing,
                    };
                    self.problem(finding, fix);
                }
                facts.is_file.then_some(facts.len)
            }
        }
    }

    fn shared_objects(&mut self) {
        let mut owners = std::mem::take(&mut self.owners);
        owners.sort_unstable();
        for pair in owners.windows(2) {
            if pair[0].0 == pair[1].0 {
                let what = format!("shares its object with inode {}", pair[0].1);
                let finding = Finding::damage(Code::ObjectShared, what)
                    .ino(Ino(pair[1].1))
                    .file(self.objects.path(pair[1].0));
                self.problem(finding, Fix::Nothing);
            }
        }
    }

    fn names(&mut self) -> Result<(), StoreError> {
        let stack = self.stack;
        stack.each_dentry(&mut |dir, name, dentry| {
            self.out.names += 1;
            if self.out.names.is_multiple_of(PROGRESS_EVERY) {
                (self.progress)("checking names", self.out.names, 0);
            }
            // What is left of whiteouts in a directory that is gone hides nothing.
            if let Dentry::Present { ino, kind } = dentry {
                self.name(dir, name, ino, kind);
            }
            Ok(())
        })
    }

    fn name(&mut self, dir: Ino, name: &Name, ino: Ino, kind: Kind) {
        let hide = Fix::HideName(dir, name.clone());
        let about = |code, what: String| {
            let mut finding = Finding::damage(code, what).ino(dir);
            finding.place = Some(name.as_bytes().to_vec());
            finding
        };
        let parent = self.at(dir);
        let target = self.at(ino);
        if parent.is_none_or(|at| self.seen[at].kind != Kind::Dir) {
            let what =
                format!("a name in inode {dir}, which is no directory, leads to inode {ino}");
            self.problem(about(Code::StrayName, what), hide);
            return;
        }
        let Some(target) = target else {
            let what = format!("leads to inode {ino}, which has no record");
            let fix = match kind {
                Kind::Dir => Fix::RemakeDir(ino, dir, name.clone()),
                _ => Fix::ShowHost(dir, name.clone(), ino),
            };
            self.problem(about(Code::DanglingName, what), fix);
            self.count_subdir(parent, kind);
            return;
        };
        let real = self.seen[target].kind;
        if real != kind {
            let what = format!("says that inode {ino} is a {kind:?}, its record a {real:?}");
            let fix = Fix::SetKind(dir, name.clone(), ino, real);
            self.problem(about(Code::NameKind, what), fix);
        }
        if real == Kind::Dir {
            if ino == Ino::ROOT || self.seen[target].names > 0 {
                let what = format!("is a further name of directory {ino}");
                self.problem(about(Code::DirectoryNames, what), hide);
                self.count_subdir(parent, real);
                return;
            }
            self.seen[target].parent = parent.map_or(NO_PARENT, |at| at as u32);
        }
        self.seen[target].names = self.seen[target].names.saturating_add(1);
        self.count_subdir(parent, real);
    }

    fn count_subdir(&mut self, parent: Option<usize>, kind: Kind) {
        if let Some(at) = parent
            && kind == Kind::Dir
        {
            self.seen[at].subdirs = self.seen[at].subdirs.saturating_add(1);
        }
    }

    /// Finds the directories that the root does not lead to.
    fn reach(&mut self) {
        let mut way = Vec::new();
        for start in 0..self.seen.len() {
            if self.seen[start].kind != Kind::Dir || self.seen[start].state != State::Unknown {
                continue;
            }
            way.clear();
            let mut at = start;
            let end = loop {
                match self.seen[at].state {
                    State::OnTheWay => break State::OnTheWay,
                    State::Unknown => {}
                    known => break known,
                }
                if self.seen[at].ino == Ino::ROOT.0 {
                    self.seen[at].state = State::Reachable;
                    break State::Reachable;
                }
                way.push(at);
                self.seen[at].state = State::OnTheWay;
                match self.seen[at].parent {
                    NO_PARENT => break State::Lost,
                    parent => at = parent as usize,
                }
            };
            if end == State::OnTheWay {
                let ino = Ino(self.seen[at].ino);
                let what = "is below itself, and not below the root";
                let finding = Finding::damage(Code::DirectoryLoop, what).ino(ino);
                self.problem(finding, Fix::Detach(ino));
            }
            let state = match end {
                State::Reachable => State::Reachable,
                _ => State::Lost,
            };
            for at in &way {
                self.seen[*at].state = state;
            }
        }
    }

    /// Takes the names in directories that nothing leads to out of the counts.
    fn take_lost_names(&mut self) -> Result<(), StoreError> {
        if self.seen.iter().all(|seen| seen.state != State::Lost) {
            return Ok(());
        }
        let stack = self.stack;
        stack.each_dentry(&mut |dir, name, dentry| {
            let Dentry::Present { ino, .. } = dentry else {
                return Ok(());
            };
            if let Some(at) = self.at(dir)
                && self.seen[at].state == State::Lost
            {
                self.out.problems.push(Problem {
                    finding: None,
                    fix: Fix::ForgetName(dir, name.clone()),
                });
                if let Some(target) = self.at(ino) {
                    let seen = &mut self.seen[target];
                    seen.names = seen.names.saturating_sub(1);
                    if seen.kind != Kind::Dir && seen.names == 0 {
                        seen.state = State::Lost;
                    }
                }
            }
            Ok(())
        })
    }

    /// The name that a directory of the base had where it came from, if the branch can have it
    /// there: a repair that lost the name gives it back.
    fn place_of_base(&self, ino: Ino) -> Result<Option<(Ino, Name)>, StoreError> {
        let record = self.stack.inode(ino)?;
        let Some(origin) = record.as_ref().and_then(|rec| rec.origin.as_ref()) else {
            return Ok(None);
        };
        let mut parts = origin.path.split(|byte| *byte == b'/').peekable();
        let mut at = Ino::ROOT;
        while let Some(part) = parts.next() {
            if part.is_empty() {
                continue;
            }
            let Ok(name) = Name::new(part) else {
                return Ok(None);
            };
            let word = self.stack.dentry(at, &name)?;
            if parts.peek().is_none() {
                return Ok(word.is_none().then_some((at, name)));
            }
            at = match word {
                Some(Dentry::Present {
                    ino,
                    kind: Kind::Dir,
                }) => ino,
                _ => return Ok(None),
            };
        }
        Ok(None)
    }

    fn counts(&mut self) -> Result<(), StoreError> {
        for at in 0..self.seen.len() {
            let seen = self.seen[at];
            let ino = Ino(seen.ino);
            if ino == Ino::ROOT {
                continue;
            }
            let is_dir = seen.kind == Kind::Dir;
            if seen.state == State::Lost {
                // The uppermost of a lost tree is named, what is below goes with it.
                if is_dir && seen.parent == NO_PARENT {
                    let what = "no name leads to this directory";
                    let finding = Finding::damage(Code::OrphanInode, what).ino(ino);
                    let fix = match self.place_of_base(ino)? {
                        Some((dir, name)) => Fix::Reattach(dir, name, ino),
                        None => Fix::Detach(ino),
                    };
                    self.problem(finding, fix);
                } else {
                    self.out.problems.push(Problem {
                        finding: None,
                        fix: Fix::Detach(ino),
                    });
                }
                continue;
            }
            // A file of the base may be reached by a name that only the base has.
            if seen.names == 0 && !seen.is_base {
                let what = "no name leads to this inode";
                let finding = Finding::damage(Code::OrphanInode, what).ino(ino);
                self.problem(finding, Fix::Detach(ino));
                continue;
            }
            if seen.names == 0 && seen.is_changed {
                let what = "the branch changed this file and has no name for it: it is there as \
                            long as the host has one";
                let finding = Finding::note(Code::OrphanInode, what).ino(ino);
                self.problem(finding, Fix::Nothing);
            }
            let wanted = match (seen.is_base, is_dir) {
                (false, true) => Some(seen.subdirs.saturating_add(2)),
                (false, false) => Some(seen.names),
                (true, _) if seen.nlink == 0 => Some(seen.names.max(1)),
                (true, _) => None,
            };
            if let Some(wanted) = wanted.filter(|wanted| *wanted != seen.nlink) {
                let what = format!("has {} links, {wanted} are there", seen.nlink);
                let finding = Finding::damage(Code::LinkCount, what).ino(ino);
                self.problem(finding, Fix::SetLinks(ino, wanted));
            } else if seen.is_base && !is_dir && seen.names > seen.nlink {
                // The host gave the file a further name since the branch took it over.
                let what = format!(
                    "has {} links, the branch knows {} names",
                    seen.nlink, seen.names
                );
                let finding = Finding::note(Code::LinkCount, what).ino(ino);
                self.problem(finding, Fix::SetLinks(ino, seen.names));
            }
        }
        Ok(())
    }
}

/// What a record says against itself or its number.
fn contradiction(ino: Ino, rec: &InodeRec) -> Option<String> {
    let is_file = rec.kind == Kind::File;
    let has_object = matches!(rec.content, Content::Object(_) | Content::Extents { .. });
    let from_base = match rec.content {
        Content::Base => true,
        Content::Extents { base_bytes, .. } => base_bytes > 0,
        Content::Empty | Content::Object(_) => false,
    };
    let what = if (ino < Ino::FIRST_NEW) != rec.origin.is_some() {
        "its number and its origin do not fit together"
    } else if ino == Ino::ROOT && rec.kind != Kind::Dir {
        "the root is no directory"
    } else if (rec.kind == Kind::Symlink) != rec.symlink.is_some() {
        "only a symbolic link has a target"
    } else if !is_file && rec.content != Content::Empty {
        "only a regular file has contents"
    } else if is_file && rec.origin.is_some() && rec.content == Content::Empty {
        "a file of the base has contents"
    } else if from_base && rec.origin.is_none() {
        "it has the contents of a base file, and no origin"
    } else if rec.dirty && !has_object {
        "only an object can have changed since"
    } else if rec.blocks.is_some() && !has_object {
        "only an object has blocks"
    } else {
        return None;
    };
    Some(what.into())
}

/// What an object that is too short may come from, in words.
pub(super) fn why_short(len: u64, size: u64) -> &'static str {
    match len < size {
        true => "; a loss of power takes what was not synced",
        false => "",
    }
}
