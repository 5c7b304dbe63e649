//! What snapshots stand on and the branch itself does not; and the merged tables of both.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::layer::Role;
use super::objects::counted;
use super::places::Checker;
use super::{Code, Finding, records};
use crate::backstore::error::StoreError;
use crate::backstore::gc::{Forest, Shown};
use crate::backstore::layer::LayerView;
use crate::backstore::load::Floor;
use crate::backstore::merged::{self, Merged};
use crate::backstore::meta::{BranchInfo, Snapshot};
use crate::backstore::objects;
use crate::backstore::stack::{Lower, Records, Stack};
use crate::backstore::store::{Store, layer_dir};
use crate::backstore::table::{self, Walk};
use crate::backstore::within::Within;
use crate::core::point::Point;
use crate::core::record::{Content, ExtentSource, LayerId, ObjectId};
use crate::core::types::Ino;

/// A snapshot, as people write it.
pub fn point_of(info: &BranchInfo, snapshot: &Snapshot) -> Point {
    Point {
        branch: info.name.clone(),
        snapshot: Some(snapshot.name.clone()),
    }
}

impl Checker<'_, '_> {
    /// Checks what the snapshots of a branch show beyond the branch itself. Layers were looked at.
    pub(super) fn snapshots(&mut self, info: &BranchInfo) -> Result<(), StoreError> {
        let (mut whole, mut readable) = (Vec::<&Snapshot>::new(), true);
        // Those that hold others come first.
        let mut all: Vec<&Snapshot> = info.snapshots.iter().collect();
        all.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.layers.len()));
        for snapshot in all {
            let mut is_good = true;
            for id in &snapshot.layers {
                is_good &= self.layer(*id, Role::Frozen)?;
            }
            readable &= is_good;
            let holds = |other: &&Snapshot| other.layers.starts_with(&snapshot.layers);
            if is_good && !info.layers.starts_with(&snapshot.layers) && !whole.iter().any(holds) {
                whole.push(snapshot);
            }
        }
        for snapshot in whole {
            self.records_of(info, snapshot)?;
        }
        if readable && !info.snapshots.is_empty() {
            self.objects_of(info)?;
        }
        Ok(())
    }

    /// The records of a stack that is no part of the branch's.
    fn records_of(&mut self, info: &BranchInfo, snapshot: &Snapshot) -> Result<(), StoreError> {
        let loaded = self.store.load_frozen(&snapshot.layers, Floor::None);
        let checked = loaded.and_then(|stack| {
            self.merged_tables(&stack, &snapshot.layers);
            records::check(&stack, false, self.progress)
        });
        let findings = match checked {
            Ok(outcome) => outcome
                .problems
                .into_iter()
                .filter_map(|p| p.finding)
                .collect(),
            Err(e) => vec![Finding::of_error(Code::Table, &e)],
        };
        for finding in findings {
            // What is frozen gets no records of a repair's.
            let finding = finding.beyond_repair().branch(&info.name);
            self.found(finding.point(point_of(info, snapshot)));
        }
        Ok(())
    }

    /// The objects that only snapshots of the branch show.
    fn objects_of(&mut self, info: &BranchInfo) -> Result<(), StoreError> {
        let mut forest = Forest::default();
        let own = (&info.layers, true);
        let stacks = info.snapshots.iter().map(|s| (&s.layers, false));
        for (ids, has_top) in std::iter::once(own).chain(stacks) {
            if forest.add(self.store, ids, has_top).is_err() {
                // The layers have told, or it changed meanwhile.
                return Ok(());
            }
        }
        let mut bad: Vec<(Shown, ObjectId, Code, String)> = Vec::new();
        let top = info.layers.last().copied();
        forest.shown(&mut || {}, &mut |word| {
            for id in word.objects.clone() {
                if Some(id.layer) != top
                    && let Some((code, what)) = object_problem(self.store, &forest, &word, id)
                {
                    let word = Shown {
                        objects: Vec::new(),
                        ..word
                    };
                    bad.push((word, id, code, what));
                }
            }
        })?;
        if bad.is_empty() {
            return Ok(());
        }
        let (own, _) = self.store.load_stack(info, Floor::None)?;
        let mut told = BTreeSet::new();
        for (word, id, code, what) in bad {
            // What the branch shows itself was told with it.
            if names(&own, word.ino, id)? || !told.insert(id) {
                continue;
            }
            let path = layer_dir(id.layer).join(objects::path_of(id.number));
            let at = self.store.media.describe(&path);
            let mut finding = Finding::damage(code, what).file(at).ino(word.ino);
            finding = finding.beyond_repair().branch(&info.name);
            for snapshot in &info.snapshots {
                let stack = self.store.load_frozen(&snapshot.layers, Floor::None)?;
                if names(&stack, word.ino, id)? {
                    finding = finding.point(point_of(info, snapshot));
                }
            }
            self.found(finding);
        }
        Ok(())
    }

    /// Holds the merged tables of a stack, which must be loaded layer by layer, against its layers.
    pub(super) fn merged_tables(&mut self, stack: &Stack, ids: &[LayerId]) {
        for n in 1..=ids.len().min(stack.layers.len()) {
            let path = layer_dir(ids[n - 1]).join(merged::FILE);
            if self.store.media.facts(&path).is_err() || !self.merged.insert(ids[n - 1]) {
                continue;
            }
            let at = self.store.media.describe(&path);
            let problem = merged_problem(self.store, &ids[..n], &stack.layers[..n]);
            let finding = match problem {
                Ok(None) => continue,
                Ok(Some(what)) => Finding::damage(Code::Merged, what).file(at),
                // Its daemon made a newer one.
                Err(e) if e.is_not_found() => continue,
                Err(e) => Finding::of_error(Code::Merged, &e),
            };
            let mut finding = finding;
            finding.branches = self.users(ids[n - 1]);
            self.found(finding);
        }
    }
}

/// Whether a stack shows the object in an inode.
fn names(stack: &Stack, ino: Ino, id: ObjectId) -> Result<bool, StoreError> {
    let record = stack.inode(ino)?;
    let own = record.is_some_and(|rec| match rec.content {
        Content::Object(own) | Content::Extents { own, .. } => own == id,
        Content::Empty | Content::Base => false,
    });
    let extents = stack.extents(ino)?;
    let is_id = |source: &ExtentSource| matches!(source, ExtentSource::Object(of) if *of == id);
    Ok(own || extents.values().any(|(_, source)| is_id(source)))
}

fn object_problem(
    store: &Store,
    forest: &Forest,
    word: &Shown,
    id: ObjectId,
) -> Option<(Code, String)> {
    let path = layer_dir(id.layer).join(objects::path_of(id.number));
    let facts = match store.media.facts(&path) {
        Ok(facts) => facts,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Some((Code::ObjectMissing, "the object is missing".into()));
        }
        Err(e) => return Some((Code::Unreadable, e.to_string())),
    };
    let view: &Arc<LayerView> = forest.view(word.layer)?;
    match view.inode(word.ino) {
        Ok(Some(crate::backstore::delta::InodeWord::Is(rec)))
            if rec.content == Content::Object(id) && !rec.dirty && rec.size != facts.len =>
        {
            let (has, says) = (counted(facts.len, "byte"), rec.size);
            Some((
                Code::ObjectSize,
                format!(
                    "has {has}, its record says {says}{}",
                    records::why_short(facts.len, says)
                ),
            ))
        }
        _ => None,
    }
}

/// What is wrong with the merged table of these layers.
fn merged_problem(
    store: &Store,
    ids: &[LayerId],
    layers: &[Arc<LayerView>],
) -> Result<Option<String>, StoreError> {
    let Some(top) = ids.last() else {
        return Ok(None);
    };
    let media = Within::new(&store.media, layer_dir(*top));
    let file = Path::new(merged::FILE);
    let bad = table::bad_blocks(&media, file, *top, merged::GENERATION, &mut |_| {})?;
    if !bad.is_empty() {
        let n = counted(bad.len() as u64, "block");
        return Ok(Some(format!(
            "bad checksum of {n}, first of block {}",
            bad[0]
        )));
    }
    let Some(merged) = Merged::open(&store.media, ids)? else {
        return Ok(Some("stands for other layers than those below it".into()));
    };
    let floor = None;
    let stack = Lower { floor, layers };
    let go_on = AtomicBool::new(false);
    let want = merged::content(stack, ids, &go_on)?;
    let table = &merged.table;
    let same = is_same(want.inodes, table.walk_inodes()?)?
        && is_same(want.dentries, table.walk_dentries(None)?)?
        && is_same(want.extents, table.walk_extents()?)?
        && stack.devices()? == table.devices()?
        && stack.next_ino() <= table.facts().next_ino;
    Ok((!same).then(|| "says other than the layers it was made of".into()))
}

fn is_same<K: PartialEq, V: PartialEq>(
    mut one: Walk<'_, K, V>,
    mut other: Walk<'_, K, V>,
) -> Result<bool, StoreError> {
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (a, b) if a == b => {}
            _ => return Ok(false),
        }
    }
}
