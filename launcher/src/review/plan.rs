//! Decides what goes into a patch, as what, and what a patch cannot carry. Pure: reads no file.

use std::collections::{HashMap, HashSet};

use agentfs_fsd::core::record::ObjectId;
use agentfs_fsd::core::types::Kind;
use agentfs_fsd::review::{Change, ChangeSet, Node, Source, is_at_or_below};

use super::git::{self, Refusal};

/// Largest file put into a patch, in bytes: git apply takes patches up to 1023 MiB, in memory.
pub const PATCH_FILE_BYTES: u64 = 1 << 30;

/// Which changes are asked for, and what their paths are relative to.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Absolute; shown paths are relative to it.
    pub top: Vec<u8>,
    /// Only what is at or below one of these; empty: everything below `top`.
    pub only: Vec<Vec<u8>>,
}

impl Scope {
    /// Everything at or below `top`.
    pub fn below(top: &[u8]) -> Self {
        Scope {
            top: top.to_vec(),
            only: Vec::new(),
        }
    }

    /// The directories and files that everything asked for is at or below.
    pub fn tops(&self) -> &[Vec<u8>] {
        if self.only.is_empty() {
            std::slice::from_ref(&self.top)
        } else {
            &self.only
        }
    }

    /// Whether `path` is asked for.
    pub fn contains(&self, path: &[u8]) -> bool {
        is_at_or_below(path, &self.top)
            && (self.only.is_empty() || self.only.iter().any(|top| is_at_or_below(path, top)))
    }

    /// `path`, which is in scope, relative to the top; empty for the top itself.
    pub fn relative<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        let top = self.top.strip_suffix(b"/").unwrap_or(&self.top);
        let rest = path.strip_prefix(top).unwrap_or(path);
        rest.strip_prefix(b"/").unwrap_or(rest)
    }
}

/// What happened at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Added,
    Modified,
    Deleted,
    /// A file became a link, or the like.
    TypeChanged,
    /// Only moved, from the path in [`Item::from`].
    Renamed,
}

/// One change to show.
#[derive(Debug)]
pub struct Item<'a> {
    /// Relative to the scope's top.
    pub path: Vec<u8>,
    /// For [`Status::Renamed`]: where it was, relative too.
    pub from: Option<Vec<u8>>,
    pub status: Status,
    /// What the base has; a directory that had to give way does not count.
    pub before: Option<&'a Node>,
    /// What the branch has.
    pub after: Option<&'a Node>,
    pub change: &'a Change,
    /// The branch has an empty directory in its place.
    pub became_empty_dir: bool,
    /// Whether a patch can tell it at all.
    pub in_patch: bool,
    /// Whether it lies in `.git`.
    pub in_git_dir: bool,
    /// A patch could have it, but is better without.
    pub held_back: Option<Held>,
}

/// Why a patch is better without something that it could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It would undo what the host did since.
    HostChanged,
    /// The branch moved it to where its runs could not see what the host has; that is not landed,
    /// so nothing may take away where the bytes are.
    MovedOutOfSight,
    /// git would convert it on its way, for this attribute, so that it does not fit.
    Converted(&'static str),
}

/// Something that a patch does not carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Relative to the scope's top.
    pub path: Vec<u8>,
    pub what: String,
    /// It is about what is held back, which is told in other words too.
    pub held_back: bool,
}

/// Why the branch's own files at some places are in no patch.
pub const WAS_HIDDEN: &str = "what the host has there was hidden from the branch's runs";

/// Who will apply the patch: git apply makes files as this caller would.
#[derive(Clone, Copy, Debug)]
pub struct Applier {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
    /// Take the branch's version also of what the host changed since.
    pub overwrite: bool,
    /// What goes before a mode or owner that a change did away with: `the host has`.
    pub older: &'static str,
}

/// What to show of a set of changes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// By path.
    pub items: Vec<Item<'a>>,
    /// By path.
    pub notes: Vec<Note>,
    /// Changes outside the scope's top (or its `only`).
    pub outside: u64,
    /// Items in a `.git`.
    pub git_dir: u64,
    /// What the branch has where its runs could not see what the host has, relative to the top.
    pub hidden: Vec<Vec<u8>>,
}

impl<'a> Plan<'a> {
    /// [`Plan::with`], with no attributes.
    #[cfg(test)]
    pub fn new(set: &'a ChangeSet, scope: &Scope, who: Applier, renames: bool) -> Self {
        Self::with(set, scope, who, renames, &|_| None)
    }

    /// Sorts the changes of `set` into items and notes. Looks for renames only if `renames`.
    /// `converts`: the attribute for which git would convert a file.
    pub fn with(
        set: &'a ChangeSet,
        scope: &Scope,
        who: Applier,
        renames: bool,
        converts: &dyn Fn(&Item<'_>) -> Option<&'static str>,
    ) -> Self {
        let parents = Parents::of(set);
        let mut plan = Plan {
            items: Vec::new(),
            notes: Vec::new(),
            outside: 0,
            git_dir: 0,
            hidden: hidden(set, scope),
        };
        let mut notes = Notes {
            who,
            found: Vec::new(),
        };
        for change in &set.changes {
            let shown = parents.status(change);
            if !scope.contains(&change.path) {
                plan.outside += u64::from(shown.is_some());
                continue;
            }
            let path = scope.relative(&change.path);
            if let Some(after) = &change.after
                && after.kind == Kind::Dir
                && git::refusal(path, false).is_none()
            {
                notes.directory(path, change, after);
            }
            let Some(status) = shown else { continue };
            let mut item = Item::new(path, status, change);
            item.became_empty_dir = status == Status::Deleted
                && change.after.is_some()
                && !parents.of_added.contains(&change.path[..]);
            plan.git_dir += u64::from(item.in_git_dir);
            plan.items.push(item);
        }
        if renames {
            plan.find_renames(scope);
        }
        plan.hold_back(set, who, converts);
        let left_behind = left_behind(&plan.items);
        for item in &plan.items {
            notes.item(item, &left_behind);
        }
        for path in set.emptied.iter().filter(|path| scope.contains(path)) {
            let path = scope.relative(path);
            if git::refusal(path, false).is_none() {
                notes.add(path, "a directory that the branch emptied and keeps");
            }
        }
        for stray in &set.strays {
            if scope.contains(&stray.path) {
                notes.add(scope.relative(&stray.path), links(stray.links));
            } else {
                plan.outside += u64::from(stray.links);
            }
        }
        for path in &plan.hidden {
            notes.held_back(path, WAS_HIDDEN);
        }
        plan.notes = notes.found;
        plan.notes.sort_by(|a, b| a.path.cmp(&b.path));
        plan
    }

    /// Keeps out of the patch what would do harm.
    fn hold_back(
        &mut self,
        set: &ChangeSet,
        who: Applier,
        converts: &dyn Fn(&Item<'_>) -> Option<&'static str>,
    ) {
        let origins: HashSet<&[u8]> = set.hidden.iter().filter_map(origin).collect();
        let out_of_sight = set.hidden.iter().filter_map(|change| change.after.as_ref());
        let out_of_sight: HashSet<_> = out_of_sight.filter_map(Whole::of).collect();
        for item in self.items.iter_mut().filter(|item| item.in_patch) {
            let moved = item.before.is_some_and(|before| {
                origins.contains(&item.change.path[..])
                    || Whole::of(before).is_some_and(|bytes| out_of_sight.contains(&bytes))
            });
            item.held_back = match () {
                () if item.host_changed() && !who.overwrite => Some(Held::HostChanged),
                () if moved => Some(Held::MovedOutOfSight),
                () => converts(item).map(Held::Converted),
            };
            item.in_patch = item.held_back.is_none();
        }
    }

    /// Makes one item of a deleted base file and the place where it only went to.
    fn find_renames(&mut self, scope: &Scope) {
        let moved_away: HashMap<Whole<'_>, usize> = (self.items.iter().enumerate())
            .filter(|(_, item)| item.status == Status::Deleted && item.in_patch)
            .filter_map(|(at, item)| Some((Whole::of(item.before?)?, at)))
            .collect();
        let mut taken = HashSet::new();
        let mut renamed = Vec::new();
        for (at, item) in self.items.iter().enumerate() {
            if item.status == Status::Added
                && item.in_patch
                && let Some(from) = item.after.and_then(Whole::of)
                && let Some(from) = moved_away.get(&from)
                && taken.insert(*from)
            {
                renamed.push((at, *from));
            }
        }
        for (at, from) in renamed {
            self.items[at].before = self.items[from].before;
            self.items[at].from = Some(scope.relative(&self.items[from].change.path).to_vec());
            self.items[at].status = Status::Renamed;
        }
        let mut at = 0;
        self.items.retain(|_| {
            at += 1;
            !taken.contains(&(at - 1))
        });
    }
}

/// Where all bytes of a file lie, by which a moved one is known.
#[derive(PartialEq, Eq, Hash)]
enum Whole<'a> {
    Base(&'a [u8]),
    /// With its length: of a running branch it may have changed between two looks.
    Object(ObjectId, u64),
}

impl<'a> Whole<'a> {
    fn of(node: &'a Node) -> Option<Self> {
        match &node.source {
            Source::Base(path) => Some(Whole::Base(path)),
            Source::Object(id) => Some(Whole::Object(*id, node.size)),
            Source::None | Source::Symlink(_) | Source::Extents { .. } => None,
        }
    }
}

impl<'a> Item<'a> {
    fn new(path: &[u8], status: Status, change: &'a Change) -> Self {
        let mixed = change.is_type_change();
        let pick = |node: &'a Option<Node>| {
            node.as_ref()
                .filter(|node| !(mixed && node.kind == Kind::Dir))
        };
        let mut item = Item {
            path: path.to_vec(),
            from: None,
            status,
            before: pick(&change.before),
            after: pick(&change.after),
            change,
            became_empty_dir: false,
            in_patch: false,
            in_git_dir: git::refusal(path, false) == Some(Refusal::GitDir),
            held_back: None,
        };
        item.in_patch = item.is_for_git() && item.is_seen_by_git();
        item
    }

    /// Whether git could have both sides under this name.
    fn is_for_git(&self) -> bool {
        let nodes = [self.before, self.after];
        nodes.iter().flatten().all(|node| {
            git::mode(node).is_some()
                && git::refusal(&self.path, node.kind == Kind::Symlink).is_none()
                && node.size <= PATCH_FILE_BYTES
        })
    }

    /// Whether git would see a difference.
    fn is_seen_by_git(&self) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) => {
                self.change.difference.content || git::mode(before) != git::mode(after)
            }
            _ => true,
        }
    }

    /// Whether the branch's state here would undo what the host did since.
    pub fn host_changed(&self) -> bool {
        // A file that only moved brings no contents.
        self.change.host_changed && self.status != Status::Renamed
    }

    /// Why it is held back, and what a patch would make of it.
    pub fn why_held_back(&self, held: Held) -> &'static str {
        if let Held::Converted(attribute) = held {
            return match attribute {
                "filter" => {
                    "has the git attribute filter: `git apply` would not take its bytes as they are"
                }
                "ident" => {
                    "has the git attribute ident: `git apply` would not take its bytes as they are"
                }
                _ => {
                    "has the git attribute working-tree-encoding: `git apply` would not take its bytes as they are"
                }
            };
        }
        if held == Held::MovedOutOfSight {
            return "was moved to a place that was hidden from the branch's runs, where nothing \
                    lands; the patch would only take it away";
        }
        match (&self.change.before, &self.change.after) {
            (None, _) => {
                "was removed on the host since the branch took it over; the patch would make it again"
            }
            (_, None) => "changed on the host since; the patch would remove it",
            _ => "changed on the host since the branch took it over; the patch would undo that",
        }
    }

    /// Whether it is about directories only.
    pub fn is_dir(&self) -> bool {
        [self.before, self.after]
            .iter()
            .flatten()
            .all(|node| node.kind == Kind::Dir)
    }
}

/// Which directories have changed entries: making or removing those implies the directory.
pub struct Parents<'a> {
    of_added: HashSet<&'a [u8]>,
    of_removed: HashSet<&'a [u8]>,
}

impl<'a> Parents<'a> {
    /// Collects them.
    pub fn of(set: &'a ChangeSet) -> Self {
        let mut parents = Parents {
            of_added: HashSet::new(),
            of_removed: HashSet::new(),
        };
        for change in &set.changes {
            let parent = parent(&change.path);
            if change.after.is_some() {
                parents.of_added.insert(parent);
            }
            if change.before.is_some() {
                parents.of_removed.insert(parent);
            }
        }
        parents
    }

    /// What a change counts as; `None`: it is implied by others.
    pub fn status(&self, change: &Change) -> Option<Status> {
        let dir = |node: &&Node| node.kind == Kind::Dir;
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        match (before, after) {
            (Some(old), Some(new)) if old.kind == new.kind => Some(Status::Modified),
            (Some(old), Some(new)) if !dir(&old) && !dir(&new) => Some(Status::TypeChanged),
            // A directory gave way to something else, or the other way round.
            (Some(old), Some(_)) if dir(&old) => Some(Status::Added),
            (Some(_), Some(_)) => Some(Status::Deleted),
            (None, Some(new)) if dir(&new) && self.of_added.contains(&change.path[..]) => None,
            (None, Some(_)) => Some(Status::Added),
            (Some(old), None) if dir(&old) && self.of_removed.contains(&change.path[..]) => None,
            (Some(_), None) => Some(Status::Deleted),
            (None, None) => None,
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) | None => b"/",
        Some(at) => &path[..at],
    }
}

/// The host file whose contents the branch shows there, at least in part.
fn origin(change: &Change) -> Option<&[u8]> {
    match &change.after.as_ref()?.source {
        Source::Base(origin) => Some(origin),
        Source::Extents { base, .. } => base.as_deref(),
        Source::None | Source::Symlink(_) | Source::Object(_) => None,
    }
}

/// The hidden changes in scope, by path; directories only where they are empty.
fn hidden(set: &ChangeSet, scope: &Scope) -> Vec<Vec<u8>> {
    let all = || set.hidden.iter().filter(|change| change.after.is_some());
    let parents: HashSet<&[u8]> = all().map(|change| parent(&change.path)).collect();
    all()
        .filter(|change| scope.contains(&change.path) && !parents.contains(&change.path[..]))
        .map(|change| scope.relative(&change.path).to_vec())
        .collect()
}

/// Relative paths of directories in which applying the patch leaves something behind, though the
/// branch has nothing there.
fn left_behind(items: &[Item<'_>]) -> HashSet<Vec<u8>> {
    let mut dirs = HashSet::new();
    for item in items {
        let blocks = item.status == Status::Deleted && !item.in_patch;
        let mut path = &item.path[..];
        while blocks && let Some(at) = path.iter().rposition(|b| *b == b'/') {
            path = &path[..at];
            dirs.insert(path.to_vec());
        }
    }
    dirs
}

struct Notes {
    who: Applier,
    found: Vec<Note>,
}

impl Notes {
    fn add(&mut self, path: &[u8], what: impl Into<String>) {
        self.found.push(Note {
            path: path.to_vec(),
            what: what.into(),
            held_back: false,
        });
    }

    fn held_back(&mut self, path: &[u8], what: &str) {
        self.found.push(Note {
            path: path.to_vec(),
            what: what.into(),
            held_back: true,
        });
    }

    fn directory(&mut self, path: &[u8], change: &Change, after: &Node) {
        let mut what = Vec::new();
        match change
            .before
            .as_ref()
            .filter(|before| before.kind == Kind::Dir)
        {
            Some(before) => describe_change(before, after, change, self.who.older, &mut what),
            None => {
                if after.perm != 0o777 & !self.who.umask && after.perm != 0o755 {
                    what.push(format!("mode {:04o} of the new directory", after.perm));
                }
                self.owner(after, &mut what);
                xattrs(after, &mut what);
            }
        }
        if !what.is_empty() {
            self.add(path, what.join(", "));
        }
    }

    fn item(&mut self, item: &Item<'_>, left_behind: &HashSet<Vec<u8>>) {
        // A `.git` is counted as a whole; directories have had their own notes.
        if item.in_git_dir {
            return;
        }
        if item.is_dir() {
            match item.status {
                Status::Added => self.add(&item.path, "a new empty directory"),
                Status::Deleted if item.after.is_none() => {
                    self.add(&item.path, "the removal of an empty directory");
                }
                _ => {}
            }
            return;
        }
        let mut what = Vec::new();
        if let Some(held) = item.held_back {
            self.held_back(&item.path, item.why_held_back(held));
        }
        match (item.before, item.after) {
            _ if item.held_back.is_some() => {}
            (_, Some(after)) if item.in_patch => self.lost(after, item, &mut what),
            (_, None) if item.in_patch => {}
            (Some(before), Some(after)) if item.is_for_git() => {
                describe_change(before, after, item.change, self.who.older, &mut what);
            }
            (before, after) => what.push(why_not(item, before, after)),
        }
        if item
            .change
            .before
            .as_ref()
            .is_some_and(|node| node.kind == Kind::Dir)
            && left_behind.contains(&item.path)
        {
            what.push(
                "it takes the place of a directory that holds things a patch cannot remove: \
                 git apply will refuse; remove that directory on the host first"
                    .into(),
            );
        }
        if item.became_empty_dir {
            what.push("the empty directory in its place".into());
        }
        if let Some(after) = item.after
            && item.change.unlisted_links > 0
            && (item.change.difference.any() || !matches!(after.source, Source::Base(_)))
        {
            what.push(links(item.change.unlisted_links));
        }
        if !what.is_empty() {
            self.add(&item.path, what.join(", "));
        }
    }

    /// What the file loses when git apply writes it.
    fn lost(&self, after: &Node, item: &Item<'_>, what: &mut Vec<String>) {
        if after.kind == Kind::File {
            let full = if after.perm & 0o100 != 0 {
                0o777
            } else {
                0o666
            };
            let usual = if after.perm & 0o100 != 0 {
                0o755
            } else {
                0o644
            };
            let made = full & !self.who.umask;
            if after.perm != made && after.perm != usual {
                what.push(format!(
                    "mode {:04o} (git apply gives it {made:04o})",
                    after.perm
                ));
            }
            if after.nlink > 1 && item.change.unlisted_links == 0 {
                what.push(format!("that it is one file with {} names", after.nlink));
            }
        }
        self.owner(after, what);
        xattrs(after, what);
    }

    fn owner(&self, after: &Node, what: &mut Vec<String>) {
        if (after.uid, after.gid) != (self.who.uid, self.who.gid) {
            what.push(format!("owner {}:{}", after.uid, after.gid));
        }
    }
}

/// Attributes that differ, in words.
fn describe_change(
    before: &Node,
    after: &Node,
    change: &Change,
    older: &str,
    what: &mut Vec<String>,
) {
    if change.difference.perm {
        what.push(format!(
            "mode {:04o} ({older} {:04o})",
            after.perm, before.perm
        ));
    }
    if change.difference.owner {
        let (old, new) = ((before.uid, before.gid), (after.uid, after.gid));
        what.push(format!(
            "owner {}:{} ({older} {}:{})",
            new.0, new.1, old.0, old.1
        ));
    }
    if change.difference.xattrs {
        what.push("changed extended attributes".into());
    }
}

fn xattrs(node: &Node, what: &mut Vec<String>) {
    if !node.xattrs.is_empty() {
        let names = node
            .xattrs
            .keys()
            .map(|name| super::style::escape_word(name));
        what.push(format!(
            "extended attributes {}",
            names.collect::<Vec<_>>().join(" ")
        ));
    }
}

fn links(count: u32) -> String {
    format!("{count} more hard link(s) to it outside of what is shown, which show its change too")
}

/// Why an item has no place in a patch.
fn why_not(item: &Item<'_>, before: Option<&Node>, after: Option<&Node>) -> String {
    let verb = match (before, after) {
        (None, _) => "new",
        (_, None) => "removed",
        _ => "changed",
    };
    let nodes = || [after, before].into_iter().flatten();
    if let Some(special) = nodes().find(|node| git::mode(node).is_none()) {
        let kind = match special.kind {
            Kind::Fifo => "FIFO",
            Kind::Socket => "socket",
            Kind::Char => "character device",
            Kind::Block => "block device",
            Kind::Dir => "directory",
            Kind::File | Kind::Symlink => "file",
        };
        return format!("{verb} {kind}");
    }
    if nodes().any(|node| git::refusal(&item.path, node.kind == Kind::Symlink).is_some()) {
        return format!("{verb} file with a name that git refuses");
    }
    format!(
        "{verb} file of more than {} MiB, too large for git apply",
        PATCH_FILE_BYTES >> 20
    )
}
