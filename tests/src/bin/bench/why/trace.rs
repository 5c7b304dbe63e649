//! The requests of one run of a row: the kernel's tracepoints say when each was sent and when it
//! ended. Recorded by perf for one mount alone, cut to the time that the row itself measured.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Fallible;
use crate::perf::Perf;
use crate::rows::timing::{self, Span};

const SEND: &str = "fuse:fuse_request_send";
const END: &str = "fuse:fuse_request_end";
/// Of 6.11 and some after it.
const NO_NUMBERS: &str =
    "this kernel's tracepoint tells of requests before it numbers them; fix: a newer kernel";
const EVENTS: &str = "/sys/kernel/tracing/events";

/// Kinds that nobody waits for: the kernel sends them and goes on.
const UNWAITED: [&str; 3] = ["RELEASE", "RELEASEDIR", "INIT"];

/// The requests of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kind {
    pub requests: u64,
    /// Of those whose end was seen, the sum of sending to ending: it includes being picked up.
    pub ended: u64,
    pub took_ns: u64,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traced {
    pub kinds: BTreeMap<String, Kind>,
    /// How long at least one that is waited for was under way.
    pub waited_ns: u64,
    /// Records that the kernel had no room for.
    pub lost: u64,
}

/// Why the tracepoints cannot be read here.
pub fn is_possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "reading the kernel's tracepoints needs root; fix: run the bench as root".into(),
        );
    }
    if !Path::new(EVENTS).is_dir() {
        return Err(format!(
            "{EVENTS} does not exist; fix: mount -t tracefs tracefs /sys/kernel/tracing"
        ));
    }
    match Path::new(EVENTS).join(SEND.replace(':', "/")).is_dir() {
        true => Ok(()),
        false => Err(format!(
            "this kernel has no tracepoint {SEND}; fix: a newer kernel"
        )),
    }
}

pub fn is_waited_for(kind: &str) -> bool {
    !UNWAITED.contains(&kind)
}

/// Records the requests of the mount that `device` is.
pub fn record(device: u64, data: &Path) -> Fallible<Perf> {
    let only = format!("connection == {}", connection(device));
    let args = [
        "--all-cpus",
        "--clockid",
        timing::CLOCK,
        "--mmap-pages",
        "4M",
        "--event",
        SEND,
        "--filter",
        &only,
        "--event",
        END,
        "--filter",
        &only,
    ];
    Perf::record(&args, data)
}

/// The number that tracepoints have for a file system: the kernel's own form of its device.
fn connection(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}

/// What was recorded, as far as it was sent within `spans`.
pub fn read(data: &Path, spans: &[Span]) -> Fallible<Traced> {
    let mut perf = Command::new("perf")
        .args(["script", "--ns", "--fields", "time,event,trace"])
        .args(["--show-lost-events", "--input"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It tells of fields that other kinds of events would not have.
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("perf script: {e}"))?;
    let out = perf.stdout.take().ok_or("no output")?;
    let traced = sum(BufReader::new(out), spans);
    let status = perf.wait()?;
    match status.success() {
        true => traced,
        false => Err(format!("perf script: {status}").into()),
    }
}

fn sum(lines: impl BufRead, spans: &[Span]) -> Fallible<Traced> {
    let mut traced = Traced::default();
    let mut sent = HashMap::new();
    let mut waited = Vec::new();
    for line in lines.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some((_, lost)) = line.split_once("PERF_RECORD_LOST lost ") {
            traced.lost += lost.trim().parse().unwrap_or(1);
            continue;
        }
        match event(&line) {
            Some(Event::Send {
                at_ns,
                unique,
                kind,
            }) => {
                if unique == 0 {
                    return Err(NO_NUMBERS.into());
                }
                let is_within = |span: &&Span| (span.from_ns..=span.to_ns).contains(&at_ns);
                if let Some(span) = spans.iter().find(is_within) {
                    traced.kinds.entry(kind.clone()).or_default().requests += 1;
                    sent.insert(unique, (at_ns, kind, span.to_ns));
                }
            }
            Some(Event::End { at_ns, unique }) => {
                let Some((from_ns, kind, latest_ns)) = sent.remove(&unique) else {
                    continue;
                };
                let entry = traced.kinds.entry(kind.clone()).or_default();
                entry.ended += 1;
                entry.took_ns += at_ns.saturating_sub(from_ns);
                if is_waited_for(&kind) {
                    waited.push((from_ns, at_ns.min(latest_ns)));
                }
            }
            None => {}
        }
    }
    traced.waited_ns = covered(waited);
    Ok(traced)
}

/// How much of the time at least one of these covers.
fn covered(mut spans: Vec<(u64, u64)>) -> u64 {
    spans.sort_unstable();
    let (mut sum, mut until) = (0, 0);
    for (from, to) in spans {
        let from = from.max(until);
        sum += to.saturating_sub(from);
        until = until.max(to);
    }
    sum
}

enum Event {
    Send {
        at_ns: u64,
        unique: u64,
        kind: String,
    },
    End {
        at_ns: u64,
        unique: u64,
    },
}

/// `71810.875879146: fuse:fuse_request_send: connection 41 req 4 opcode 3 (FUSE_GETATTR) len 56`
fn event(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at_ns = nanoseconds(words.first()?.strip_suffix(':')?)?;
    let after = |word: &str| {
        let place = words.iter().position(|w| *w == word)?;
        words.get(place + 1).copied()
    };
    let unique = after("req")?.parse().ok()?;
    match words.get(1)?.strip_suffix(':')? {
        SEND => {
            let named = words.iter().find_map(|w| w.strip_prefix("(FUSE_"));
            let kind = match named {
                Some(name) => name.trim_end_matches(')').to_owned(),
                // Newer than the names that this kernel has for its tracepoints.
                None => format!("opcode {}", after("opcode")?),
            };
            Some(Event::Send {
                at_ns,
                unique,
                kind,
            })
        }
        END => Some(Event::End { at_ns, unique }),
        _ => None,
    }
}

fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, part) = text.split_once('.')?;
    let part: u64 = (part.len() == 9).then(|| part.parse().ok())??;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
 9.000000000: fuse:fuse_request_send: connection 41 req 2 opcode 1 (FUSE_LOOKUP) len 45
10.000000100:  fuse:fuse_request_end: connection 41 req 2 len 80 error 0
10.000001000: fuse:fuse_request_send: connection 41 req 4 opcode 1 (FUSE_LOOKUP) len 45
10.000003000:  fuse:fuse_request_end: connection 41 req 4 len 120 error -2
10.000004000: fuse:fuse_request_send: connection 41 req 6 opcode 35 (FUSE_CREATE) len 60
10.000005000: fuse:fuse_request_send: connection 41 req 8 opcode 1 (FUSE_LOOKUP) len 45
10.000006000:  fuse:fuse_request_end: connection 41 req 6 len 120 error 0
10.000008000:  fuse:fuse_request_end: connection 41 req 8 len 120 error 0
 PERF_RECORD_LOST lost 3
10.000009000: fuse:fuse_request_send: connection 41 req 10 opcode 18 (FUSE_RELEASE) len 64
10.000009500: fuse:fuse_request_send: connection 41 req 12 opcode 77 () len 64
10.000020000: fuse:fuse_request_send: connection 41 req 14 opcode 1 (FUSE_LOOKUP) len 45
10.000030000:  fuse:fuse_request_end: connection 41 req 10 len 16 error 0
10.000040000:  fuse:fuse_request_end: connection 41 req 14 len 80 error 0
";

    #[test]
    fn what_was_sent_within_the_row_counts() {
        let span = Span {
            from_ns: 10_000_000_000,
            to_ns: 10_000_010_000,
        };
        let traced = sum(TEXT.as_bytes(), &[span]).expect("a sum");
        let kind = |requests, ended, took_ns| Kind {
            requests,
            ended,
            took_ns,
        };
        let expected = [
            ("CREATE", kind(1, 1, 2000)),
            ("LOOKUP", kind(2, 2, 5000)),
            ("RELEASE", kind(1, 1, 21_000)),
            ("opcode 77", kind(1, 0, 0)),
        ];
        let expected = expected.map(|(name, kind)| (name.to_owned(), kind));
        assert_eq!(traced.kinds, BTreeMap::from(expected));
        // 1 to 3, 4 to 8 with two at once; nobody waits for a release.
        assert_eq!((traced.waited_ns, traced.lost), (6000, 3));
        assert_eq!(sum(TEXT.as_bytes(), &[]).expect("a sum").kinds.len(), 0);
    }

    #[test]
    fn requests_without_numbers_are_not_summed_up() {
        let text = "1.000000000: fuse:fuse_request_send: connection 41 req 0 opcode 1 (FUSE_LOOKUP) len 45\n";
        let error = sum(text.as_bytes(), &[]).expect_err("a reason").to_string();
        assert!(error.contains("numbers"), "{error}");
    }

    #[test]
    fn other_lines_are_no_events() {
        for line in [
            "",
            "10.0: fuse:fuse_request_end: connection 1 req 2",
            "10.000000000: sched:sched_switch: req 1",
            "10.000000000: fuse:fuse_request_send: connection 1 req",
        ] {
            assert!(event(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_device_is_the_kernels_own_number() {
        assert_eq!(connection(rustix::fs::makedev(0, 41)), 41);
        assert_eq!(connection(rustix::fs::makedev(0, 300)), 300);
        assert_eq!(connection(rustix::fs::makedev(8, 1)), 8 << 20 | 1);
    }
}
