//! Claims of fsd/SEMANTICS.md: ways to read, write, map and copy.

use agentfs_tests::Sandbox;
use agentfs_tests::need::need_run;

use crate::{PRELUDE, claim, python};

#[test]
fn s29_direct_io_goes_through_the_daemon() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
block = mmap.mmap(-1, 8192); block.write(b"d" * 8192)
for name in ["new", "file"]:
    f = os.open(name, RW | os.O_TRUNC | os.O_DIRECT)
    assert os.pwrite(f, block, 0) == 8192 and os.pwrite(f, b"odd", 8193) == 3
    assert os.preadv(f, [memoryview(block)[:10]], 1) == 10
    # As dd(1) does for a last block that is not whole.
    fcntl.fcntl(f, fcntl.F_SETFL, 0)
    assert os.pwrite(f, b"end", 10000) == 3 and os.pread(f, 9, 9997) == b"\0\0\0end"
    os.close(f)
    subprocess.run(["dd", "if=/etc/passwd", "of=" + name, "bs=8192", "oflag=direct", "status=none"], check=True)
    assert open(name, "rb").read() == open("/etc/passwd", "rb").read()
"#,
        );
    });
}

#[test]
fn s35_appends_do_not_overlap() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
for name in ["new", "file"]:
    open(name, "w").close(); children = []
    for i in range(4):
        child = os.fork()
        if child == 0:
            f = os.open(name, os.O_WRONLY | os.O_APPEND)
            for j in range(100):
                os.write(f, b"%d %03d\n" % (i, j)); os.lseek(f, 0, 0)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    lines = open(name).read().splitlines()
    assert len(lines) == 400 and len(set(lines)) == 400, len(lines)
    f = os.open(name, os.O_RDWR | os.O_APPEND); os.pwrite(f, b"end", 0); assert os.pread(f, 9, 2400) == b"end"
    os.pwritev(os.open(name, os.O_RDWR), [b"END"], 0, os.RWF_APPEND); assert os.pread(f, 9, 2400) == b"endEND"
    # Taken back: where the offset says, or for root possibly at the end.
    fcntl.fcntl(f, fcntl.F_SETFL, 0); os.pwrite(f, b"Q", 0)
    at_offset, at_end = os.pread(f, 1, 0) == b"Q", os.pread(f, 9, 2406) == b"Q"
    assert at_offset != at_end and (at_offset or os.getuid() == 0)
"#,
        );
    });
}

#[test]
fn s36_flags_of_single_reads_and_writes() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("new", "w").write("x" * 5000)
for name in ["new", "file"]:
    f = os.open(name, os.O_RDWR); os.pread(f, 5, 0); room = [bytearray(4)]
    assert os.preadv(f, room, 0, os.RWF_HIPRI) == 4
    assert os.pwritev(f, [b"ab"], 0, os.RWF_DSYNC) == os.pwritev(f, [b"ab"], 0, os.RWF_SYNC) == 2
    for call in (os.preadv, os.pwritev):
        for flag in (os.RWF_NOWAIT, 0x80):
            assert err(call, f, room, 0, flag) == errno.EOPNOTSUPP, (name, call, flag)
    assert err(os.pwritev, f, [bytes(4096)], 0, 0x40) in (errno.EOPNOTSUPP, errno.EINVAL)
    # One read and one write by Linux AIO: io_setup, io_submit, io_getevents.
    context = ctypes.c_ulong(0); syscall(206, 4, ctypes.byref(context))
    buffer = ctypes.create_string_buffer(b"AIO")
    for op in (1, 0):
        block = ctypes.create_string_buffer(struct.pack("QIIHhIQQqQII", 7, 0, 0, op, 0, f, ctypes.addressof(buffer), 3, 10, 0, 0, 0), 64)
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block)); event = ctypes.create_string_buffer(32)
        assert syscall(209, context, 1, blocks) == 1 and syscall(208, context, 1, 1, event, None) == 1
        assert struct.unpack_from("q", event, 16)[0] == 3
        buffer.value = b"..." if op else buffer.value
    assert buffer.value == b"AIO" and os.pread(f, 3, 10) == b"AIO"
"#,
        );
    });
}

#[test]
fn s37_mapped_writes_are_stamped_when_written_back() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("new", "wb").write(b"x" * 9000)
for name in ["new", "big"]:
    f = os.open(name, os.O_RDWR); os.utime(name, (1, 1)); m = mmap.mmap(f, 8192)
    child = os.fork()
    if child == 0:
        other = mmap.mmap(os.open(name, os.O_RDWR), 8192); other[4097:4099] = b"!?"; os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and m[4097:4099] == b"!?"
    m.flush(); os.fsync(f); assert os.stat(name).st_mtime > 1
    assert err(mmap.mmap, f, 4096, 0x80003) == errno.EOPNOTSUPP
    child = os.fork()
    if child == 0:
        os.ftruncate(f, 0); m[5000]; os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 7
"#,
        );
    });
    // Mapped first, then looked at: what the kernel keeps of a file must not outlive a store.
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import time
def stamp(name):
    s = os.stat(name); return s.st_mtime_ns, s.st_ctime_ns
def stored(m, name, then):
    old = stamp(name); assert stamp(name) == old
    while time.clock_gettime_ns(5) <= max(old): pass
    m[0:1] = bytes([m[0] ^ 1]); then(); new = stamp(name)
    assert new[0] > old[0] and new[1] > old[1], (name, then, old, new)
for name in ["made", "new", "file"]:
    made = name == "made"
    if name == "new":
        f = os.open(name, RW); os.ftruncate(f, 8192); os.close(f); stamp(name)
    f = os.open(name, RW)
    if made:
        os.ftruncate(f, 8192)
    size = os.fstat(f).st_size; os.pwrite(f, b"a", 0); m = mmap.mmap(f, size)
    m[0:1] = b"b"; m.flush(); os.fsync(f)
    for then in (m.flush, lambda: os.fsync(f), lambda: os.fdatasync(f)):
        stored(m, name, then)
    os.chmod(name, 0o640); stored(m, name, m.flush)
    os.link(name, name + "2"); stored(m, name + "2", m.flush)
    stored(m, name, lambda: (m.flush(), m.close(), os.close(f)))
    f = os.open(name, os.O_RDWR); m = mmap.mmap(f, size)
    stored(m, name, m.flush); before = stamp(name); m.close(); os.close(f)
    assert stamp(name) == before
"#,
        );
    });
}

#[test]
fn s38_sizes_are_the_stores_and_times_are_wide() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    // Beside the store, on the same file system.
    let limits = "errors = [err(os.truncate, 'sized', n) for n in ((1 << 44) - 4096, 1 << 44, 1 << 50, (1 << 63) - 1)]";
    let host = sandbox.host_sh(&format!(
        "/usr/bin/python3 - <<'E'\n{PRELUDE}\nopen('sized', 'w').close()\n{limits}\nprint(errors)\nE\nrm sized"
    ));
    let program = format!(
        r#"
open('sized', 'w').close()
{limits}
assert errors == {}, errors
assert os.lseek(os.open('sized', os.O_RDWR), (1 << 63) - 1, 0) == (1 << 63) - 1
assert err(os.pwrite, os.open('sized', os.O_RDWR), b'xx', (1 << 63) - 1) == errno.EINVAL
os.truncate('sized', 0)
for ns in (-10**9 * (1 << 33), -1, 10**9 * (1 << 36) - 1):
    os.utime('sized', ns=(0, ns)); assert os.stat('sized').st_mtime_ns == ns
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
f = os.open('sized', os.O_RDWR)
assert os.pwrite(f, bytes(600), 600) == 400 and err(os.ftruncate, f, 1001) == errno.EFBIG and err(os.pwrite, f, b'x', 1000) == errno.EFBIG
os.utime('sized', ns=(0, 10**9 * (1 << 36) - 1))
"#,
        host.out().trim()
    );
    python(&sandbox, &program);
    python(
        &sandbox,
        "assert os.stat('sized').st_mtime_ns == 10**9 * (1 << 36) - 1",
    );
}

#[test]
fn s39_copies_go_by_the_kernel() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("new", "w").write("0123456789" * 500); open("out", "w").close()
for name in ["new", "big"]:
    f, out = os.open(name, os.O_RDONLY), os.open("out", os.O_RDWR | os.O_TRUNC); start = os.pread(f, 100, 0)
    assert os.copy_file_range(f, out, 100, 0, 0) == 100 == os.lseek(out, 100, 0) == os.sendfile(out, f, 0, 100) == 100
    r, w = os.pipe(); assert os.splice(f, w, 100, offset_src=0) == 100 and os.splice(r, out, 100, offset_dst=200) == 100
    assert os.pread(out, 999, 0) == start * 3
    elsewhere = os.open("/dev/shm/x", RW | os.O_TRUNC); os.write(elsewhere, b"there")
    assert os.fstat(elsewhere).st_dev != os.fstat(f).st_dev
    assert err(os.copy_file_range, f, elsewhere, 9, 0, 0) == errno.EXDEV == err(os.copy_file_range, elsewhere, out, 5, 0, 0)
    assert err(fcntl.ioctl, out, 0x40049409, f) == errno.EOPNOTSUPP
    subprocess.run(["cp", "--reflink=auto", name, "copy"], check=True)
    assert open("copy", "rb").read() == open(name, "rb").read()
"#,
        );
    });
}
