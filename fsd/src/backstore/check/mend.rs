//! Mending what a branch's layers say: by ordinary commits to its own layer, so that frozen ones
//! stay as they are.

use std::collections::{BTreeMap, BTreeSet};

use super::Progress;
use super::keep::Keeper;
use super::records::{self, Fix, Problem};
use crate::backstore::branch::LiveBranch;
use crate::backstore::error::StoreError;
use crate::backstore::extents;
use crate::backstore::objects;
use crate::backstore::stack::Records;
use crate::core::record::{Content, Delta, Dentry, InodeRec, ObjectId};
use crate::core::types::{Ino, Kind, Name, Time};
use std::sync::Arc;

/// Rounds of looking and mending: what one brings to light the next one mends.
const ROUNDS_MAX: u32 = 12;
/// Deltas in one frame.
const FRAME_DELTAS: usize = 4096;

/// Mends the records of a branch; says what was done.
pub fn mend(
    live: &mut LiveBranch,
    keeper: &Keeper<'_>,
    progress: &mut Progress<'_>,
) -> Result<Vec<String>, StoreError> {
    let mut done = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let mut problems = records::check(live.stack(), false, progress)?.problems;
        problems.retain(|problem| problem.fix != Fix::Nothing);
        // A directory made again takes the names in it back: what they looked like without it
        // says nothing.
        if problems.iter().any(is_remake) {
            problems.retain(is_remake);
        }
        if problems.is_empty() {
            break;
        }
        Round::new(live, keeper)?.apply(&problems, &mut done)?;
    }
    Ok(done)
}

fn is_remake(problem: &Problem) -> bool {
    matches!(problem.fix, Fix::RemakeDir(..))
}

struct Round<'a, 'k> {
    live: &'a mut LiveBranch,
    keeper: &'a Keeper<'k>,
    records: BTreeMap<Ino, InodeRec>,
    deltas: Vec<Delta>,
    detached: BTreeSet<Ino>,
}

impl<'a, 'k> Round<'a, 'k> {
    fn new(live: &'a mut LiveBranch, keeper: &'a Keeper<'k>) -> Result<Self, StoreError> {
        Ok(Self {
            live,
            keeper,
            records: BTreeMap::new(),
            deltas: Vec::new(),
            detached: BTreeSet::new(),
        })
    }

    fn apply(mut self, problems: &[Problem], done: &mut Vec<String>) -> Result<(), StoreError> {
        self.detached = problems
            .iter()
            .filter_map(|problem| match problem.fix {
                Fix::Detach(ino) => Some(ino),
                _ => None,
            })
            .collect();
        for ino in self.detached.clone() {
            let text = self.detach(ino, place_in(problems, ino))?;
            done.push(text);
        }
        self.hide_names_of_detached()?;
        for problem in problems {
            if let Some(mut text) = self.fix(&problem.fix)? {
                if let Some(place) = problem.finding.as_ref().and_then(|f| f.place.as_ref()) {
                    text = format!("{text} ({})", String::from_utf8_lossy(place));
                }
                done.push(text);
            }
        }
        let records = std::mem::take(&mut self.records);
        for (ino, rec) in records {
            if !self.detached.contains(&ino) {
                self.deltas.push(Delta::PutInode(ino, Arc::new(rec)));
            }
        }
        for frame in self.deltas.chunks(FRAME_DELTAS) {
            self.live.commit(frame.to_vec())?;
        }
        Ok(())
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
                kept = self.keeper.take_object(id.number)?;
            }
            let path = self
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
            self.hide(dir, &name)?;
        }
        Ok(())
    }

    /// Takes the branch's word on a name back. Not by a whiteout where that can be helped: a patch
    /// of the branch must not remove what merely was lost here.
    fn hide(&mut self, dir: Ino, name: &Name) -> Result<(), StoreError> {
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

    fn fix(&mut self, fix: &Fix) -> Result<Option<String>, StoreError> {
        Ok(match fix {
            Fix::Nothing | Fix::Detach(_) => None,
            Fix::HideName(dir, name) => {
                self.hide(*dir, name)?;
                let text = String::from_utf8_lossy(name.as_bytes());
                Some(format!("took name {text} out of directory {dir}"))
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
            Fix::RemakeDir(ino, parent) => {
                let rec = self.new_dir(*parent)?;
                self.records.insert(*ino, rec);
                Some(format!(
                    "made directory {ino} again, with default attributes"
                ))
            }
            Fix::SetLinks(ino, links) => self.edit(*ino)?.map(|rec| {
                rec.nlink = *links;
                format!("set the links of inode {ino} to {links}")
            }),
            Fix::SetSize(ino, size) => {
                let text = self.edit(*ino)?.map(|rec| {
                    rec.size = *size;
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
