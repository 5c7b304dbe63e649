//! Mending what a branch's layers say: by ordinary commits to its own layer, so that frozen ones
//! stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::host::{Below, Host};
use super::keep::Keeper;
use super::records::{self, Fix, Problem};
use super::{Loss, Progress};
use crate::backstore::branch::LiveBranch;
use crate::backstore::error::StoreError;
use crate::backstore::extents;
use crate::backstore::objects;
use crate::backstore::stack::Records;
use crate::core::record::{
    Content, Delta, Dentry, Fingerprint, InodeRec, ObjectId, Origin, full_blocks,
};
use crate::core::types::{Ino, Kind, Name, Time};
use std::sync::Arc;

/// Rounds of looking and mending: what one brings to light the next one mends.
const ROUNDS_MAX: u32 = 12;
/// Levels of a tree whose directories are made again, each in a round of its own.
const LEVELS_MAX: u32 = 4096;
/// Deltas in one frame.
const FRAME_DELTAS: usize = 4096;

/// What a repair of records goes by.
pub struct Means<'a> {
    /// Where to put what is taken out.
    pub keeper: &'a Keeper<'a>,
    /// What to show where a branch lost its word.
    pub host: Option<&'a dyn Host>,
    /// Called with what will be lost, before it is.
    pub lose: &'a mut dyn FnMut(Vec<Loss>) -> Result<(), StoreError>,
}

/// Mends the records of a branch; says what was done.
pub fn mend(
    live: &mut LiveBranch,
    means: &mut Means<'_>,
    progress: &mut Progress<'_>,
) -> Result<Vec<String>, StoreError> {
    let mut done = Vec::new();
    let mut rounds = 0;
    let mut last_resort = false;
    for _ in 0..LEVELS_MAX {
        if rounds == ROUNDS_MAX {
            break;
        }
        let mut problems = records::check(live.stack(), false, progress)?.problems;
        problems.retain(|problem| problem.fix != Fix::Nothing);
        // A directory made again takes the names in it back: what they looked like without it
        // says nothing.
        let remakes = problems.iter().any(is_remake);
        if remakes {
            // One round for each level of the tree, so they are not counted; each finds fewer.
            problems.retain(is_remake);
        } else {
            rounds += 1;
        }
        if problems.is_empty() {
            break;
        }
        let progressed = Round::new(live, means, last_resort).apply(&problems, &mut done)?;
        last_resort = remakes && !progressed;
    }
    Ok(done)
}

fn is_remake(problem: &Problem) -> bool {
    matches!(problem.fix, Fix::RemakeDir(..) | Fix::Reattach(..))
}

struct Round<'a, 'm> {
    below: Below<'m>,
    live: &'a mut LiveBranch,
    means: &'a mut Means<'m>,
    records: BTreeMap<Ino, InodeRec>,
    deltas: Vec<Delta>,
    detached: BTreeSet<Ino>,
    lost: Vec<Loss>,
    /// Nothing that is still to be made again will tell more of what cannot be told now.
    last_resort: bool,
}

impl<'a, 'm> Round<'a, 'm> {
    fn new(live: &'a mut LiveBranch, means: &'a mut Means<'m>, last_resort: bool) -> Self {
        Self {
            below: Below::new(means.host, live),
            live,
            means,
            records: BTreeMap::new(),
            deltas: Vec::new(),
            detached: BTreeSet::new(),
            lost: Vec::new(),
            last_resort,
        }
    }

    /// Mends what these say; whether it changed anything.
    fn apply(mut self, problems: &[Problem], done: &mut Vec<String>) -> Result<bool, StoreError> {
        self.detached = problems
            .iter()
            .filter_map(|problem| match problem.fix {
                Fix::Detach(ino) => Some(ino),
                _ => None,
            })
            .collect();
        self.hide_names_of_detached()?;
        let mut texts = Vec::new();
        for problem in problems {
            let place = problem.finding.as_ref().and_then(|f| f.place.as_ref());
            let lost_before = self.lost.len();
            if let Some(mut text) = self.fix(&problem.fix, place)? {
                for loss in &mut self.lost[lost_before..] {
                    loss.path = place.cloned();
                    loss.what.push_str(&format!("; the repair {text}"));
                }
                if let Some(place) = place {
                    text = format!("{text} ({})", String::from_utf8_lossy(place));
                }
                texts.push(text);
            }
        }
        self.lose_detached(problems)?;
        if !self.lost.is_empty() {
            // Before anything of it happens: a crash may come between.
            (self.means.lose)(std::mem::take(&mut self.lost))?;
        }
        for ino in self.detached.clone() {
            let text = self.detach(ino, place_in(problems, ino))?;
            done.push(text);
        }
        done.append(&mut texts);
        let records = std::mem::take(&mut self.records);
        for (ino, rec) in records {
            if !self.detached.contains(&ino) {
                self.deltas.push(Delta::PutInode(ino, Arc::new(rec)));
            }
        }
        for frame in self.deltas.chunks(FRAME_DELTAS) {
            self.live.commit(frame.to_vec())?;
        }
        Ok(!self.deltas.is_empty())
    }

    /// Puts an inode's object and what is known of it aside, and takes its record out.
    fn detach(&mut self, ino: Ino, place: Option<String>) -> Result<String, StoreError> {
        let place = place.unwrap_or_else(|| "an unknown place".into());
        let mut what = format!("took inode {ino} of {place} out");
        if let Some(rec) = self.live.inode(ino)? {
            let mut kept = None;
            if let Content::Object(id) | Content::Extents { own: id, .. } = rec.content
                && self.live.is_top(id)
            {
                kept = self.means.keeper.take_object(id.number)?;
            }
            let path = self
                .means
                .keeper
                .note(&format!("inode.{ino}.txt"), &describe(ino, &place, &rec))?;
            what = format!("{what}; what is known of it is in {}", path.display());
            if let Some(kept) = kept {
                what = format!("{what}, its bytes in {}", kept.display());
            }
            self.deltas.push(Delta::DelInode(ino));
        }
        Ok(what)
    }

    /// Says what is lost with the inodes that are taken out.
    fn lose_detached(&mut self, problems: &[Problem]) -> Result<(), StoreError> {
        for ino in &self.detached {
            let Some(rec) = self.live.inode(*ino)? else {
                continue;
            };
            let of = problems.iter().filter(|p| p.fix == Fix::Detach(*ino));
            let mut findings = of.filter_map(|p| p.finding.as_ref());
            let finding = findings.next();
            let place = finding.and_then(|finding| finding.place.clone());
            let origin = rec.origin.as_ref().map(|origin| origin.path.to_vec());
            self.lost.push(Loss {
                path: place.or(origin),
                ino: Some(*ino),
                what: format!(
                    "{}; the repair put what there is of it into lost+found",
                    finding.map_or("it went with its directory", |finding| &finding.what)
                ),
                remade: false,
            });
        }
        Ok(())
    }

    fn hide_names_of_detached(&mut self) -> Result<(), StoreError> {
        if self.detached.is_empty() {
            return Ok(());
        }
        let mut names = Vec::new();
        self.live.each_dentry(&mut |dir, name, dentry| {
            if let Dentry::Present { ino, .. } = dentry
                && self.detached.contains(&ino)
            {
                names.push((dir, name.clone()));
            }
            Ok(())
        })?;
        for (dir, name) in names {
            match self.detached.contains(&dir) {
                true => self.forget(dir, &name)?,
                false => self.hide(dir, &name)?,
            }
        }
        Ok(())
    }

    /// Takes the branch's word on a name back, so that the host's object of that name shows: a
    /// patch of the branch must not remove what merely was lost here. Where a layer below speaks,
    /// that takes a word of the branch's own.
    fn hide(&mut self, dir: Ino, name: &Name) -> Result<(), StoreError> {
        if self.live.lower_dentry(dir, name)?.is_none() {
            return self.forget(dir, name);
        }
        let Some(object) = self.below.at(self.live, dir, name)? else {
            return self.forget(dir, name);
        };
        let (live, records, detached) = (&*self.live, &self.records, &self.detached);
        let is_free = |ino: Ino| {
            let is_used = live.inode(ino)?.is_some()
                || records.contains_key(&ino)
                || detached.contains(&ino)
                || !live.dentries(ino)?.is_empty();
            Ok(!is_used)
        };
        let Some((ino, device)) = self.below.number(&object, &is_free)? else {
            return self.forget(dir, name);
        };
        self.deltas.extend(device);
        let kind = object.record.kind;
        let present = Dentry::Present { ino, kind };
        self.deltas
            .push(Delta::PutDentry(dir, name.clone(), present));
        self.records.insert(ino, object.record);
        Ok(())
    }

    /// As [`hide`](Self::hide) where the host has nothing at the name, or nobody asks it.
    fn forget(&mut self, dir: Ino, name: &Name) -> Result<(), StoreError> {
        let delta = match self.live.lower_dentry(dir, name)? {
            Some(Dentry::Present { .. }) => Delta::PutDentry(dir, name.clone(), Dentry::Whiteout),
            _ => Delta::DelDentry(dir, name.clone()),
        };
        self.deltas.push(delta);
        Ok(())
    }

    fn edit(&mut self, ino: Ino) -> Result<Option<&mut InodeRec>, StoreError> {
        if !self.records.contains_key(&ino) {
            let Some(rec) = self.live.inode(ino)? else {
                return Ok(None);
            };
            self.records.insert(ino, InodeRec::clone(&rec));
        }
        Ok(self.records.get_mut(&ino))
    }

    fn lose(&mut self, ino: Option<Ino>, what: impl Into<String>) {
        let loss = Loss::of(what);
        self.lost.push(Loss { ino, ..loss });
    }

    fn fix(&mut self, fix: &Fix, place: Option<&Vec<u8>>) -> Result<Option<String>, StoreError> {
        Ok(match fix {
            Fix::Nothing | Fix::Detach(_) => None,
            Fix::HideName(dir, name) => {
                self.lose(None, "the name");
                self.hide(*dir, name)?;
                let text = String::from_utf8_lossy(name.as_bytes());
                Some(format!("took name {text} out of directory {dir}"))
            }
            Fix::ForgetName(dir, name) => {
                self.forget(*dir, name)?;
                let text = String::from_utf8_lossy(name.as_bytes());
                Some(format!("took name {text} out of directory {dir}"))
            }
            Fix::ShowHost(dir, name, ino) => {
                self.lose(Some(*ino), "the file's record");
                Some(self.show_host(*dir, name, *ino)?)
            }
            Fix::Reattach(dir, name, ino) => {
                let kind = Kind::Dir;
                let present = Dentry::Present { ino: *ino, kind };
                self.deltas
                    .push(Delta::PutDentry(*dir, name.clone(), present));
                let text = String::from_utf8_lossy(name.as_bytes());
                Some(format!("gave directory {ino} its name {text} again"))
            }
            Fix::SetKind(dir, name, ino, kind) => {
                let present = Dentry::Present {
                    ino: *ino,
                    kind: *kind,
                };
                self.deltas
                    .push(Delta::PutDentry(*dir, name.clone(), present));
                Some(format!("set the type of a name of inode {ino}"))
            }
            Fix::RemakeDir(ino, parent, name) => {
                let (rec, how) = match *ino < Ino::FIRST_NEW {
                    true => match self.base_dir(*ino, *parent, name, place)? {
                        Some(made) => made,
                        None => return Ok(None),
                    },
                    false => (self.new_dir(*parent)?, "with default attributes"),
                };
                self.lost.push(Loss {
                    ino: Some(*ino),
                    remade: true,
                    ..Loss::of("the directory's record")
                });
                self.records.insert(*ino, rec);
                Some(format!("made directory {ino} again, {how}"))
            }
            Fix::SetLinks(ino, links) => self.edit(*ino)?.map(|rec| {
                rec.nlink = *links;
                format!("set the links of inode {ino} to {links}")
            }),
            Fix::SetSize(ino, size) => {
                if let Some(was) = self
                    .edit(*ino)?
                    .map(|rec| rec.size)
                    .filter(|was| was > size)
                {
                    let what = format!("its contents from byte {size} to {was}");
                    self.lose(Some(*ino), what);
                }
                let text = self.edit(*ino)?.map(|rec| {
                    rec.set_size(*size, full_blocks(*size));
                    format!("set the size of inode {ino} to {size}")
                });
                self.cut(*ino, *size)?;
                text
            }
            Fix::CutExtents(ino, size) => {
                self.cut(*ino, *size)?;
                Some(format!("cut the extents of inode {ino} at byte {size}"))
            }
            Fix::Lengthen(id, size) => {
                let object = self.live.open_object(*id, true)?;
                let what = format!("its contents from byte {} to {size}", object.len()?);
                self.lose(None, what);
                object.set_len(*size)?;
                object.sync(true)?;
                Some(format!(
                    "lengthened object {} to {size} bytes, the new ones zeros",
                    id.number
                ))
            }
            Fix::MakePrivate(id) => Some(self.make_private(*id)?),
        })
    }

    /// Cuts what a file of extents shows to `size`.
    fn cut(&mut self, ino: Ino, size: u64) -> Result<(), StoreError> {
        let map = self.live.extents(ino)?;
        if let Some(rec) = self.edit(ino)?
            && let Content::Extents { base_bytes, .. } = &mut rec.content
        {
            *base_bytes = (*base_bytes).min(size);
            let map = extents::cut(&map, size);
            self.deltas.push(Delta::SetExtents(ino, Arc::new(map)));
        }
        Ok(())
    }

    fn make_private(&self, id: ObjectId) -> Result<String, StoreError> {
        let layers = &self.live.stack().layers;
        let layer = layers.iter().find(|layer| layer.id == id.layer);
        let layer = layer.ok_or(StoreError::Invalid("an object of no layer"))?;
        let path = objects::path_of(id.number);
        let at = layer.media.describe(&path);
        let facts = layer.media.facts(std::path::Path::new(""));
        facts
            .and_then(|facts| layer.media.make_private(&path, facts.uid))
            .map_err(|e| StoreError::io("change owner and mode of", &at, e).while_writing())?;
        Ok(format!("set owner and mode of {}", at.display()))
    }

    /// Shows what the host has for a file whose record is lost: the file itself where it can be told
    /// by its number, also where the branch moved it to; else what the host has at the name.
    fn show_host(&mut self, dir: Ino, name: &Name, ino: Ino) -> Result<String, StoreError> {
        if ino < Ino::FIRST_NEW {
            let here = self.below.at(self.live, dir, name)?;
            let here = here.filter(|object| self.below.is_numbered(object, ino));
            let is_below = self.live.lower_dentry(dir, name)?.is_some();
            let found = match here {
                // Without any word of the branch the host's file shows.
                Some(_) if !is_below => None,
                Some(object) => Some(object),
                None => self.below.moved(self.live, ino)?,
            };
            if let Some(object) = found {
                self.records.insert(ino, object.record);
                return Ok(format!("made file {ino} again, as the host has it"));
            }
        }
        self.hide(dir, name)?;
        let text = String::from_utf8_lossy(name.as_bytes());
        Ok(format!(
            "took name {text} out of directory {dir}: what the host has there shows"
        ))
    }

    /// A directory of the host again, and how; the names in it stay reachable through it. `None`: a
    /// directory that the branch took it from may be made again first.
    fn base_dir(
        &mut self,
        ino: Ino,
        parent: Ino,
        name: &Name,
        place: Option<&Vec<u8>>,
    ) -> Result<Option<(InodeRec, &'static str)>, StoreError> {
        let here = self.below.at(self.live, parent, name)?;
        let mut here = here.filter(|object| object.record.kind == Kind::Dir);
        let is_it = here
            .as_ref()
            .is_some_and(|object| self.below.is_numbered(object, ino));
        if !is_it {
            let moved = self.below.moved(self.live, ino)?;
            let moved = moved.filter(|object| object.record.kind == Kind::Dir);
            if moved.is_none() && !self.last_resort {
                return Ok(None);
            }
            here = moved.or(here);
        }
        if let Some(object) = here {
            return Ok(Some((object.record, "as the host has it")));
        }
        let mut rec = self.new_dir(parent)?;
        let path = match self.below.path(self.live, parent, name)? {
            Some(path) => path,
            None => place.cloned().unwrap_or_default(),
        };
        let path = match path.starts_with(b"/") {
            true => path,
            false => [b"/", name.as_bytes()].concat(),
        };
        let zero = Time { sec: 0, nsec: 0 };
        rec.origin = Some(Box::new(Origin {
            path: path.into(),
            fingerprint: Fingerprint {
                dev: 0,
                ino: 0,
                size: 0,
                mtime: zero,
                ctime: zero,
                btime: zero,
            },
        }));
        Ok(Some((rec, "with default attributes")))
    }

    /// A directory of which nothing is known but that it was one.
    fn new_dir(&self, parent: Ino) -> Result<InodeRec, StoreError> {
        let parent = self.live.inode(parent)?;
        let now = Time::now();
        Ok(InodeRec {
            kind: Kind::Dir,
            perm: 0o700,
            uid: parent.as_ref().map_or(0, |rec| rec.uid),
            gid: parent.as_ref().map_or(0, |rec| rec.gid),
            rdev: 0,
            nlink: 2,
            size: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            object_mtime: None,
            blocks: None,
            dirty: false,
            generation: 0,
            origin: None,
            content: Content::Empty,
            symlink: None,
            xattrs: BTreeMap::new(),
        })
    }
}

fn place_in(problems: &[Problem], ino: Ino) -> Option<String> {
    problems
        .iter()
        .filter(|problem| problem.fix == Fix::Detach(ino))
        .find_map(|problem| problem.finding.as_ref()?.place.as_ref())
        .map(|place| String::from_utf8_lossy(place).into_owned())
}

/// What is known of an inode, for people.
fn describe(ino: Ino, place: &str, rec: &InodeRec) -> String {
    let mut out = format!(
        "inode {ino}\nplace {place}\ntype {:?}\nmode {:04o}\nuid {}\ngid {}\nsize {}\nmodified {}\n",
        rec.kind, rec.perm, rec.uid, rec.gid, rec.size, rec.mtime.sec
    );
    if let Some(origin) = &rec.origin {
        out += &format!("origin {}\n", String::from_utf8_lossy(&origin.path));
    }
    if let Some(target) = &rec.symlink {
        out += &format!("target {}\n", String::from_utf8_lossy(target));
    }
    if let Content::Object(id) | Content::Extents { own: id, .. } = rec.content {
        out += &format!("object {} of layer {:016x}\n", id.number, id.layer.0);
    }
    for name in rec.xattrs.keys() {
        out += &format!("attribute {}\n", String::from_utf8_lossy(name));
    }
    out
}
