//! Where the programs under test are.
//!
//! `AGENTFS_BIN_DIR` names a directory that holds all of them (the ordinary user's pass works on
//! a copy); else they are taken from the target directory this test binary was built into.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("AGENTFS_BIN_DIR") {
            return PathBuf::from(dir);
        }
        let exe = std::env::current_exe().expect("the path of the test binary");
        // target/<profile>/deps/<test> -> target/<profile>; a helper binary sits there already.
        let dir = exe.parent().expect("a directory above the test binary");
        match dir.ends_with("deps") {
            true => dir.parent().expect("a target directory").to_path_buf(),
            false => dir.to_path_buf(),
        }
    })
}

fn program(name: &str) -> PathBuf {
    let path = dir().join(name);
    assert!(
        path.is_file(),
        "{} is not built: run `cargo build --workspace` first, or scripts/test.sh",
        path.display()
    );
    path
}

/// The directory with all programs, for `--ro`.
pub fn bin_dir() -> &'static Path {
    dir()
}

/// The launcher.
pub fn agentfs() -> PathBuf {
    program("agentfs")
}

/// What controls a mount.
pub fn control_cli() -> PathBuf {
    program("agentfs-control-cli")
}

/// The daemon.
pub fn daemon() -> PathBuf {
    program("agentfs-fsd")
}

/// The program that suites run inside a branch; see `src/bin/helper.rs`.
pub fn helper() -> PathBuf {
    program("agentfs-test-helper")
}

/// What measures; see `src/bin/bench`.
pub fn bench() -> PathBuf {
    program("agentfs-test-bench")
}

/// The Rust toolchain's own directory (not rustup's proxies), for builds inside a branch.
pub fn sysroot() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        if let Some(dir) = std::env::var_os("AGENTFS_TEST_SYSROOT") {
            return PathBuf::from(dir);
        }
        let out = std::process::Command::new("rustc")
            .args(["--print", "sysroot"])
            .output()
            .expect("rustc --print sysroot");
        assert!(
            out.status.success(),
            "rustc --print sysroot: {}",
            out.status
        );
        PathBuf::from(
            String::from_utf8(out.stdout)
                .expect("a UTF-8 sysroot")
                .trim(),
        )
    })
    .clone()
}
