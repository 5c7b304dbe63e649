//! [`Lineage`]: the processes that are bound to a view, and those that descend from them.
//!
//! With the kernel's events this is exact: what is not in the table is not bound. Without them, or
//! after some were lost, a process is found by walking up from parent to parent in procfs; one whose
//! parents are gone by then counts as unbound. Nothing is ever guessed in favour of a binding.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::Duration;

use crate::bind::connector::{Connector, Fork};
use crate::proc::{self, Facts, ProcError};
use crate::sync::{Arc, Mutex, lock};

/// What a process is bound to: a number that means something to who binds.
pub type View = u32;

/// A caller that cannot be told from others: its number is 0, or nobody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("thread {0} is no process that can be seen")]
pub struct Unidentified(pub u32);

/// Why a process was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It has ended, or never was.
    #[error("there is no process {0}")]
    Gone(u32),
    /// The pid is another process than the one meant.
    #[error("pid {0} is another process by now")]
    Reused(u32),
    /// It is somebody else's.
    #[error("process {pid} is of uid {uid}, and this mount of uid {own}")]
    Foreign {
        /// Its pid.
        pid: u32,
        /// Whose it is.
        uid: u32,
        /// Whose processes may be bound.
        own: u32,
    },
    /// It was not bound itself.
    #[error("process {0} is not bound")]
    NotBound(u32),
    /// It is pid 1, and the kernel does not tell of forks: every orphan is its child by then.
    #[error(
        "pid 1 adopts the orphans of others, so its children cannot be told here: bind a child shell of it instead"
    )]
    Adopter,
}

/// A bound process, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// Its pid.
    pub pid: u32,
    /// What it sees.
    pub view: View,
}

/// Where facts about processes come from: procfs, but for tests.
pub(super) trait Procs: Send + Sync + std::fmt::Debug {
    /// The process that thread `id` belongs to. Errors: `Gone`, if there is no such thread; `Io`, if
    /// that cannot be told.
    fn facts(&self, id: u32) -> Result<Facts, ProcError>;
    /// Its threads.
    fn threads(&self, process: u32) -> Vec<u32>;
    /// Every process.
    fn all(&self) -> Vec<u32>;
    /// Clock ticks since boot.
    fn now(&self) -> u64;
    /// Waits until `tick` is over.
    fn outlast(&self, tick: u64);
}

#[derive(Debug)]
struct Procfs;

impl Procs for Procfs {
    fn facts(&self, id: u32) -> Result<Facts, ProcError> {
        proc::facts(id)
    }
    fn threads(&self, process: u32) -> Vec<u32> {
        proc::threads(process)
    }
    fn all(&self) -> Vec<u32> {
        proc::all()
    }
    fn now(&self) -> u64 {
        proc::now_ticks()
    }
    fn outlast(&self, tick: u64) {
        while self.now() <= tick {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Lineage {
    table: Mutex<Table>,
    events: Option<Arc<Connector>>,
    procs: Box<dyn Procs>,
}

#[derive(Debug, Default)]
struct Table {
    /// By process.
    bound: HashMap<u32, Bound>,
    /// Threads of bound processes but their first, with their processes.
    threads: HashMap<u32, u32>,
    /// Who has started after this tick and is not in the table is not bound. `u64::MAX` without the
    /// kernel's events.
    doubt_until: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    view: View,
    /// Start time in clock ticks since boot; `None`: it could not be read, or it had ended by then.
    start: Option<u64>,
    /// Its children inherit that started after this tick.
    since: u64,
    /// By name, and not as somebody's child.
    is_root: bool,
}

impl Lineage {
    /// An empty table that listens to `events`, where they can be had.
    pub fn new(events: Option<Connector>) -> Self {
        Self::with(events, Box::new(Procfs))
    }

    fn with(events: Option<Connector>, procs: Box<dyn Procs>) -> Self {
        let table = Table {
            doubt_until: if events.is_some() { 0 } else { u64::MAX },
            ..Table::default()
        };
        Self {
            table: Mutex::new(table),
            events: events.map(Arc::new),
            procs,
        }
    }

    /// Whether the kernel tells of forks.
    pub fn hears_forks(&self) -> bool {
        lock(&self.table).hears_forks()
    }

    /// What the thread `id` is bound to; `None`: nothing.
    ///
    /// Errors: it cannot be identified.
    pub fn view_of(&self, id: u32) -> Result<Option<View>, Unidentified> {
        if id == 0 {
            return Err(Unidentified(id));
        }
        let mut table = lock(&self.table);
        self.drain(&mut table);
        if table.hears_forks()
            && let Some(view) = table.known(id)
        {
            return Ok(Some(view));
        }
        let facts = self.procs.facts(id).map_err(|_| Unidentified(id))?;
        if facts.start_ticks > table.doubt_until {
            return Ok(None);
        }
        self.by_parents(&mut table, facts)
    }

    /// Binds the process that `id` belongs to, provided it started at `start_ticks`, for processes of
    /// `own` uid; root's mount takes all. One that is bound already is moved; its children stay.
    ///
    /// Returns the pid of the process. Errors: `Gone`, `Reused`, `Foreign`, `Adopter`.
    pub fn bind(&self, id: u32, start_ticks: u64, view: View, own: u32) -> Result<u32, BindError> {
        let mut table = lock(&self.table);
        self.drain(&mut table);
        let facts = self.may_bind(&table, id, start_ticks, own)?;
        self.remember_children(&mut table);
        let since = self.procs.now();
        let bound = Bound {
            view,
            start: Some(start_ticks),
            since,
            is_root: true,
        };
        table.bound.insert(facts.process, bound);
        // Threads made from here on come as events.
        self.drain(&mut table);
        self.know_threads(&mut table, facts.process);
        let hears_forks = table.hears_forks();
        drop(table);
        if !hears_forks {
            // Children of this tick do not inherit; those made after the answer are to.
            self.procs.outlast(since);
        }
        Ok(facts.process)
    }

    /// Whether [`Lineage::bind`] would bind it; what is known of it.
    ///
    /// Errors: as that.
    pub fn check(&self, id: u32, start_ticks: u64, own: u32) -> Result<Facts, BindError> {
        self.may_bind(&lock(&self.table), id, start_ticks, own)
    }

    fn may_bind(
        &self,
        table: &Table,
        id: u32,
        start_ticks: u64,
        own: u32,
    ) -> Result<Facts, BindError> {
        let facts = self.procs.facts(id).map_err(|_| BindError::Gone(id))?;
        if facts.start_ticks != start_ticks {
            return Err(BindError::Reused(id));
        }
        let stranger = [facts.uid, facts.effective_uid]
            .into_iter()
            .find(|uid| *uid != own);
        if let Some(uid) = stranger.filter(|_| own != 0) {
            let pid = facts.process;
            return Err(BindError::Foreign { pid, uid, own });
        }
        if facts.process == ADOPTER && !table.hears_forks() {
            return Err(BindError::Adopter);
        }
        Ok(facts)
    }

    /// Makes a process unbound, and its children to come. Those it has stay.
    ///
    /// Errors: `NotBound`.
    pub fn unbind(&self, pid: u32) -> Result<(), BindError> {
        let mut table = lock(&self.table);
        self.drain(&mut table);
        self.remember_children(&mut table);
        let is_there = |bound: &Bound| bound.start.is_some() && !self.is_gone(pid, bound.start);
        if !table.bound.get(&pid).is_some_and(is_there) {
            return Err(BindError::NotBound(pid));
        }
        table.forget(pid);
        Ok(())
    }

    /// The processes that were bound by name and live.
    pub fn bound(&self) -> Vec<ProcessView> {
        let mut table = lock(&self.table);
        self.sweep(&mut table);
        let roots = table.bound.iter().filter(|(_, bound)| bound.is_root);
        let mut found: Vec<_> = roots
            .map(|(pid, bound)| ProcessView {
                pid: *pid,
                view: bound.view,
            })
            .collect();
        found.sort_by_key(|found| found.pid);
        found
    }

    /// Lets go of processes that have ended. To be called now and then.
    pub fn maintain(&self) {
        self.sweep(&mut lock(&self.table));
    }

    /// Keeps the queue of events short, for good: it is small for an ordinary user. Returns at once
    /// where there are none.
    pub fn listen(&self) {
        let Some(events) = self.events.clone() else {
            return;
        };
        while events.wait().is_ok() {
            let mut table = lock(&self.table);
            self.drain(&mut table);
            if !table.hears_forks() {
                return;
            }
        }
    }

    /// Takes in what the kernel has told meanwhile.
    fn drain(&self, table: &mut Table) {
        let Some(events) = &self.events else { return };
        if !table.hears_forks() {
            return;
        }
        match events.drain() {
            Ok(heard) => self.take_in(table, &heard.forks, heard.lost),
            Err(error) => {
                tracing::error!(%error, "no more events of forks; parents are looked up from here on");
                self.take_in(table, &[], true);
                table.doubt_until = u64::MAX;
            }
        }
    }

    fn take_in(&self, table: &mut Table, forks: &[Fork], lost: bool) {
        for fork in forks {
            match lost {
                false => self.forked(table, *fork),
                // Its parent may be one that has the number of a bound process by now, and the end
                // of that one was not heard. What is looked up in procfs shows it.
                true => table.forget(fork.thread),
            }
        }
        if !lost {
            return;
        }
        tracing::warn!("events of forks were lost; parents are looked up for who started before");
        // Whoever was forked meanwhile started before this moment.
        table.doubt_until = self.procs.now();
        table.threads.clear();
        // Who has the number of one without a start time cannot be told from it any more.
        table.bound.retain(|_, bound| bound.start.is_some());
        self.drop_dead(table, |_, _| true);
        let processes: Vec<u32> = table.bound.keys().copied().collect();
        for process in processes {
            self.know_threads(table, process);
        }
    }

    fn forked(&self, table: &mut Table, fork: Fork) {
        if fork.thread != fork.process {
            // The number may have been another's before.
            table.forget(fork.thread);
            if table.bound.contains_key(&fork.process) {
                table.threads.insert(fork.thread, fork.process);
            }
            return;
        }
        table.forget(fork.process);
        let Some(parent) = table.bound.get(&fork.parent).copied() else {
            return;
        };
        let facts = self.procs.facts(fork.process);
        let child = Bound {
            view: parent.view,
            start: facts.ok().map(|facts| facts.start_ticks),
            since: 0,
            is_root: false,
        };
        table.bound.insert(fork.process, child);
    }

    /// Finds a bound process among the parents, and remembers the way there.
    ///
    /// Errors: a parent cannot be read just now, and might be the one.
    fn by_parents(&self, table: &mut Table, facts: Facts) -> Result<Option<View>, Unidentified> {
        let mut way = Vec::new();
        let mut at = facts;
        let found = loop {
            if let Some(bound) = table.bound.get(&at.process)
                && bound.start == Some(at.start_ticks)
            {
                break *bound;
            }
            // Whose parent is pid 1 may have been adopted by it.
            if at.parent <= ADOPTER {
                return Ok(None);
            }
            let parent = match self.procs.facts(at.parent) {
                Ok(parent) => parent,
                Err(error) if is_unseen(&error) => return Ok(None),
                Err(_) => return Err(Unidentified(facts.process)),
            };
            // The parent's number is another's by now.
            if parent.start_ticks > at.start_ticks || way.len() > MAX_DEPTH {
                return Ok(None);
            }
            way.push(at);
            at = parent;
        };
        // Started before its parent was bound. Of the same tick it may have been, too.
        if way
            .last()
            .is_some_and(|child| child.start_ticks <= found.since)
        {
            return Ok(None);
        }
        for process in way {
            let bound = Bound {
                view: found.view,
                start: Some(process.start_ticks),
                since: 0,
                is_root: false,
            };
            table.bound.insert(process.process, bound);
            self.know_threads(table, process.process);
        }
        Ok(Some(found.view))
    }

    /// Where parents are looked up: notes the children of today, before a parent changes its view.
    fn remember_children(&self, table: &mut Table) {
        if table.bound.is_empty() || table.doubt_until == 0 {
            return;
        }
        for pid in self.procs.all() {
            if let Ok(facts) = self.procs.facts(pid)
                && facts.start_ticks <= table.doubt_until
            {
                // For what it notes; one that cannot be told now is asked about again.
                let _ = self.by_parents(table, facts);
            }
        }
    }

    fn know_threads(&self, table: &mut Table, process: u32) {
        if !table.hears_forks() {
            return;
        }
        for thread in self.procs.threads(process) {
            if thread != process {
                table.threads.insert(thread, process);
            }
        }
    }

    /// Whether it has surely ended, or is another process by now. What cannot be read, for want of a
    /// descriptor or of memory, say, is not gone.
    fn is_gone(&self, pid: u32, start: Option<u64>) -> bool {
        match self.procs.facts(pid) {
            Ok(facts) => {
                facts.process != pid || start.is_some_and(|start| start != facts.start_ticks)
            }
            Err(error) => matches!(error, ProcError::Gone(_)),
        }
    }

    /// Lets go of who has ended, once all the children are known that it had.
    fn sweep(&self, table: &mut Table) {
        let mut dead: HashMap<u32, Option<u64>> = HashMap::new();
        for (pid, bound) in &table.bound {
            if self.is_gone(*pid, bound.start) {
                dead.insert(*pid, bound.start);
            }
        }
        self.drain(table);
        self.drop_dead(table, |pid, start| dead.get(&pid) == Some(&start));
    }

    /// Lets go of who has ended, of those that `may` say.
    fn drop_dead(&self, table: &mut Table, may: impl Fn(u32, Option<u64>) -> bool) {
        table
            .bound
            .retain(|pid, bound| !may(*pid, bound.start) || !self.is_gone(*pid, bound.start));
        let Table { bound, threads, .. } = table;
        threads.retain(|_, process| bound.contains_key(process));
    }
}

/// No family is deeper than a machine has processes.
const MAX_DEPTH: usize = 1 << 16;

/// The process that becomes the parent of those whose own has ended.
const ADOPTER: u32 = 1;

/// Whether procfs does not show the process, now or ever: it has ended, or is hidden (`hidepid`) as
/// others' processes are, which is no reason to refuse all of their children.
fn is_unseen(error: &ProcError) -> bool {
    match error {
        ProcError::Gone(_) => true,
        ProcError::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        ProcError::Reused { .. } => false,
    }
}

impl Table {
    /// Whether the kernel tells of forks.
    fn hears_forks(&self) -> bool {
        self.doubt_until != u64::MAX
    }

    /// What a thread is bound to, as far as the table knows.
    fn known(&self, id: u32) -> Option<View> {
        let process = self.threads.get(&id).copied().unwrap_or(id);
        self.bound.get(&process).map(|bound| bound.view)
    }

    /// Forgets whatever had this number.
    fn forget(&mut self, id: u32) {
        self.threads.remove(&id);
        if self.bound.remove(&id).is_some() {
            self.threads.retain(|_, process| *process != id);
        }
    }
}

#[cfg(test)]
mod tests;
