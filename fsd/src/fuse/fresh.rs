//! [`Fresh`]: the thread that tells the kernel what the host has changed while a mount is served.
//!
//! The core says which directories are watched and what a change comes to; here it is gathered, paced,
//! and sent. On a thread of its own, since the kernel waits for who changes a directory, or reads a
//! page, before it takes a notice, and with no lock of the core, since those may wait for that. What
//! comes too thick waits: a build on the host is not to make this one work for it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::core::types::{Ino, Name};
use crate::core::watch::Batch;
use crate::core::{Covered, FsCore, Notice, Watching};
use crate::fuse::stale::Stale;
use crate::fuse::unopened::node_of;
use crate::sync::{Arc, Gate};

/// A mount that ends before that watches nothing: to end watches takes the kernel longer than many a run.
const BEFORE: Duration = Duration::from_millis(500);
/// What comes within this time of the first event is told along with it.
const GATHER: Duration = Duration::from_millis(10);
/// For the time that a batch took, so many times that long nothing is done.
const REST: u32 = 4;
/// The longest rest.
const MOST_REST: Duration = Duration::from_secs(1);
/// Work that is not interrupted by a rest.
const STRETCH: Duration = Duration::from_millis(5);

/// Where the largest number of watches that a user may have is told.
const MAX_WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";
/// What share of that all daemons of a user may take, about: an editor needs some, too.
const SHARE: usize = 8;
/// The name of the daemon's processes.
const DAEMON: &str = "agentfs-fsd";

/// The thread. Dropped, it ends by itself: the kernel takes its time to end the watches.
#[derive(Debug)]
pub(super) struct Fresh {
    stop: Arc<OwnedFd>,
}

/// What it works with.
struct Teller {
    core: Arc<Gate<FsCore>>,
    stale: Stale,
    root: Ino,
    covered: Covered,
    stop: Arc<OwnedFd>,
}

impl Fresh {
    /// Watches the base of `core`, `most` directories at once, for the mount that shows the inode `root`
    /// as its own. `covered`: where something else is mounted on it.
    ///
    /// Errors: there is no thread to be had.
    pub(super) fn start(
        core: &Arc<Gate<FsCore>>,
        stale: Stale,
        root: Ino,
        covered: &[PathBuf],
        most: usize,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let teller = Teller {
            core: Arc::clone(core),
            stale,
            root,
            covered: Covered::new(covered),
            stop: Arc::clone(&stop),
        };
        let builder = thread::Builder::new().name("fuse-fresh".into());
        builder.spawn(move || teller.live(most))?;
        core.with(FsCore::want_watch);
        Ok(Self { stop })
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // It cannot be full.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// How many directories a daemon may watch that starts now: what is for all of them, divided by those
/// there are. The first ones have more than the later, but all together never much more than that.
fn fair_share() -> usize {
    let most = std::fs::read_to_string(MAX_WATCHES).ok();
    let most = most.and_then(|text| text.trim().parse::<usize>().ok());
    let own = rustix::process::geteuid().as_raw();
    let is_daemon = |process: &procfs::process::Process| {
        process.uid().is_ok_and(|uid| uid == own)
            && process.stat().is_ok_and(|stat| stat.comm == DAEMON)
    };
    let all = procfs::process::all_processes().into_iter().flatten();
    let daemons = all.flatten().filter(is_daemon).count();
    most.unwrap_or(0) / SHARE / daemons.max(1)
}

impl Teller {
    fn live(self, most: usize) {
        if self.rests(BEFORE) {
            return;
        }
        let most = most.min(fair_share());
        match self.core.with(|core| core.begin_watch(most)) {
            Some(Ok(watching)) => {
                tracing::info!(most, "what the host changes is watched");
                self.serve(watching);
                self.core.with(FsCore::end_watch);
            }
            Some(Err(error)) => {
                let told = "what the host changes shows in the next run only: it cannot be watched";
                tracing::info!(%error, "{told}");
            }
            None => {}
        }
    }

    fn serve(&self, watching: Watching) {
        let Watching {
            watch,
            events,
            waiting,
        } = watching;
        if !self.look_through(waiting) {
            return;
        }
        while self.await_any(&events) {
            // What belongs together comes together.
            if self.rests(GATHER) {
                return;
            }
            let began = Instant::now();
            if !self.tell_all(watch.take()) || self.rests(rest_after(began.elapsed())) {
                return;
            }
        }
    }

    /// Waits until there are events; `false`: it is over.
    fn await_any(&self, events: &OwnedFd) -> bool {
        let mut either = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(events, PollFlags::IN),
        ];
        loop {
            match poll(&mut either, None) {
                Ok(_) => return either[0].revents().is_empty(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Does nothing for so long; whether it is over meanwhile.
    fn rests(&self, time: Duration) -> bool {
        let mut stop = [PollFd::new(&self.stop, PollFlags::IN)];
        let time = Timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        poll(&mut stop, Some(&time)) == Ok(1)
    }

    /// Tells the kernel what a batch comes to; `false`: the branch is closed.
    fn tell_all(&self, batch: Batch) -> bool {
        let Some(anew) = self.core.with(|core| core.watch_anew(batch.over)) else {
            return false;
        };
        let mut is_open = self.look_through(anew);
        for (dir, names) in batch.touched {
            is_open &= self.tell(|core| core.host_changed(dir, names, &self.covered));
        }
        for dir in batch.dirs {
            is_open &= self.tell(|core| core.host_changed_dir(dir));
        }
        if !is_open || !batch.is_cut {
            return is_open;
        }
        tracing::info!("more changes than are told of: all that is watched is looked through");
        let all = self.core.with(FsCore::watched_names);
        all.is_some_and(|all| self.look_through(all))
    }

    /// Finds out what has changed in these directories, of which the kernel has not told all; `false`:
    /// it is over.
    fn look_through(&self, dirs: Vec<(Ino, Vec<Name>)>) -> bool {
        let mut began = Instant::now();
        for (dir, known) in dirs {
            if !self.tell(|core| core.host_may_have_changed(dir, known, &self.covered)) {
                return false;
            }
            if began.elapsed() > STRETCH {
                if self.rests(rest_after(began.elapsed())) {
                    return false;
                }
                began = Instant::now();
            }
        }
        true
    }

    /// Sends what the core says; `false`: the branch is closed.
    fn tell(&self, notices: impl FnOnce(&FsCore) -> Vec<Notice>) -> bool {
        let Some(notices) = self.core.with(notices) else {
            return false;
        };
        let node = |ino| node_of(self.root, ino);
        for notice in notices {
            tracing::debug!(target: "agentfs::fresh", ?notice);
            match notice {
                Notice::Name { dir, name, stays } => {
                    self.stale.expire(node(dir), name.as_os_str(), stays);
                }
                Notice::Listing(ino) | Notice::Bytes(ino) => self.stale.pages(node(ino)),
                Notice::Attributes(ino) => self.stale.attributes(node(ino)),
            }
        }
        true
    }
}

/// How long to rest from work that took so long.
fn rest_after(work: Duration) -> Duration {
    (work * REST).min(MOST_REST)
}
