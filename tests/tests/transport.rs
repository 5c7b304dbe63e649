//! By which way requests come to the daemon, and that a mount ends well by either: killed and unmounted
//! under load, many at once, with more to wait for than there is room.
//!
//! Run as it is, and again with `AGENTFS_FUSE_TRANSPORT=io-uring` where that can be had.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_tests::cmd::Running;
use agentfs_tests::mounted::{self, BRANCH, Mounted, likest, need_any_mount};
use agentfs_tests::need::is_root;
use agentfs_tests::{Done, Sandbox, bins, cmd, leak, wait};
use nix::sys::signal::Signal;

const KNOB: &str = "AGENTFS_FUSE_TRANSPORT";
const SPIN: &str = "AGENTFS_FUSE_SPIN_US";
const AWAKE: &str = "AGENTFS_FUSE_AWAKE";
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// What a daemon may hold that has nothing to do.
const IDLE_BYTES: u64 = 10 << 20;

fn fill(dir: &Path) {
    fs::write(dir.join("file"), b"of the base\n").expect("write");
}

/// Whether root has switched FUSE over io_uring on.
fn is_switched_on() -> bool {
    fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "Y")
}

fn mount_by(way: &str, m: &Mounted) -> Done {
    let mut command = m.sandbox.agentfs(&["mount", BRANCH]);
    command.arg(m.mnt()).arg("--base").arg(m.base());
    cmd::run(command.env(KNOB, way).args(["-o", likest()]))
}

fn serving(m: &Mounted) -> String {
    let mut command = m.sandbox.host(bins::control_cli());
    command
        .arg("--mount")
        .arg(m.mnt())
        .args(["status", "--json"]);
    let status: serde_json::Value =
        serde_json::from_str(&cmd::run(&mut command).ok().out()).expect("JSON");
    status["transport"].as_str().expect("a name").to_owned()
}

/// Threads of the daemon, by their names.
fn threads(daemon: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).expect("its threads");
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .collect()
}

/// A process in the mount that changes and reads it until something fails.
fn load(m: &Mounted, name: &str) -> Running {
    let script = format!(
        "while echo one >{name} && cat {name} file && mkdir {name}.d && ls -l . && \
         mv {name} {name}.d/x && ln -s x {name}.d/l && rm -r {name}.d; do :; done >/dev/null 2>&1"
    );
    let mut command = Command::new("sh");
    cmd::start(command.args(["-c", &script]).current_dir(m.mnt()))
}

fn loads(m: &Mounted) -> Vec<Running> {
    let loads = ["a", "b", "c", "d"].map(|name| load(m, name));
    wait::until("they work", || m.mnt().join("a.d").exists());
    loads.into()
}

fn anonymous_bytes(daemon: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("its status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("RssAnon").trim().parse::<u64>().expect("KiB") << 10
}

#[test]
fn requests_come_by_the_way_that_was_asked_for() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    if let Ok(asked) = std::env::var(KNOB) {
        assert_eq!(serving(&m), asked, "what all of these tests run by");
    }
    let best = match is_switched_on() {
        true => "io-uring",
        false => "device",
    };
    for (asked, way) in [
        ("device", "device"),
        ("auto", best),
        ("", best),
        (best, best),
    ] {
        m.umount();
        mount_by(asked, &m).ok();
        assert_eq!(serving(&m), way, "{asked:?}");
        let daemon = m.sandbox.daemons()[0];
        let ring = threads(daemon)
            .iter()
            .any(|name| name.starts_with("fuse-ring"));
        assert_eq!(ring, way == "io-uring", "{:?}", threads(daemon));
        assert_eq!(
            fs::read(m.mnt().join("file")).expect("read"),
            b"of the base\n"
        );
    }
    m.umount();
    if !is_switched_on() {
        let words = [
            KNOB,
            "switched off",
            "echo Y >",
            SWITCH,
            "AGENTFS_FUSE_TRANSPORT=auto",
        ];
        mount_by("io-uring", &m).expect(125).says(&words);
        assert!(m.sandbox.daemons().is_empty());
    }
    let words = [KNOB, "'fast'", "auto, device and io-uring", "unset"];
    mount_by("fast", &m).expect(125).says(&words);
    m.mount(likest());
}

#[test]
fn how_long_to_look_for_requests_is_a_number() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for spin in ["0", "1", "999999999"] {
        m.umount();
        m.mount_with(SPIN, spin);
        for _ in 0..100 {
            fs::write(m.mnt().join("own"), spin).expect("write");
            assert_eq!(
                fs::read(m.mnt().join("own")).expect("read"),
                spin.as_bytes()
            );
        }
    }
    m.umount();
    let mut command = m.sandbox.agentfs(&["mount", BRANCH]);
    command.arg(m.mnt()).arg("--base").arg(m.base());
    let done = cmd::run(command.env(SPIN, "long").args(["-o", likest()]));
    done.expect(125)
        .says(&[SPIN, "'long'", "0 to 1000", "unset"]);
    m.mount(likest());
}

#[test]
fn a_daemon_killed_under_load_is_an_error_for_all() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let loads = loads(&m);
    let pid = nix::unistd::Pid::from_raw(m.sandbox.daemons()[0]);
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("kill");
    for load in loads {
        load.wait();
    }
    wait::until("the daemon is gone", || m.sandbox.daemons().is_empty());
    mounted::umount(&m.sandbox, &m.mnt());
    m.mount(likest());
    fs::write(m.mnt().join("after"), b"served").expect("write");
}

#[test]
fn a_mount_taken_away_under_load_is_served_to_the_last() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let loads = loads(&m);
    cmd::run(
        Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(m.mnt()),
    )
    .ok();
    assert!(leak::mounts_below(m.sandbox.root()).is_empty());
    // Nobody can tell these from outside any more; they go on where they are.
    for load in loads {
        load.signal(Signal::SIGKILL);
        load.wait();
    }
    wait::until("the daemon ends with the last of them", || {
        m.sandbox.daemons().is_empty()
    });
    m.mount(likest());
}

#[test]
fn a_connection_that_is_cut_under_load_is_an_error_for_all() {
    if !need_any_mount() || !is_root() {
        return;
    }
    let mut m = Mounted::new(fill);
    let loads = loads(&m);
    // The mount is in use, so it stays; who waits for an answer does not.
    let cut = nix::mount::umount2(&m.mnt(), nix::mount::MntFlags::MNT_FORCE);
    assert_eq!(cut, Err(nix::errno::Errno::EBUSY));
    for load in loads {
        load.wait();
    }
    wait::until("the daemon is gone", || m.sandbox.daemons().is_empty());
    mounted::umount(&m.sandbox, &m.mnt());
    m.mount(likest());
}

#[test]
fn more_syncs_than_there_is_room_for_are_answered() {
    if !need_any_mount() {
        return;
    }
    let m = Mounted::new(fill);
    std::thread::scope(|scope| {
        for n in 0..80 {
            let path = m.mnt().join(format!("f{n}"));
            scope.spawn(move || {
                let mut file = File::create(path).expect("create");
                for _ in 0..3 {
                    file.write_all(&[7; 5000]).expect("write");
                    file.sync_all().expect("sync");
                }
            });
        }
    });
    for n in 0..80 {
        let size = fs::metadata(m.mnt().join(format!("f{n}")))
            .expect("stat")
            .len();
        assert_eq!(size, 15000);
    }
}

#[test]
fn memory_that_large_requests_took_is_given_back() {
    if !need_any_mount() {
        return;
    }
    let bytes: Vec<u8> = (0..48u32 << 20).map(|n| (n >> 7) as u8).collect();
    let m = Mounted::new(|dir| fs::write(dir.join("large"), &bytes).expect("write"));
    // Past the page cache, so that each read is a request as long as it may be; of the base, as
    // whoever is root reads and writes other files past the daemon. Many at once.
    std::thread::scope(|scope| {
        for thread in 0..24 {
            let (path, bytes) = (m.mnt().join("large"), &bytes);
            scope.spawn(move || {
                let file = File::options()
                    .read(true)
                    .custom_flags(nix::libc::O_DIRECT)
                    .open(path)
                    .expect("open");
                let mut read = vec![0; 2 << 20];
                let room = read.as_ptr().align_offset(4096);
                for mib in (0..48).map(|n| (n + 2 * thread) % 48) {
                    let (part, at) = (&mut read[room..room + (1 << 20)], mib << 20);
                    file.read_exact_at(part, at as u64).expect("read");
                    assert!(*part == bytes[at..at + (1 << 20)], "MiB {mib}");
                }
            });
        }
    });
    let daemon = m.sandbox.daemons()[0];
    wait::until("it is small again", || anonymous_bytes(daemon) < IDLE_BYTES);
}

#[test]
fn fifty_mounts_at_once() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let base = sandbox.root().join("base");
    fs::create_dir(&base).expect("mkdir");
    fill(&base);
    let at = |i: usize| sandbox.root().join(format!("m{i}"));
    std::thread::scope(|scope| {
        for first in 0..10 {
            let (sandbox, base) = (&sandbox, &base);
            scope.spawn(move || {
                for i in (first..50).step_by(10) {
                    fs::create_dir(at(i)).expect("mkdir");
                    mounted::mount(sandbox, &format!("b{i}"), &at(i), base, likest()).ok();
                    fs::write(at(i).join("own"), format!("{i}")).expect("write");
                }
            });
        }
    });
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 50);
    for (i, daemon) in daemons.into_iter().enumerate() {
        assert_eq!(
            fs::read(at(i).join("own")).expect("read"),
            format!("{i}").as_bytes()
        );
        let bytes = anonymous_bytes(daemon);
        assert!(bytes < IDLE_BYTES, "{bytes} bytes in an idle daemon");
    }
    std::thread::scope(|scope| {
        for first in 0..10 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                (first..50)
                    .step_by(10)
                    .for_each(|i| mounted::umount(sandbox, &at(i)));
            });
        }
    });
    sandbox.assert_quiet();
}

/// Processor time of the daemon so far, in clock ticks.
fn ticks(daemon: i32) -> u64 {
    let process = procfs::process::Process::new(daemon).expect("the daemon");
    let stat = process.stat().expect("its stat");
    stat.utime + stat.stime
}

#[test]
fn a_daemon_that_nobody_asks_rests() {
    if !need_any_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let daemon = m.sandbox.daemons()[0];
    // It looks for requests awake while they come in a row.
    for n in 0..5000 {
        assert!(!m.mnt().join(format!("none-{n}")).exists());
    }
    // Whoever looked on would take one each ten milliseconds.
    let (mut used, mut since) = (ticks(daemon), Instant::now());
    wait::until("it sleeps", || {
        let now = ticks(daemon);
        if now != used {
            (used, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
}

/// Where a wish for CPUs that do not sleep is written, and what holds by all wishes is read.
const LATENCY: &str = "/dev/cpu_dma_latency";

fn has_open(daemon: i32, path: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{daemon}/fd")).expect("its files");
    open.flatten()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(path)))
}

#[test]
fn idle_cpus_are_to_stay_awake_while_requests_come_in_a_row() {
    if !need_any_mount() {
        return;
    }
    let latency_us = || {
        let mut bytes = [0; 4];
        let device = File::open(LATENCY).expect("the device");
        device.read_exact_at(&mut bytes, 0).expect("four bytes");
        i32::from_ne_bytes(bytes)
    };
    let mut m = Mounted::new(fill);
    m.umount();
    // Who may not ask for it is served all the same.
    m.mount_with(AWAKE, "always");
    assert!(m.mnt().join("file").exists());
    if is_root() {
        assert!(has_open(m.sandbox.daemons()[0], LATENCY));
        let load = load(&m, "a");
        wait::until("CPUs stay awake", || latency_us() == 0);
        load.signal(Signal::SIGKILL);
        load.wait();
        wait::until("they may sleep", || latency_us() > 0);
        m.umount();
        m.mount_with(AWAKE, "never");
        assert!(!has_open(m.sandbox.daemons()[0], LATENCY));
    }
    m.umount();
    let mut command = m.sandbox.agentfs(&["mount", BRANCH]);
    command.arg(m.mnt()).arg("--base").arg(m.base());
    let done = cmd::run(command.env(AWAKE, "yes").args(["-o", likest()]));
    done.expect(125)
        .says(&[AWAKE, "'yes'", "auto, always and never", "unset"]);
    m.mount(likest());
}

/// Whether the readers look for requests awake or sleep at once.
#[test]
fn who_waits_for_a_disk_that_hangs_holds_up_nobody_else() {
    if !need_any_mount() {
        return;
    }
    for spin in ["0", "50", "1000"] {
        holds_up_nobody_else(spin);
    }
}

fn holds_up_nobody_else(spin: &str) {
    // A base that can be made to hang: another mount, whose daemon is stopped.
    let below = Mounted::new(fill);
    let above = Sandbox::new();
    let at = above.root().join("mnt");
    fs::create_dir(&at).expect("mkdir");
    let mut command = above.agentfs(&["mount", BRANCH]);
    command.arg(&at).arg("--base").arg(below.mnt());
    command.env(KNOB, "device").env(SPIN, spin);
    cmd::run(command.args(["-o", likest()])).ok();
    let own = at.join("own");
    fs::create_dir(&own).expect("mkdir");

    let daemon = nix::unistd::Pid::from_raw(below.sandbox.daemons()[0]);
    nix::sys::signal::kill(daemon, Signal::SIGSTOP).expect("stop");
    let (done, others) = std::sync::mpsc::channel();
    let (is_there, there) = std::sync::mpsc::channel();
    let hangs = std::thread::scope(|scope| {
        let hangs = scope.spawn(|| {
            // So many in a row that one thread of the daemon has them all.
            for n in 0..500 {
                assert!(!own.join(format!("none-{n}")).exists());
            }
            is_there.send(()).expect("somebody waits");
            at.join("in-the-base").exists()
        });
        let others_own = own.clone();
        // Not joined where it hangs: then the test fails, and the base goes on below.
        scope.spawn(move || {
            there.recv().expect("it is there");
            for n in 0..300 {
                let path = others_own.join(format!("f{n}"));
                fs::write(&path, b"served").expect("write");
                assert_eq!(fs::read(&path).expect("read"), b"served");
            }
            // Nobody listens any more if it took too long.
            let _ = done.send(());
        });
        let served = others.recv_timeout(Duration::from_secs(60));
        let hung = !hangs.is_finished();
        nix::sys::signal::kill(daemon, Signal::SIGCONT).expect("go on");
        assert!(
            served.is_ok(),
            "{spin}: others wait for who waits for the base"
        );
        assert!(hung, "{spin}: it did not have to wait");
        hangs.join().expect("it goes on")
    });
    assert!(!hangs);
    mounted::umount(&above, &at);
    above.assert_quiet();
}
