//! Finds the files of a review that git would convert, by the attributes of the host and of the
//! branch. Read-only; runs nothing, and follows no link. Called by `diff`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use agentfs_fsd::core::types::Kind;
use agentfs_fsd::review::{Change, Node, is_at_or_below, join};

use super::Review;
use super::attributes::{self, Attributes, FILE_BYTES};
use super::plan::Item;

/// The name of an attribute file in a working tree.
const NAME: &[u8] = b".gitattributes";
/// In files up to this many bytes the keyword of `ident` is looked for.
const TEXT_BYTES: u64 = 64 << 20;

/// Whose attribute files: of the host or the point that a patch is for, or of the other point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Older,
    Newer,
}

/// Attribute files that were read, by path.
type Known = HashMap<(Side, Vec<u8>), Rc<Attributes>>;

/// The attributes that speak of the files of a review.
pub struct Converted<'a> {
    review: &'a Review,
    /// Where a patch is applied.
    top: Vec<u8>,
    /// The working tree that this belongs to.
    tree: Vec<u8>,
    /// What the sides have of attribute files that is not the host's, by path.
    changed: HashMap<(Side, &'a [u8]), &'a Change>,
    /// Those of no directory: the first has the last word of all, the others the first.
    above: Option<Attributes>,
    below: Vec<Attributes>,
    read: RefCell<Known>,
}

impl<'a> Converted<'a> {
    /// For a patch that is applied in `top`.
    pub fn new(review: &'a Review, top: &[u8]) -> Self {
        let tree = Path::new(OsStr::from_bytes(top));
        let tree = tree
            .ancestors()
            .find(|dir| dir.join(".git").symlink_metadata().is_ok());
        let is_attributes =
            |change: &&Change| change.path.rsplit(|b| *b == b'/').next() == Some(NAME);
        let [older, newer] = review.changes_of_host();
        let sides = [(Side::Older, older), (Side::Newer, newer)];
        let changes = sides.into_iter().flat_map(|(side, changes)| {
            let changes = changes.iter().filter(is_attributes);
            changes.map(move |change| ((side, &change.path[..]), change))
        });
        let outside = |path: PathBuf| {
            let bytes = host_bytes(review, path.as_os_str().as_bytes());
            Attributes::parse(&bytes.unwrap_or_default(), true)
        };
        Converted {
            top: top.to_vec(),
            tree: tree
                .map_or(top, |tree| tree.as_os_str().as_bytes())
                .to_vec(),
            changed: changes.collect(),
            above: tree.and_then(|tree| info(review, tree)).map(outside),
            below: general().into_iter().map(outside).collect(),
            read: RefCell::default(),
            review,
        }
    }

    /// The attribute for which git would convert the item's file on the way; `None`: it is taken
    /// as it is.
    pub fn attribute(&self, item: &Item<'_>) -> Option<&'static str> {
        let files = [item.before, item.after];
        if !files.iter().flatten().any(|node| node.kind == Kind::File) {
            return None;
        }
        let paths = [Some(&item.path), item.from.as_ref()];
        let found = paths.into_iter().flatten().find_map(|path| {
            let sides = [Side::Older, Side::Newer];
            sides
                .into_iter()
                .find_map(|side| self.of(side, &join(&self.top, path)))
        })?;
        let has_keyword = || {
            files
                .iter()
                .flatten()
                .any(|node| self.may_have_keyword(node))
        };
        (found != "ident" || has_keyword()).then_some(found)
    }

    /// What the attribute files of one side say of `path`.
    fn of(&self, side: Side, path: &[u8]) -> Option<&'static str> {
        if !is_at_or_below(path, &self.tree) {
            return None;
        }
        let mut files = Vec::new();
        let mut dir = path;
        while let Some(at) = dir.iter().rposition(|b| *b == b'/') {
            dir = &dir[..at];
            let here = if dir.is_empty() { b"/" } else { dir };
            let relative = path.strip_prefix(here).unwrap_or(path);
            let relative = relative.strip_prefix(b"/").unwrap_or(relative);
            files.push((self.file(side, here), relative));
            if here == self.tree {
                break;
            }
        }
        let whole = files.last().map_or(path, |(_, relative)| relative);
        let above = self.above.iter().map(|file| (file, whole));
        let below = self.below.iter().map(|file| (file, whole));
        let between = files.iter().map(|(file, path)| (&**file, *path));
        let stack: Vec<_> = above.chain(between).chain(below).collect();
        attributes::converts(&stack)
    }

    /// The attribute file of a directory.
    fn file(&self, side: Side, dir: &[u8]) -> Rc<Attributes> {
        let path = join(dir, NAME);
        let key = (side, path.clone());
        if let Some(known) = self.read.borrow().get(&key) {
            return known.clone();
        }
        let with_macros = dir == self.tree;
        let change = self.changed.get(&(side, &path[..]));
        let bytes = match change {
            Some(change) => change
                .after
                .as_ref()
                .and_then(|node| self.point_bytes(node)),
            None => host_bytes(self.review, &path),
        };
        let found = Attributes::parse(&bytes.unwrap_or_default(), with_macros);
        let found = Rc::new(found);
        self.read.borrow_mut().insert(key, found.clone());
        found
    }

    fn point_bytes(&self, node: &Node) -> Option<Vec<u8>> {
        // git follows no link to its attributes either.
        if node.kind != Kind::File || node.size > FILE_BYTES {
            return None;
        }
        self.review.contents().open(node).ok()?.read_all().ok()
    }

    /// Whether the file has, or may have, what `ident` replaces.
    fn may_have_keyword(&self, node: &Node) -> bool {
        if node.kind != Kind::File || node.size > TEXT_BYTES {
            return node.kind == Kind::File;
        }
        let blob = self
            .review
            .contents()
            .open(node)
            .and_then(|blob| blob.read_all());
        // What cannot be read is told when the patch is made.
        blob.is_ok_and(|bytes| bytes.windows(3).any(|word| word == b"$Id"))
    }
}

/// A small regular file of the host.
fn host_bytes(review: &Review, path: &[u8]) -> Option<Vec<u8>> {
    let file = review.host_file(path).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= FILE_BYTES).then_some(bytes)
}

/// The attribute file of the repository whose working tree is at `tree`: that of the main one, if
/// it is a linked tree.
fn info(review: &Review, tree: &Path) -> Option<PathBuf> {
    let git = tree.join(".git");
    let dir = match host_bytes(review, git.as_os_str().as_bytes()) {
        None => git,
        Some(text) => real(tree, text.strip_prefix(b"gitdir:")?)?,
    };
    let common = host_bytes(review, dir.join("commondir").as_os_str().as_bytes());
    let dir = match common {
        Some(text) => real(&dir, &text)?,
        None => dir,
    };
    Some(dir.join("info/attributes"))
}

fn real(from: &Path, text: &[u8]) -> Option<PathBuf> {
    let path = from.join(OsStr::from_bytes(text.trim_ascii()));
    path.canonicalize().ok()
}

/// Attribute files for all repositories, the user's first; where git's configuration has another
/// one for the user, that is not known here.
fn general() -> Vec<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let config = var("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(var("HOME")?.join(".config")));
    let own = config.map(|dir| dir.join("git/attributes"));
    let all = own.into_iter().chain([PathBuf::from("/etc/gitattributes")]);
    all.filter_map(|path| path.canonicalize().ok()).collect()
}
