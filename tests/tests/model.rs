//! FsCore, unmounted, against the reference model: random operations, the whole tree compared.
//!
//! The model is itself compared with a directory of Linux, so that a failure here means FsCore.
//! `AGENTFS_MODEL_CASES` sets how many lists of operations each test tries.

use agentfs_tests::model::Model;
use agentfs_tests::ops::ops;
use agentfs_tests::realfs::RealTree;
use agentfs_tests::{base, need};
use proptest::prelude::*;

fn config(share: u32) -> ProptestConfig {
    let cases = std::env::var("AGENTFS_MODEL_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(160_u32).div_ceil(share),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A directory of the host's file system (not of /tmp, which may be a tmpfs) for one case.
fn scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("AGENTFS_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::Builder::new()
        .prefix("agentfs-model-")
        .tempdir_in(parent)
        .expect("a directory")
}

#[test]
fn the_model_agrees_with_linux() {
    // The model speaks of a caller who may do everything.
    if !need("root") {
        return;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    proptest!(config(1), |(ops in ops(60, false))| {
        let dir = scratch();
        base::small(dir.path());
        let (mut model, mut real) = (Model::of(dir.path()), RealTree::new(dir.path()));
        for op in &ops {
            let Some(step) = op.resolve(&model.listing()) else { continue };
            let (expected, got) = (model.apply(&step), real.apply(&step));
            prop_assert_eq!(expected, got, "{:?}", step);
        }
        let (is, wanted) = (Model::of(dir.path()), model);
        prop_assert_eq!(is.difference(&wanted), None);
    });
}
