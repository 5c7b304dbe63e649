//! What `--json` prints. The schema stays: fields are only ever added; [`VERSION`] tells a break.
//!
//! A path or word is a string. If it is not UTF-8, the string has U+FFFD in place of what is not,
//! and a second field, its name ending in `_b64`, has the bytes in base 64.

use serde_json::{Map, Value, json};

use agentfs_fsd::core::types::{Kind, Time};
use agentfs_fsd::review::{ChangeSet, Node};

use super::plan::{Item, Plan, Status};

/// Version of all schemas.
pub const VERSION: u32 = 1;

/// `agentfs diff --json`: one object.
///
/// ```text
/// version     1
/// branch      its name; of a snapshot BRANCH@SNAPSHOT
/// from        the point that it is compared with; null: the host's files
/// top         absolute directory that every path below is relative to
/// complete    false if a path could not be looked at (see problems)
/// changes     [{ path, status: added|modified|deleted|type-changed|renamed, from (if renamed),
///                before, after: null or { kind: file|dir|symlink|fifo|socket|char|block,
///                mode: "0644", uid, gid, size, nlink }, differs: [content|mode|owner|xattrs],
///                in_patch: whether the patch has it, host_changed: whether the host changed, made
///                or removed it since the branch took it over (then only --overwrite patches it;
///                of two points: since one of them took it over, and the other shows the host's) }]
/// not_in_patch [{ path, what }]
/// hidden      how many of these are the branch's own, at places where what the host has was hidden
///             from its runs; they are not among the changes
/// outside     changes outside `top` (or the given paths), not listed
/// problems    [{ path (absolute), what }]
/// ```
pub fn diff(
    from: Option<&str>,
    branch: &str,
    top: &[u8],
    plan: &Plan<'_>,
    set: &ChangeSet,
) -> Value {
    let mut object = Map::new();
    object.insert("version".into(), VERSION.into());
    object.insert("branch".into(), branch.into());
    object.insert("from".into(), from.into());
    put_bytes(&mut object, "top", top);
    object.insert("complete".into(), set.problems.is_empty().into());
    object.insert("changes".into(), plan.items.iter().map(change).collect());
    object.insert("hidden".into(), plan.hidden.len().into());
    let notes = plan
        .notes
        .iter()
        .map(|note| path_and_what(&note.path, &note.what));
    object.insert("not_in_patch".into(), notes.collect());
    object.insert("outside".into(), plan.outside.into());
    let problems = set.problems.iter().map(|p| path_and_what(&p.path, &p.what));
    object.insert("problems".into(), problems.collect());
    Value::Object(object)
}

fn change(item: &Item<'_>) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "path", &item.path);
    if let Some(from) = &item.from {
        put_bytes(&mut object, "from", from);
    }
    object.insert("status".into(), status(item.status).into());
    object.insert("before".into(), item.before.map_or(Value::Null, node));
    object.insert("after".into(), item.after.map_or(Value::Null, node));
    let differs = &item.change.difference;
    let parts = [
        ("content", differs.content),
        ("mode", differs.perm),
        ("owner", differs.owner),
        ("xattrs", differs.xattrs),
    ];
    let parts = parts
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(part, _)| part);
    object.insert("differs".into(), parts.collect());
    object.insert("in_patch".into(), item.in_patch.into());
    object.insert("host_changed".into(), item.host_changed().into());
    Value::Object(object)
}

/// The word for a status.
pub fn status(status: Status) -> &'static str {
    match status {
        Status::Added => "added",
        Status::Modified => "modified",
        Status::Deleted => "deleted",
        Status::TypeChanged => "type-changed",
        Status::Renamed => "renamed",
    }
}

fn node(node: &Node) -> Value {
    let kind = match node.kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Char => "char",
        Kind::Block => "block",
    };
    json!({
        "kind": kind,
        "mode": format!("{:04o}", node.perm),
        "uid": node.uid,
        "gid": node.gid,
        "size": node.size,
        "nlink": node.nlink,
    })
}

fn path_and_what(path: &[u8], what: &str) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "path", path);
    object.insert("what".into(), what.into());
    Value::Object(object)
}

/// Puts bytes under `key`, and under `key`_b64 if text cannot tell them.
pub fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_b64"), base64(bytes).into());
    }
}

/// Words that may each be any bytes, under `key`, and all of them under `key`_b64 if need be.
pub fn put_words(object: &mut Map<String, Value>, key: &str, words: &[&[u8]]) {
    let text = words
        .iter()
        .map(|word| Value::from(String::from_utf8_lossy(word)));
    object.insert(key.to_owned(), text.collect());
    if words.iter().any(|word| std::str::from_utf8(word).is_err()) {
        object.insert(
            format!("{key}_b64"),
            words.iter().map(|word| base64(word)).collect(),
        );
    }
}

/// A time as RFC 3339, UTC, to the second.
pub fn time(time: Time) -> String {
    let (days, second) = (time.sec.div_euclid(86_400), time.sec.rem_euclid(86_400));
    // Days since 1 March of year 0, in cycles of 400 years; the leap day then ends a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_come_twice() {
        let mut object = Map::new();
        put_bytes(&mut object, "path", b"a\xffb");
        put_bytes(&mut object, "name", b"\x1b");
        put_words(&mut object, "argv", &[b"x", b"\xff"]);
        let expected = json!({
            "path": "a\u{fffd}b", "path_b64": "Yf9i", "name": "\u{1b}",
            "argv": ["x", "\u{fffd}"], "argv_b64": ["eA==", "/w=="],
        });
        assert_eq!(Value::Object(object), expected);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (sec, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
        ] {
            assert_eq!(time(Time { sec, nsec: 0 }), text);
        }
    }
}
