//! Computes what a run sets up, as an ordered list of steps, before anything is touched.
//!
//! Pure: policy and facts about the host in, [`Plan`] out. `--dry-run` prints it, `proc::child`
//! executes it. The order: what needs no branch first (it runs while the daemon starts), then the
//! mounts over the branch, parents before what lies below them.

mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agentfs_fsd::backstore::Limit;
use agentfs_fsd::escaped;
use agentfs_policy::{Access, Policy, Source};
use serde::{Serialize, Serializer};

use crate::error::CmdError;
use crate::idmap::IdMap;
use crate::probe::{Facts, PathKind};

pub use show::readable;

/// Source name of the tmpfs at /run; a run inside a run is recognised by it.
pub const MARK: &str = "agentfs";

/// Everything a run will do to itself. Paths in its JSON are [`escaped`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Ids inside.
    pub ids: IdMap,
    /// What the daemon serves copy-on-write, none below another.
    #[serde(with = "escaped::list")]
    pub roots: Vec<PathBuf>,
    /// Host paths that the daemon answers as absent.
    #[serde(with = "escaped::list")]
    pub conceal: Vec<PathBuf>,
    /// Whether the daemon may use FUSE passthrough.
    pub passthrough: bool,
    /// The steps of the set-up child, in order.
    pub steps: Vec<SetupOp>,
    /// Parts of the new /proc that are made read-only.
    pub proc_read_only: Vec<&'static str>,
    /// Where the command starts.
    #[serde(with = "escaped::path")]
    pub cwd: PathBuf,
    /// Names of the variables that do not reach it.
    pub env_dropped: Vec<String>,
    /// How much the branch may take up.
    pub limit: Limit,
}

/// One step of the set-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum SetupOp {
    /// No mount event passes in or out from here on.
    PrivatePropagation,
    /// Opens /dev/fuse, mounts it at the staging place, hands it to the daemon.
    Fuse { source: String },
    /// Makes the new root: the host's tree with all its mounts, read-only.
    HostRoot,
    /// Makes the new root: the branch's.
    BranchRoot,
    /// A new, empty tmpfs.
    Tmpfs {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        mode: u32,
    },
    /// A directory in one of the new tmpfs.
    Dir {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        mode: u32,
    },
    /// A symbolic link in one of the new tmpfs.
    Link {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        #[serde(with = "escaped::path")]
        to: PathBuf,
    },
    /// A device of the host, in the new /dev.
    Device {
        #[serde(with = "escaped::path")]
        at: PathBuf,
    },
    /// New pseudo terminals.
    Pts {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        gid: Option<u32>,
    },
    /// The host's file or tree.
    Host {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        #[serde(with = "escaped::path")]
        from: PathBuf,
        write: bool,
        make: bool,
    },
    /// A copy of a small host tree that the caller owns, read-only, without what is hidden.
    Own {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        #[serde(with = "escaped::list")]
        hidden: Vec<PathBuf>,
    },
    /// Waits until the daemon serves the branch.
    AwaitBranch,
    /// The branch's tree.
    Branch {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        make: bool,
    },
    /// Covers what is there with nothing; keeps places for the visible ones below.
    Hide {
        #[serde(with = "escaped::path")]
        at: PathBuf,
        #[serde(serialize_with = "escaped_kinds")]
        keep: Vec<(PathBuf, PathKind)>,
    },
    /// The branch's tree again, this time read-only.
    DenyWrite {
        #[serde(with = "escaped::path")]
        at: PathBuf,
    },
    /// Makes one of the new tmpfs read-only, now that it is filled.
    Freeze {
        #[serde(with = "escaped::path")]
        at: PathBuf,
    },
    /// Makes the new root the root, and lets go of the host's.
    Pivot,
}

fn escaped_kinds<S: Serializer>(list: &[(PathBuf, PathKind)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq((list.iter()).map(|(path, kind)| (escaped::escape_path(path), kind)))
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The caller's ids.
    pub uid: u32,
    pub gid: u32,
    /// Name of the branch.
    pub branch: &'a str,
    /// The merged rules, their paths real ones.
    pub policy: &'a Policy,
    /// What is known of the paths involved.
    pub facts: &'a Facts,
    /// The store, a real path.
    pub store: &'a Path,
    /// The workspace, a real path.
    pub workspace: &'a Path,
    /// Where the command is to start; the workspace if the view does not show it.
    pub cwd: &'a Path,
    /// Names of the variables that do not reach the command.
    pub env_dropped: Vec<String>,
    /// $TMPDIR and $XDG_RUNTIME_DIR, made anew if they lie in a private place.
    pub scratch_dirs: Vec<PathBuf>,
}

/// How a place of the view is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Rule(Access),
    Private,
}

const HOST: Shown = Shown::Rule(Access::ReadOnly);
const COW: Shown = Shown::Rule(Access::Cow);
const HIDDEN: Shown = Shown::Rule(Access::Hide);

/// Places that are never the host's own.
const PRIVATE: [(&str, u32); 5] = [
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
    ("/run", 0o755),
    ("/dev", 0o755),
    ("/proc", 0),
];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEV_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Parts of /proc that root, even without capabilities, could write and change the host by.
const PROC_ROOT_WRITES: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];
/// Links of /run that name the running system's programs on some distributions.
const RUN_LINKS: [&str; 3] = [
    "/run/current-system",
    "/run/booted-system",
    "/run/opengl-driver",
];

/// Whether a run has a place of its own there, whatever the host has.
pub fn is_private(path: &Path) -> bool {
    PRIVATE
        .iter()
        .any(|(private, _)| Path::new(private) == path)
}

/// Computes the plan.
///
/// Errors: a copy-on-write path that is not there, a workspace inside the store or hidden.
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, CmdError> {
    check(inputs)?;
    let places = places(inputs);
    let view = View {
        inputs,
        places: &places,
    };
    let cwd = view.cwd();
    view.check_cwd(&cwd)?;
    let mut early = vec![SetupOp::PrivatePropagation];
    let mut late = vec![SetupOp::AwaitBranch];
    if places.get(Path::new("/")) == Some(&COW) {
        late.push(SetupOp::BranchRoot);
    } else {
        // Before FUSE is mounted, so that the copy of the host's mounts is without it.
        early.push(SetupOp::HostRoot);
    }
    // Then FUSE, so that the daemon gets going while the rest is done.
    early.push(SetupOp::Fuse {
        source: format!("{MARK}:{}", inputs.branch),
    });
    let mut layers: Vec<(&Path, bool, Vec<SetupOp>)> = places
        .iter()
        .map(|(path, shown)| (path.as_path(), *shown == COW, view.ops(path, *shown)))
        .collect();
    // On top of the host's tree there, and below what covers parts of it.
    layers.extend(
        view.own_copies()
            .map(|(path, op)| (path, false, Vec::from([op]))),
    );
    layers.sort_by_key(|(path, ..)| path.components().count());
    for (path, is_cow, ops) in layers {
        let mut above = path.ancestors().skip(1);
        if is_cow || above.any(|p| places.get(p) == Some(&COW)) {
            late.extend(ops)
        } else {
            early.extend(ops)
        }
    }
    if places.get(Path::new("/dev")) == Some(&Shown::Private) {
        late.push(SetupOp::Freeze { at: "/dev".into() });
    }
    late.push(SetupOp::Pivot);
    early.extend(late);
    Ok(Plan {
        ids: match inputs.uid {
            0 => IdMap::Full,
            uid => IdMap::Own {
                uid,
                gid: inputs.gid,
            },
        },
        roots: view.roots(),
        conceal: view.conceal(),
        passthrough: inputs.uid == 0,
        steps: early,
        proc_read_only: if inputs.uid == 0 {
            PROC_ROOT_WRITES.to_vec()
        } else {
            Vec::new()
        },
        cwd,
        env_dropped: inputs.env_dropped.clone(),
        limit: Limit::default(),
    })
}

impl Plan {
    /// Holds the branch to a limit. One of bytes goes without passthrough: nobody could hold the
    /// kernel's own writes to it.
    pub fn limited(mut self, limit: Limit) -> Self {
        self.passthrough &= limit.bytes.is_none();
        self.limit = limit;
        self
    }

    /// The places below the roots that something is mounted on: what the kernel must not come to look
    /// up anew while that is to stay.
    pub fn covered(&self) -> Vec<PathBuf> {
        let is_below = |at: &&PathBuf| {
            let mut roots = self.roots.iter();
            roots.any(|root| at.starts_with(root) && *at != root)
        };
        let places = self.steps.iter().filter_map(SetupOp::covers);
        places.filter(is_below).cloned().collect()
    }
}

impl SetupOp {
    /// The place that it mounts something on, other than the branch.
    fn covers(&self) -> Option<&PathBuf> {
        match self {
            Self::Tmpfs { at, .. }
            | Self::Device { at }
            | Self::Pts { at, .. }
            | Self::Host { at, .. }
            | Self::Own { at, .. }
            | Self::Hide { at, .. }
            | Self::DenyWrite { at } => Some(at),
            _ => None,
        }
    }
}

fn check(inputs: &Inputs<'_>) -> Result<(), CmdError> {
    let inside = |p: &Path| p.starts_with(inputs.store);
    if inside(inputs.workspace) {
        return Err(CmdError::refused(
            format!("the workspace {}", inputs.workspace.display()),
            format!("lies inside the store {}", inputs.store.display()),
            "run from your own checkout, or choose another store with --store DIR",
        ));
    }
    for rule in inputs.policy.rules() {
        let make = || format!("make it first, or leave out {}", rule.origin);
        let named = || format!("{} {} ({})", rule.access, rule.path.display(), rule.origin);
        let special = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|s| rule.path.starts_with(s));
        if rule.access == Access::Cow {
            match inputs.facts.kind(&rule.path) {
                None => return Err(CmdError::refused(named(), "no such directory", make())),
                Some(PathKind::Dir) if !special => {}
                Some(PathKind::Dir) => {
                    let fix = format!(
                        "/proc, /sys and /dev are the kernel's: name a directory elsewhere, or \
                         leave out {}",
                        rule.origin
                    );
                    return Err(CmdError::refused(named(), "this place has no branch", fix));
                }
                Some(_) => {
                    let fix = "name the directory that holds it";
                    return Err(CmdError::refused(named(), "not a directory", fix));
                }
            }
        }
        // It holds every branch, and the sockets that control the live ones.
        if rule.access != Access::Hide && inside(&rule.path) {
            let fix = "name something outside of it, or choose another store with --store DIR";
            return Err(CmdError::refused(named(), "lies inside the store", fix));
        }
        let asked = matches!(rule.origin.source, Source::Flag);
        if asked && rule.access != Access::Hide && inputs.facts.kind(&rule.path).is_none() {
            return Err(CmdError::refused(
                named(),
                "no such file or directory",
                make(),
            ));
        }
        if rule.access == Access::SharedRw && rule.path == Path::new("/") {
            let (why, fix) = ("would share the host", "name something narrower");
            return Err(CmdError::refused(named(), why, fix));
        }
    }
    Ok(())
}

/// Every path at which the view changes, and to what.
fn places(inputs: &Inputs<'_>) -> BTreeMap<PathBuf, Shown> {
    let mut places: BTreeMap<PathBuf, Shown> = PRIVATE
        .iter()
        .filter(|(path, _)| inputs.facts.kind(Path::new(path)).is_some())
        .map(|(path, _)| (PathBuf::from(path), Shown::Private))
        .collect();
    places.insert("/sys".into(), HOST);
    for rule in inputs.policy.rules() {
        let fixed = rule.path == Path::new("/proc") || rule.path == Path::new("/dev");
        // What does not exist needs no place of its own; hidden paths are told to the daemon.
        if !fixed && inputs.facts.kind(&rule.path).is_some() {
            places.insert(rule.path.clone(), Shown::Rule(rule.access));
        }
    }
    let visible = |p: &Path| {
        let shown = p.ancestors().find_map(|a| places.get(a));
        !matches!(shown, Some(&COW | &Shown::Private | &HIDDEN))
    };
    if visible(inputs.store) {
        places.insert(inputs.store.to_owned(), HIDDEN);
    }
    places
}

struct View<'a> {
    inputs: &'a Inputs<'a>,
    places: &'a BTreeMap<PathBuf, Shown>,
}

impl View<'_> {
    /// What shows at `path` but for a place of its own.
    fn around(&self, path: &Path) -> Shown {
        path.ancestors()
            .skip(1)
            .find_map(|p| self.places.get(p))
            .copied()
            .unwrap_or(HOST)
    }

    /// What shows at `path`.
    fn shown(&self, path: &Path) -> Shown {
        self.places
            .get(path)
            .copied()
            .unwrap_or_else(|| self.around(path))
    }

    fn ops(&self, path: &Path, shown: Shown) -> Vec<SetupOp> {
        let at = path.to_owned();
        let around = self.around(path);
        let make = around == Shown::Private;
        let is_root = path == Path::new("/");
        match shown {
            Shown::Private => self.private(path),
            _ if is_root => Vec::new(),
            _ if shown == around => Vec::new(),
            Shown::Rule(Access::ReadOnly) => {
                vec![SetupOp::Host {
                    from: at.clone(),
                    at,
                    write: false,
                    make,
                }]
            }
            Shown::Rule(Access::SharedRw) => {
                vec![SetupOp::Host {
                    from: at.clone(),
                    at,
                    write: true,
                    make,
                }]
            }
            Shown::Rule(Access::Cow) => vec![SetupOp::Branch { at, make }],
            Shown::Rule(Access::DenyWrite) => vec![SetupOp::DenyWrite { at }],
            Shown::Rule(Access::Hide) if around == Shown::Private => Vec::new(),
            // The daemon keeps the host's files from the branch; what a run makes there itself is
            // the branch's own, and stays.
            Shown::Rule(Access::Hide) if around == COW && self.is_builtin(path) => Vec::new(),
            Shown::Rule(Access::Hide) => {
                vec![SetupOp::Hide {
                    at,
                    keep: self.kept_below(path),
                }]
            }
        }
    }

    /// Whether the built-in profile alone speaks of `path`, and the daemon can do as it says.
    fn is_builtin(&self, path: &Path) -> bool {
        let rule = self.inputs.policy.deciding(path);
        rule.is_some_and(|r| r.path == path && r.origin.source == Source::Builtin)
            && self.kept_below(path).is_empty()
    }

    /// The nearest visible places below a hidden one.
    fn kept_below(&self, hidden: &Path) -> Vec<(PathBuf, PathKind)> {
        self.places
            .iter()
            .filter(|(p, s)| p.starts_with(hidden) && *p != hidden && **s != HIDDEN)
            .filter(|(p, _)| self.around(p) == HIDDEN)
            .filter_map(|(p, _)| Some((p.clone(), self.inputs.facts.kind(p)?)))
            .collect()
    }

    fn private(&self, path: &Path) -> Vec<SetupOp> {
        let at = path.to_owned();
        let Some((name, mode)) = PRIVATE.iter().find(|(p, _)| Path::new(p) == path) else {
            return Vec::new();
        };
        let mut ops = match *name {
            // Init mounts it, from inside the new pid namespace. The kernel lets it only where a
            // whole /proc is visible already, which the branch's root lacks.
            "/proc" if self.around(path) == COW => {
                return vec![SetupOp::Host {
                    from: at.clone(),
                    at,
                    write: false,
                    make: false,
                }];
            }
            "/proc" => return Vec::new(),
            _ => vec![SetupOp::Tmpfs { at, mode: *mode }],
        };
        match *name {
            "/dev" => self.dev(&mut ops),
            "/run" => self.run(&mut ops),
            _ => {}
        }
        let wanted = |d: &&PathBuf| d.starts_with(path) && self.shown(d) == Shown::Private;
        for at in self
            .inputs
            .scratch_dirs
            .iter()
            .filter(wanted)
            .filter(|d| *d != path)
        {
            ops.push(SetupOp::Dir {
                at: at.clone(),
                mode: 0o700,
            });
        }
        ops
    }

    fn dev(&self, ops: &mut Vec<SetupOp>) {
        let dev = Path::new("/dev");
        let there = |p: &Path| self.inputs.facts.kind(p).is_some();
        for at in DEVICES.iter().map(|d| dev.join(d)).filter(|p| there(p)) {
            ops.push(SetupOp::Device { at });
        }
        for (name, to) in DEV_LINKS {
            ops.push(SetupOp::Link {
                at: dev.join(name),
                to: to.into(),
            });
        }
        let gid = (self.inputs.uid == 0).then_some(5);
        ops.push(SetupOp::Dir {
            at: dev.join("pts"),
            mode: 0o755,
        });
        ops.push(SetupOp::Pts {
            at: dev.join("pts"),
            gid,
        });
        ops.push(SetupOp::Dir {
            at: dev.join("shm"),
            mode: 0o755,
        });
        ops.push(SetupOp::Tmpfs {
            at: dev.join("shm"),
            mode: 0o1777,
        });
        if let Some(tty) = &self.inputs.facts.tty {
            let at = dev.join("console");
            ops.push(SetupOp::Host {
                at,
                from: tty.clone(),
                write: true,
                make: true,
            });
        }
    }

    fn run(&self, ops: &mut Vec<SetupOp>) {
        ops.push(SetupOp::Dir {
            at: "/run/lock".into(),
            mode: 0o1777,
        });
        for link in RUN_LINKS {
            if let Some(to) = self.inputs.facts.links.get(Path::new(link)) {
                ops.push(SetupOp::Link {
                    at: link.into(),
                    to: to.clone(),
                });
            }
        }
        if let Some(target) = self
            .inputs
            .facts
            .resolv_conf
            .as_ref()
            .filter(|p| p.starts_with("/run"))
        {
            let (at, from) = (target.clone(), target.clone());
            ops.push(SetupOp::Host {
                at,
                from,
                write: false,
                make: true,
            });
        }
    }

    /// Copies of the files that programs only trust when root or the caller owns them. Root's own
    /// runs need none: every id exists inside.
    fn own_copies(&self) -> impl Iterator<Item = (&Path, SetupOp)> {
        let facts = self.inputs.facts;
        let rules = self.inputs.policy.rules();
        let hidden: Vec<PathBuf> = rules
            .filter(|rule| rule.access == Access::Hide && facts.kind(&rule.path).is_some())
            .map(|rule| rule.path.clone())
            .chain([self.inputs.store.to_owned()])
            .collect();
        let plain = move |p: &Path| facts.kind(p).is_some() && self.shown(p) == HOST;
        let own = self.inputs.policy.own.iter();
        own.filter(move |p| self.inputs.uid != 0 && plain(p))
            .map(move |path| {
                let (at, hidden) = (path.clone(), hidden.clone());
                (path.as_path(), SetupOp::Own { at, hidden })
            })
    }

    /// Copy-on-write places, the outermost ones.
    fn roots(&self) -> Vec<PathBuf> {
        let cow = |p: &Path| self.places.get(p) == Some(&COW);
        self.places
            .keys()
            .filter(|p| cow(p) && !p.ancestors().skip(1).any(cow))
            .cloned()
            .collect()
    }

    /// The store, and what is hidden below a root with nothing visible inside it: also what does not
    /// exist, as it may come to be on the host while the run lasts.
    fn conceal(&self) -> Vec<PathBuf> {
        let roots = self.roots();
        let hidden = self.inputs.policy.rules().filter(|r| {
            r.access == Access::Hide
                && roots
                    .iter()
                    .any(|root| r.path.starts_with(root) && r.path != *root)
                && self.kept_below(&r.path).is_empty()
        });
        let all: BTreeSet<PathBuf> = hidden
            .map(|r| r.path.clone())
            .chain(std::iter::once(self.inputs.store.to_owned()))
            .collect();
        all.into_iter().collect()
    }

    /// Where the command starts: the caller's directory if the view shows it as the host does.
    fn cwd(&self) -> PathBuf {
        let cwd = self.inputs.cwd;
        match self.shown(cwd) {
            Shown::Private | HIDDEN => self.inputs.workspace.to_owned(),
            _ => cwd.to_owned(),
        }
    }

    /// Refuses to start in a place that a rule hides.
    fn check_cwd(&self, cwd: &Path) -> Result<(), CmdError> {
        let rule = self.inputs.policy.deciding(cwd);
        let Some(rule) = rule.filter(|rule| rule.access == Access::Hide) else {
            return Ok(());
        };
        let fix = if rule.origin.source == Source::Builtin {
            format!(
                "run from another directory, or show this one all the same: --cow {}",
                cwd.display()
            )
        } else {
            format!("leave out {}, or run from another workspace", rule.origin)
        };
        Err(CmdError::refused(
            format!("{} {} ({})", rule.access, rule.path.display(), rule.origin),
            format!("the command would start there, in {}", cwd.display()),
            fix,
        ))
    }
}

#[cfg(test)]
mod tests;
