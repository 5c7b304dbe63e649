//! Claims of fsd/SEMANTICS.md: branches at a path of the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use agentfs_tests::cmd::{self, Done};
use agentfs_tests::mounted::{self, BRANCH, Mounted, need_any_mount, need_mount};
use agentfs_tests::need::is_root;

/// A mount over one file and one program.
fn mounted() -> Mounted {
    Mounted::new(|dir| {
        fs::write(dir.join("file"), b"of the base\n").expect("write");
        fs::copy("/usr/bin/true", dir.join("program")).expect("copy");
    })
}

/// Runs a shell script in `dir`, as an ordinary user if that is a number.
fn shell(dir: &Path, user: Option<u32>, script: &str) -> Done {
    let mut command = match user {
        None => Command::new("bash"),
        Some(id) => {
            let mut command = Command::new("setpriv");
            let ids = [format!("--reuid={id}"), format!("--regid={id}")];
            command.args(ids).args(["--clear-groups", "bash"]);
            command
        }
    };
    let script = format!("exec 2>&1; cd / && {script}");
    cmd::run(command.args(["-c", &script]).arg(dir))
}

#[test]
fn s45_devices_work_where_the_mount_says_so() {
    if !need_any_mount() {
        return;
    }
    let mut m = mounted();
    let make = shell(&m.mnt(), None, "mknod $0/null c 1 3");
    if !is_root() {
        assert!(make.out().contains("not permitted"), "{}", make.report());
        return;
    }
    make.ok();
    let use_it = "echo x > $0/null && test -c $0/null";
    shell(&m.mnt(), None, use_it).ok();
    m.umount();
    m.mount("allow_other");
    let out = shell(&m.mnt(), None, use_it);
    assert!(
        out.stdout.ends_with(b"Permission denied\n"),
        "{}",
        out.report()
    );
    let table = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let mnt = m.mnt().display().to_string();
    let line = table.lines().find(|line| line.contains(&mnt));
    assert!(
        line.is_some_and(|line| line.contains("nosuid,nodev")),
        "{line:?}"
    );
}

#[test]
fn s46_a_mount_is_its_users_until_others_are_allowed() {
    if !need_mount() {
        return;
    }
    let mut m = mounted();
    let look = "cat $0/file; stat -c %a $0";
    let other = Some(61_001);
    assert_eq!(
        shell(&m.mnt(), other, look).ok().out(),
        "of the base\n755\n"
    );
    fs::set_permissions(m.mnt().join("file"), Permissions::from_mode(0o600)).expect("chmod");
    let out = shell(&m.mnt(), other, look).ok().out();
    assert!(
        out.contains("Permission denied") && out.ends_with("755\n"),
        "{out}"
    );
    m.umount();
    m.mount("rw");
    shell(&m.mnt(), None, look).ok();
    let out = shell(&m.mnt(), other, look);
    assert_eq!(
        out.stdout.split(|b| *b == b'\n').count(),
        3,
        "{}",
        out.report()
    );
    assert!(!out.stdout.ends_with(b"755\n"), "{}", out.report());
}

#[test]
fn s47_mount_options_say_what_may_be_done() {
    if !need_any_mount() {
        return;
    }
    let mut m = mounted();
    shell(&m.mnt(), None, "chmod 755 $0/program && $0/program").ok();
    m.umount();
    m.mount("ro,noexec");
    let out = shell(
        &m.mnt(),
        None,
        "echo x > $0/file; $0/program; touch $0/file; cat $0/file",
    );
    let out = out.ok().out();
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
    assert!(
        out.contains("Permission denied") && out.ends_with("of the base\n"),
        "{out}"
    );
    if is_root() {
        let remount = |options| mounted::mount(&m.sandbox, BRANCH, &m.mnt(), &m.base(), options);
        remount("remount,rw").ok();
        shell(&m.mnt(), None, "echo x > $0/file").ok();
        remount("remount,ro").ok();
        shell(&m.mnt(), None, "echo x > $0/file").expect(1);
    }
}
