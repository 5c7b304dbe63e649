//! Who may do what on a shared mount is decided by us, for each branch by its own modes and lists; it
//! must be what the host's kernel decides on a plain directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use agentfs_tests::mounted::need_mount;
use agentfs_tests::{Several, Shell};

use crate::fill;

const ONE: u32 = 61_001;
const TWO: u32 = 61_002;
const GROUP: u32 = 61_010;

fn give(path: &Path, uid: u32, gid: u32, perm: u32) {
    chown(path, Some(uid), Some(gid)).expect("chown");
    fs::set_permissions(path, fs::Permissions::from_mode(perm)).expect("chmod");
}

/// Runs a line as an ordinary user, below a shell that is bound.
fn as_user(uid: u32, groups: &str, line: &str) -> String {
    let groups = match groups {
        "" => "--clear-groups".to_owned(),
        groups => format!("--groups={groups}"),
    };
    format!("setpriv --reuid={uid} --regid={uid} {groups} bash -c '{line}'")
}

/// The same tree for the branch and for the host's own file system.
fn tree(dir: &Path) {
    for perm in [
        0o700, 0o750, 0o705, 0o751, 0o070, 0o007, 0o1777, 0o777, 0o2775,
    ] {
        let at = dir.join(format!("d{perm:o}"));
        fs::create_dir(&at).expect("mkdir");
        fs::write(at.join("one"), "one").expect("write");
        fs::write(at.join("two"), "two").expect("write");
        fs::create_dir(at.join("sub")).expect("mkdir");
        give(&at.join("one"), ONE, ONE, 0o644);
        give(&at.join("two"), TWO, GROUP, 0o640);
        give(&at.join("sub"), TWO, TWO, 0o755);
        give(&at, ONE, GROUP, perm);
    }
    for perm in [
        0o000, 0o400, 0o200, 0o040, 0o020, 0o004, 0o002, 0o711, 0o755, 0o606, 0o060,
    ] {
        let at = dir.join(format!("f{perm:o}"));
        fs::write(&at, "#!/bin/sh\necho ran\n").expect("write");
        give(&at, ONE, GROUP, perm);
    }
    let lists = [
        ("acl1", "u::rw-,u:61002:r--,g::---,m::rwx,o::---"),
        ("acl2", "u::rw-,g::---,g:61010:rw-,m::r--,o::rw-"),
        ("acl3", "u::rw-,u:61002:---,g::rw-,m::rwx,o::rw-"),
    ];
    for (name, list) in lists {
        let at = dir.join(name);
        fs::write(&at, "x").expect("write");
        give(&at, ONE, GROUP, 0o600);
        let bytes = acl(list);
        let name = "system.posix_acl_access";
        rustix::fs::setxattr(&at, name, &bytes, rustix::fs::XattrFlags::empty()).expect("a list");
    }
}

/// The bytes of an access control list. Source: acl(5).
fn acl(list: &str) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for entry in list.split(',') {
        let mut words = entry.splitn(3, ':');
        let mut next = || words.next().unwrap_or_default();
        let (kind, id, perm) = (next(), next(), next());
        let tag: u16 = match (kind, id) {
            ("u", "") => 1,
            ("u", _) => 2,
            ("g", "") => 4,
            ("g", _) => 8,
            ("m", _) => 16,
            _ => 32,
        };
        let bits = perm.bytes().map(|b| match b {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            _ => 0,
        });
        bytes.extend(tag.to_le_bytes());
        bytes.extend(bits.sum::<u16>().to_le_bytes());
        bytes.extend(id.parse().unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes
}

/// What an ordinary user tries, each with its errno word as the shell prints it.
const TRIES: &str = r#"
    t() { local out; out=$("$@" 2>&1 >/dev/null); local code=$?; echo "$* => $code ${out##*: }"; }
    cd "$1"
    for d in d*; do
        t ls $d; t cat $d/one; t cat $d/two; t test -r $d/two; t test -w $d/two; t test -x $d
        t touch $d/new; t mkdir $d/dir; t ln -s x $d/link; t ln $d/one $d/hard
        t mv $d/two $d/three; t mv $d/three $d/two; t mv $d/sub $d/sub2; t mv $d/sub2 $d/sub
        t rm -f $d/new; t rmdir $d/dir; t rm -f $d/link $d/hard; t rm -f $d/two
        t bash -c "cd $d"
    done
    for f in f* acl*; do
        t cat $f; t bash -c "exec 3>>$f"; t bash -c ": >$f"; t ./$f
        t test -r $f; t test -w $f; t test -x $f
        t chmod 644 $f; t chmod 2755 $f; t chown 61002 $f; t chgrp 61010 $f; t chgrp 61002 $f
        t touch $f; t touch -d 2001-01-01 $f; t touch -a -d @5 $f; t truncate -s 3 $f
        t setfattr_ $f; t stat -c %a:%u:%g $f; stat -c %a:%u:%g $f
        t ln $f $f.hard; t mv $f $f.moved; t rm -f $f.hard
    done
"#;

#[test]
fn ordinary_users_get_the_answers_of_a_plain_directory() {
    if !need_mount() {
        return;
    }
    let several = Several::new(tree);
    let plain = several.sandbox.root().join("plain");
    fs::create_dir(&plain).expect("mkdir");
    let script = several.sandbox.out().join("tries.sh");
    // Extended attributes of users, without a package that may not be there.
    let tries = TRIES.replace("t setfattr_ $f;", "t python3 -c \"import os;os.setxattr('$f','user.x',b'1');os.getxattr('$f','user.x');os.removexattr('$f','user.x')\";");
    fs::write(&script, tries).expect("write");
    for dir in [
        several.sandbox.root().to_path_buf(),
        several.sandbox.out(),
        plain.clone(),
    ] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    for (n, (uid, groups)) in [
        (ONE, ""),
        (TWO, ""),
        (TWO, "61010"),
        (61_003, "61010"),
        (61_003, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let here = plain.join(n.to_string());
        fs::create_dir(&here).expect("mkdir");
        fs::set_permissions(&here, fs::Permissions::from_mode(0o777)).expect("chmod");
        tree(&here);
        let branch = format!("b{n}");
        several.branches(&[&branch]);
        let mut shell = several.bound(&branch);
        shell.ok("chmod 777 $M");
        let mut said = |dir: &Path| {
            let line = format!("bash {} {}", script.display(), dir.display());
            let text = shell.ok(&as_user(uid, groups, &line));
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (ours, theirs) = (said(&several.mnt()), said(&here));
        assert!(theirs.len() > 400, "{theirs:?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(
                ours, theirs,
                "uid {uid}, groups {groups}: the branch, then a plain directory"
            );
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[test]
fn each_branch_decides_by_its_own_modes() {
    if !need_mount() {
        return;
    }
    let several = Several::new(|dir| {
        fill(dir);
        give(&dir.join("dir"), ONE, ONE, 0o755);
        give(&dir.join("dir/sub"), ONE, ONE, 0o755);
    });
    several.branches(&["open", "shut"]);
    let (mut open, mut shut) = (several.bound("open"), several.bound("shut"));
    open.ok("chmod 777 $M/dir");
    shut.ok("chmod 700 $M/dir");
    let two = |line: &str| as_user(TWO, "", line);
    // By turns, so that the kernel has always just seen the other's.
    for _ in 0..20 {
        open.ok(&two(
            "ls $M/dir $M/dir/sub; cat $M/dir/sub/deep; touch $M/dir/new; rm $M/dir/new",
        ));
        for line in [
            "ls $M/dir",
            "cat $M/dir/sub/deep",
            "touch $M/dir/new",
            "cd $M/dir",
        ] {
            shut.fails(&two(line), "Permission denied");
        }
        assert_eq!(shut.ok("stat -c %a $M/dir"), "700");
        assert_eq!(open.ok("stat -c %a $M/dir"), "777");
    }
    // suid, too, is a file's on its branch.
    open.ok("cp $(command -v id) $M/id; chmod 4755 $M/id");
    shut.ok("cp $(command -v id) $M/id; chmod 755 $M/id");
    for _ in 0..5 {
        assert_eq!(open.ok(&two("$M/id -u")), "0");
        assert_eq!(shut.ok(&two("$M/id -u")), TWO.to_string());
    }
}

#[test]
fn a_shell_tells_the_status_of_each_line() {
    let mut shell = Shell::start(std::process::Command::new("bash"));
    assert_eq!(shell.ok("echo a; printf b"), "a\nb");
    assert_eq!(shell.does("(exit 7)").code, 7);
    shell.ok("cd /");
    assert_eq!(shell.ok("pwd"), "/");
}
