//! Claims of fsd/SEMANTICS.md: owners, rights and attributes.

use std::fs;

use agentfs_tests::mounted::{Mounted, need_mount};
use agentfs_tests::need::{group_file, is_root, need, need_run};
use agentfs_tests::regime::promises;
use agentfs_tests::{Manifest, Sandbox, cmd};

use crate::{PRELUDE, claim, python, sh};

#[test]
fn s20_owners_and_rights_are_checked() {
    claim(|sandbox| {
        if is_root() {
            let out = sh(
                sandbox,
                "stat -c %u:%g file; chmod 640 file; stat -c %a file",
            );
            assert_eq!(out, "0:0\n640\n");
            return;
        }
        python(
            sandbox,
            r#"
import os
def err(call):
    try:
        call(); return 0
    except OSError as e:
        return e.errno
assert err(lambda: os.chown("file", 0, -1)) in (1, 22) and err(lambda: os.chown("file", -1, 0)) in (1, 22)
os.chmod("file", 0); assert err(lambda: open("file")) == 13
os.chmod("dir", 0o600); assert err(lambda: os.stat("dir/one")) == 13 and err(lambda: os.mkdir("dir/x")) == 13
os.chmod("dir", 0o500); assert err(lambda: os.unlink("dir/one")) == 13 and open("dir/one").read() == "1"
os.chmod("file", 0o400); assert err(lambda: open("file", "a")) == 13 and open("file").read()
"#,
        );
    });
}

#[test]
fn s21_owners_of_system_files() {
    claim(|sandbox| {
        let look = "stat -c %u /etc /etc/passwd /usr/bin/env | sort -u";
        let expected = if is_root() { "0\n" } else { "65534\n" };
        assert_eq!(sh(sandbox, look), expected);
        let me = nix::unistd::geteuid();
        assert_eq!(
            sh(sandbox, "find /etc/ssh -printf '%U\\n' | sort -u"),
            format!("{me}\n")
        );
        sh(sandbox, "ssh -G localhost");
    });
}

#[test]
fn s22_privileges_of_files_give_nothing() {
    claim(|sandbox| {
        let out = sh(
            sandbox,
            "cp /usr/bin/id ./id; chmod 6755 id; stat -c %a id; ./id -u; \
            printf x >> id; stat -c %a id; chmod 4755 exec; : > exec; stat -c %a exec; \
            chmod 6755 exec; truncate -s 9 exec; stat -c %a exec",
        );
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("6755"));
        assert_eq!(
            lines.next(),
            Some(nix::unistd::geteuid().to_string().as_str())
        );
        let cleared: Vec<&str> = lines.collect();
        assert_eq!(cleared, ["755", "755", "755"], "{out}");
    });
    if !need_mount() {
        return;
    }
    // By others, and with a capability: on a mount of root's.
    let m = Mounted::new(|dir| fs::write(dir.join("base"), b"base").expect("write"));
    let is_refused = promises("S22: a chown of nothing by who may write is refused");
    let writable = if is_refused { "0o6777" } else { "0o6775" };
    let program = format!(
        r#"{PRELUDE}
caps = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
open("new", "w").close()
def as_other(call, *args):
    child = os.fork()
    if child == 0:
        os.setgroups([]); os.setgid(61001); os.setuid(61001); os._exit(err(call, *args))
    return os.WEXITSTATUS(os.waitpid(child, 0)[1])
def carried(name):
    return oct(os.stat(name).st_mode & 0o7777), "security.capability" in os.listxattr(name)
for name in ("base", "new"):
    for perm in (0o755, 0o4755, 0o2755, {writable}):
        os.chmod(name, perm); os.setxattr(name, "security.capability", caps)
        assert as_other(os.chown, name, -1, -1) == errno.EPERM, name
        assert as_other(os.truncate, name, 1) == (0 if perm & 2 else errno.EACCES)
        assert carried(name) == ((oct(perm), True) if not perm & 2 else ("0o777", False)), carried(name)
        os.chown(name, -1, -1)
        assert carried(name) == (oct(perm & 0o777), False), carried(name)
"#
    );
    let mut command = std::process::Command::new("/usr/bin/python3");
    cmd::run(command.args(["-c", &program]).current_dir(m.mnt())).ok();
}

#[test]
fn s23_device_nodes_are_refused() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os, stat
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    try:
        os.mknod("node", kind | 0o600, os.makedev(1, 3)); assert False
    except OSError as e:
        assert e.errno == 1, e
"#,
        );
    });
}

#[test]
fn s24_attributes_are_kept() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os
os.setxattr("file", "user.n", b"\0" * 1000); os.setxattr("dir", "user.d", b"d"); os.removexattr("dir", "user.b")
for flag, err in ((os.XATTR_CREATE, 17), (os.XATTR_REPLACE, 61)):
    try:
        os.setxattr("file", "user.n" if err == 17 else "user.none", b"", flag); assert False
    except OSError as e:
        assert e.errno == err
"#,
        );
        python(
            sandbox,
            r#"
import os
assert os.getxattr("dir/link", "user.n") == b"\0" * 1000 and os.getxattr("file", "user.a") == b"base value"
assert os.listxattr("dir") == ["user.d"]
"#,
        );
    });
}

#[test]
fn s41_lists_name_ids_of_the_runs_user_namespace() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    const LISTS: &str = r#"
def acl(*named):
    entries = [(1, 6, 0xffffffff), *named, (16, 6, 0xffffffff), (32, 0, 0xffffffff)]
    entries.insert(1 + sum(e[0] == 2 for e in named), (4, 4, 0xffffffff))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
me, others, group = (2, 4, os.getuid()), (2, 6, 12345), (8, 6, 12345)
access, default = "system.posix_acl_access", "system.posix_acl_default"
"#;
    sandbox.host_sh(&format!(
        "/usr/bin/python3 - <<'E'\n{PRELUDE}{LISTS}\n\
        open('file', 'w').close(); os.setxattr('file', access, acl(me, others, group))\n\
        os.mkdir('dir'); os.setxattr('dir', default, acl(others))\nE"
    ));
    let program = format!(
        r#"{LISTS}
root = os.getuid() == 0
assert os.getxattr("file", access) == (acl(me, others, group) if root else acl(me))
assert os.getxattr("dir", default) == (acl(others) if root else acl())
open("file", "a").write("x"); os.chmod("file", 0o640); os.chmod("file", 0o660)
assert os.getxattr("file", access) == (acl(me, others, group) if root else acl(me))
open("dir/made", "w").close(); assert os.stat("dir/made").st_mode & 0o777 == 0o660
assert err(os.setxattr, "dir", access, acl(me)) == 0 and os.getxattr("dir", access) == acl(me)
assert err(os.setxattr, "file", access, acl(others)) == (0 if root else errno.EINVAL)
"#
    );
    python(&sandbox, &program);
}

#[test]
fn s42_what_is_others_stays_as_it_is() {
    if is_root() || !need("group-file") || !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    // A directory of the user's own, with a file of root's that everybody may write.
    let dir = group_file().expect("it is there").with_file_name("own");
    let before = Manifest::of(&dir);
    let script = "exec 2>&1; cat file; for c in 'eval echo x >> file' 'chmod 666 file' 'mv file f' 'rm -f file' \
        'ln file f' 'mkdir open/d'; do $c; done; echo mine > own; mv own o; cat o; chgrp \"$(id -g)\" o";
    let mut run = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash", "-c", script]);
    let out = cmd::run(run.current_dir(&dir)).ok().out();
    assert!(
        out.starts_with("root's\n") && out.ends_with("mine\n"),
        "{out}"
    );
    for (words, times) in [
        ("Permission denied", 2),
        ("Operation not permitted", 0),
        ("Value too large", 4),
    ] {
        assert_eq!(out.matches(words).count(), times, "{words}: {out}");
    }
    before.assert_still();
}

#[test]
fn s43_root_in_a_run_has_no_capability() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("mine", "w").close(); os.chmod("mine", 0); os.mkdir("closed", 0)
assert err(open, "mine") == errno.EACCES == err(os.listdir, "closed") == err(open, "closed/x", "w")
assert err(os.chown, "mine", 12345, -1) in (errno.EPERM, errno.EINVAL)
os.chmod("mine", 0o644)
caps = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
for name, value in (("trusted.x", b"1"), ("security.x", b"1"), ("security.capability", caps)):
    assert err(os.setxattr, "mine", name, value) == errno.EPERM, name
assert err(os.chroot, ".") == errno.EPERM
assert libc.mount(b"none", b"closed", b"tmpfs", 0, None) == -1 and ctypes.get_errno() in (errno.EPERM, errno.EACCES)
"#,
        );
    });
    if !is_root() || !need_run() {
        return;
    }
    let sandbox = &Sandbox::new();
    sandbox.host_sh("echo > others; chown 12345 others");
    let out = sh(sandbox, "chmod 600 others 2>&1 || stat -c %u others");
    assert!(
        out.contains("not permitted") && out.ends_with("12345\n"),
        "{out}"
    );
}

#[test]
fn s44_attributes_have_the_kernels_limits() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("new", "w").close()
for name in ["new", "file", "dir"]:
    for i in range(3):
        os.setxattr(name, "user.large%d" % i, b"v" * 65536)
    assert os.getxattr(name, "user.large2") == b"v" * 65536
    assert err(os.setxattr, name, "user.l", b"v" * 65537) == errno.E2BIG
    assert err(os.setxattr, name, "user." + "n" * 250, b"") == 0 and err(os.setxattr, name, "user." + "n" * 251, b"") == errno.ERANGE
    made = 0
    while (refused := err(os.setxattr, name, "user.%0250d" % made, b"")) == 0:
        made += 1
    assert refused == errno.ENOSPC and 200 < made < 256, (refused, made)
    assert len(os.listxattr(name)) >= made + 4
    assert err(os.setxattr, name, "nonsense.x", b"") == errno.EOPNOTSUPP
os.symlink("new", "soft"); os.mkfifo("fifo")
assert err(lambda: os.setxattr("soft", "user.x", b"", follow_symlinks=False)) == errno.EPERM == err(os.setxattr, "fifo", "user.x", b"")
"#,
        );
    });
}
