//! SIGKILL at random moments of real loads on real mounts: of the daemon, of the monitor, of the whole
//! run, and of commands on branches. Whatever was acknowledged is there afterwards, of what was under
//! way all or nothing, and every snapshot holds what it held.
//!
//! AGENTFS_CRASH_KILLS: how many; AGENTFS_CRASH_LANES: how many stores at once; AGENTFS_CRASH_LOGS:
//! where the figures and the store of a round that failed go. `just crash` sets them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_tests::chance::Chance;
use agentfs_tests::crash::{Epoch, Tally};
use agentfs_tests::need::{is_root, need, need_run};
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Sandbox};

/// Rounds that one store goes through.
const ROUNDS: u64 = 10;

fn knob(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

#[test]
fn all_that_was_acknowledged_outlives_any_kill() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let logs = std::env::var_os("AGENTFS_CRASH_LOGS").map(PathBuf::from);
    let wanted = knob("AGENTFS_CRASH_KILLS", if is_root() { 50 } else { 25 });
    // A long run has time for a journal that grows until it becomes a table.
    let longest = if logs.is_some() { 6_000 } else { 2_000 };
    let first_seed = Chance::seed_told();
    let (kills, epochs) = (AtomicU64::new(0), AtomicU64::new(0));
    let has_failed = AtomicBool::new(false);
    let total = Mutex::new(Tally::default());
    let lane = || {
        while kills.load(Ordering::SeqCst) < wanted && !has_failed.load(Ordering::SeqCst) {
            let seed = match epochs.fetch_add(1, Ordering::SeqCst) {
                0 => first_seed,
                n => Chance::from(first_seed.wrapping_add(n)).below(u64::MAX),
            };
            let failed = OnPanic(&has_failed);
            let mut epoch = Epoch::new(seed, ROUNDS, longest, logs.clone());
            for _ in 0..ROUNDS {
                let before = epoch.tally.all_kills();
                epoch.round();
                let new = epoch.tally.all_kills() - before;
                if kills.fetch_add(new, Ordering::SeqCst) + new >= wanted {
                    break;
                }
            }
            let tally = epoch.end();
            drop(failed);
            let mut total = total.lock().expect("no lane has failed");
            total.add(&tally);
            if logs.is_some() {
                eprintln!("{} of {wanted} kills", total.all_kills());
            }
        }
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..knob("AGENTFS_CRASH_LANES", 2))
            .map(|_| scope.spawn(lane))
            .collect();
        for lane in lanes {
            if let Err(panic) = lane.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let total = total.into_inner().expect("no lane has failed");
    println!("{}", serde_json::to_string(&total).expect("JSON"));
    if let Some(logs) = logs {
        let json = serde_json::to_vec_pretty(&total).expect("JSON");
        std::fs::write(logs.join("figures.json"), json).expect("the figures");
    }
    assert!(total.all_kills() >= wanted && total.operations > wanted);
}

/// Tells the other lanes.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// A run that makes, changes, moves and removes files until `out/stop` exists.
fn busy(sandbox: &Sandbox) -> agentfs_tests::cmd::Running {
    let script = "i=0; mkdir d; while [ ! -e ../out/stop ]; do i=$((i+1)); \
        echo $i > f$((i % 40)); echo $i >> d/log; mv f$((i % 40)) d/m$((i % 30)); rm -f d/m$((i % 7)); \
        echo $i > ../out/step; done";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "bash", "-c", script]);
    agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()))
}

fn on_store(sandbox: &Sandbox, store: &std::path::Path, args: &[&str]) -> Done {
    let mut command = sandbox.agentfs(&["--store"]);
    agentfs_tests::cmd::run(command.arg(store).args(args))
}

/// `cp` takes the files one after the other: what it makes of a live store is the state of some moment,
/// or says what in it is of another one, and can be mended.
#[test]
fn a_copy_of_a_live_store_opens_or_says_what_is_damaged() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let run = busy(&sandbox);
    let step = || {
        let text = std::fs::read_to_string(sandbox.out().join("step")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    for round in 1..=5 {
        until("it goes on", || step() > round * 40);
        let copy = sandbox.root().join(format!("copy{round}"));
        // Files may go while it is at them.
        let mut cp = sandbox.host("cp");
        agentfs_tests::cmd::run(cp.arg("-a").arg(sandbox.store()).arg(&copy));
        let look = [
            "run",
            "-q",
            "--branch",
            "b",
            "--",
            "sh",
            "-c",
            "cat d/log; ls -lR",
        ];
        let checked = on_store(&sandbox, &copy, &["fsck"]);
        match checked.code() {
            0 => {
                let out = on_store(&sandbox, &copy, &look).ok().out();
                let numbers = out.lines().map_while(|line| line.parse::<u64>().ok());
                let seen: Vec<u64> = numbers.collect();
                assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");
            }
            1 => assert!(checked.out().contains(" b"), "{}", checked.report()),
            _ => panic!("{}", checked.report()),
        }
        // What cannot be saved is told by 1.
        let mended = on_store(&sandbox, &copy, &["fsck", "--repair"]);
        assert!(mended.code() <= 1, "{}", mended.report());
        on_store(&sandbox, &copy, &["fsck"]).ok();
        on_store(
            &sandbox,
            &copy,
            &["run", "-q", "--branch", "b", "--", "ls", "-lR"],
        )
        .ok();
    }
    std::fs::write(sandbox.out().join("stop"), "").expect("stop");
    run.wait().ok();
    sandbox.call(&["fsck"]).ok();
    before.assert_still();
}

/// Programs on a store that fills up get errors, and go on where they were once there is room.
#[test]
fn programs_meet_a_full_store_and_go_on() {
    if !need_run() || !need("program:git") || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let small = sandbox.root().join("small");
    std::fs::create_dir(&small).expect("mkdir");
    let insert = "python3 -c 'import sqlite3, sys
db = sqlite3.connect(\"db\", isolation_level=None)
db.execute(\"create table if not exists t (v)\")
db.execute(\"insert into t values (zeroblob(300000))\")'";
    let work = format!(
        "git init -q r; cd r; echo a > a; git add a; git commit -qm one; {insert}
         head -c 50000000 /dev/zero > huge 2>/dev/null && exit 90
         head -c 300000 /dev/urandom > more && exit 91
         git add more 2>/dev/null && exit 92
         {insert} 2>/dev/null && exit 93
         exit 7"
    );
    let on = format!(
        "cd r; rm -f huge more .git/index.lock
         head -c 300000 /dev/urandom > more || exit 94
         git add more && git commit -qm two && {insert} || exit 95"
    );
    let look: &str = "cd r; git fsck --strict 2>&1; git log --format=%s; git status --short; python3 -c 'import sqlite3
db = sqlite3.connect(\"db\")
print(db.execute(\"pragma integrity_check\").fetchone()[0], db.execute(\"select count(*) from t\").fetchone()[0])'";
    let agentfs = agentfs_tests::bins::agentfs().display().to_string();
    let script = format!(
        "mount -t tmpfs -o size=6m,mode=777 none ../small
         head -c 200000 /dev/zero > ../small/ballast
         call() {{ '{agentfs}' --store ../small/store \"$@\"; }}
         call run -q --branch b -- bash -c \"$1\" || echo ended $?
         rm ../small/ballast
         call run -q --branch b -- bash -c \"$2\" || echo ended $?
         call run -q --branch b -- bash -c \"$3\"
         call fsck"
    );
    let mut command = sandbox.host("unshare");
    command.args(["--map-root-user", "--mount", "bash", "-euc", &script, "-"]);
    let done = agentfs_tests::cmd::run(command.args([&work[..], &on[..], look])).ok();
    let out = done.out();
    let wanted = "ended 7\ntwo\none\n?? db\nok 2\n";
    assert!(out.starts_with(wanted), "{}", done.report());
    before.assert_still();
}
