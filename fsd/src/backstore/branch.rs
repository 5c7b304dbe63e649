//! [`LiveBranch`]: a branch open for writing, held by its one owner.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::account::{Account, Weight};
use super::checkpoint::{Unpublished, publish, write_table};
use super::codec::{self, Item};
use super::dirty::{Dirty, SyncHandle};
use super::error::StoreError;
use super::journal::{self, Journal};
use super::layer::{JournalEnd, LayerView, Tail};
use super::media::{self, LockGuard, Media, random_u64};
use super::meta::BranchInfo;
use super::objects::{self, ObjectFile};
use super::pace::Pace;
use super::spares::Spares;
use super::stack::{EachDentry, EachInode, Records, Stack, records_of_stack};
use super::store::Store;
use super::table::{self, TableFacts};
use super::weigh::Scales;
use crate::core::record::{Delta, Dentry, ExtentMap, InodeRec, LayerId, ObjectId};
use crate::core::types::{Ino, Name};

/// A journal this long is worth a checkpoint, whatever the table's size; in bytes.
const CHECKPOINT_AT_LEAST_BYTES: u64 = 8 << 20;
/// A checkpoint rewrites the table, so it waits until the journal is this part of it.
const CHECKPOINT_TABLE_PART: u64 = 4;
/// A journal this short costs the next opening next to nothing, so a clean end leaves it; in bytes.
pub(super) const SHORT_JOURNAL_BYTES: u64 = 128 << 10;
/// The same as a part of the table.
const SHORT_JOURNAL_TABLE_PART: u64 = 32;

/// A branch held by its one owner. Dropping it without [`close`](Self::close) is like a crash: all
/// that was committed is there at the next opening.
#[derive(Debug)]
pub struct LiveBranch {
    info: BranchInfo,
    pub(super) store: Store,
    pub(super) stack: Stack,
    pub(super) journal: Journal,
    pub(super) next_ino: u64,
    /// Objects given out and not named by any commit yet.
    pub(super) unnamed: BTreeSet<u64>,
    pub(super) dirty: Dirty,
    /// Journal length that asks for the next checkpoint, raised when one has failed.
    checkpoint_at: u64,
    /// What it takes up, where that is limited and asked for.
    account: Option<Arc<Account>>,
    /// The layers that the account counts.
    counted: BTreeSet<LayerId>,
    /// Inodes from this number on were made in the top layer.
    pub(super) born_from: u64,
    /// The layer may be frozen already, by a freezing that could be neither finished nor taken back.
    pub(super) is_unsettled: bool,
    pub(super) pace: Pace,
    /// Objects made ahead, where that is wanted.
    pub(super) spares: Option<Spares>,
    /// Last field: the lock goes when all else is gone.
    _lock: Box<dyn LockGuard>,
}

impl LiveBranch {
    /// Takes over a loaded stack: cuts the torn tail, removes orphans and leftovers.
    pub(super) fn recover(
        store: Store,
        info: BranchInfo,
        stack: Stack,
        tail: Tail,
        lock: Box<dyn LockGuard>,
    ) -> Result<Self, StoreError> {
        let next_ino = stack.next_ino();
        let media = top_of(&stack)?.media.clone();
        check_sound(&*media, &tail)?;
        report_cut(&*media, &tail)?;
        let journal = Journal::resume(&*media, tail.header, tail.len, tail.next_seq)?;
        for name in &tail.leftovers {
            // What cannot be removed does no harm; the next opening tries again.
            if let Err(e) = media.unlink(name) {
                tracing::warn!(path = %media.describe(name).display(), error = %e, "cannot remove a leftover");
            }
        }
        let born_from = stack.lower().next_ino();
        let mut branch = Self {
            info,
            store,
            stack,
            journal,
            next_ino,
            unnamed: BTreeSet::new(),
            dirty: Dirty::default(),
            checkpoint_at: 0,
            account: None,
            counted: BTreeSet::new(),
            born_from,
            is_unsettled: false,
            pace: Pace::default(),
            spares: None,
            _lock: lock,
        };
        branch.checkpoint_at = branch.next_checkpoint_at();
        branch.remove_unreachable_objects()?;
        Ok(branch)
    }

    /// Removes objects that nothing names: orphans, and those that were made and never committed.
    fn remove_unreachable_objects(&mut self) -> Result<(), StoreError> {
        let top = top_of(&self.stack)?;
        let media = top.media.clone();
        let known = top
            .table
            .as_ref()
            .map_or(1, |table| table.facts().next_object);
        let named = top.delta.named_objects(top.id);
        let mut gone: BTreeSet<u64> = top.ledger.orphans.clone();
        let mut next = top.ledger.next_object;
        for number in objects::list_from(&*media, known)? {
            next = next.max(number.saturating_add(1));
            if !named.contains(&number) {
                gone.insert(number);
            }
        }
        let noted = next == top.ledger.next_object || {
            // Before the files go: afterwards nothing would tell that the numbers were used.
            self.append(&[Item::NextObject(next)])
                .inspect_err(|e| tracing::warn!(error = %e, "unused objects stay for now"))
                .is_ok()
        };
        let top = self.top_mut()?;
        top.ledger.next_object = next;
        // A full disk must not keep the branch from opening; what stays goes the next time.
        if noted {
            for number in gone {
                match objects::remove(&*media, number) {
                    Ok(()) => drop(top.ledger.orphans.remove(&number)),
                    Err(e) => {
                        tracing::warn!(error = %e, "an unused object stays for now");
                        top.ledger.orphans.insert(number);
                    }
                }
            }
        } else {
            // A checkpoint before that says that their numbers are settled, and must say what of.
            top.ledger.orphans.extend(gone);
        }
        Ok(())
    }

    /// What is known of the branch.
    pub fn info(&self) -> &BranchInfo {
        &self.info
    }

    /// The account of a branch with a limit, opened by the first who asks. That costs a walk over the
    /// branch's own changes; from then on every commit is weighed.
    pub fn open_account(&mut self) -> Result<Option<Arc<Account>>, StoreError> {
        if self.account.is_none() && !self.info.limit.is_none() {
            let count = self.store.count(&self.info, &self.stack)?;
            self.account = Some(Arc::new(Account::new(self.info.limit, count)));
            self.counted = self.info.own_layers().collect();
        }
        Ok(self.account.clone())
    }

    /// The account, if it was opened.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref()
    }

    /// Counts anew where layers that only snapshots needed have gone: others remove snapshots while
    /// the branch is live.
    pub fn follow_snapshots(&mut self) -> Result<(), StoreError> {
        let Some(account) = &self.account else {
            return Ok(());
        };
        let now = self.store.branch(&self.info.name)?;
        self.info.snapshots = now.snapshots;
        let own: BTreeSet<LayerId> = self.info.own_layers().collect();
        // Not by the snapshots known before: a freezing, too, takes over which are left.
        if self.counted.is_subset(&own) {
            return Ok(());
        }
        let counting = account.begin_count();
        counting.take(self.store.count(&self.info, &self.stack)?);
        self.counted = own;
        Ok(())
    }

    /// Whether the inode was made in the top layer, so that it is gone for good with its record.
    pub fn is_born_here(&self, ino: Ino) -> bool {
        ino.0 >= self.born_from
    }

    /// Whether the top layer says nothing and never did.
    pub(super) fn top_is_blank(&self) -> bool {
        self.stack.layers.last().is_some_and(|top| top.is_blank())
    }

    /// After a freezing.
    pub(super) fn set_info(&mut self, info: BranchInfo) {
        if self.account.is_some() {
            // A new layer is counted as it fills.
            self.counted.extend(info.layers.last());
        }
        self.info = info;
        self.checkpoint_at = self.next_checkpoint_at();
    }

    /// Whether the present state is that of one of its snapshots.
    pub(super) fn is_at_a_snapshot(&self) -> bool {
        let below = &self.info.layers[..self.info.layers.len().saturating_sub(1)];
        self.top_is_blank() && self.info.snapshots.iter().any(|s| s.layers == below)
    }

    /// Where the top layer's journal ends.
    pub(super) fn journal_end(&self) -> JournalEnd {
        JournalEnd {
            generation: self.journal.generation(),
            bytes: self.journal.bytes(),
            next_seq: self.journal.next_seq(),
        }
    }

    pub(super) fn top_media(&self) -> Result<Arc<dyn Media>, StoreError> {
        Ok(top_of(&self.stack)?.media.clone())
    }

    /// Makes all that was committed durable, in a journal that is good.
    pub(super) fn make_whole(&mut self) -> Result<(), StoreError> {
        match self.journal_is_bad() {
            true => self.checkpoint(),
            false => self.journal_sync()?.sync(),
        }
    }

    /// The layers, for a check of them.
    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    pub(super) fn top_mut(&mut self) -> Result<&mut LayerView, StoreError> {
        self.stack.split_top().map(|(top, _)| top).ok_or(NO_LAYER)
    }

    /// The layers below the top one, lowest first.
    pub(super) fn frozen_ids(&self) -> &[LayerId] {
        self.info.layers.split_last().map_or(&[], |(_, ids)| ids)
    }

    fn append(&mut self, items: &[Item]) -> Result<(), StoreError> {
        self.journal
            .append(|out| items.iter().for_each(|item| codec::encode_item(out, item)))
    }

    /// Records `deltas`, all or none: one frame, with the OS before this returns. No limit of the
    /// branch refuses it.
    ///
    /// Errors: on any, the branch is as before. [`StoreError::Poisoned`] once a failed write could
    /// not be taken back.
    pub fn commit(&mut self, deltas: Vec<Delta>) -> Result<(), StoreError> {
        self.commit_as(deltas, false)
    }

    /// As [`commit`](Self::commit), but within the limit of the branch. Errors: also `LimitReached`.
    pub fn commit_within(&mut self, deltas: Vec<Delta>) -> Result<(), StoreError> {
        self.commit_as(deltas, true)
    }

    fn commit_as(&mut self, deltas: Vec<Delta>, within: bool) -> Result<(), StoreError> {
        let Some(account) = self.account.clone() else {
            return self.write(deltas);
        };
        let scales = Scales::of(self.stack.all(), self.born_from, &deltas)?;
        let expected = scales.expected();
        account.take(expected, within)?;
        let written = self.write(deltas);
        let real = match &written {
            // Where a table has gone bad meanwhile the next opening counts anew.
            Ok(()) => scales.real(self.stack.all()).unwrap_or(expected),
            Err(_) => Weight::default(),
        };
        account.settle(expected, real);
        written
    }

    fn write(&mut self, deltas: Vec<Delta>) -> Result<(), StoreError> {
        if deltas.is_empty() {
            return Ok(());
        }
        let (top, lower) = self.stack.split_top().ok_or(NO_LAYER)?;
        for delta in &deltas {
            check(delta)?;
            top.prepare(delta, lower)?;
        }
        self.journal
            .append(|out| deltas.iter().for_each(|d| codec::encode_delta(out, d)))?;
        let layer = self.top_mut()?.id;
        for delta in deltas {
            if let Delta::PutDevice { index, dev } = delta {
                self.stack.saw_device(index, dev);
            } else if !self.unnamed.is_empty() {
                let unnamed = &mut self.unnamed;
                super::delta::each_object(&delta, &mut |id| {
                    if id.layer == layer {
                        unnamed.remove(&id.number);
                    }
                });
            }
            let (top, _) = self.stack.split_top().ok_or(NO_LAYER)?;
            top.apply_prepared(delta);
            self.next_ino = self.next_ino.max(top.ledger.next_ino);
        }
        Ok(())
    }

    /// What the frozen layers say of a name, without the top one.
    pub fn lower_dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        self.stack.lower_dentry(parent, name)
    }

    /// A handle whose `sync` makes all committed so far durable, outside the caller's lock.
    pub fn journal_sync(&self) -> Result<SyncHandle, StoreError> {
        let media = top_of(&self.stack)?.media.clone();
        Ok(SyncHandle::new(
            self.journal.sync_handle(),
            media,
            &self.dirty,
        ))
    }

    /// Notes that an object of the top layer takes the place of bytes that were there before: it is
    /// synced before the records are, so that a power cut leaves one of the two.
    pub fn sync_before_records(&self, id: ObjectId) {
        if self.is_top(id) {
            self.dirty.object(id.number);
        }
    }

    /// Whether the object is in the top layer: only then may it be written.
    pub fn is_top(&self, id: ObjectId) -> bool {
        self.stack
            .layers
            .last()
            .is_some_and(|top| top.id == id.layer)
    }

    /// An inode number that was never given out before, in this branch or those it came from.
    pub fn alloc_ino(&mut self) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        ino
    }

    /// Where the top layer is: its file system is the one that fills up.
    pub fn location(&self) -> Result<PathBuf, StoreError> {
        Ok(top_of(&self.stack)?.media.describe(Path::new("")))
    }

    /// Bytes in the journal since the last checkpoint.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Whether a checkpoint is worth its cost, or needed to get away from a bad journal.
    pub fn needs_checkpoint(&self) -> bool {
        self.journal_is_bad() || self.journal.bytes() >= self.checkpoint_at
    }

    /// Whether only a new journal helps.
    fn journal_is_bad(&self) -> bool {
        self.journal.sync_failed() || self.journal.is_poisoned() || self.dirty.has_failed()
    }

    fn next_checkpoint_at(&self) -> u64 {
        (self.table_bytes() / CHECKPOINT_TABLE_PART).max(CHECKPOINT_AT_LEAST_BYTES)
    }

    fn table_bytes(&self) -> u64 {
        let table = self.stack.layers.last().and_then(|top| top.table.as_ref());
        table.map_or(0, |table| table.stored_bytes())
    }

    /// A checkpoint if the journal is longer than `short_bytes` or bad, else a sync.
    fn settle_with(&mut self, short_bytes: u64) -> Result<(), StoreError> {
        match self.journal.bytes() {
            _ if self.journal_is_bad() => self.checkpoint(),
            0 => Ok(()),
            n if n <= short_bytes => self.journal_sync()?.sync(),
            _ => self.checkpoint(),
        }
    }

    /// Puts the top layer's state into a new table and starts an empty journal. Durable when it
    /// returns. Costs the layer's records.
    ///
    /// Errors: the branch is as before, and the journal goes on, unless the disk failed between
    /// publishing and making that durable: then the journal is poisoned until one succeeds.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        let result = self.try_checkpoint();
        self.checkpoint_at = match &result {
            Ok(()) => self.next_checkpoint_at(),
            // Not again at once: the disk is probably full.
            Err(_) => self.journal.bytes() + CHECKPOINT_AT_LEAST_BYTES,
        };
        result
    }

    fn try_checkpoint(&mut self) -> Result<(), StoreError> {
        if self.is_unsettled {
            let path = top_of(&self.stack)?.media.describe(Path::new(""));
            return Err(StoreError::Poisoned { path });
        }
        if self.journal.bytes() == 0 && self.unnamed.is_empty() && !self.journal_is_bad() {
            return Ok(());
        }
        let (top, lower) = (top_of(&self.stack)?, self.stack.lower());
        let media = top.media.clone();
        let generation = self.journal.generation() + 1;
        let facts = TableFacts {
            layer: top.id,
            generation,
            next_ino: self.next_ino,
            next_object: top.ledger.next_object,
            next_seq: self.journal.next_seq(),
            inodes: 0,
            dentries: 0,
        };
        // A table must not be durable without the objects it names.
        self.dirty.sync(&*media)?;
        let stage = PathBuf::from(format!(
            "table.{:016x}.stage",
            random_u64().map_err(|e| StoreError::io("name", media.describe(Path::new("")), e))?
        ));
        let orphans: BTreeSet<u64> = top.ledger.orphans.union(&self.unnamed).copied().collect();
        let new = write_table(&*media, &stage, facts, top, lower, &orphans)
            .and_then(|()| publish(&*media, &stage, facts));
        let (table, journal) = match new {
            Ok(new) => new,
            Err(Unpublished { error, published }) => {
                if published {
                    self.journal.poison();
                } else {
                    let _ = media.unlink(&stage);
                    let _ = media.unlink(&journal::file_name(generation));
                }
                return Err(error);
            }
        };
        let old = std::mem::replace(&mut self.journal, journal).generation();
        self.dirty.is_left_behind();
        let top = self.top_mut()?;
        let had_table = top.table.replace(table).is_some();
        top.delta = Default::default();
        for name in had_table
            .then(|| table::file_name(old))
            .into_iter()
            .chain([journal::file_name(old)])
        {
            if let Err(e) = media.unlink(&name) {
                tracing::warn!(path = %media.describe(&name).display(), error = %e, "cannot remove a leftover");
            }
        }
        Ok(())
    }

    /// Ends the ownership: all that was committed becomes durable, by a checkpoint unless the
    /// journal is short; then the lock goes.
    ///
    /// Errors: the lock goes all the same, and nothing that was committed is lost.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.drop_spares()?;
        let top = self.top_mut()?;
        let (layer, media) = (top.id, top.media.clone());
        for number in std::mem::take(&mut self.unnamed) {
            if let Err(e) = objects::remove(&*media, number) {
                tracing::warn!(?layer, number, error = %e, "cannot remove an unused object yet");
            }
        }
        self.do_chores();
        let short_bytes = self.table_bytes() / SHORT_JOURNAL_TABLE_PART;
        self.settle_with(short_bytes.max(SHORT_JOURNAL_BYTES))?;
        note_sound(&*media, self.journal.generation(), self.journal.bytes());
        Ok(())
    }
}

/// Where a clean end notes how much of which journal was sound and durable.
pub(super) const SOUND_FILE: &str = "sound";
/// Largest such file, in bytes.
const SOUND_MAX_BYTES: u64 = 64;

/// Notes that this journal is whole: what goes bad in it later is damage, not a torn append.
pub(super) fn note_sound(media: &dyn Media, generation: u64, frame_bytes: u64) {
    let text = format!("{generation} {frame_bytes}");
    let text = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()));
    if let Err(e) = media::replace_file(media, Path::new(SOUND_FILE), text.as_bytes(), false) {
        // Without it a damaged journal would be cut like a torn one; nothing else hangs on it.
        tracing::warn!(error = %e, "cannot note that the journal is sound");
    }
}

/// The generation and the bytes of frames that a clean end noted as sound, if one did.
pub(super) fn read_sound(media: &dyn Media) -> Option<(u64, u64)> {
    let text = media::read_small(media, Path::new(SOUND_FILE), SOUND_MAX_BYTES).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (note, sum) = text.trim_end().rsplit_once(' ')?;
    if sum != format!("{:08x}", crc32c::crc32c(note.as_bytes())) {
        return None;
    }
    let (generation, frame_bytes) = note.split_once(' ')?;
    Some((generation.parse().ok()?, frame_bytes.parse().ok()?))
}

/// Refuses a journal that has lost what an earlier clean end found sound in it.
///
/// Errors: `Damaged`; nothing has been changed then.
pub(super) fn check_sound(media: &dyn Media, tail: &Tail) -> Result<(), StoreError> {
    let Some((generation, frame_bytes)) = read_sound(media) else {
        return Ok(());
    };
    let have = tail.len.saturating_sub(journal::HEADER_BYTES);
    if generation != tail.header.generation || have >= frame_bytes {
        return Ok(());
    }
    let name = journal::file_name(generation);
    let why = tail
        .broken
        .as_ref()
        .map_or("cut short", |broken| broken.why);
    let what = format!(
        "{why} at byte {}, where {} bytes of frames were sound before",
        tail.len, frame_bytes
    );
    Err(StoreError::damaged(media.describe(&name), what))
}

const NO_LAYER: StoreError = StoreError::Invalid("a branch without layers");

fn top_of(stack: &Stack) -> Result<&LayerView, StoreError> {
    stack.layers.last().map(|top| &**top).ok_or(NO_LAYER)
}

fn check(delta: &Delta) -> Result<(), StoreError> {
    let sound = |offset: u64, len: u64| len > 0 && offset.checked_add(len).is_some();
    let ok = match delta {
        Delta::PutExtent(_, offset, len, _) => sound(*offset, *len),
        Delta::SetExtents(_, map) => {
            let mut end = 0;
            map.iter().all(|(offset, (len, _))| {
                let fits = *offset >= end && sound(*offset, *len);
                end = offset.saturating_add(*len);
                fits
            })
        }
        Delta::PutInode(_, rec) => rec.perm <= 0o7777,
        _ => true,
    };
    if ok {
        Ok(())
    } else {
        Err(StoreError::Invalid("a delta that no journal can hold"))
    }
}

/// Says what a torn or bad tail costs, and keeps its bytes when it was more than a torn append.
fn report_cut(media: &dyn Media, tail: &Tail) -> Result<(), StoreError> {
    let Some(broken) = &tail.broken else {
        return Ok(());
    };
    let name = journal::file_name(tail.header.generation);
    let path = media.describe(&name);
    tracing::warn!(
        path = %path.display(),
        offset_bytes = broken.offset,
        cut_bytes = broken.cut_bytes,
        why = broken.why,
        "journal cut at its first bad frame"
    );
    if broken.frames_follow {
        let kept = PathBuf::from(format!("cut.{}.{}", tail.header.generation, broken.offset));
        journal::keep_tail(media, &name, broken.offset, &kept)?;
        tracing::error!(path = %media.describe(&kept).display(),
            "good frames follow the bad one: the journal was damaged; the cut bytes are kept");
    }
    Ok(())
}

impl Records for LiveBranch {
    records_of_stack!();

    fn open_object(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        if write && !self.is_top(id) {
            return Err(StoreError::Invalid("writing an object of a frozen layer"));
        }
        self.stack.open(id, write)
    }
}
