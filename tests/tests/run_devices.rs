//! A branch over file systems whose device numbers move, as they do over a reboot. Root only: loop
//! devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_tests::need::{find_program, need, need_run};
use agentfs_tests::{Manifest, Sandbox, base, cmd, wait};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` in a mount namespace of its own. No run of another test has copies of its mounts,
/// which would keep the loop devices in use; and the mounts end with it, however it ends.
fn in_own_mounts(work: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        work();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn tool(name: &str) -> Command {
    Command::new(find_program(name).expect("a program that is there"))
}

/// An attached loop device; detached when dropped.
#[derive(Debug)]
struct Loop(PathBuf);

impl Loop {
    /// Attaches `image` to `device`, or to a free one if it is in use or none is wished for.
    fn attach(image: &Path, device: Option<&Path>) -> Self {
        if let Some(device) = device {
            let done = cmd::run(tool("losetup").arg(device).arg(image));
            if done.status.success() {
                return Loop(device.to_owned());
            }
        }
        let done = cmd::run(tool("losetup").args(["--find", "--show"]).arg(image));
        Loop(PathBuf::from(done.ok().out().trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is still mounted, after a failure, is detached when its mount goes.
        let done = cmd::run(tool("losetup").arg("--detach").arg(&self.0));
        if std::thread::panicking() {
            return;
        }
        done.ok();
        let name = self.0.file_name().expect("a name");
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        wait::until("the loop device is detached", || !backing.exists());
    }
}

/// A small ext4 file system in a file, mounted at `at`.
#[derive(Debug)]
struct Disk {
    image: PathBuf,
    at: PathBuf,
    device: Option<Loop>,
}

impl Disk {
    fn new(sandbox: &Sandbox, name: &str) -> Self {
        let image = sandbox.root().join(format!("{name}.img"));
        let file = fs::File::create(&image).expect("the image");
        file.set_len(16 << 20).expect("its size");
        cmd::run(tool("mkfs.ext4").args(["-q", "-F"]).arg(&image)).ok();
        let at = sandbox.root().join(name);
        fs::create_dir(&at).expect("mkdir");
        Disk {
            image,
            at,
            device: None,
        }
    }

    fn mount(&mut self, device: Option<&Path>) {
        let device = Loop::attach(&self.image, device);
        let flags = MsFlags::empty();
        mount(Some(&device.0), &self.at, Some("ext4"), flags, None::<&str>).expect("mount");
        self.device = Some(device);
    }

    /// Gives the device it was on.
    fn umount(&mut self) -> PathBuf {
        umount(&self.at).expect("umount");
        self.device.take().expect("mounted").0.clone()
    }

    fn number(&self) -> u64 {
        fs::metadata(&self.at).expect("stat").dev()
    }
}

#[test]
fn a_branch_knows_its_files_again_when_device_numbers_have_moved() {
    if !(need("root") && need_run() && need("loop") && need("program:mkfs.ext4")) {
        return;
    }
    let sandbox = Sandbox::new();
    in_own_mounts(|| over_moved_devices(&sandbox));
}

fn over_moved_devices(sandbox: &Sandbox) {
    // Two of them with the same tree, so that inode numbers of the host occur on both.
    let mut disks = ["d", "e"].map(|name| Disk::new(sandbox, name));
    for disk in &mut disks {
        disk.mount(None);
        base::small(&disk.at);
    }
    let before = disks.each_ref().map(|disk| Manifest::of(&disk.at));
    let [d, e] = disks.each_ref().map(|disk| disk.at.display().to_string());
    let run = |script: &str| {
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b"]);
        command.args(["--cow", &d, "--cow", &e, "--", "bash", "-ec"]);
        let script = script.replace("$D", &d).replace("$E", &e);
        cmd::run(command.arg(script)).ok().out()
    };
    // Changed, renamed and linked files of the base, by names that are links too.
    run(
        "echo changed > $D/file; mv $D/dir $D/moved; ln $D/big $D/big2; ln $D/file $D/file2; \
         echo more >> $D/moved/sub/two; rm $D/exec; mv $D/empty $D/renamed; echo new > $D/new; \
         chmod 600 $D/sparse; echo theirs > $E/file; mv $E/big $E/big2; ln $E/two $E/two2",
    );
    let look = "cd $D/..; find d e -printf '%p %y %i %n %m %s\\n' | sort; ls -iR d e; \
                find d e -type f | sort | xargs -d '\\n' sha256sum";
    let diff = |flags: &[&str]| {
        let args = [&["diff", "b", "--all"], flags].concat();
        sandbox.call(&args).ok().out()
    };
    let seen = (run(look), diff(&[]), diff(&["--json"]));
    for word in ["moved/sub/two", "d/renamed", "e/big2", "d/new"] {
        assert!(seen.0.contains(word), "{word} in\n{}", seen.0);
        assert!(seen.1.contains(word), "{word} in\n{}", seen.1);
    }

    // Each on the device that the other one was on.
    let numbers = disks.each_ref().map(Disk::number);
    let [on_d, on_e] = disks.each_mut().map(Disk::umount);
    disks[1].mount(Some(&on_d));
    disks[0].mount(Some(&on_e));
    let moved = disks.each_ref().map(Disk::number);
    assert_ne!(numbers[0], moved[0], "the device number of d has not moved");
    assert_ne!(numbers[1], moved[1], "the device number of e has not moved");

    assert_eq!(diff(&[]), seen.1);
    assert_eq!(diff(&["--json"]), seen.2);
    assert_eq!(run(look), seen.0);
    // Links are links still, of files that were taken over and of others.
    run(
        "test $D/file -ef $D/moved/link; test $D/file -ef $D/file2; test $D/big -ef $D/big2; \
         test $D/two -ef $D/moved/sub/two; test $E/two -ef $E/two2; \
         echo again >> $D/big2; tail -n 1 $D/big | grep -q again; \
         echo again >> $E/dir/sub/two; grep -q again $E/two2; cmp $D/two $D/moved/sub/two",
    );
    for manifest in &before {
        manifest.assert_still();
    }
    for disk in &mut disks {
        disk.umount();
    }
}
