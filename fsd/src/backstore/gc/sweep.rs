//! One collection from end to end: look, make durable, remove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{Collected, Compacted, Forest, GC_LOCK, Garbage, Kept, Reason, Removed, Space, Used};
use crate::backstore::check::{LOST_FOUND, Progress};
use crate::backstore::chore::{Chore, MERGE_AT_COST_IDLE};
use crate::backstore::error::StoreError;
use crate::backstore::layer::Files;
use crate::backstore::load::Floor;
use crate::backstore::media::{Media, OpenMode};
use crate::backstore::meta::BranchInfo;
use crate::backstore::store::{
    BRANCHES, LAYERS, Listed, RUN_ROOM, STAGE, Store, TRASH, branch_dir, is_stage, layer_dir,
};
use crate::backstore::within::Within;
use crate::backstore::{journal, merged, objects, table};
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};

/// A stage file in a branch's directory may be one that somebody is writing, for so long.
const STAGE_AGE_SEC: u64 = 600;
/// Records between two calls of the progress.
const PROGRESS_EVERY: u64 = 4096;

struct Sweep<'a, 'p> {
    store: &'a Store,
    dry_run: bool,
    progress: &'a mut Progress<'p>,
    out: Collected,
    infos: Vec<BranchInfo>,
    /// Branches that were live at any look.
    live: BTreeSet<BranchName>,
    /// Some branch's metadata cannot be read.
    some_unknown: bool,
    forest: Forest,
}

/// See [`Store::gc`].
pub fn run(
    store: &Store,
    dry_run: bool,
    progress: &mut Progress<'_>,
) -> Result<Collected, StoreError> {
    let _lock = match dry_run {
        true => None,
        false => {
            progress("waiting for another gc or repair", 0, 0);
            let path = Path::new(GC_LOCK);
            Some(
                store
                    .lock_gc()
                    .map_err(|e| store.io("lock", path, e).while_writing())?,
            )
        }
    };
    let mut sweep = Sweep {
        store,
        dry_run,
        progress,
        out: Collected::default(),
        infos: Vec::new(),
        live: BTreeSet::new(),
        some_unknown: false,
        forest: Forest::default(),
    };
    sweep.survey()?;
    let garbage = sweep.garbage_objects()?;
    if !dry_run {
        (sweep.progress)("syncing", 0, 0);
        let all = Path::new("");
        let synced = store.media.sync_all();
        synced.map_err(|e| store.io("sync", all, e))?;
    }
    // Who is live now may have opened what was seen before: only this look counts for those.
    sweep.look_who_is_live();
    sweep.objects(garbage);
    sweep.unused_layers()?;
    sweep.frozen_leftovers()?;
    sweep.places()?;
    // What takes room comes when all that gives some is done.
    sweep.compact();
    sweep.merged_tables()?;
    if !dry_run {
        store.keep_room(0);
    }
    sweep.uses();
    let mut out = sweep.out;
    out.removed
        .sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    out.kept
        .sort_by(|a, b| (a.reason, &a.path).cmp(&(b.reason, &b.path)));
    Ok(out)
}

impl Sweep<'_, '_> {
    fn describe(&self, path: &Path) -> PathBuf {
        self.store.media.describe(path)
    }

    fn gone(&mut self, what: Garbage, path: &Path, branches: Vec<BranchName>, space: Space) {
        let path = self.describe(path);
        self.out.removed.push(Removed {
            what,
            path,
            branches,
            space,
        });
    }

    fn keep(
        &mut self,
        reason: Reason,
        path: &Path,
        branches: Vec<BranchName>,
        space: Space,
        what: impl Into<String>,
    ) {
        let (path, what) = (self.describe(path), what.into());
        self.out.kept.push(Kept {
            reason,
            path,
            branches,
            space,
            what,
        });
    }

    fn look_who_is_live(&mut self) {
        for info in &self.infos {
            // Where that cannot be asked, or the branch goes by another name, somebody may be.
            let is_same = (self.store.branch(&info.name)).is_ok_and(|now| now.id == info.id);
            if !is_same || !matches!(self.store.live_owner(&info.name), Ok(None)) {
                self.live.insert(info.name.clone());
            }
        }
    }

    /// Reads what all branches and snapshots stand on.
    fn survey(&mut self) -> Result<(), StoreError> {
        let all = {
            // Names and what they stand for must be of one moment: a branch that is renamed or made
            // between the two would not be seen, and what only it shows would go.
            let _lock = match self.dry_run {
                true => None,
                false => Some(self.store.lock_store()?),
            };
            self.store.list()?
        };
        for listed in all {
            match listed {
                Listed::Branch(info) => self.infos.push(info),
                Listed::Damaged { name, why } => {
                    self.some_unknown = true;
                    let path = Path::new(BRANCHES).join(name);
                    let what = format!("what this branch needs is not known: {why}");
                    self.keep(
                        Reason::Unreadable,
                        &path,
                        Vec::new(),
                        Space::default(),
                        what,
                    );
                }
            }
        }
        self.look_who_is_live();
        let infos = self.infos.clone();
        let total = infos
            .iter()
            .map(|info| 1 + info.snapshots.len())
            .sum::<usize>() as u64;
        let mut done = 0;
        for info in &infos {
            let own = (&info.layers, true);
            let stacks = info.snapshots.iter().map(|s| (&s.layers, false));
            for (layers, has_top) in std::iter::once(own).chain(stacks) {
                (self.progress)("reading layers", done, total);
                done += 1;
                if let Err(e) = self.forest.add(self.store, layers, has_top) {
                    let what = format!("what stands on this is not known: {e}");
                    let path = branch_dir(&info.name);
                    let of = vec![info.name.clone()];
                    self.keep(Reason::Unreadable, &path, of, Space::default(), what);
                }
            }
        }
        Ok(())
    }

    /// The branches that a layer is of, or a snapshot of theirs.
    fn users(&self, id: LayerId) -> Vec<BranchName> {
        let uses = |info: &&BranchInfo| info.all_layers().any(|other| other == id);
        self.infos
            .iter()
            .filter(uses)
            .map(|info| info.name.clone())
            .collect()
    }

    /// The frozen layers of all stacks.
    fn frozen(&self) -> BTreeSet<LayerId> {
        let tops = self.infos.iter().filter_map(|info| info.layers.last());
        let tops: BTreeSet<LayerId> = tops.copied().collect();
        let all = self.infos.iter().flat_map(BranchInfo::all_layers);
        all.filter(|id| !tops.contains(id)).collect()
    }

    /// The layers that live branches stand on: their daemons may have more of them open than shows.
    fn live_layers(&self) -> BTreeSet<LayerId> {
        let live = self
            .infos
            .iter()
            .filter(|info| self.live.contains(&info.name));
        live.flat_map(BranchInfo::all_layers).collect()
    }

    /// The objects of frozen layers that no stack shows.
    fn garbage_objects(&mut self) -> Result<BTreeMap<LayerId, Vec<u64>>, StoreError> {
        let mut out = BTreeMap::new();
        if self.some_unknown {
            return Ok(out);
        }
        let mut shown: BTreeMap<LayerId, BTreeSet<u64>> = BTreeMap::new();
        let (mut records, progress) = (0u64, &mut *self.progress);
        let mut each = || {
            records += 1;
            if records.is_multiple_of(PROGRESS_EVERY) {
                progress("reading records", records, 0);
            }
        };
        let read = self.forest.shown(&mut each, &mut |word| {
            for id in word.objects {
                shown.entry(id.layer).or_default().insert(id.number);
            }
        });
        if let Err(e) = read {
            // A bad block, most likely: nothing is known then.
            let what = format!("no object is removed: {e}");
            self.keep(
                Reason::Unreadable,
                Path::new(LAYERS),
                Vec::new(),
                Space::default(),
                what,
            );
            return Ok(out);
        }
        for id in self.frozen() {
            if !self.forest.knows(id) {
                continue;
            }
            let media = Within::new(&self.store.media, layer_dir(id));
            let mut there = objects::list_from(&media, 0)?;
            if let Some(shown) = shown.get(&id) {
                there.retain(|number| !shown.contains(number));
            }
            if !there.is_empty() {
                out.insert(id, there);
            }
        }
        Ok(out)
    }

    fn objects(&mut self, garbage: BTreeMap<LayerId, Vec<u64>>) {
        let live = self.live_layers();
        let total = garbage.values().map(Vec::len).sum::<usize>() as u64;
        let mut done = 0;
        for (id, numbers) in garbage {
            let media = Within::new(&self.store.media, layer_dir(id));
            let path = layer_dir(id).join(objects::OBJECTS_DIR);
            let (mut space, mut failed) = (Space::default(), None);
            let is_live = live.contains(&id);
            for number in numbers {
                (self.progress)("removing objects", done, total);
                done += 1;
                let of_it = Space::of_file(&media, &objects::path_of(number));
                match is_live || self.dry_run {
                    true => space.add(&of_it),
                    false => match objects::remove(&media, number) {
                        Ok(()) => space.add(&of_it),
                        Err(e) => failed = Some(e),
                    },
                }
            }
            let users = self.users(id);
            if is_live {
                let of = users
                    .into_iter()
                    .filter(|name| self.live.contains(name))
                    .collect();
                let what = "objects that nothing shows, in a layer of a live branch, whose daemon may have them open";
                self.keep(Reason::Live, &path, of, space, what);
                continue;
            }
            if space.files > 0 {
                self.gone(Garbage::Objects, &path, users.clone(), space);
            }
            if let Some(e) = failed {
                self.keep(
                    Reason::Failed,
                    &path,
                    users,
                    Space::default(),
                    e.to_string(),
                );
            }
        }
    }

    /// Layers that no branch and no snapshot names.
    fn unused_layers(&mut self) -> Result<(), StoreError> {
        let unused = self.find_unused(&self.infos.clone())?;
        let mut gone = Vec::new();
        for (path, is_layer) in unused {
            let space = Space::of(&*self.store.media, &path);
            if !is_layer {
                self.keep(Reason::Foreign, &path, Vec::new(), space, "is no layer");
            } else if self.some_unknown {
                let what = "a branch that cannot be read may need this layer";
                self.keep(Reason::Unreadable, &path, Vec::new(), space, what);
            } else {
                gone.push((path, space));
            }
        }
        if !self.dry_run && !gone.is_empty() {
            let lock = self.store.lock_store()?;
            // Somebody may have made a branch of them since, or lost one.
            let mut infos = Vec::new();
            for listed in self.store.list()? {
                match listed {
                    Listed::Branch(info) => infos.push(info),
                    Listed::Damaged { .. } => return Ok(()),
                }
            }
            let still: BTreeSet<PathBuf> = self
                .find_unused(&infos)?
                .into_iter()
                .map(|(path, _)| path)
                .collect();
            gone.retain(|(path, _)| still.contains(path));
            let mut moved = Vec::new();
            for (path, _) in &gone {
                let to = Path::new(TRASH).join(format!("layer.{:016x}", self.store.random()?));
                let renamed = self.store.media.rename(path, &to, false);
                renamed.map_err(|e| self.store.io("rename", path, e).while_writing())?;
                moved.push(to);
            }
            drop(lock);
            for to in moved {
                (self.progress)("removing layers", 0, 0);
                self.store.remove_tree(&to);
            }
        }
        for (path, space) in gone {
            self.gone(Garbage::Layer, &path, Vec::new(), space);
        }
        Ok(())
    }

    /// What is in the directory of layers and no branch of these names; whether it can be a layer.
    fn find_unused(&self, infos: &[BranchInfo]) -> Result<Vec<(PathBuf, bool)>, StoreError> {
        let dir = Path::new(LAYERS);
        let entries = self.store.media.list(dir);
        let entries = entries.map_err(|e| self.store.io("list", dir, e))?;
        let used: BTreeSet<PathBuf> = infos
            .iter()
            .flat_map(BranchInfo::all_layers)
            .map(layer_dir)
            .collect();
        let is_id = |name: &str| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(entries
            .into_iter()
            .map(|entry| {
                let is_layer = entry.is_dir && entry.name.to_str().is_some_and(is_id);
                (dir.join(entry.name), is_layer)
            })
            .filter(|(path, _)| !used.contains(path))
            .collect())
    }

    /// Files in frozen layers of work that was cut short.
    fn frozen_leftovers(&mut self) -> Result<(), StoreError> {
        let live = self.live_layers();
        for id in self.frozen() {
            if live.contains(&id) {
                continue;
            }
            let media = Within::new(&self.store.media, layer_dir(id));
            let mut rubbish: Vec<PathBuf> = stages_of_objects(&media);
            // Whoever publishes a table holds the store's lock.
            let _lock = match self.dry_run {
                true => None,
                false => Some(self.store.lock_store()?),
            };
            if let Ok(files) = Files::list(&media) {
                rubbish.extend(files.stages.iter().map(PathBuf::from));
                if let Some(newest) = files.tables.last() {
                    let old = |n: &&u64| *n < newest;
                    rubbish.extend(
                        files
                            .tables
                            .iter()
                            .filter(old)
                            .map(|n| table::file_name(*n)),
                    );
                    let journals = files.journals.iter().filter(old);
                    rubbish.extend(journals.map(|n| journal::file_name(*n)));
                }
            }
            for name in rubbish {
                self.remove_file(&layer_dir(id).join(name), self.users(id));
            }
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &Path, users: Vec<BranchName>) {
        let space = Space::of_file(&*self.store.media, path);
        if !self.dry_run
            && let Err(e) = self.store.media.unlink(path)
        {
            return self.keep(Reason::Failed, path, users, space, e.to_string());
        }
        self.gone(Garbage::Leftover, path, users, space);
    }

    /// Gives branches that nobody holds the tables that make lookups cheap.
    fn compact(&mut self) {
        let go_on = AtomicBool::new(false);
        for info in self.infos.clone() {
            let Some((_, ids)) = info.layers.split_last() else {
                continue;
            };
            if self.live.contains(&info.name) || !ids.iter().all(|id| self.forest.knows(*id)) {
                continue;
            }
            for round in 0..=ids.len() {
                (self.progress)("compacting", round as u64, 0);
                let done = self
                    .store
                    .load_frozen(ids, Floor::Merged)
                    .and_then(|stack| {
                        let floor = stack.floor.as_ref();
                        let cost = MERGE_AT_COST_IDLE;
                        let chore = Chore::next(self.store, ids, floor, &stack.layers, cost);
                        match chore {
                            Some(_) if self.dry_run => Ok(Some(false)),
                            Some(chore) => chore.run(&go_on).map(|done| Some(done.is_something())),
                            None => Ok(None),
                        }
                    });
                match done {
                    Ok(None) => break,
                    Ok(Some(more)) => {
                        if round == 0 {
                            let (branch, layers) = (info.name.clone(), ids.len() as u64);
                            self.out.compacted.push(Compacted { branch, layers });
                        }
                        if !more {
                            break;
                        }
                    }
                    Err(e) => {
                        let (path, of) = (branch_dir(&info.name), vec![info.name.clone()]);
                        let (reason, what) = match &e {
                            // It only makes lookups quicker, and the next one does it.
                            StoreError::NoSpace { .. } => (
                                Reason::NoSpace,
                                "there is no space to compact its layers".into(),
                            ),
                            _ => (
                                Reason::Failed,
                                format!("its layers could not be compacted: {e}"),
                            ),
                        };
                        self.keep(reason, &path, of, Space::default(), what);
                        break;
                    }
                }
            }
        }
    }

    fn merged_tables(&mut self) -> Result<(), StoreError> {
        let unneeded = match self.dry_run {
            true => merged::unneeded(self.store)?,
            false => {
                let held = self.store.hold()?;
                let ids = merged::unneeded(self.store)?;
                let paths = ids.iter().map(|id| layer_dir(*id).join(merged::FILE));
                let spaces = paths.map(|path| Space::of_file(&*self.store.media, &path));
                let spaces: Vec<Space> = spaces.collect();
                held.remove_unneeded_merged()?;
                for (id, space) in ids.into_iter().zip(spaces) {
                    let path = layer_dir(id).join(merged::FILE);
                    self.gone(Garbage::Merged, &path, self.users(id), space);
                }
                return Ok(());
            }
        };
        for id in unneeded {
            let path = layer_dir(id).join(merged::FILE);
            let space = Space::of_file(&*self.store.media, &path);
            self.gone(Garbage::Merged, &path, self.users(id), space);
        }
        Ok(())
    }

    /// What lies about in the store's own directories and those of branches.
    fn places(&mut self) -> Result<(), StoreError> {
        let media = self.store.media.clone();
        let mut found = Vec::new();
        for (dir, what) in [(TRASH, Garbage::Trash), (STAGE, Garbage::Stage)] {
            for entry in media.list(Path::new(dir)).unwrap_or_default() {
                let path = Path::new(dir).join(entry.name);
                let space = Space::of(&*media, &path);
                found.push((what, path, space));
            }
        }
        for entry in media.list(Path::new("")).unwrap_or_default() {
            if is_stage(&entry.name) {
                let path = PathBuf::from(&entry.name);
                let space = Space::of_file(&*media, &path);
                found.push((Garbage::Stage, path, space));
            }
        }
        if !self.dry_run {
            (self.progress)("removing what is left over", 0, 0);
            let lock = self.store.lock_store()?;
            self.store.remove_stages();
            drop(lock);
            self.store.empty_trash();
        }
        for (what, path, space) in found {
            let is_there = media.facts(&path).is_ok();
            match is_there && !self.dry_run {
                true => self.keep(
                    Reason::Failed,
                    &path,
                    Vec::new(),
                    space,
                    "could not be removed",
                ),
                false => self.gone(what, &path, Vec::new(), space),
            }
        }
        for info in self.infos.clone() {
            if self.live.contains(&info.name) {
                continue;
            }
            let dir = branch_dir(&info.name);
            for entry in media.list(&dir).unwrap_or_default() {
                let path = dir.join(&entry.name);
                if is_stage(&entry.name) && entry.name != RUN_ROOM && is_old(&*media, &path) {
                    self.remove_file(&path, vec![info.name.clone()]);
                }
            }
        }
        let kept = Path::new(LOST_FOUND);
        let space = Space::of(&*media, kept);
        if space.files > 0 {
            let what = "what repairs took out of layers: look through it, then remove it";
            self.keep(Reason::LostFound, kept, Vec::new(), space, what);
        }
        Ok(())
    }

    fn uses(&mut self) {
        for info in &self.infos {
            let own: BTreeSet<LayerId> = info.layers.iter().copied().collect();
            let all: BTreeSet<LayerId> = info.all_layers().collect();
            self.out.used.push(Used {
                branch: info.name.clone(),
                layers: all.len() as u64,
                only_snapshots: all.difference(&own).count() as u64,
                snapshots: info.snapshots.len() as u64,
                live: self.live.contains(&info.name),
            });
        }
    }
}

/// Whether a stage file is older than any write takes.
fn is_old(media: &dyn Media, path: &Path) -> bool {
    let stat = media
        .open(path, OpenMode::Read)
        .and_then(|file| file.stat());
    stat.is_ok_and(|stat| is_past(stat.mtime, Time::now()))
}

/// Whether nobody writes to what was written `then` any more. So it is, too, where that is well in the
/// future: the clock was set back since, and would have to come by again.
fn is_past(then: Time, now: Time) -> bool {
    then.sec.abs_diff(now.sec) > STAGE_AGE_SEC
}

/// Copies of objects that were never finished.
fn stages_of_objects(media: &dyn Media) -> Vec<PathBuf> {
    let dir = Path::new(objects::OBJECTS_DIR);
    let mut out = Vec::new();
    for bucket in media.list(dir).unwrap_or_default() {
        let dir = dir.join(bucket.name);
        let files = media.list(&dir).unwrap_or_default();
        let stages = files.iter().filter(|entry| is_stage(&entry.name));
        out.extend(stages.map(|entry| dir.join(&entry.name)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_file_is_old_whichever_way_the_clock_was_set() {
        let at = |sec| Time { sec, nsec: 0 };
        let day = 86_400;
        for (then, now, expect) in [
            (1000, 1000, false),
            (1000, 1600, false),
            (1000, 1601, true),
            // Stamped just before a small step back: its writer may be at it.
            (1600, 1000, false),
            (10 * day, 9 * day, true),
            (i64::MAX, 0, true),
            (i64::MIN, i64::MAX, true),
        ] {
            assert_eq!(is_past(at(then), at(now)), expect, "{then} at {now}");
        }
    }
}
