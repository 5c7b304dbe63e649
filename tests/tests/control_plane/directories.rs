//! Directories are one node for all branches: whoever works in one goes on, whatever others do to theirs.

use std::fs;

use agentfs_tests::mounted::need_any_mount;
use agentfs_tests::{Several, need};

use crate::fill;

#[test]
fn a_working_directory_survives_what_others_do() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    several.branches(&["stays", "acts"]);
    let here = several.mnt().join("dir/sub").display().to_string();
    let mut stays = several.bound("stays");
    let mut acts = several.bound("acts");
    stays.ok("cd $M/dir/sub; exec 7<.");
    for (n, change) in [
        "mkdir $M/dir/sub/new; ls $M/dir/sub",
        "mv $M/dir $M/away; ls -R $M",
        "mkdir -p $M/dir/sub; echo theirs > $M/dir/sub/deep; ls -R $M",
        "rm -r $M/dir; ls $M",
        "mkdir $M/dir; echo file > $M/dir/sub; cat $M/dir/sub",
        "rm $M/dir/sub; mv $M/away/sub $M/dir/sub; ls -R $M",
        "mkdir $M/e; mv -T $M/e $M/away; mv $M/dir $M/away/dir; ls -R $M",
        "mv $M/away/dir $M/dir; rmdir $M/away; ls -R $M",
        "rm -r $M/dir; ln -s / $M/dir; ls $M/dir/ >/dev/null",
    ]
    .into_iter()
    .enumerate()
    {
        acts.ok(change);
        // By the directory it is in, by the path, by a descriptor of it.
        stays.ok(&format!(
            "echo {n} > mark{n}; mkdir m{n}; rmdir m{n}; [ $(cat deep) = deep ]"
        ));
        stays.ok(&format!(
            "[ $(cat {here}/mark{n}) = {n} ] && ls /proc/$$/fd/7 | grep -q mark{n}"
        ));
        assert_eq!(stays.ok("/bin/pwd"), here, "after {change}");
        acts.ok(&format!("! [ -e {here}/mark{n} ]"));
    }
    // The other way round: moving and removing what oneself is in.
    acts.ok("rm $M/dir; mkdir -p $M/dir/sub; echo a > $M/dir/sub/a; cd $M/dir/sub");
    acts.ok(
        "mv ../../dir ../../gone; [ $(cat a) = a ]; echo b > b; cd $M/gone/sub; [ $(cat b) = b ]",
    );
    acts.ok("rm -r $M/gone");
    acts.fails("echo c > c", "No such file");
    acts.fails("cat a", "");
    acts.ok("cd /");
    assert_eq!(stays.ok("cat mark0; /bin/pwd"), format!("0\n{here}"));
    stays.ok("exec 7<&-; cd /");
}

#[test]
fn directories_are_replaced_and_exchanged_by_rename_on_one_branch_only() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(|dir| {
        for name in ["a", "b", "empty"] {
            fs::create_dir(dir.join(name)).expect("mkdir");
        }
        fs::write(dir.join("a/x"), "a").expect("write");
        fs::write(dir.join("b/x"), "b").expect("write");
    });
    several.branches(&["stays", "acts"]);
    let (mut stays, mut acts) = (several.bound("stays"), several.bound("acts"));
    let mut in_empty = several.bound("stays");
    stays.ok("cd $M/a; ls ../b ../empty");
    in_empty.ok("cd $M/empty");
    acts.ok("cd $M; mv -T a empty; [ $(cat empty/x) = a ]; ! [ -e a ]");
    acts.fails("mv -T empty b", "not empty");
    stays
        .ok("[ $(cat x) = a ]; echo more > more; [ $(cat ../b/x) = b ]; [ -z \"$(ls ../empty)\" ]");
    in_empty.ok("echo y > y; ls | grep -q y; cd $M/empty; [ $(cat y) = y ]");
    if need("program:python3") {
        let exchange = "import ctypes,sys;l=ctypes.CDLL(None,use_errno=True);\
                        r=l.renameat2(-100,sys.argv[1].encode(),-100,sys.argv[2].encode(),2);sys.exit(r and 1)";
        acts.ok(&format!(
            "python3 -c '{exchange}' empty b; [ $(cat empty/x) = b ]; [ $(cat b/x) = a ]"
        ));
        stays.ok("[ $(cat ../b/x) = b ]; [ $(cat ../empty/y) = y ]; ls more");
        in_empty.ok("cat y");
        acts.ok(&format!(
            "python3 -c '{exchange}' empty b; [ $(cat empty/x) = a ]; [ $(cat b/x) = b ]"
        ));
    }
    for shell in [&mut stays, &mut in_empty, &mut acts] {
        shell.ok("cd /");
    }
}

#[test]
fn pages_of_one_file_do_not_mix() {
    if !need_any_mount() || !need("program:python3") {
        return;
    }
    let several = Several::new(|dir| {
        fs::write(dir.join("big"), vec![b'0'; 1 << 20]).expect("write");
    });
    several.branches(&["left", "right"]);
    // Maps the file, shared, and answers for a byte of it whenever asked; or stores one.
    let server = several.sandbox.out().join("map.py");
    let text = "import mmap,sys\n\
        f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0)\n\
        for line in sys.stdin:\n\
        \x20w=line.split()\n\
        \x20if len(w)>1: m[int(w[0])]=ord(w[1]); m.flush()\n\
        \x20print(chr(m[int(w[0])]),flush=True)\n";
    fs::write(&server, text).expect("write");
    let map = format!(
        "coproc python3 {} $M/big; at() {{ echo \"$@\" >&${{COPROC[1]}}; read -r r <&${{COPROC[0]}}; echo \"$r\"; }}",
        server.display()
    );
    let (mut left, mut right) = (several.bound("left"), several.bound("right"));
    let byte = |at: u32| format!("dd if=$M/big bs=1 skip={at} count=1 status=none");
    for shell in [&mut left, &mut right] {
        shell.ok("cat $M/big | md5sum");
        shell.ok(&map);
        assert_eq!(shell.ok("at 5000"), "0");
    }
    left.ok("at 5000 L");
    assert_eq!([left.ok("at 5000"), right.ok("at 5000")], ["L", "0"]);
    right.ok("at 5001 R");
    for at in [5000, 5001] {
        let said = [left.ok(&byte(at)), right.ok(&byte(at))];
        let expected = if at == 5000 { ["L", "0"] } else { ["0", "R"] };
        assert_eq!(said, expected, "{at}");
    }
    // By write(2), beside the mappings.
    left.ok("printf W | dd of=$M/big bs=1 seek=9000 conv=notrunc status=none");
    assert_eq!([left.ok("at 9000"), right.ok("at 9000")], ["W", "0"]);
    right.ok("truncate -s 6000 $M/big; truncate -s 20000 $M/big");
    assert_eq!(left.ok("stat -c %s $M/big"), (1 << 20).to_string());
    assert_eq!(left.ok("at 9000; at 5000"), "W\nL");
    let base = fs::read(several.base().join("big")).expect("read");
    assert!(base.iter().all(|b| *b == b'0'));
    for shell in [&mut left, &mut right] {
        shell.ok("eval \"exec ${COPROC[1]}>&-\"; wait");
    }
}
