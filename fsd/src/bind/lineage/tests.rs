//! The table against invented processes, and once against the kernel's own.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;

use super::*;

/// Processes by pid, and the clock.
#[derive(Clone, Debug, Default)]
struct Invented(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    all: BTreeMap<u32, Facts>,
    now: u64,
    /// Those that cannot be read, and why not.
    unread: BTreeMap<u32, Errno>,
}

const OWN: u32 = 1000;

impl Invented {
    fn start(&self, pid: u32, parent: u32) -> u64 {
        lock(&self.0).now += 1;
        self.start_at_once(pid, parent)
    }

    /// The same in the tick that is.
    fn start_at_once(&self, pid: u32, parent: u32) -> u64 {
        let mut world = lock(&self.0);
        let start_ticks = world.now;
        let facts = Facts {
            process: pid,
            parent,
            start_ticks,
            uid: OWN,
            effective_uid: OWN,
        };
        world.all.insert(pid, facts);
        start_ticks
    }

    /// Reading `pid` fails from here on.
    fn hide(&self, pid: u32, why: Errno) {
        lock(&self.0).unread.insert(pid, why);
    }

    /// Everything can be read again.
    fn show(&self) {
        lock(&self.0).unread.clear();
    }

    /// Ends a process; its children are pid 1's from then on.
    fn end(&self, pid: u32) {
        let mut world = lock(&self.0);
        world.all.remove(&pid);
        for child in world.all.values_mut().filter(|p| p.parent == pid) {
            child.parent = 1;
        }
    }
}

impl Procs for Invented {
    fn facts(&self, id: u32) -> Result<Facts, ProcError> {
        let world = lock(&self.0);
        if let Some(why) = world.unread.get(&id) {
            let source = io::Error::from_raw_os_error(*why as i32);
            return Err(ProcError::Io { pid: id, source });
        }
        world.all.get(&id).copied().ok_or(ProcError::Gone(id))
    }
    fn threads(&self, process: u32) -> Vec<u32> {
        vec![process]
    }
    fn all(&self) -> Vec<u32> {
        lock(&self.0).all.keys().copied().collect()
    }
    fn now(&self) -> u64 {
        lock(&self.0).now
    }
    fn outlast(&self, tick: u64) {
        let mut world = lock(&self.0);
        world.now = world.now.max(tick + 1);
    }
}

/// A world with pid 1 and a table over it.
fn world() -> (Invented, Lineage) {
    let world = Invented::default();
    world.start(1, 0);
    let lineage = Lineage::with(None, Box::new(world.clone()));
    (world, lineage)
}

fn fork(parent: u32, process: u32) -> Fork {
    Fork {
        parent,
        thread: process,
        process,
    }
}

/// As if events came and none was lost.
fn hears(lineage: &Lineage, forks: &[Fork], lost: bool) {
    let mut table = lock(&lineage.table);
    if table.doubt_until == u64::MAX {
        table.doubt_until = 0;
    }
    lineage.take_in(&mut table, forks, lost);
}

#[test]
fn children_are_found_by_their_parents() {
    let (world, lineage) = world();
    let before = world.start(10, 1);
    world.start(11, 10);
    world.start(9, 1);
    lineage.bind(10, before, 7, OWN).unwrap();
    assert_eq!(lineage.view_of(10), Ok(Some(7)));
    assert_eq!(lineage.view_of(1), Ok(None));
    world.start(12, 10);
    world.start(13, 12);
    assert_eq!(lineage.view_of(13), Ok(Some(7)));
    assert_eq!(lineage.view_of(11), Ok(None), "older than the binding");
    // Once seen, it is known whoever its parent is.
    world.end(12);
    assert_eq!(lineage.view_of(13), Ok(Some(7)));
    // Its parent ended before it was seen: nobody can tell.
    world.start(14, 13);
    world.start(15, 14);
    world.end(14);
    assert_eq!(lineage.view_of(15), Ok(None));
    assert_eq!(lineage.view_of(0), Err(Unidentified(0)));
    assert_eq!(lineage.view_of(99), Err(Unidentified(99)));
}

#[test]
fn who_is_bound_again_moves_and_its_children_stay() {
    let (world, lineage) = world();
    let start = world.start(10, 1);
    lineage.bind(10, start, 1, OWN).unwrap();
    world.start(11, 10);
    lineage.bind(10, start, 2, OWN).unwrap();
    world.start(12, 10);
    assert_eq!(
        [10, 11, 12].map(|pid| lineage.view_of(pid)),
        [Ok(Some(2)), Ok(Some(1)), Ok(Some(2))]
    );
    let views = |lineage: &Lineage| -> Vec<(u32, View)> {
        lineage.bound().iter().map(|b| (b.pid, b.view)).collect()
    };
    assert_eq!(views(&lineage), [(10, 2)]);
    lineage.unbind(10).unwrap();
    world.start(13, 10);
    assert_eq!(
        [10, 11, 12, 13].map(|pid| lineage.view_of(pid)),
        [Ok(None), Ok(Some(1)), Ok(Some(2)), Ok(None)]
    );
    assert_eq!(views(&lineage), []);
    assert!(matches!(lineage.unbind(10), Err(BindError::NotBound(10))));
}

#[test]
fn the_dead_the_reused_and_the_foreign_are_refused() {
    let (world, lineage) = world();
    let start = world.start(10, 1);
    assert!(matches!(
        lineage.bind(9, 1, 1, OWN),
        Err(BindError::Gone(9))
    ));
    assert!(matches!(
        lineage.bind(10, start + 1, 1, OWN),
        Err(BindError::Reused(10))
    ));
    let foreign = lineage.bind(10, start, 1, OWN + 1).unwrap_err();
    assert!(
        matches!(foreign, BindError::Foreign { pid: 10, uid: OWN, own } if own == OWN + 1),
        "{foreign}"
    );
    lineage.bind(10, start, 1, 0).expect("root may");
    // A new process under an old number has nothing of the old one.
    world.end(10);
    world.start(10, 1);
    assert_eq!(lineage.view_of(10), Ok(None));
}

#[test]
fn events_know_what_parents_cannot_tell() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    // A double fork: the middle one is gone before anybody asks.
    world.start(12, 1);
    hears(&lineage, &[fork(10, 11), fork(11, 12)], false);
    assert_eq!(lineage.view_of(12), Ok(Some(3)));
    // A thread, then a process of somebody else under its number.
    let thread = Fork {
        parent: 1,
        thread: 20,
        process: 12,
    };
    hears(&lineage, &[thread], false);
    assert_eq!(lineage.view_of(20), Ok(Some(3)));
    world.start(20, 1);
    hears(&lineage, &[fork(1, 20)], false);
    assert_eq!(lineage.view_of(20), Ok(None));
    // The same for a process.
    world.end(12);
    world.start(12, 1);
    hears(&lineage, &[fork(1, 12)], false);
    assert_eq!(lineage.view_of(12), Ok(None));
    // No event of it: not bound, whoever its parent is said to be.
    world.start(30, 10);
    assert_eq!(lineage.view_of(30), Ok(None));
}

#[test]
fn lost_events_cost_what_cannot_be_shown_and_no_more() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    world.start(11, 10);
    hears(&lineage, &[fork(10, 11)], false);
    // Of these two nothing is heard; of the second one nothing is left to see.
    world.start(12, 11);
    world.start(13, 1);
    hears(&lineage, &[], true);
    assert_eq!(
        [10, 11, 12, 13].map(|pid| lineage.view_of(pid)),
        [Ok(Some(3)), Ok(Some(3)), Ok(Some(3)), Ok(None)]
    );
    // From here on the events count again.
    world.start(14, 1);
    hears(&lineage, &[fork(12, 14)], false);
    world.start(15, 12);
    assert_eq!(lineage.view_of(14), Ok(Some(3)));
    assert_eq!(lineage.view_of(15), Ok(None));
}

#[test]
fn who_has_ended_is_dropped_once_its_children_are_known() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    hears(&lineage, &[fork(10, 11)], false);
    // 11 had ended before it could be looked at.
    world.start(12, 1);
    hears(&lineage, &[fork(11, 12)], false);
    lineage.maintain();
    assert_eq!(lineage.view_of(12), Ok(Some(3)));
    world.end(10);
    lineage.maintain();
    assert_eq!(lineage.bound(), []);
    assert_eq!(lock(&lineage.table).bound.len(), 1, "12 alone is left");
}

#[test]
fn who_cannot_be_read_has_not_ended() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    world.start(11, 10);
    for pid in [10, 11] {
        world.hide(pid, Errno::EMFILE);
    }
    hears(&lineage, &[fork(10, 11)], false);
    lineage.maintain();
    assert_eq!(lineage.bound().len(), 1);
    hears(&lineage, &[], true);
    world.show();
    assert_eq!(lineage.view_of(10), Ok(Some(3)));
    world.hide(10, Errno::ENFILE);
    lineage.unbind(10).expect("it is bound");
}

#[test]
fn who_cannot_be_read_when_forked_stays_bound_until_events_are_lost() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    world.start(11, 10);
    world.hide(11, Errno::ENOMEM);
    hears(&lineage, &[fork(10, 11)], false);
    world.show();
    world.end(10);
    lineage.maintain();
    assert_eq!(lineage.view_of(11), Ok(Some(3)));
    hears(&lineage, &[], true);
    assert_eq!(lineage.view_of(11), Ok(None), "it may be another by now");
}

#[test]
fn a_parent_that_cannot_be_read_is_not_taken_for_unbound() {
    let (world, lineage) = world();
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    world.start(11, 10);
    world.start(12, 11);
    world.hide(11, Errno::EMFILE);
    assert_eq!(lineage.view_of(12), Err(Unidentified(12)));
    world.show();
    // One that nobody shows, as others' under hidepid=1, is none to wait for.
    world.start(20, 1);
    world.start(21, 20);
    world.hide(20, Errno::EPERM);
    assert_eq!(lineage.view_of(21), Ok(None));
    assert_eq!(lineage.view_of(12), Ok(Some(3)));
}

#[test]
fn pid_1_passes_nothing_on_where_forks_are_not_heard() {
    let (world, lineage) = world();
    let start = lock(&world.0).all[&1].start_ticks;
    assert!(matches!(
        lineage.bind(1, start, 3, OWN),
        Err(BindError::Adopter)
    ));
    assert!(matches!(
        lineage.check(1, start, OWN),
        Err(BindError::Adopter)
    ));
    // With events it may be bound, and then they may be lost.
    hears(&lineage, &[], false);
    lineage.bind(1, start, 3, OWN).unwrap();
    world.start(10, 1);
    hears(&lineage, &[fork(1, 10)], false);
    world.start(20, 1);
    hears(&lineage, &[], true);
    assert_eq!(
        [1, 10, 20].map(|pid| lineage.view_of(pid)),
        [Ok(Some(3)), Ok(Some(3)), Ok(None)]
    );
}

#[test]
fn forks_heard_along_with_a_loss_are_looked_up() {
    let (world, lineage) = world();
    hears(&lineage, &[], false);
    let start = world.start(10, 1);
    lineage.bind(10, start, 3, OWN).unwrap();
    // 10 ends, its number is another's, and of that nothing is heard but the child.
    world.end(10);
    world.start(10, 1);
    world.start(11, 10);
    hears(&lineage, &[fork(10, 11)], true);
    assert_eq!([10, 11].map(|p| lineage.view_of(p)), [Ok(None), Ok(None)]);
    // A child of one that is bound is found all the same.
    let start = world.start(20, 1);
    lineage.bind(20, start, 4, OWN).unwrap();
    world.start(21, 20);
    hears(&lineage, &[fork(20, 21)], true);
    assert_eq!(lineage.view_of(21), Ok(Some(4)));
}

#[test]
fn a_child_of_the_tick_of_the_binding_does_not_inherit() {
    let (world, lineage) = world();
    let start = world.start(10, 1);
    world.start(11, 10);
    lineage.bind(10, start, 3, OWN).unwrap();
    assert_eq!(lineage.view_of(11), Ok(None));
    // The binding is done when that tick is over: the next child does.
    world.start_at_once(12, 10);
    assert_eq!(lineage.view_of(12), Ok(Some(3)));
}

/// A shell that starts `script` once told to.
fn shell(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("read go; {script}")]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("spawn sh")
}

#[test]
fn real_children_and_daemons_are_known_by_the_kernels_events() {
    use std::io::{BufRead, BufReader, Write};
    let Ok(events) = Connector::open() else {
        // Not in the initial namespaces, or before Linux 6.6 as an ordinary user: the walk is all.
        assert!(!Lineage::new(None).hears_forks());
        return;
    };
    let lineage = Lineage::new(Some(events));
    assert!(lineage.hears_forks());
    // The daemon's parents are gone when it is asked about.
    let mut child = shell("(setsid sh -c 'echo $$; exec sleep 600' &) ; echo done");
    let pid = child.id();
    let start = proc::start_ticks(pid).expect("start");
    let own = nix::unistd::getuid().as_raw();
    lineage.bind(pid, start, 5, own).expect("bind");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(b"go\n")
        .expect("write");
    let out = BufReader::new(child.stdout.take().expect("stdout"));
    let daemon = out
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.parse::<u32>().ok())
        .expect("the daemon's pid");
    child.wait().expect("wait");
    assert_eq!(lineage.view_of(daemon), Ok(Some(5)));
    assert_eq!(lineage.view_of(std::process::id()), Ok(None));
    let daemon = nix::unistd::Pid::from_raw(daemon.cast_signed());
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGKILL).expect("kill");
}
