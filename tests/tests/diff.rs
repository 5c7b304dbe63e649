//! The same operations on a real mount and on a plain directory: every answer (errno!) and every
//! tree must be equal. The helper does both inside one run; see `src/bin/helper.rs`.
//!
//! `AGENTFS_DIFF_CASES` sets how many lists of operations are tried.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_tests::need::need_run;
use agentfs_tests::ops::{Op, ops};
use agentfs_tests::{Done, Sandbox, base, bins};
use proptest::prelude::*;

/// Does `ops` on a fresh branch and on a fresh plain directory.
fn compare(sandbox: &Sandbox, ops: &[Op]) -> Done {
    static CASE: AtomicU32 = AtomicU32::new(0);
    let case = CASE.fetch_add(1, Ordering::Relaxed);
    let plain = sandbox.out().join(format!("plain{case}"));
    fs::create_dir(&plain).expect("mkdir");
    base::small(&plain);
    let list = sandbox.out().join(format!("ops{case}"));
    fs::write(&list, serde_json::to_vec(ops).expect("JSON")).expect("write");
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", &format!("case{case}"), "--rw"]);
    command
        .arg(sandbox.out())
        .arg("--ro")
        .arg(bins::bin_dir())
        .arg("--")
        .arg(bins::helper());
    command.arg("diff").arg(&list).arg(".").arg(&plain);
    let done = agentfs_tests::cmd::run(&mut command);
    agentfs_tests::sandbox::remove_tree(&plain).expect("remove the plain directory");
    done
}

#[test]
fn random_operations_answer_as_on_a_plain_directory() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let cases = std::env::var("AGENTFS_DIFF_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    let config = ProptestConfig {
        cases: cases.unwrap_or(40),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in ops(80, false))| {
        let done = compare(&sandbox, &ops);
        prop_assert_eq!(done.code(), 0, "{}", done.report());
    });
    before.assert_still();
}

/// Runs one list of operations that once went wrong, or that must never.
fn regression(ops: &[Op]) {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    compare(&sandbox, ops).ok();
    before.assert_still();
}

#[test]
fn every_operation_once() {
    let mut list = Vec::new();
    for n in 0..14_u8 {
        let p = u16::from(n) * 5 + 1;
        list.extend([
            Op::Create {
                dir: p,
                name: n,
                perm: n,
                slot: n,
            },
            Op::Write {
                slot: n,
                at: n,
                len: n,
                fill: n,
            },
            Op::Mkdir {
                dir: p + 1,
                name: n.wrapping_add(3),
                perm: n,
            },
            Op::Symlink {
                dir: p,
                name: n.wrapping_add(5),
                target: n,
            },
            Op::Link {
                from: p,
                dir: p + 2,
                name: n.wrapping_add(7),
            },
            Op::Rename {
                from: p,
                dir: p + 3,
                name: n.wrapping_add(1),
                how: n,
            },
            Op::RenameOnto {
                from: p + 1,
                to: p + 4,
                how: n,
            },
            Op::Open {
                file: p,
                how: n,
                slot: n.wrapping_add(1),
            },
            Op::Read {
                slot: n.wrapping_add(1),
                at: n,
                len: 3,
            },
            Op::Allocate {
                slot: n,
                how: n,
                at: n,
                len: n,
            },
            Op::Ftruncate { slot: n, size: n },
            Op::Truncate {
                file: p + 3,
                size: n.wrapping_add(2),
            },
            Op::Chmod {
                path: p,
                perm: n & 1,
            },
            Op::SetXattr {
                path: p,
                name: n,
                value: n,
                how: n,
            },
            Op::RemoveXattr {
                path: p + 1,
                name: n,
            },
            Op::Utimens { path: p, time: n },
            Op::Sync { slot: n },
            Op::List { dir: p },
            Op::Fifo {
                dir: p,
                name: n.wrapping_add(9),
                perm: 0,
            },
            Op::Unlink { path: p + 7 },
            Op::Rmdir { path: p + 9 },
            Op::Chown { path: p, owner: n },
            Op::Close { slot: n },
        ]);
    }
    regression(&list);
}
