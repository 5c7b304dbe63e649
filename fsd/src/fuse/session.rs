//! What is agreed with the kernel at INIT, and the threads that read requests.
//!
//! Chooses the transport: the ring where it can be had, else the device.
//! Takes a `/dev/fuse` that somebody else mounted and never touches that mount: no thread here
//! looks at a path inside it, and it ends when the kernel says so (ENODEV).

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};
use tracing::{debug, info, warn};

use crate::core::FsCore;
use crate::core::types::Ino;
use crate::fuse::adapter::Adapter;
use crate::fuse::awake::{Awake, Wake};
use crate::fuse::backing;
use crate::fuse::convert::OneUser;
use crate::fuse::device::{self, Greeter, Reading};
use crate::fuse::fresh::Fresh;
use crate::fuse::regime::Regime;
use crate::fuse::ring::{Rings, Serving, Terms};
use crate::fuse::shared::SharedAdapter;
use crate::fuse::stale::Stale;
use crate::fuse::transport::Operations;
use crate::shared::Shared;
use crate::sync::{Arc, Gate};

const MIB: u64 = 1 << 20;
const MAX_WRITE: Knob = Knob {
    name: "AGENTFS_FUSE_MAX_WRITE",
    default: 4 * MIB,
    min: 4096,
    max: 16 * MIB,
};
const MAX_BACKGROUND: Knob = Knob {
    name: "AGENTFS_FUSE_MAX_BACKGROUND",
    default: 64,
    min: 1,
    max: 65535,
};

const SPIN_US: Knob = Knob {
    name: "AGENTFS_FUSE_SPIN_US",
    default: 50,
    min: 0,
    max: 1000,
};

const ZERO_OPENDIR: Knob = Knob {
    name: "AGENTFS_FUSE_ZERO_OPENDIR",
    default: 1,
    min: 0,
    max: 1,
};
/// More directories than a daemon needs to watch, of the trees that people have.
const WATCHES: Knob = Knob {
    name: "AGENTFS_WATCHES",
    default: 32768,
    min: 0,
    max: 1 << 20,
};

/// What every mount asks for, each only if the kernel has it.
///
/// Left out on purpose: WRITEBACK_CACHE (the kernel would own size and times, and passthrough
/// excludes it), POSIX_LOCKS and FLOCK_LOCKS (one superblock per branch: the kernel's own locks
/// are enough), AUTO_INVAL_DATA (nobody else changes the files; it costs a GETATTR per cached
/// listing), NO_OPENDIR_SUPPORT (the adapter's to ask for),
/// SETXATTR_EXT, SECURITY_CTX and CREATE_SUPP_GROUP (fuser does not decode what they add).
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_ASYNC_DIO,
    // O_TRUNC comes with OPEN: no second request, and no moment between the two.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Lookups and listings of one directory side by side.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // A listing brings the entries' attributes while the program seems to want them.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Cached pages go only where the kernel itself changes or truncates the file. Right because
    // the one way around its page cache, passthrough, drops them when it begins (see adapter).
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    // We clear suid, sgid and file capabilities; without it each write(2) asks for the latter.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // The kernel checks access by the lists we keep; the umask is ours to apply, as a default list
    // takes its place.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    // No file handles to give out: open_by_handle_at(2) could name inodes the core has dropped,
    // and get around directory permissions.
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
];

/// Of these, what a shared mount must do without: all that has the kernel keep or share what differs
/// by caller, and the lists, with which the kernel would check permissions by itself.
const NOT_SHARED: &[InitFlags] = &[
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_POSIX_ACL,
];

/// Of these, what a mount must do without on which opens are not told of.
const NOT_UNOPENED: &[InitFlags] = &[
    // There is no OPEN for it to come with: it comes as SETATTR.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Nothing goes around the page cache, and no open says that the host has changed the file: if its
    // length is another, the kernel is to drop the pages by itself, before anybody reads them.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
];

/// What such a mount asks for besides.
const UNOPENED: &[InitFlags] = &[InitFlags::FUSE_NO_OPEN_SUPPORT];

/// An environment variable with a number in it.
#[derive(Debug)]
struct Knob {
    name: &'static str,
    default: u64,
    min: u64,
    /// More than this is this: whoever asks for all there is need not know how much that is.
    max: u64,
}

/// An environment variable that says nothing this program could do.
#[derive(Debug, thiserror::Error)]
#[error("{name} is '{}', which is {wanted}", .text.escape_debug())]
pub struct BadKnob {
    name: &'static str,
    text: String,
    /// What it is not: "no number", "none of these".
    wanted: String,
}

impl BadKnob {
    pub(super) fn new(name: &'static str, text: String, wanted: String) -> Self {
        Self { name, text, wanted }
    }
}

impl Knob {
    /// The value of the variable; an empty one is none. Errors: no number, or too small.
    fn read(&self, text: Option<&OsStr>) -> Result<u64, BadKnob> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(self.default);
        };
        let text = text.to_string_lossy();
        match text.trim().parse::<u64>() {
            Ok(value) if value > self.max => {
                warn!(
                    name = self.name,
                    value,
                    used = self.max,
                    "more than there is"
                );
                Ok(self.max)
            }
            Ok(value) if value >= self.min => Ok(value),
            _ => {
                let wanted = format!("no number from {} to {}", self.min, self.max);
                Err(BadKnob::new(self.name, text.into_owned(), wanted))
            }
        }
    }

    fn value(&self) -> Result<u64, BadKnob> {
        self.read(std::env::var_os(self.name).as_deref())
    }
}

/// By which way requests are to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// By io_uring where it can be had, else by the device.
    #[default]
    Auto,
    /// By reading `/dev/fuse`.
    Device,
    /// By io_uring, or not at all.
    IoUring,
}

impl Asked {
    const NAME: &str = "AGENTFS_FUSE_TRANSPORT";

    fn read(text: Option<&OsStr>) -> Result<Self, BadKnob> {
        let text = text.map(OsStr::to_string_lossy).unwrap_or_default();
        match text.trim() {
            "" | "auto" => Ok(Self::Auto),
            "device" => Ok(Self::Device),
            "io-uring" => Ok(Self::IoUring),
            _ => Err(BadKnob {
                name: Self::NAME,
                text: text.into_owned(),
                wanted: "none of auto, device and io-uring".into(),
            }),
        }
    }

    /// The rings of a mount, if it is to have some.
    ///
    /// Errors: it must have them, and something is missing.
    fn rings(self, max_write_bytes: u32) -> io::Result<Option<Rings>> {
        if self == Self::Device {
            return Ok(None);
        }
        match Rings::prepare(max_write_bytes) {
            Ok(rings) => Ok(Some(rings)),
            Err(missing) if self == Self::Auto => {
                info!(%missing, "requests come by the device");
                Ok(None)
            }
            Err(missing) => Err(no_ring(missing)),
        }
    }
}

/// For who asked for nothing else.
fn no_ring(why: impl std::fmt::Display) -> io::Error {
    let name = Asked::NAME;
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{name}=io-uring: {why} (or set {name}=auto, which does without)"),
    )
}

/// How a mount is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Largest write request, in bytes. The kernel also caps it by `fs.fuse.max_pages_limit`.
    pub max_write_bytes: u32,
    /// Most readahead and other background requests under way.
    pub max_background: u16,
    /// The kernel opens directories without asking, so that listing one again costs no request.
    pub zero_opendir: bool,
    /// Directories of the host that are watched at most, so that what it changes shows; 0: none.
    pub watches: usize,
    /// Threads that read requests.
    pub readers: usize,
    /// For how long one of them looks for the next request before it sleeps; zero: not at all.
    pub spin: Duration,
    /// Whether idle CPUs are kept from halting while requests come in a row.
    pub wake: Wake,
    /// How many file systems may be stacked below a passthrough file; `None`: no passthrough.
    /// A kernel that has none gets its files cached.
    pub passthrough_depth: Option<u32>,
    /// Whether the kernel tells of opens; `None`: not decided, so it does.
    pub regime: Option<Regime>,
    /// Whether several branches are shown.
    pub shared: bool,
    /// By which way requests are to come.
    pub transport: Asked,
}

impl Options {
    /// The defaults, and what the environment says otherwise. No passthrough.
    pub fn from_env() -> Result<Self, BadKnob> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            max_write_bytes: MAX_WRITE.value()? as u32,
            max_background: MAX_BACKGROUND.value()? as u16,
            zero_opendir: ZERO_OPENDIR.value()? == 1,
            watches: WATCHES.value()? as usize,
            readers: readers(cpus),
            // With one CPU whoever looks keeps from running who would ask.
            spin: match cpus {
                1 => Duration::ZERO,
                _ => Duration::from_micros(SPIN_US.value()?),
            },
            wake: Wake::from_env()?,
            passthrough_depth: None,
            regime: Regime::from_env()?,
            shared: false,
            transport: Asked::read(std::env::var_os(Asked::NAME).as_deref())?,
        })
    }

    fn is_zero_open(&self) -> bool {
        self.regime == Some(Regime::ZeroOpen)
    }

    /// Fills in the reply to INIT.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()> {
        let unopened = self.is_zero_open();
        let is_without = |flag: &InitFlags| {
            self.shared && NOT_SHARED.contains(flag) || unopened && NOT_UNOPENED.contains(flag)
        };
        let is_wanted = |flag: &&InitFlags| !is_without(flag);
        let more: &[InitFlags] = if unopened { UNOPENED } else { &[] };
        for flag in WANTED.iter().filter(is_wanted).chain(more) {
            if config.add_capabilities(*flag).is_err() {
                debug!(?flag, "the kernel has no such feature");
            }
        }
        let congestion = (u32::from(self.max_background) * 3 / 4).max(1) as u16;
        config
            .set_max_write(self.max_write_bytes)
            .map_err(out_of_bounds)?;
        config
            .set_max_background(self.max_background)
            .map_err(out_of_bounds)?;
        config
            .set_congestion_threshold(congestion)
            .map_err(out_of_bounds)?;
        if let Some(depth) = self.passthrough_depth {
            let flag = InitFlags::FUSE_PASSTHROUGH;
            if config.add_capabilities(flag).is_ok() {
                config.set_max_stack_depth(depth).map_err(out_of_bounds)?;
            } else {
                info!("this kernel has no FUSE passthrough (Linux 6.9 brought it): cached instead");
            }
        }
        Ok(())
    }
}

/// For a value the kernel interface does not take, given the nearest one it would.
fn out_of_bounds<T: std::fmt::Display>(nearest: T) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("out of bounds, nearest is {nearest}"),
    )
}

/// How many threads read requests on a machine of `cpus`.
fn readers(cpus: usize) -> usize {
    cpus.clamp(2, 4)
}

/// What a mount looks like from inside.
#[derive(Clone, Debug)]
pub struct Face {
    /// The inode shown as its root.
    pub root: Ino,
    /// The one user whose ids its user namespace knows; none: it knows all ids.
    pub one_user: Option<OneUser>,
    /// Places on it, as host paths, that something else is mounted on for as long as it is there.
    pub covered: Vec<PathBuf>,
}

/// A mount that has been greeted and waits to be served.
#[derive(Debug)]
pub struct FuseSession {
    shows: Shows,
    device: Arc<OwnedFd>,
    reading: Reading,
    /// The ring, if it is by one; its threads are at work already.
    ring: Option<Serving>,
    awake: Option<Arc<Awake>>,
    fresh: Option<Fresh>,
}

#[derive(Debug)]
enum Shows {
    One(Arc<Adapter>),
    Several(Arc<SharedAdapter>),
}

impl FuseSession {
    /// Answers INIT on `device`, which must be mounted already and will look like `face`.
    ///
    /// Errors: the device is not mounted (EPERM), or is no FUSE device; the transport asked for
    /// cannot be had.
    pub fn start(
        core: Arc<Gate<FsCore>>,
        face: Face,
        device: OwnedFd,
        options: Options,
    ) -> io::Result<Self> {
        if options.is_zero_open() {
            core.with(FsCore::serve_unopened);
        }
        let (shown, covered) = (face.root, face.covered.clone());
        let adapter = Adapter::new(Arc::clone(&core), face, options);
        let stale = adapter.stale();
        // Before the first request: what is looked at then is watched.
        let fresh = (options.watches > 0)
            .then(|| Fresh::start(&core, stale.clone(), shown, &covered, options.watches));
        let fresh = fresh.transpose().unwrap_or_else(|error| {
            info!(%error, "what the host changes shows in the next run only");
            None
        });
        let back = (stale, adapter.device());
        let session = begin(adapter, device, options, Some(back), Shows::One)?;
        Ok(Self { fresh, ..session })
    }

    /// As [`FuseSession::start`], for several branches.
    pub fn start_shared(
        shared: Arc<Shared>,
        device: OwnedFd,
        options: Options,
    ) -> io::Result<Self> {
        let options = Options {
            passthrough_depth: None,
            // Whose branch a file is of, its open says.
            regime: Some(Regime::Passthrough),
            shared: true,
            ..options
        };
        let adapter = SharedAdapter::new(shared, options);
        begin(adapter, device, options, None, Shows::Several)
    }

    /// Whether requests come by io_uring, not by the device.
    pub fn is_by_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Serves until the mount is gone, on threads of its own.
    pub fn run(self) -> io::Result<()> {
        let ended = match self.shows {
            Shows::One(adapter) => {
                device::serve(&adapter, &self.device, self.reading, self.awake.as_ref())
            }
            Shows::Several(adapter) => {
                device::serve(&adapter, &self.device, self.reading, self.awake.as_ref())
            }
        };
        drop((self.ring, self.fresh));
        ended
    }
}

/// What an adapter reaches the kernel by, to be opened.
type Back = (Stale, backing::Device);

fn begin<O: Operations>(
    operations: O,
    device: OwnedFd,
    options: Options,
    back: Option<Back>,
    shows: fn(Arc<O>) -> Shows,
) -> io::Result<FuseSession> {
    // Whatever can fail does so before the kernel is promised anything.
    let rings = options.transport.rings(options.max_write_bytes)?;
    let terms = rings.as_ref().map_or_else(Terms::default, Rings::terms);
    let operations = Arc::new(operations);
    let greeter = Greeter {
        operations: Arc::clone(&operations),
        terms: terms.clone(),
    };
    let ours = Arc::new(device.try_clone()?);
    // Who may use the mount is for the kernel to decide, by its user_id and allow_other.
    let greeted = Session::from_fd(greeter, device, SessionACL::All, Config::default())?;
    let device = ours;
    if let Some((stale, files)) = back {
        stale.reach(greeted.notifier(), Arc::clone(&device));
        files.reach(Arc::clone(&device));
    }
    let rings = rings.filter(|_| terms.are_agreed());
    let awake = Awake::start(options.wake).map(Arc::new);
    let ring = match rings {
        Some(rings) => rings.serve(&operations, &device, awake.as_ref())?,
        None => None,
    };
    if ring.is_none() && options.transport == Asked::IoUring {
        return Err(no_ring("the kernel did not agree to it"));
    }
    // By the ring come all requests that somebody waits for.
    let spin = match ring {
        Some(_) => Duration::ZERO,
        None => options.spin,
    };
    info!(?options, ring = ring.is_some(), "the mount is served");
    Ok(FuseSession {
        shows: shows(operations),
        device,
        reading: Reading {
            readers: options.readers,
            max_write_bytes: options.max_write_bytes as usize,
            spin,
            max_background: options.max_background,
        },
        ring,
        awake,
        fresh: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_numbers_within_bounds() {
        let read = |knob: &Knob, text: &str| knob.read(Some(text.as_ref())).ok();
        assert_eq!(MAX_WRITE.read(None).ok(), Some(4 * MIB));
        assert_eq!(read(&MAX_WRITE, ""), Some(4 * MIB));
        assert_eq!(read(&MAX_WRITE, " 1048576 "), Some(MIB));
        assert_eq!(read(&MAX_WRITE, "999999999"), Some(16 * MIB));
        assert_eq!(read(&MAX_BACKGROUND, "70000"), Some(65535));
        for bad in ["0", "4095", "4M", "abc", " ", "-1", "99999999999999999999"] {
            let error = MAX_WRITE.read(Some(bad.as_ref())).expect_err(bad);
            let text = error.to_string();
            assert!(text.contains("AGENTFS_FUSE_MAX_WRITE"), "{text}");
            assert!(text.contains("4096 to 16777216"), "{text}");
        }
        assert_eq!(read(&MAX_BACKGROUND, "-1"), None);
        assert_eq!(read(&MAX_BACKGROUND, "0"), None);
    }

    /// What a session that wants passthrough answers to the INIT of a kernel with these features:
    /// the features agreed on, and the depth of stacking. A socket plays the device.
    fn greeted(features: InitFlags) -> (InitFlags, u32) {
        greeted_as(Regime::Passthrough, features)
    }

    fn greeted_as(regime: Regime, features: InitFlags) -> (InitFlags, u32) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let (kernel, device) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socketpair");
        // Source: linux/fuse.h, fuse_in_header and fuse_init_in of 7.40.
        const FUSE_INIT: u32 = 26;
        let offered = (features | InitFlags::FUSE_INIT_EXT).bits();
        let header = [104, FUSE_INIT, 1, 0, 0, 0, 0, 0, 0, 0];
        let init = [7, 40, 1 << 17, offered as u32, (offered >> 32) as u32];
        let words = header.iter().chain(&init).chain(&[0; 11]);
        let request: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        rustix::io::write(&kernel, &request).expect("INIT");

        let face = Face {
            root: Ino::ROOT,
            one_user: None,
            covered: Vec::new(),
        };
        let options = Options {
            passthrough_depth: (regime == Regime::Passthrough).then_some(2),
            regime: Some(regime),
            // No kernel is here that could have a ring, whatever the rest of the run asks for.
            transport: Asked::Device,
            ..Options::from_env().expect("the knobs")
        };
        let session = FuseSession::start(Arc::default(), face, device, options);
        session.expect("a session");
        let mut reply = [0; 256];
        let bytes = rustix::io::read(&kernel, &mut reply).expect("the answer");
        // fuse_out_header, then fuse_init_out.
        let word = |at: usize| {
            let word = reply[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(word)
        };
        assert_eq!([word(0), word(4)], [bytes as u32, 0], "length and error");
        let flags = u64::from(word(28)) | u64::from(word(48)) << 32;
        (InitFlags::from_bits_retain(flags), word(52))
    }

    #[test]
    fn a_kernel_without_passthrough_is_served_all_the_same() {
        let features: InitFlags = WANTED.iter().copied().collect();
        let (agreed, depth) = greeted(features);
        assert!(!agreed.contains(InitFlags::FUSE_PASSTHROUGH), "{agreed:?}");
        assert!(agreed.contains(features), "{agreed:?}");
        assert_eq!(depth, 0);
        // The same with one feature more.
        let (agreed, depth) = greeted(features | InitFlags::FUSE_PASSTHROUGH);
        assert!(agreed.contains(InitFlags::FUSE_PASSTHROUGH), "{agreed:?}");
        assert_eq!(depth, 2);
    }

    #[test]
    fn where_nothing_is_opened_no_feature_is_asked_for_that_an_open_makes_right() {
        let without: InitFlags = NOT_UNOPENED.iter().copied().collect();
        let (agreed, depth) = greeted_as(Regime::ZeroOpen, InitFlags::all());
        assert!(
            agreed.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
            "{agreed:?}"
        );
        assert!(
            !agreed.intersects(without | InitFlags::FUSE_PASSTHROUGH),
            "{agreed:?}"
        );
        assert_eq!(depth, 0);
        let (agreed, _) = greeted(InitFlags::all());
        assert!(
            !agreed.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
            "{agreed:?}"
        );
        assert!(agreed.contains(without), "{agreed:?}");
    }

    #[test]
    fn readers_follow_the_cpus() {
        assert_eq!([1, 2, 3, 64].map(readers), [2, 2, 3, 4]);
    }
}
