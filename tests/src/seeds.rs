//! The first inputs of the fuzz targets in fsd/fuzz, cut out of a real store and of real messages.
//! What each target does with its first byte is said there.

use std::fs;
use std::path::{Path, PathBuf};

use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::msg::{BoundProcess, ErrorCode, MountSpec, OnlyIds, Reply, Request, VERSION};

/// Inputs larger than this teach a fuzzer little.
const MAX_BYTES: usize = 4096;
/// Bytes of a journal's header and of a frame's.
const HEADERS_BYTES: [usize; 2] = [40, 16];

/// Writes the inputs that `store` gives into one directory per target, below `out`.
pub fn write(store: &Path, out: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    walk(store, &mut files).map_err(|e| format!("{}: {e}", store.display()))?;
    let mut made = 0;
    let mut put = |target: &str, bytes: &[u8]| -> Result<(), String> {
        let dir = out.join(target);
        made += 1;
        let cut = &bytes[..bytes.len().min(MAX_BYTES)];
        let put = fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join(format!("seed-{made}")), cut));
        put.map_err(|e| format!("{}: {e}", dir.display()))
    };
    for path in files {
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kind = name.split('.').next().unwrap_or_default();
        match kind {
            "journal" if bytes.len() > HEADERS_BYTES[0] => {
                put("journal", &[&[1], &bytes[HEADERS_BYTES[0]..]].concat())?;
                put("journal", &[&[2], &payloads(&bytes)[..]].concat())?;
            }
            "table" => put("table", &[&[0], &bytes[..bytes.len().min(96)]].concat())?,
            _ => {}
        }
        let notes = [
            "format",
            "branch.json",
            "run.json",
            "lost.json",
            "hidden.json",
            "sound",
        ];
        if let Some(at) = notes.iter().position(|note| *note == name) {
            let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            // The mark of a sound journal ends in its checksum.
            let words = line.rsplitn(2, |b| *b == b' ').last().unwrap_or_default();
            let text = if name == "sound" { words } else { line };
            put("notes", &[&[at as u8, 1], text].concat())?;
        }
    }
    for (how, text) in messages() {
        put("control", &[&[how], text.as_bytes()].concat())?;
    }
    Ok(())
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => walk(&entry.path(), found)?,
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Payloads of the first frames, each behind its length.
fn payloads(journal: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = &journal[HEADERS_BYTES[0]..];
    while let Some((head, tail)) = rest.split_at_checked(HEADERS_BYTES[1]) {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, tail)) = tail.split_at_checked(len) else {
            break;
        };
        // The target takes the length less one, modulo 600.
        if (1..=600).contains(&len) && out.len() + len < MAX_BYTES / 2 {
            out.extend((len as u16 - 1).to_le_bytes());
            out.extend(payload);
        }
        rest = tail;
    }
    out
}

/// Every message there is, each with the first byte that sends it its way.
fn messages() -> Vec<(u8, String)> {
    let mount = MountSpec {
        root: None,
        mountpoint: Some("/m".into()),
        roots: vec!["/home/u".into(), "/w\u{7f}".into()],
        conceal: vec!["/home/u/.ssh".into()],
        covered: vec!["/w/.git/hooks".into()],
        only_ids: Some(OnlyIds {
            uid: 1000,
            gid: 1000,
        }),
        shared: true,
        passthrough: true,
        policy: Some("p".into()),
    };
    let name = || BranchName::new("b").expect("a good name");
    let snapshot = || "s".parse().expect("a good name");
    let requests = [
        Request::Hello { version: VERSION },
        Request::Attach { mount },
        Request::Bind {
            pid: 7,
            start_ticks: 8,
        },
        Request::Join,
        Request::Status,
        Request::Sync,
        Request::Snapshot {
            name: Some(snapshot()),
        },
        Request::BranchOff {
            name: name(),
            workspace: "/w".into(),
        },
        Request::BindTo {
            branch: name(),
            pid: 7,
            start_ticks: 8,
        },
        Request::Unbind { pid: 7 },
        Request::Bindings,
        Request::Session,
    ];
    let replies = [
        Reply::Hello {
            version: VERSION,
            branch: name(),
            pid: 7,
        },
        Reply::Ok,
        Reply::Joined { policy: None },
        Reply::Bound { groups: vec![1, 2] },
        Reply::BoundTo {
            pid: 7,
            groups: vec![1, 2],
        },
        Reply::Bindings {
            default: name(),
            open: vec![name()],
            bound: vec![BoundProcess {
                pid: 7,
                branch: name(),
            }],
            hears_forks: true,
        },
        Reply::Status {
            processes: vec![7],
            sessions: 1,
            mounted: true,
            transport: None,
        },
        Reply::Snapshot { name: snapshot() },
        Reply::Error {
            code: ErrorCode::NewerFormat,
            message: "why".into(),
        },
    ];
    let requests = requests
        .iter()
        .map(|m| (1, serde_json::to_string(m).expect("JSON")));
    let replies = replies
        .iter()
        .map(|m| (3, serde_json::to_string(m).expect("JSON")));
    requests.chain(replies).collect()
}
