//! A store on a file system without a free byte or inode: what gives room back works, and needs no more
//! than a rename first.

use std::fs;

use agentfs_tests::need::{need, need_run};
use agentfs_tests::{Sandbox, bins};

/// What is done, once `$M` is mounted. Each step finds the file system full, of inodes and of bytes.
const SCRIPT: &str = r#"
S=$M/store
a() { "$AGENTFS" --store "$S" "$@"; }
fill() {
    mkdir "$M/fill"; n=0
    while : 2>/dev/null > "$M/fill/$n"; do n=$((n+1)); done
    for size in 65536 512 1; do
        dd if=/dev/zero bs=$size of="$M/fill/0" oflag=append conv=notrunc status=none 2>/dev/null || :
    done
    ! : 2>/dev/null > "$M/more" || { echo "there are inodes left"; exit 9; }
    ! printf x 2>/dev/null >> "$M/fill/1" || { echo "there are bytes left"; exit 9; }
}
noise='head -c 300000 /dev/urandom'
a run -q -b b -- sh -c "$noise > one; $noise > two"
a snapshot create b >/dev/null
a run -q -b b -- sh -c "$noise > one; rm two"
a snapshot create b >/dev/null
a run -q -b b -- sh -c "$noise > one; sha256sum one > sums"
a run -q -b c --from b@1 -- sh -c 'sha256sum one two > sums'
left='b c'
for step in 'snapshot rm b@2' gc 'rm c' 'snapshot rm b@1' gc 'rm b'; do
    fill
    a $step || { echo "failed: $step"; df -i "$M"; df "$M"; ls -lR "$S"; exit 8; }
    rm -r "$M/fill"
    case $step in rm*) left=${left/${step#rm }/} ;; esac
    a fsck > "$M/report" || { cat "$M/report"; exit 7; }
    for b in $left; do a exec -q $b -- sha256sum --quiet -c sums; done
    rm "$M/report"
done
echo "left: $(ls "$S/branches" "$S/layers" "$S/trash" | grep -v :)"
"#;

fn on_a_full(mount: &str, unshare: &[&str]) {
    let (sandbox, before) = Sandbox::small();
    let at = sandbox.root().join("small");
    fs::create_dir(&at).expect("mkdir");
    let mut command = sandbox.host("unshare");
    command.args(unshare).args(["--mount", "bash", "-c"]);
    command.arg(format!("set -eu\n{mount}\n{SCRIPT}"));
    command.env("M", &at).env("AGENTFS", bins::agentfs());
    let done = agentfs_tests::cmd::run(&mut command).ok();
    assert_eq!(
        done.out().lines().last(),
        Some("left: "),
        "{}",
        done.report()
    );
    for said in ["snapshot b@2", "branch c", "snapshot b@1", "branch b"] {
        let said = format!("removed {said}");
        assert!(done.stderr.contains(&said), "{said}: {}", done.report());
    }
    before.assert_still();
}

#[test]
fn what_gives_room_back_works_on_a_full_tmpfs() {
    if need_run() {
        on_a_full(
            r#"mount -t tmpfs -o size=6m,nr_inodes=400,mode=777 none "$M""#,
            &["--map-root-user"],
        );
    }
}

#[test]
fn what_gives_room_back_works_on_a_full_ext4() {
    if need_run() && need("root") && need("loop") {
        let make = r#"truncate -s 24M "$M.img"; mkfs.ext4 -q -m 0 -N 400 "$M.img"
            mount -o loop "$M.img" "$M"; rmdir "$M/lost+found""#;
        on_a_full(make, &[]);
    }
}
