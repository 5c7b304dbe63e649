//! FsCore, unmounted, against the reference model: random operations, the whole tree compared.
//!
//! The model is itself compared with a directory of Linux, so that a failure here means FsCore.
//! Over 100,000 operations in all, each run with seeds of its own. `AGENTFS_MODEL_CASES` sets how much
//! is tried; the default is 160.

use std::sync::atomic::{AtomicU64, Ordering};

use agentfs_tests::driver::{CoreDriver, Serving, TOP};
use agentfs_tests::manifest::Scope;
use agentfs_tests::model::Model;
use agentfs_tests::ops::{Op, Step, ops};
use agentfs_tests::realfs::RealTree;
use agentfs_tests::{Manifest, base, need};
use proptest::prelude::*;

/// Lists of up to 500 operations, for 100,000 in all.
const LONG_CASES: u32 = 480;

/// How many lists of operations are tried, by default and in proportion to the variable.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: (cases * effort()).div_ceil(160),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn effort() -> u32 {
    let set = std::env::var("AGENTFS_MODEL_CASES").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(160)
}

/// A directory of the host's file system (not of /tmp, which may be a tmpfs) for one case.
fn scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("AGENTFS_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::Builder::new()
        .prefix("agentfs-model-")
        .tempdir_in(parent)
        .expect("a directory")
}

/// Does `call` for `step` without CAP_FSETID where the step changes bytes.
fn as_in_a_run<T>(step: &Step, call: impl FnOnce() -> T) -> T {
    let changes_bytes = matches!(
        step,
        Step::Write { .. }
            | Step::Truncate { .. }
            | Step::Ftruncate { .. }
            | Step::Open { .. }
            | Step::Allocate { .. }
    );
    if !changes_bytes {
        return call();
    }
    let all = rustix::thread::capabilities(None).expect("capget");
    let mut less = all;
    less.effective.remove(rustix::thread::CapabilitySet::FSETID);
    rustix::thread::set_capabilities(None, less).expect("capset");
    let result = call();
    rustix::thread::set_capabilities(None, all).expect("capset");
    result
}

#[test]
fn the_model_agrees_with_linux() {
    // The model speaks of a caller who may do everything.
    if !need("root") {
        return;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    proptest!(config(160), |(ops in ops(60, false))| {
        let dir = scratch();
        base::small(dir.path());
        let (mut model, mut real) = (Model::of(dir.path()), RealTree::new(dir.path()));
        for op in &ops {
            let Some(step) = op.resolve(&model.listing()) else { continue };
            let (expected, got) = (model.apply(&step), as_in_a_run(&step, || real.apply(&step)));
            prop_assert_eq!(expected, got, "{:?}", step);
        }
        let (is, wanted) = (Model::of(dir.path()), model);
        prop_assert_eq!(is.difference(&wanted), None);
    });
}

/// Does `ops` to a fresh branch and to the model, compares after every `stride` steps, then over a
/// clean end and a new start; the base must not have changed. Gives the steps done.
fn check(ops: &[Op], serving: Serving, stride: usize) -> Result<u64, TestCaseError> {
    let dir = scratch();
    let base = dir.path().join("base");
    std::fs::create_dir_all(base.join(TOP)).expect("mkdir");
    base::small(&base.join(TOP));
    let before = Manifest::of(&base);
    let mut model = Model::of(&base.join(TOP));
    let mut core = CoreDriver::new(&dir.path().join("store"), &base, serving);
    prop_assert_eq!(core.compare(&model, true), None, "before the first step");
    let mut steps = 0;
    for (count, op) in ops.iter().enumerate() {
        let Some(step) = op.resolve(&model.listing()) else {
            continue;
        };
        let (expected, got) = (model.apply(&step), core.apply(&step));
        prop_assert_eq!(expected, got, "step {}: {:?}", count, step);
        steps += 1;
        // Contents are compared after what may move them, and now and then.
        let restarted = matches!(
            step,
            Step::Remount | Step::Crash | Step::DropCaches | Step::Restore { .. }
        );
        if !restarted && count % stride != stride - 1 {
            continue;
        }
        let contents = restarted || count % 5 == 4;
        prop_assert_eq!(
            core.compare(&model, contents),
            None,
            "after step {}: {:?}",
            count,
            step
        );
        if contents && (stride == 1 || count % stride == stride - 1) {
            prop_assert_eq!(
                core.store_problems(),
                [],
                "after step {}: {:?}",
                count,
                step
            );
        }
    }
    for step in [Step::Remount, Step::Crash] {
        core.apply(&step).expect("a restart");
        model.apply(&step).expect("a restart");
        prop_assert_eq!(core.compare(&model, true), None, "after a last {:?}", step);
    }
    core.close();
    for (n, frozen) in model.snapshots().iter().enumerate() {
        let mut of = core.branch_of(n);
        prop_assert_eq!(of.compare(frozen, true), None, "snapshot {}", n);
        of.close();
    }
    prop_assert_eq!(core.store_problems(), [], "at the end");
    let changed = before.differences(&Manifest::of(&base), Scope::Same);
    prop_assert!(changed.is_empty(), "the base was changed: {:#?}", changed);
    Ok(steps)
}

#[test]
fn a_branch_agrees_with_the_model() {
    proptest!(config(160), |(ops in ops(60, true))| { check(&ops, Serving::Opened, 1)?; });
}

#[test]
fn a_branch_with_passthrough_agrees_with_the_model() {
    proptest!(config(80), |(ops in ops(60, true))| { check(&ops, Serving::Natively, 1)?; });
}

#[test]
fn a_branch_whose_files_are_not_opened_agrees_with_the_model() {
    proptest!(config(80), |(ops in ops(60, true))| { check(&ops, Serving::Unopened, 1)?; });
}

/// Half of the long histories: two tests, so that two processors share them.
fn long_histories() {
    let steps = AtomicU64::new(0);
    proptest!(config(LONG_CASES / 2), |(ops in ops(500, true))| {
        steps.fetch_add(check(&ops, Serving::Opened, 20)?, Ordering::Relaxed);
    });
    let steps = steps.load(Ordering::Relaxed);
    println!("{steps} operations");
    // With few lists the number of operations is left to chance.
    assert!(effort() < 160 || steps >= 50_000, "only {steps} operations");
}

#[test]
fn long_histories_agree_with_the_model() {
    long_histories();
}

#[test]
fn more_long_histories_agree_with_the_model() {
    long_histories();
}

#[test]
fn a_branch_is_sound_after_every_frame() {
    proptest!(config(8), |(ops in ops(60, true))| {
        let dir = scratch();
        let base = dir.path().join("base");
        std::fs::create_dir_all(base.join(TOP)).expect("mkdir");
        base::small(&base.join(TOP));
        let mut model = Model::of(&base.join(TOP));
        let mut core = CoreDriver::new(&dir.path().join("store"), &base, Serving::Opened);
        for op in &ops {
            let Some(step) = op.resolve(&model.listing()) else { continue };
            // A clean end could take the frames into a table.
            let rotates = matches!(step, Step::Snapshot | Step::Restore { .. });
            if !rotates && !matches!(step, Step::Remount) {
                prop_assert_eq!(model.apply(&step), core.apply(&step), "{:?}", step);
            }
        }
        let problems = core.journal_problems(&dir.path().join("copy"));
        prop_assert!(problems.is_empty(), "{:#?}", problems);
        core.close();
    });
}
