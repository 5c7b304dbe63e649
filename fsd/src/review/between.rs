//! Compares what two points changed of one base with each other: what one of them holds that the
//! other does not. Never looks at anything that neither changed.
//!
//! A set of changes is exact: at a path that is not in it, a point shows what the base has. So the
//! two sets have all the paths at which the points can differ, and both sides of each.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::base::Base;
use super::content::ContentReader;
use super::node::{Change, Difference, Node};
use super::walk::{ChangeSet, Problem, split};
use crate::core::types::Kind;

/// What the point of `to` holds that differs from what the point of `from` holds, where these are
/// their changes of `base`, in full, by the same rule of what is hidden. `contents` reads both.
///
/// [`Change::host_changed`] says that one of the two shows the host's version there, and that the
/// host changed it since the other took it over. What was hidden from one counts as hidden.
pub fn between(
    from: &ChangeSet,
    to: &ChangeSet,
    base: &Base,
    contents: ContentReader<'_>,
) -> ChangeSet {
    let mut words: BTreeMap<&[u8], [Option<&Change>; 2]> = BTreeMap::new();
    for (at, set) in [from, to].into_iter().enumerate() {
        for change in set.changes.iter().chain(&set.hidden) {
            words.entry(&change.path).or_default()[at] = Some(change);
        }
    }
    let hidden = from.hidden.iter().chain(&to.hidden);
    let hidden: HashSet<&[u8]> = hidden.map(|change| &change.path[..]).collect();
    let mut set = ChangeSet {
        changes: Vec::new(),
        hidden: Vec::new(),
        emptied: Vec::new(),
        strays: from.strays.clone(),
        problems: problems(from, to),
        complete: from.complete && to.complete,
        clock_set_back: from.clock_set_back || to.clock_set_back,
    };
    set.strays.extend(to.strays.iter().cloned());
    set.strays.sort_by(|a, b| a.path.cmp(&b.path));
    set.strays.dedup_by(|a, b| a.path == b.path);
    for (path, [older, newer]) in words {
        let links = [older, newer].into_iter().flatten();
        let links = links.map(|change| change.unlisted_links).max();
        let (before, after, host_changed) = match (older, newer) {
            (Some(older), Some(newer)) => (&older.after, &newer.after, false),
            (Some(older), None) => (&older.after, &older.before, older.host_changed),
            (None, Some(newer)) => (&newer.before, &newer.after, newer.host_changed),
            (None, None) => continue,
        };
        let Some(difference) = difference(before.as_ref(), after.as_ref(), contents) else {
            continue;
        };
        let list = match hidden.contains(path) {
            true => &mut set.hidden,
            false => &mut set.changes,
        };
        list.push(Change {
            path: path.to_vec(),
            before: before.clone(),
            after: after.clone(),
            difference,
            unlisted_links: links.unwrap_or(0),
            host_changed,
        });
    }
    set.emptied = emptied(&set, to, base);
    set
}

/// In what two objects at one path differ; `None` if in nothing.
fn difference(
    before: Option<&Node>,
    after: Option<&Node>,
    contents: ContentReader<'_>,
) -> Option<Difference> {
    match (before, after) {
        (None, None) => None,
        (Some(before), Some(after)) if before.kind == after.kind => {
            let mut difference = Difference::of_metadata(before, after);
            // What cannot be compared counts as changed; reading it again will tell why.
            let same = contents.same(before, after, &mut u64::MAX.clone());
            difference.content |= !same.unwrap_or(false);
            difference.any().then_some(difference)
        }
        _ => Some(Difference::default()),
    }
}

/// Directories of both, of which only the newer has nothing in.
fn emptied(set: &ChangeSet, to: &ChangeSet, base: &Base) -> Vec<Vec<u8>> {
    let gone = set.changes.iter().filter(|change| change.after.is_none());
    let parents: HashSet<&[u8]> = gone.map(|change| split(&change.path).0).collect();
    let shown = to.changes.iter().filter(|change| change.after.is_some());
    let filled: HashSet<&[u8]> = shown.map(|change| split(&change.path).0).collect();
    let changed: HashMap<&[u8], &Change> = (set.changes.iter())
        .map(|change| (&change.path[..], change))
        .collect();
    let is_kept = |path: &[u8]| match changed.get(path) {
        Some(change) => {
            let is_dir = |node: &Option<Node>| node.as_ref().is_some_and(|n| n.kind == Kind::Dir);
            is_dir(&change.before) && is_dir(&change.after)
        }
        None => true,
    };
    let is_empty = |path: &[u8]| {
        if filled.contains(path) {
            return false;
        }
        // The base's names are all in the changes where any is; else the base may have had none.
        let known = to.emptied.binary_search_by(|known| known[..].cmp(path));
        known.is_ok() || has_no_names(base, path)
    };
    let is_emptied = |path: &&[u8]| is_kept(path) && is_empty(path);
    let mut found: Vec<_> = parents.into_iter().filter(is_emptied).collect();
    found.sort();
    found.into_iter().map(<[u8]>::to_vec).collect()
}

/// Whether the base has no directory there, or an empty one. What cannot be listed has some.
fn has_no_names(base: &Base, path: &[u8]) -> bool {
    let Ok(dir) = base.dir(path) else {
        return false;
    };
    let Some(dir) = dir else { return true };
    let mut is_empty = true;
    let listed = dir.each_name(&mut |_| {
        is_empty = false;
        false
    });
    is_empty && listed.is_ok()
}

fn problems(from: &ChangeSet, to: &ChangeSet) -> Vec<Problem> {
    let mut all: Vec<Problem> = from.problems.iter().chain(&to.problems).cloned().collect();
    all.sort_by(|a, b| (&a.path, &a.what).cmp(&(&b.path, &b.what)));
    all.dedup_by(|a, b| (&a.path, &a.what) == (&b.path, &b.what));
    all
}
