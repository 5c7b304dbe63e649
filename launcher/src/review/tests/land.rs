//! Two directory trees, the changes from one to the other, and git to land them.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentfs_fsd::backstore::{BranchReader, NewBranch, Store};
use agentfs_fsd::core::types::{BranchName, Kind, Name};
use agentfs_fsd::review::{Base, Change, ChangeSet, ContentReader, Difference, Node, Source, join};
use tempfile::TempDir;

use crate::review::patch::PatchWriter;
use crate::review::plan::{Applier, Plan, Scope};
use crate::review::style::Style;

/// What git knows of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Entry {
    File { bytes: Vec<u8>, exec: bool },
    Link(Vec<u8>),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(200)].escape_ascii().to_string();
        match self {
            Entry::File { bytes, exec } => write!(f, "file(\"{}\", {exec})", shown(bytes)),
            Entry::Link(target) => write!(f, "link(\"{}\")", shown(target)),
        }
    }
}

pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// `host` and `branch` side by side below one root.
pub struct Land {
    root: TempDir,
    base: Base,
    reader: BranchReader,
    before: Tree,
    after: Tree,
    patch: OnceCell<Vec<u8>>,
}

/// Whoever runs the tests.
pub fn me() -> Applier {
    Applier {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0o022,
        overwrite: false,
        older: "the host has",
    }
}

impl Land {
    pub fn new(before: &Tree, after: &Tree) -> Self {
        let root = tempfile::tempdir().unwrap();
        fill(&root.path().join("host"), before);
        fill(&root.path().join("branch"), after);
        let base = Base::new(root.path(), &[]).unwrap();
        // A branch without a word in it: all contents here are plain files.
        let store = Store::open_or_create(&root.path().join("store")).unwrap();
        let name = BranchName::new("b").unwrap();
        store
            .create_branch(
                &name,
                None,
                NewBranch {
                    workspace: "/host".into(),
                },
            )
            .unwrap();
        let reader = store.read(&name).unwrap();
        Land {
            root,
            base,
            reader,
            before: before.clone(),
            after: after.clone(),
            patch: OnceCell::new(),
        }
    }

    pub fn branch_dir(&self) -> PathBuf {
        self.root.path().join("branch")
    }

    pub fn scope(&self) -> Scope {
        Scope::below(b"/host")
    }

    /// The changes, found by looking at everything.
    pub fn changes(&self) -> ChangeSet {
        let before = self.nodes(b"/host");
        let after = self.nodes(b"/branch");
        let gone: Vec<&Vec<u8>> = (before.keys())
            .filter(|path| after.get(*path).is_none_or(|node| node.kind != Kind::File))
            .collect();
        let mut set = ChangeSet {
            changes: Vec::new(),
            hidden: Vec::new(),
            emptied: Vec::new(),
            strays: Vec::new(),
            problems: Vec::new(),
            complete: true,
            clock_set_back: false,
        };
        let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        for path in paths {
            let (old, mut new) = (before.get(path).cloned(), after.get(path).cloned());
            let mut difference = Difference::default();
            match (&old, &mut new) {
                (Some(old), Some(new)) if old.kind == new.kind => {
                    difference = Difference::of_metadata(old, new);
                    difference.content |= self.read(old) != self.read(new);
                    if !difference.any() {
                        continue;
                    }
                }
                // The same bytes as a file that is gone: say that it was moved.
                (_, Some(new)) if new.kind == Kind::File => {
                    let bytes = self.read(new);
                    let from = gone.iter().find(|from| {
                        let node = &before[**from];
                        node.kind == Kind::File && self.read(node) == bytes
                    });
                    if let Some(from) = from {
                        new.source = before[*from].source.clone();
                    }
                }
                _ => {}
            }
            let path = join(b"/host", path);
            set.changes.push(Change {
                path,
                before: old,
                after: new,
                difference,
                unlisted_links: 0,
                host_changed: false,
            });
        }
        for (path, node) in &after {
            let below = |nodes: &BTreeMap<Vec<u8>, Node>| {
                let prefix = join(path, b"");
                nodes.keys().any(|other| other.starts_with(&prefix))
            };
            if node.kind == Kind::Dir
                && before.contains_key(path)
                && below(&before)
                && !below(&after)
            {
                set.emptied.push(join(b"/host", path));
            }
        }
        set
    }

    fn read(&self, node: &Node) -> Vec<u8> {
        self.reader().open(node).unwrap().read_all().unwrap()
    }

    fn reader(&self) -> ContentReader<'_> {
        ContentReader::new(&self.base, &self.reader)
    }

    fn nodes(&self, top: &[u8]) -> BTreeMap<Vec<u8>, Node> {
        let (mut nodes, mut todo) = (BTreeMap::new(), vec![Vec::new()]);
        while let Some(path) = todo.pop() {
            let at = if path.is_empty() {
                top.to_vec()
            } else {
                join(top, &path)
            };
            let dir = self.base.dir(&at).unwrap().unwrap();
            let mut names: Vec<Name> = Vec::new();
            dir.each_name(&mut |name| {
                names.push(name);
                true
            })
            .unwrap();
            for name in names {
                let node = dir.entry(&self.base, &name).unwrap().unwrap().node;
                let below = if path.is_empty() {
                    name.as_bytes().to_vec()
                } else {
                    join(&path, name.as_bytes())
                };
                if node.kind == Kind::Dir {
                    todo.push(below.clone());
                }
                assert!(matches!(node.kind, Kind::File) == matches!(node.source, Source::Base(_)));
                nodes.insert(below, node);
            }
        }
        nodes
    }

    pub fn patch(&self) -> &[u8] {
        self.patch.get_or_init(|| self.make_patch())
    }

    fn make_patch(&self) -> Vec<u8> {
        let (set, scope) = (self.changes(), self.scope());
        let plan = Plan::new(&set, &scope, me(), true);
        let mut out = Vec::new();
        let mut writer = PatchWriter::new(self.reader(), &mut out, Style::plain());
        for item in plan.items.iter().filter(|item| item.in_patch) {
            writer.item(item).unwrap();
        }
        out
    }

    /// A copy of the host's tree with the patch applied.
    pub fn landed(&self, in_repository: bool) -> Result<Tree, String> {
        let dir = self.copy(in_repository);
        apply(&dir, self.patch(), &[])?;
        Ok(look(&dir))
    }

    /// The patch makes the branch of the host, and its reverse the host of the branch.
    pub fn check(&self, in_repository: bool) {
        let dir = self.copy(in_repository);
        let patch = self.patch();
        if patch.is_empty() {
            assert_eq!(self.before, self.after);
            return;
        }
        let shown = || String::from_utf8_lossy(&patch[..patch.len().min(5000)]).into_owned();
        if let Err(e) = apply(&dir, patch, &[]) {
            panic!("git apply: {e}\n{}", shown());
        }
        let landed = look(&dir);
        assert!(
            landed == self.after,
            "{landed:?}\n{:?}\n{}",
            self.after,
            shown()
        );
        if let Err(e) = apply(&dir, patch, &["-R"]) {
            panic!("git apply -R: {e}\n{}", shown());
        }
        // git makes a plain file of whatever it was whose deletion it takes back, also with a patch
        // of its own; so only names and bytes are compared.
        let (landed, before) = (plain(look(&dir)), plain(self.before.clone()));
        assert!(landed == before, "not taken back\n{}", shown());
    }

    fn copy(&self, in_repository: bool) -> PathBuf {
        let dir = self
            .root
            .path()
            .join(if in_repository { "repository" } else { "plain" });
        fill(&dir, &self.before);
        if in_repository {
            git(&dir, &["init", "-q"], b"").unwrap();
        }
        dir
    }
}

fn apply(dir: &Path, patch: &[u8], args: &[&str]) -> Result<(), String> {
    git(dir, &[&["apply"], args].concat(), patch)
}

fn git(dir: &Path, args: &[&str], input: &[u8]) -> Result<(), String> {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let answer = std::thread::scope(|scope| {
        scope.spawn(move || {
            // git may stop reading early; its own message tells why.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    if answer.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&answer.stderr).into_owned())
    }
}

fn fill(dir: &Path, tree: &Tree) {
    fs::create_dir(dir).unwrap();
    for (path, entry) in tree {
        let path = dir.join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match entry {
            Entry::File { bytes, exec } => {
                fs::write(&path, bytes).unwrap();
                let mode = if *exec { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Entry::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
        }
    }
}

fn plain(tree: Tree) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let bytes = |entry| match entry {
        Entry::File { bytes, .. } | Entry::Link(bytes) => bytes,
    };
    tree.into_iter()
        .map(|(path, entry)| (path, bytes(entry)))
        .collect()
}

fn look(dir: &Path) -> Tree {
    let (mut tree, mut todo) = (Tree::new(), vec![dir.to_path_buf()]);
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(dir)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            if name == b".git" {
                continue;
            }
            if meta.is_dir() {
                todo.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec();
                tree.insert(name, Entry::Link(target));
            } else {
                let exec = meta.permissions().mode() & 0o100 != 0;
                tree.insert(
                    name,
                    Entry::File {
                        bytes: fs::read(&path).unwrap(),
                        exec,
                    },
                );
            }
        }
    }
    tree
}
