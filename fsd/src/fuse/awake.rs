//! Keeps idle CPUs of a virtual machine from halting while requests come in a row.
//!
//! Who has asked for something sleeps until it is answered, so its CPU has nothing to do; a virtual CPU
//! then halts, and to have it go on costs the hypervisor more than most requests take to serve. As long
//! as the kernel is asked for no latency at all, an idle CPU looks for work instead (power management's
//! quality of service, /dev/cpu_dma_latency; the kernel forgets the wish with the process that has it).
//! It is asked for only while it pays: some milliseconds after the last burst of requests it is taken back.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use tracing::{debug, info};

use crate::fuse::session::BadKnob;
use crate::sync::{Arc, Condvar, Mutex, lock, wait, wait_for};

/// Where a wish is written: microseconds, a native i32, for as long as the file is open.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// How CPUs are put to sleep here.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The one of KVM's guests, where it was measured to pay.
const HALTS: &str = "haltpoll";
/// On more CPUs than this, too many would look for work for the few that are waited for.
const MOST_CPUS: usize = 8;

/// What the kernel takes for no wish. Source: linux/pm_qos.h, PM_QOS_CPU_LATENCY_DEFAULT_VALUE.
const ANY_US: i32 = 2_000_000_000;
const NONE_US: i32 = 0;

/// So many requests of one thread ..
const BURST: u32 = 16;
/// .. within this time make a burst.
const WITHIN: Duration = Duration::from_millis(8);
/// After this long without one, the wish is taken back.
const TICK: Duration = Duration::from_millis(10);

/// The variable that asks for it.
const NAME: &str = "AGENTFS_FUSE_AWAKE";

/// Whether to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// Where it is known to pay.
    #[default]
    Auto,
    /// Wherever it can be had.
    Always,
    /// Nowhere.
    Never,
}

impl Wake {
    /// What the environment asks for.
    pub(super) fn from_env() -> Result<Self, BadKnob> {
        Self::read(std::env::var_os(NAME).as_deref())
    }

    fn read(text: Option<&OsStr>) -> Result<Self, BadKnob> {
        let text = text.unwrap_or_default().to_string_lossy();
        match text.trim() {
            "" | "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => {
                let one_of = "none of auto, always and never";
                Err(BadKnob::new(NAME, text.into_owned(), one_of.to_owned()))
            }
        }
    }
}

/// Why idle CPUs sleep while requests are served.
#[derive(Debug, thiserror::Error)]
pub enum Asleep {
    /// It was asked for.
    #[error("AGENTFS_FUSE_AWAKE=never")]
    Asked,
    /// They wake fast, or nobody has measured that it pays.
    #[error("it is for virtual machines whose idle CPUs halt (cpuidle driver {HALTS})")]
    Driver,
    /// Too many would look for work.
    #[error("of {0} CPUs too many would look for work, so it is done for up to {MOST_CPUS}")]
    Cpus(usize),
    /// Root's to give.
    #[error("{DEVICE}: {0}")]
    Refused(#[source] io::Error),
}

/// Opens the device by which idle CPUs are kept awake.
///
/// Errors: why they are not.
fn device(wake: Wake) -> Result<File, Asleep> {
    let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
    // Those of the machine: the wish holds for them all, whichever this process may use.
    let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN);
    let cpus = cpus.ok().flatten().map_or(1, |cpus| cpus as usize);
    match wake {
        Wake::Never => return Err(Asleep::Asked),
        Wake::Auto if driver.trim() != HALTS => return Err(Asleep::Driver),
        Wake::Auto if !(2..=MOST_CPUS).contains(&cpus) => return Err(Asleep::Cpus(cpus)),
        Wake::Auto | Wake::Always => {}
    }
    let opened = OpenOptions::new().write(true).open(DEVICE);
    opened.map_err(Asleep::Refused)
}

/// Whether a daemon of this user keeps idle CPUs awake, as the environment asks for it.
///
/// Errors: a variable that says nothing it could do; why it does not.
pub fn keeps_awake() -> Result<Result<(), Asleep>, BadKnob> {
    Ok(device(Wake::from_env()?).map(drop))
}

/// The wish of one mount, shared by the threads that serve it.
#[derive(Debug)]
pub(super) struct Awake {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// There has been a burst since it was last asked.
    asked: AtomicBool,
    /// The keeper is awake, and looks at `asked` by itself.
    held: AtomicBool,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Awake {
    /// `None`: not to be had here, or it would not pay.
    pub(super) fn start(wake: Wake) -> Option<Self> {
        let started = device(wake).and_then(|device| Self::keep(device).map_err(Asleep::Refused));
        started
            .inspect_err(|why| info!(%why, "idle CPUs sleep while requests are served"))
            .ok()
    }

    fn keep(device: File) -> io::Result<Self> {
        // Opening it is a wish already, for nothing in particular.
        let shared = Arc::<Shared>::default();
        let keeps = Arc::clone(&shared);
        let keeper = thread::Builder::new()
            .name("fuse-awake".into())
            .spawn(move || {
                if let Err(error) = keeps.keep(device) {
                    debug!(%error, "{DEVICE} takes no wish");
                }
            })?;
        Ok(Self {
            shared,
            keeper: Some(keeper),
        })
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.changed.notify_all();
        if let Some(keeper) = self.keeper.take() {
            // What it panicked of is in the log; the wish went with its file.
            let _ = keeper.join();
        }
    }
}

impl Shared {
    fn keep(&self, mut device: File) -> io::Result<()> {
        let mut over = lock(&self.over);
        while !*over {
            if !self.asked.load(Ordering::SeqCst) {
                over = wait(&self.changed, over);
                continue;
            }
            device.write_all(&NONE_US.to_ne_bytes())?;
            self.held.store(true, Ordering::SeqCst);
            while !*over && self.asked.swap(false, Ordering::SeqCst) {
                let until = Instant::now() + TICK;
                while !*over && Instant::now() < until {
                    over = wait_for(&self.changed, over, TICK);
                }
            }
            self.held.store(false, Ordering::SeqCst);
            device.write_all(&ANY_US.to_ne_bytes())?;
        }
        Ok(())
    }

    /// There was a burst.
    fn burst(&self) {
        if self.asked.load(Ordering::Relaxed) {
            return;
        }
        self.asked.store(true, Ordering::SeqCst);
        if !self.held.load(Ordering::SeqCst) {
            // Whoever is about to wait has the lock, or sees `asked`.
            drop(lock(&self.over));
            self.changed.notify_all();
        }
    }
}

/// One thread's requests.
#[derive(Debug)]
pub(super) struct Pulse {
    awake: Option<Arc<Awake>>,
    count: u32,
    since: Instant,
}

impl Pulse {
    pub(super) fn new(awake: Option<Arc<Awake>>) -> Self {
        Self {
            awake,
            count: 0,
            since: Instant::now(),
        }
    }

    /// A request has been served.
    pub(super) fn beat(&mut self, now: Instant) {
        let Some(awake) = &self.awake else { return };
        self.count += 1;
        if self.count == BURST {
            if now.saturating_duration_since(self.since) <= WITHIN {
                awake.shared.burst();
            }
            self.count = 0;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A keeper whose wishes can be read, each as four bytes.
    fn kept() -> (File, Arc<Awake>) {
        let (wishes, device) = rustix::pipe::pipe().expect("a pipe");
        let awake = Awake::keep(device.into()).expect("a thread");
        (wishes.into(), Arc::new(awake))
    }

    fn wish(wishes: &mut File) -> i32 {
        let mut bytes = [0; 4];
        wishes.read_exact(&mut bytes).expect("a wish");
        i32::from_ne_bytes(bytes)
    }

    #[test]
    fn a_burst_is_a_wish_that_is_taken_back() {
        let (mut wishes, awake) = kept();
        let mut pulse = Pulse::new(Some(awake));
        for _ in 0..3 {
            let now = Instant::now();
            for _ in 0..BURST {
                pulse.since = now;
                pulse.beat(now);
            }
            assert_eq!(wish(&mut wishes), NONE_US);
            assert_eq!(wish(&mut wishes), ANY_US);
        }
    }

    #[test]
    fn requests_that_come_seldom_are_none() {
        let (mut wishes, awake) = kept();
        let mut pulse = Pulse::new(Some(awake));
        let begin = Instant::now();
        for n in 1..10 * BURST {
            pulse.beat(begin + n * WITHIN / (BURST - 1));
        }
        // With it goes the keeper.
        drop(pulse);
        let mut rest = Vec::new();
        wishes.read_to_end(&mut rest).expect("the end");
        assert!(rest.is_empty(), "{rest:?}");
    }

    #[test]
    fn the_variable_is_one_of_three() {
        let read = |text: &str| Wake::read(Some(text.as_ref())).ok();
        assert_eq!(Wake::read(None).ok(), Some(Wake::Auto));
        assert_eq!(read(""), Some(Wake::Auto));
        assert_eq!(read(" always"), Some(Wake::Always));
        assert_eq!(read("never"), Some(Wake::Never));
        assert_eq!(read("1"), None);
    }
}
