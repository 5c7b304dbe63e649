//! The server against a service that records what it was asked, over real sockets.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::ctl::client::Client;

const WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
enum Call {
    Attach(usize),
    SessionsOver,
    Idle,
}

struct Fake {
    branch: BranchName,
    calls: mpsc::SyncSender<Call>,
}

impl Service for Fake {
    fn branch(&self) -> &BranchName {
        &self.branch
    }
    fn attach(&self, _: MountSpec, _: OwnedFd, rest: Vec<OwnedFd>) -> Result<(), Refusal> {
        self.calls.send(Call::Attach(rest.len())).expect("record");
        Ok(())
    }
    fn bind(&self, pid: u32, _: u64) -> Result<Vec<u32>, Refusal> {
        match pid {
            1 => Ok(vec![4, 24]),
            _ => Err(Refusal::new(ErrorCode::NoSuchProcess, "no such process")),
        }
    }
    fn join(&self) -> Result<([OwnedFd; 2], Option<String>), Refusal> {
        let null = || Ok(std::fs::File::open("/dev/null").expect("open").into());
        Ok(([null()?, null()?], None))
    }
    fn status(&self) -> (Vec<u32>, bool, Option<Transport>) {
        (vec![9], true, Some(Transport::IoUring))
    }
    fn used(&self) -> Option<Used> {
        None
    }
    fn sync(&self) -> Result<(), Refusal> {
        Ok(())
    }
    fn snapshot(&self, name: Option<SnapshotName>) -> Result<SnapshotName, Refusal> {
        name.ok_or_else(|| Refusal::new(ErrorCode::Busy, "give a name"))
    }
    fn branch_off(&self, name: &BranchName, _: std::path::PathBuf) -> Result<(), Refusal> {
        match name == &self.branch {
            true => Err(Refusal::new(ErrorCode::Exists, "exists")),
            false => Ok(()),
        }
    }
    fn sessions_over(&self) {
        self.calls.send(Call::SessionsOver).expect("record");
    }
    fn idle(&self) {
        self.calls.send(Call::Idle).expect("record");
    }
}

type Running = (Arc<Server<Fake>>, UnixStream, mpsc::Receiver<Call>);

fn start(listener: Option<UnixListener>) -> Running {
    let (near, far) = UnixStream::pair().expect("socketpair");
    let (calls, called) = mpsc::sync_channel(64);
    let branch = BranchName::new("feature").expect("a good name");
    let server = Server::start(Arc::new(Fake { branch, calls }), Some(far.into()), listener);
    (server.expect("start"), near, called)
}

fn recv_error(stream: &UnixStream) -> ErrorCode {
    match wire::recv::<Reply>(stream).expect("an answer") {
        (Reply::Error { code, .. }, _) => code,
        (other, _) => panic!("not refused: {other:?}"),
    }
}

#[test]
fn every_request_reaches_the_service() {
    let (_server, near, called) = start(None);
    let client = Client::over(near.into()).expect("hello");
    assert_eq!(client.branch().as_str(), "feature");
    assert_eq!(client.pid(), std::process::id());
    let spec = MountSpec {
        root: None,
        only_ids: None,
        mountpoint: None,
        roots: vec!["/w".into()],
        conceal: vec![],
        covered: vec![],
        passthrough: false,
        shared: false,
        policy: None,
    };
    let null = std::fs::File::open("/dev/null").expect("open");
    let namespaces = Some((null.as_fd(), null.as_fd()));
    client
        .attach(spec, null.as_fd(), namespaces)
        .expect("attach");
    assert_eq!(called.recv_timeout(WAIT).expect("called"), Call::Attach(2));
    assert_eq!(client.bind(1, 5).expect("bind"), [4, 24]);
    let refused = client.bind(2, 5).expect_err("no such process");
    assert!(
        matches!(
            refused,
            CtlError::Refused {
                code: ErrorCode::NoSuchProcess,
                ..
            }
        ),
        "{refused:?}"
    );
    client.sync().expect("sync");
    client.session().expect("session");
    let status = client.status().expect("status");
    assert_eq!(
        (
            status.processes,
            status.sessions,
            status.mounted,
            status.transport
        ),
        (vec![9], 1, true, Some(Transport::IoUring))
    );
    drop(client);
    assert_eq!(
        called.recv_timeout(WAIT).expect("called"),
        Call::SessionsOver
    );
    assert_eq!(called.recv_timeout(WAIT).expect("called"), Call::Idle);
}

#[test]
fn a_joiner_is_a_session_and_only_the_last_one_waits_for_the_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let deep = directory.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("mkdir");
    let socket = deep.join("control");
    let listener = listen(&socket).expect("listen");
    drop(listener);
    let listener = listen(&socket).expect("listen again over the stale socket");
    let (server, near, called) = start(Some(listener));
    let first = Client::over(near.into()).expect("hello");
    first.session().expect("session");
    let joiner = Client::connect(&socket).expect("connect");
    joiner.join().expect("join");
    assert_eq!(first.status().expect("status").sessions, 2);
    first
        .wait_closed()
        .expect("not the last session: closed at once");
    drop(joiner);
    assert_eq!(
        called.recv_timeout(WAIT).expect("called"),
        Call::SessionsOver
    );
    assert_eq!(called.recv_timeout(WAIT).expect("called"), Call::Idle);
    assert_eq!(lock(&server.connections).parting.len(), 1);
}

#[test]
fn the_protocol_is_checked() {
    let (_server, near, _called) = start(None);
    wire::send(&near, &Request::Status, &[]).expect("send");
    assert_eq!(recv_error(&near), ErrorCode::Malformed);
    assert!(matches!(wire::recv::<Reply>(&near), Err(CtlError::Closed)));

    let (_server, near, _called) = start(None);
    wire::send(
        &near,
        &Request::Hello {
            version: VERSION + 1,
        },
        &[],
    )
    .expect("send");
    assert_eq!(recv_error(&near), ErrorCode::Version);
    assert!(matches!(wire::recv::<Reply>(&near), Err(CtlError::Closed)));

    for bad in [
        &b"\x04\0\0\0null"[..],
        b"\xff\xff\xff\xff",
        b"\x03\0\0\0{}\xff",
    ] {
        let (_server, mut near, _called) = start(None);
        near.write_all(bad).expect("send");
        assert_eq!(recv_error(&near), ErrorCode::Malformed);
        assert!(matches!(wire::recv::<Reply>(&near), Err(CtlError::Closed)));
    }
}

#[test]
fn connections_are_capped() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("control");
    let (_server, _near, _called) = start(Some(listen(&socket).expect("listen")));
    let held: Vec<_> = (1..MAX_CONNECTIONS)
        .map(|_| Client::connect(&socket).expect("connect"))
        .collect();
    let refused = Client::connect(&socket).expect_err("one too many");
    assert!(
        matches!(
            refused,
            CtlError::Refused {
                code: ErrorCode::NotAllowed,
                ..
            }
        ),
        "{refused:?}"
    );
    drop(held);
}

#[test]
fn a_daemon_that_cannot_open_its_branch_says_so() {
    let (near, far) = UnixStream::pair().expect("socketpair");
    let asking = std::thread::spawn(move || Client::over(near.into()));
    let refusal = Refusal::new(ErrorCode::Locked, "branch b is live, owned by pid 1");
    refuse(far.into(), &refusal).expect("refuse");
    let refused = asking.join().expect("join").expect_err("refused");
    assert_eq!(refused.to_string(), "branch b is live, owned by pid 1");
}
