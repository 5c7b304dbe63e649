//! Root's runs where the kernel refuses passthrough: file bytes then go through the daemon and the
//! page cache, with the same results. Root only: nobody else is ever given passthrough.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentfs_tests::need::{need, need_run};
use agentfs_tests::regime::VARIABLE;
use agentfs_tests::{Done, Manifest, Sandbox, base, bins, cmd};

/// What the daemon logs when the kernel refuses it a backing file.
const REFUSED: &str = "no passthrough for this file";

/// Reads, writes and maps files of the base and new ones, by several handles at once, and prints
/// what each of them shows.
const WORK: &str = r"
import mmap, os
def show(*what): print(*what, flush=True)
def tell(fd, at): show(os.pread(fd, 16, at), os.fstat(fd).st_size)

# A reader from before the first write, a writer, and a mapping of each kind.
early = os.open('big', os.O_RDONLY)
tell(early, 990)
writer = os.open('big', os.O_RDWR)
private = mmap.mmap(writer, 0, flags=mmap.MAP_PRIVATE)
shared = mmap.mmap(writer, 0)
os.pwrite(writer, b'written', 1000)
tell(early, 998)
show(shared[998:1010], private[998:1010])
shared[2000:2006] = b'mapped'
tell(early, 1998)
tell(writer, 1998)
late = os.open('big', os.O_RDONLY)
os.pwrite(writer, b'over the end', 69995)
tell(late, 69990)
tell(early, 69990)
shared.flush()
os.fsync(writer)
os.ftruncate(writer, 3000)
tell(late, 2990)
os.ftruncate(writer, 80000)
tell(late, 2990)
shared.close(); private.close()
for fd in (early, writer, late): os.close(fd)
show(len(open('big', 'rb').read()))

# Appended, replaced, removed while open.
with open('file', 'ab') as f: f.write(b'appended')
show(open('dir/link', 'rb').read())
gone = os.open('dir/one', os.O_RDWR)
os.rename('two', 'dir/one')
os.pwrite(gone, b'nobody sees it', 0)
tell(gone, 0)
show(open('dir/one', 'rb').read())
os.unlink('dir/sub/two')
with open('empty', 'wb', opener=lambda p, f: os.open(p, f | os.O_TRUNC)) as f: f.write(b'full')
show(open('empty', 'rb').read())

# New, sparse, mapped at once.
new = os.open('new', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
os.ftruncate(new, 1 << 20)
page = mmap.mmap(new, 0)
page[500000:500004] = b'page'
tell(new, 499996)
os.pwrite(new, b'after', 500004)
show(page[499998:500012])
page.close(); os.close(new)
show(os.stat('new').st_size, os.system('./exec'))
";

const LOOK: &str = "find . -printf '%P %y %s %m %n\n' | sort; \
                    find . -type f | sort | xargs -d '\n' sha256sum";

#[test]
fn files_are_served_cached_where_passthrough_is_refused() {
    if !(need("root") && need_run() && need("program:setpriv") && need("program:python3")) {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let plain = sandbox.root().join("plain");
    fs::create_dir(&plain).expect("mkdir");
    base::small(&plain);
    let on_plain = |program: &str, flag: &str, text: &str| {
        cmd::run(sandbox.host(program).args([flag, text]).current_dir(&plain)).ok()
    };
    let work = on_plain("python3", "-c", WORK);
    let look = on_plain("bash", "-ec", LOOK);

    // Registering a backing file takes CAP_SYS_ADMIN, as which the ioctl is refused on any kernel.
    let daemon = sandbox.root().join("daemon");
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin '{}' \"$@\"\n",
        bins::daemon().display()
    );
    fs::write(&daemon, text).expect("the daemon");
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).expect("chmod");
    let run = |daemon: &Path, words: [&str; 3]| -> Done {
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--"]);
        command.args(words).env("AGENTFS_FUSE_HOST_BIN", daemon);
        // Nothing that could be refused is asked for in the other regime.
        command.env(VARIABLE, "passthrough");
        cmd::run(&mut command).ok()
    };
    assert_eq!(run(&daemon, ["python3", "-c", WORK]).out(), work.out());
    assert_eq!(run(&daemon, ["bash", "-ec", LOOK]).out(), look.out());
    let log = sandbox.store().join("branches/b/fsd.log");
    let log = fs::read_to_string(&log).expect("the daemon's log");
    assert!(log.contains(REFUSED), "the kernel refused nothing:\n{log}");

    // What was written that way is the same by whatever way it is read.
    assert_eq!(
        run(&bins::daemon(), ["bash", "-ec", LOOK]).out(),
        look.out()
    );
    before.assert_still();
}
