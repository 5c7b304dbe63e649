//! The set-up child: lives in the new namespaces but in the host's pid namespace, builds the view,
//! makes init and leaves.
//!
//! It must stand in the host's pid namespace when it mounts FUSE, so that the daemon sees host pids.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use agentfs_fsd::ctl::client::Namespaces;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};

use crate::error::{SetupError, step};
use crate::idmap;
use crate::mounts::{self, View};
use crate::plan::{Plan, SetupOp};
use crate::proc::clone::{self, Alone, Kind, Side};
use crate::proc::init;
use crate::proc::msg::{Inner, Link, Outer};
use crate::sys;

/// What the inside must know; made before the clone, so that nothing is computed after it.
#[derive(Debug)]
pub struct Inside {
    /// The plan to execute.
    pub plan: Plan,
    /// The caller's ids.
    pub uid: u32,
    pub gid: u32,
    /// The command and its arguments.
    pub argv: Vec<CString>,
    /// Its environment, `NAME=value`.
    pub env: Vec<CString>,
    /// The caller's signal mask, which the command gets back.
    pub mask: SigSet,
}

/// The set-up child of a fresh run. Never returns.
pub fn set_up(link: Link, alone: &Alone, inside: &Inside) -> ! {
    finish(
        &link,
        alone,
        begin(&link).and_then(|()| build(&link, inside)),
        inside,
    )
}

/// The set-up child that enters a live run, whose namespaces are `spaces`. Never returns.
pub fn join(link: Link, alone: &Alone, spaces: &Namespaces, inside: &Inside) -> ! {
    // Before the other descriptors are closed, those of the namespaces among them.
    let entered = enter(&spaces.user, &spaces.mount);
    finish(&link, alone, entered.and_then(|()| begin(&link)), inside)
}

fn begin(link: &Link) -> Result<(), SetupError> {
    tie()?;
    let_go(link)?;
    // End of file here means that the monitor died before the tie was there.
    expect(link, Outer::Go)
}

/// Makes the kernel end this process with its parent.
pub fn tie() -> Result<(), SetupError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| SetupError::new("tie", "the set-up to the monitor", e))
}

/// Closes what was inherited, but for the link and the standard streams. As for
/// [`sys::close_all_but`], this process must leave by exec or exit.
pub fn let_go(link: &Link) -> Result<(), SetupError> {
    sys::close_all_but(link.as_fd())
        .map_err(|e| SetupError::other("close", "inherited descriptors", e))
}

fn build(link: &Link, inside: &Inside) -> Result<(), SetupError> {
    let mut view = View::default();
    for op in &inside.plan.steps {
        match op {
            SetupOp::Fuse { source } => {
                let staged = view.fuse(source, inside.uid, inside.gid)?;
                let user = namespace("user")?;
                let mount = namespace("mnt")?;
                let fds = [staged.device.as_fd(), user.as_fd(), mount.as_fd()];
                tell(link, &Inner::Mounted, &fds)?;
            }
            SetupOp::AwaitBranch => expect(link, Outer::Attached)?,
            SetupOp::Pts { at, gid } => {
                // The plan does not know which ids the kernel let us map; the kernel refuses others.
                let gid = gid.filter(|gid| idmap::has_group(*gid));
                view.execute(&SetupOp::Pts {
                    at: at.clone(),
                    gid,
                })?;
            }
            op => view.execute(op)?,
        }
    }
    Ok(())
}

fn namespace(kind: &str) -> Result<File, SetupError> {
    let path = Path::new("/proc/self/ns").join(kind);
    File::open(&path).map_err(|e| SetupError::other("open", path.display(), e))
}

/// Enters the namespaces of a live run, then gets copies or new ones of all but the user namespace.
fn enter(user: impl AsFd, mount: impl AsFd) -> Result<(), SetupError> {
    let fail = |what: &'static str| move |e| SetupError::new("enter", what, e);
    nix::sched::setns(user, CloneFlags::CLONE_NEWUSER).map_err(fail("the user namespace"))?;
    nix::sched::setns(mount, CloneFlags::CLONE_NEWNS).map_err(fail("the mount namespace"))?;
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(fail("namespaces of its own"))?;
    mounts::private_propagation()
}

/// Makes init and leaves, or tells what failed.
fn finish(link: &Link, alone: &Alone, done: Result<(), SetupError>, inside: &Inside) -> ! {
    let made = done.and_then(|()| {
        clone::clone(Kind::Init, alone).map_err(|e| SetupError::other(step::PROCESS, "init", e))
    });
    match made {
        Ok(Side::Child(alone)) => init::run(link, &alone, inside),
        Ok(Side::Parent { .. }) => std::process::exit(0),
        Err(e) => fail(link, e),
    }
}

/// Tells the monitor why there will be no command, and ends this process.
pub fn fail(link: &Link, e: SetupError) -> ! {
    // If the monitor is gone there is nobody to tell.
    let _ = link.send(&Inner::Failed(e), &[]);
    std::process::exit(i32::from(crate::error::EXIT_OURS))
}

/// Sends a word to the monitor.
pub fn tell(
    link: &Link,
    word: &Inner,
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), SetupError> {
    link.send(word, fds)
        .map_err(|e| SetupError::other("talk to", "the monitor", std::io::Error::other(e)))
}

/// Waits for this word of the monitor.
pub fn expect(link: &Link, word: Outer) -> Result<(), SetupError> {
    let heard = link.recv::<Outer>();
    match heard {
        Ok((got, _)) if got == word => Ok(()),
        Ok((got, _)) => {
            let why = format!("{got:?} came where {word:?} was due");
            Err(SetupError::other(
                "hear",
                "the monitor",
                std::io::Error::other(why),
            ))
        }
        Err(e) => Err(SetupError::other(
            "hear",
            "the monitor",
            std::io::Error::other(e),
        )),
    }
}
