//! A repair from end to end: look, mend the files of layers, mend the records of branches, tidy up,
//! look again. Holds the lock of every branch that it touches; a branch that somebody else holds
//! stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keep::Keeper;
use super::layer::{self, Role};
use super::places::Checker;
use super::rebuild::{self, Mended};
use super::{Code, Finding, Host, Loss, Progress, Repaired, Report, mend, objects};
use crate::backstore::error::StoreError;
use crate::backstore::gc::GC_LOCK;
use crate::backstore::hidden::{self, HIDDEN_FILE};
use crate::backstore::journal;
use crate::backstore::layer::{Files, LayerView};
use crate::backstore::load::Floor;
use crate::backstore::loss::{self, LOST_FILE};
use crate::backstore::media::{LockGuard, Media};
use crate::backstore::merged;
use crate::backstore::meta::{self, BranchInfo};
use crate::backstore::stack::Lower;
use crate::backstore::store::{
    FORMAT, FormatFile, LAYERS, RUN_FILE, STORE_VERSION, Store, branch_dir, is_stage, layer_dir,
};
use crate::core::record::LayerId;
use crate::core::types::BranchName;

/// Harms of one layer that are mended one after the other, each look showing the next.
const ROUNDS_MAX: u32 = 12;

/// Repairs `names`, or everything.
pub fn run(
    store: &Store,
    names: &[BranchName],
    host: Option<&dyn Host>,
    progress: &mut Progress<'_>,
) -> Result<Report, StoreError> {
    let mut report = Checker::new(store, progress).run(names)?;
    if !report.findings.iter().any(|finding| finding.repairable) {
        report.left = report.findings.clone();
        return Ok(report);
    }
    // Nobody counts on what is about to change, or removes what may come to light.
    let lock = Path::new(GC_LOCK);
    let _alone = store.lock_gc();
    let _alone = _alone.map_err(|e| store.io("lock", lock, e).while_writing())?;
    let mut repair = Repair {
        store,
        host,
        progress,
        repaired: Vec::new(),
        skipped: Vec::new(),
        lost: Vec::new(),
    };
    repair.format(&report.findings)?;
    repair.merged_tables(&report.findings)?;
    let infos = all_branches(store)?;
    let wanted: Vec<&BranchInfo> = infos
        .values()
        .filter(|info| names.is_empty() || names.contains(&info.name))
        .collect();
    repair.layers(&wanted, &infos);
    for info in wanted {
        let needs_it = report
            .findings
            .iter()
            .any(|finding| finding.repairable && finding.branches.contains(&info.name));
        if needs_it && let Err(e) = repair.branch(info) {
            repair.skip(Some(&info.name), e.to_string());
        }
    }
    if names.is_empty() {
        repair.tidy()?;
    }
    let (repaired, skipped, lost) = (repair.repaired, repair.skipped, repair.lost);
    let after = Checker::new(store, progress).run(names)?;
    Ok(Report {
        findings: report.findings,
        repaired,
        skipped,
        lost,
        left: after.findings,
        branches: after.branches,
        verified_bytes: after.verified_bytes,
    })
}

fn all_branches(store: &Store) -> Result<BTreeMap<BranchName, BranchInfo>, StoreError> {
    let mut out = BTreeMap::new();
    for listed in store.list()? {
        let name = match listed {
            crate::backstore::Listed::Branch(info) => info.name,
            // Also one of which a layer is missing.
            crate::backstore::Listed::Damaged { name, .. } => match BranchName::new(&name) {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        if let Ok(info) = store.branch(&name) {
            out.insert(name, info);
        }
    }
    Ok(out)
}

/// Notes losses with the branch first, then for the report.
fn note_losses(
    store: &Store,
    all: &mut Vec<(BranchName, Loss)>,
    name: &BranchName,
    lost: Vec<Loss>,
) -> Result<(), StoreError> {
    store.add_losses(name, &lost)?;
    all.extend(lost.into_iter().map(|loss| (name.clone(), loss)));
    Ok(())
}

struct Repair<'a, 'p> {
    store: &'a Store,
    host: Option<&'a dyn Host>,
    progress: &'a mut Progress<'p>,
    repaired: Vec<Repaired>,
    skipped: Vec<Repaired>,
    lost: Vec<(BranchName, Loss)>,
}

impl Repair<'_, '_> {
    fn did(&mut self, branch: Option<&BranchName>, what: impl Into<String>) {
        self.repaired.push(Repaired {
            branch: branch.cloned(),
            what: what.into(),
        });
    }

    fn skip(&mut self, branch: Option<&BranchName>, what: impl Into<String>) {
        self.skipped.push(Repaired {
            branch: branch.cloned(),
            what: what.into(),
        });
    }

    fn format(&mut self, findings: &[Finding]) -> Result<(), StoreError> {
        if !findings.iter().any(|finding| finding.code == Code::Format) {
            return Ok(());
        }
        let path = Path::new(FORMAT);
        let _lock = self.store.lock_store()?;
        let kept = Keeper::new(self.store, None).copy(path, 0, FORMAT)?;
        let bytes = meta::seal(&FormatFile {
            version: STORE_VERSION,
        })?;
        self.store.replace(path, &bytes, true)?;
        let kept = kept.map_or(String::new(), |kept| {
            format!("; the old one is in {}", kept.display())
        });
        let at = self.store.media.describe(path);
        self.did(None, format!("wrote {} anew{kept}", at.display()));
        Ok(())
    }

    /// Mends the files of all layers that these branches stand on.
    fn layers(&mut self, wanted: &[&BranchInfo], infos: &BTreeMap<BranchName, BranchInfo>) {
        let mut done = BTreeSet::new();
        for info in wanted {
            let beside = info.all_layers().filter(|id| !info.layers.contains(id));
            // What snapshots stand on is frozen, so it comes as if it lay lowest.
            let all: Vec<LayerId> = beside.chain(info.layers.iter().copied()).collect();
            for (depth, id) in all.iter().enumerate() {
                if !done.insert(*id) {
                    continue;
                }
                let users: Vec<&BranchInfo> = infos
                    .values()
                    .filter(|user| user.all_layers().any(|layer| layer == *id))
                    .collect();
                let is_live = !matches!(self.store.live_owner(&info.name), Ok(None));
                let role = match (depth + 1 == all.len(), is_live) {
                    (false, _) => Role::Frozen,
                    (true, false) => Role::Top,
                    (true, true) => Role::Live,
                };
                if let Err(e) = self.layer(*id, role, info, &users) {
                    self.skip(Some(&info.name), e.to_string());
                }
            }
        }
    }

    /// Takes the locks of all these branches; `None` if one is held.
    fn hold(
        &mut self,
        users: &[&BranchInfo],
    ) -> Result<Option<Vec<Box<dyn LockGuard>>>, StoreError> {
        let mut locks = Vec::new();
        for user in users {
            match self.store.lock_branch(&user.name) {
                Ok(lock) => locks.push(lock),
                Err(StoreError::Locked { pid, .. }) => {
                    let what = format!("somebody holds branch {} (pid {pid})", user.name);
                    self.skip(Some(&user.name), what);
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(locks))
    }

    fn layer(
        &mut self,
        id: LayerId,
        role: Role,
        info: &BranchInfo,
        users: &[&BranchInfo],
    ) -> Result<(), StoreError> {
        let dir = layer_dir(id);
        let Ok(media) = self.store.media.sub(&dir) else {
            return Ok(());
        };
        let look = layer::check(&*media, id, role, self.progress)?;
        let accounts = match role {
            Role::Live => objects::Accounts::default(),
            _ => self.accounts(id, info).unwrap_or_default(),
        };
        let rubbish =
            role == Role::Frozen && !(look.leftovers.is_empty() && accounts.pending.is_empty());
        if look.harm.is_empty() && accounts.leaked.is_empty() && !rubbish {
            return Ok(());
        }
        let Some(locks) = self.hold(users)? else {
            return Ok(());
        };
        let branch = match users {
            [only] => Some(&only.name),
            _ => None,
        };
        let keeper = Keeper::new(self.store, Some(id));
        if !look.harm.is_empty() {
            // They say what was there before.
            for user in users {
                for layer in user.all_layers() {
                    self.drop_merged(layer)?;
                }
            }
        }
        let was_harmed = self.mend_files(&media, id, role, &keeper, users)?;
        // What an opening would remove for want of a record may be of a record that was lost.
        let accounts = self.accounts(id, info).unwrap_or_default();
        let mut out = accounts.leaked;
        if was_harmed || role == Role::Frozen {
            out.extend(accounts.pending);
        }
        let mut moved = 0u64;
        for number in out {
            moved += u64::from(keeper.take_object(number)?.is_some());
        }
        if moved > 0 {
            let n = objects::counted(moved, "object");
            let what = format!("moved {n} that no record uses to lost+found/{:016x}", id.0);
            self.did(branch, what);
        }
        if role == Role::Frozen {
            for name in layer::check(&*media, id, role, self.progress)?.leftovers {
                let at = media.describe(&name);
                media
                    .unlink(&name)
                    .map_err(|e| StoreError::io("remove", &at, e))?;
                self.did(branch, format!("removed {}", at.display()));
            }
        }
        drop(locks);
        Ok(())
    }

    /// Removes the merged tables of which something is wrong: the layers say the same, and better.
    fn merged_tables(&mut self, findings: &[Finding]) -> Result<(), StoreError> {
        for finding in findings
            .iter()
            .filter(|finding| finding.code == Code::Merged)
        {
            let Some(file) = &finding.file else { continue };
            let id = file.parent().and_then(|dir| dir.file_name()?.to_str());
            if let Some(id) = id.and_then(|id| u64::from_str_radix(id, 16).ok())
                && self.drop_merged(LayerId(id))?
            {
                self.did(None, format!("removed {}", file.display()));
            }
        }
        Ok(())
    }

    /// Removes the merged table of a layer, durably; whether there was one.
    fn drop_merged(&mut self, id: LayerId) -> Result<bool, StoreError> {
        let dir = layer_dir(id);
        let path = dir.join(merged::FILE);
        match self.store.media.unlink(&path) {
            Ok(()) => self.store.sync_dir(&dir).map(|()| true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.store.io("remove", &path, e)),
        }
    }

    /// Mends harm after harm; whether there was any.
    fn mend_files(
        &mut self,
        media: &Arc<dyn Media>,
        id: LayerId,
        role: Role,
        keeper: &Keeper<'_>,
        users: &[&BranchInfo],
    ) -> Result<bool, StoreError> {
        let branch = match users {
            [only] => Some(&only.name),
            _ => None,
        };
        let mut was_harmed = false;
        for _ in 0..ROUNDS_MAX {
            let look = layer::check(&**media, id, role, self.progress)?;
            let Some(harm) = look.harm.first() else { break };
            let (store, all_lost) = (self.store, &mut self.lost);
            let mut lose = |what: String| {
                for user in users {
                    note_losses(store, all_lost, &user.name, vec![Loss::of(&*what)])?;
                }
                Ok(())
            };
            match rebuild::mend(media, id, keeper, harm, &mut lose)? {
                Mended::Done(what) => {
                    was_harmed = true;
                    self.did(branch, what);
                }
                Mended::Cannot(why) => {
                    let at = media.describe(Path::new(""));
                    self.skip(branch, format!("{}: {why}", at.display()));
                    break;
                }
            }
        }
        Ok(was_harmed)
    }

    /// The accounts of the objects of one layer of a branch.
    fn accounts(&self, id: LayerId, info: &BranchInfo) -> Result<objects::Accounts, StoreError> {
        let mut layers: Vec<Arc<LayerView>> = Vec::new();
        let of_snapshots = info.snapshots.iter().map(|s| &s.layers);
        let mut stacks = std::iter::once(&info.layers).chain(of_snapshots);
        let stack = stacks.find(|ids| ids.contains(&id));
        for layer in stack.into_iter().flatten() {
            let dir = layer_dir(*layer);
            let media = self
                .store
                .media
                .sub(&dir)
                .map_err(|e| self.store.io("open", &dir, e))?;
            let below = Lower {
                floor: None,
                layers: &layers,
            };
            let (view, _) = LayerView::load(media, *layer, below)?;
            if *layer == id {
                return objects::accounts(&view);
            }
            layers.push(Arc::new(view));
        }
        Err(StoreError::Invalid("a layer that the branch has not"))
    }

    /// Mends the records of one branch; the opening itself cuts a torn tail and removes leftovers.
    fn branch(&mut self, info: &BranchInfo) -> Result<(), StoreError> {
        let name = &info.name;
        self.branch_files(name)?;
        let mut live = match self.store.open_live_by(name, Floor::None) {
            Ok(live) => live,
            Err(StoreError::Locked { pid, .. }) => {
                self.skip(Some(name), format!("somebody holds it (pid {pid})"));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let top = info.layers.last().copied();
        let keeper = Keeper::new(self.store, top);
        let (store, all_lost) = (self.store, &mut self.lost);
        let mut means = mend::Means {
            keeper: &keeper,
            host: self.host,
            lose: &mut |lost| note_losses(store, all_lost, name, lost),
        };
        let mended = mend::mend(&mut live, &mut means, self.progress);
        let closed = live.close();
        for what in mended? {
            self.did(Some(name), what);
        }
        closed
    }

    fn branch_files(&mut self, name: &BranchName) -> Result<(), StoreError> {
        let dir = branch_dir(name);
        let Ok(_lock) = self.store.lock_branch(name) else {
            return Ok(());
        };
        for entry in self.store.media.list(&dir).unwrap_or_default() {
            let path = dir.join(&entry.name);
            if is_stage(&entry.name) && self.store.media.unlink(&path).is_ok() {
                let at = self.store.media.describe(&path);
                self.did(Some(name), format!("removed {}", at.display()));
            }
        }
        if let Err(StoreError::Damaged { .. }) = self.store.losses(name) {
            let path = dir.join(LOST_FILE);
            let at = self.store.media.describe(&path);
            let kept =
                Keeper::new(self.store, None).copy(&path, 0, &format!("{LOST_FILE}.{name}"))?;
            let loss = Loss::of(loss::LIST_ITSELF);
            note_losses(self.store, &mut self.lost, name, vec![loss])?;
            let kept = kept.map_or(String::new(), |kept| {
                format!("; the old one is in {}", kept.display())
            });
            self.did(Some(name), format!("wrote {} anew{kept}", at.display()));
        }
        if let Err(StoreError::Damaged { .. }) = self.store.hidden(name) {
            let path = dir.join(HIDDEN_FILE);
            let at = self.store.media.describe(&path);
            // First noted, then taken away: no patch is made of the branch without a word.
            let loss = Loss::of(hidden::LIST_ITSELF);
            note_losses(self.store, &mut self.lost, name, vec![loss])?;
            let kept =
                Keeper::new(self.store, None).take(&path, &format!("{HIDDEN_FILE}.{name}"))?;
            let what = format!("moved {} to {}", at.display(), kept.display());
            self.did(Some(name), what);
        }
        let run = dir.join(RUN_FILE);
        let at = self.store.media.describe(&run);
        let bytes =
            crate::backstore::media::read_small(&*self.store.media, &run, meta::LIMIT_BYTES);
        if let Ok(bytes) = bytes
            && let Err(StoreError::Damaged { .. }) =
                meta::unseal::<meta::RunFile>(&at, &bytes, meta::RUN_VERSION)
        {
            let kept = Keeper::new(self.store, None).take(&run, &format!("{RUN_FILE}.{name}"))?;
            let what = format!("moved {} to {}", at.display(), kept.display());
            self.did(Some(name), what);
        }
        Ok(())
    }

    /// Removes what nothing uses. A layer that holds anything is only moved out of the way: nobody
    /// can tell here why no branch names it.
    fn tidy(&mut self) -> Result<(), StoreError> {
        let before = self.rubbish();
        if before.is_empty() {
            return Ok(());
        }
        let lock = self.store.lock_store()?;
        for entry in self.unused_layers()? {
            let path = Path::new(LAYERS).join(&entry);
            let at = self.store.media.describe(&path);
            if !before.contains(&at) {
                continue;
            }
            if self.is_blank(&path) {
                self.store.remove_tree(&path);
            } else {
                let name = format!("layer.{}", entry.to_string_lossy());
                let kept = Keeper::new(self.store, None).take(&path, &name)?;
                let what = format!(
                    "moved {}, which no branch uses, to {}",
                    at.display(),
                    kept.display()
                );
                self.did(None, what);
            }
        }
        self.store.remove_stages();
        drop(lock);
        self.store.empty_trash();
        let after = self.rubbish();
        for path in before.difference(&after) {
            if !path.starts_with(self.store.media.describe(Path::new(LAYERS))) || !self.told(path) {
                self.did(None, format!("removed {}", path.display()));
            }
        }
        Ok(())
    }

    /// Whether something was said of a path already.
    fn told(&self, path: &Path) -> bool {
        let start = format!("moved {},", path.display());
        self.repaired.iter().any(|did| did.what.starts_with(&start))
    }

    /// The layers that no branch and no snapshot names, now that the set of branches stands still.
    fn unused_layers(&self) -> Result<Vec<std::ffi::OsString>, StoreError> {
        let used: BTreeSet<PathBuf> = all_branches(self.store)?
            .values()
            .flat_map(|info| info.all_layers().map(layer_dir).collect::<Vec<_>>())
            .collect();
        let dir = Path::new(LAYERS);
        let entries = self.store.media.list(dir);
        let entries = entries.map_err(|e| self.store.io("list", dir, e))?;
        let names = entries.into_iter().map(|entry| entry.name);
        Ok(names
            .filter(|name| !used.contains(&dir.join(name)))
            .collect())
    }

    /// Whether a layer never held anything.
    fn is_blank(&self, path: &Path) -> bool {
        let Ok(media) = self.store.media.sub(path) else {
            return false;
        };
        Files::list(&*media).is_ok_and(|files| {
            let first = media.facts(&journal::file_name(0));
            files.tables.is_empty()
                && files.others.is_empty()
                && files.journals.iter().all(|generation| *generation == 0)
                && first.map_or(true, |facts| facts.len <= journal::HEADER_BYTES)
        })
    }

    fn rubbish(&mut self) -> BTreeSet<PathBuf> {
        let known = Checker::new(self.store, self.progress).rubbish();
        known.into_iter().collect()
    }
}
