//! What the words of `agentfs diff` ask for: which points, and which paths of them.

use std::path::{Component, Path, PathBuf};

use agentfs_fsd::backstore::{Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::review::{Effort, is_at_or_below};

use crate::cli::DiffArgs;
use crate::error::CmdError;
use crate::review::Review;
use crate::review::plan::Scope;
use crate::review::style::escape_word;

/// The arguments, with their words told apart.
#[derive(Debug)]
pub struct Asked {
    /// What it is compared with, if not with the host.
    pub from: Option<Point>,
    /// The point that is looked at.
    pub point: Point,
    /// Only what is at or below these; empty: all of the scope.
    pub paths: Vec<PathBuf>,
}

impl Asked {
    /// Tells a second point from a path.
    ///
    /// Errors: it could be either; `--all` beside paths.
    pub fn of(args: &DiffArgs, store: &Store) -> Result<Self, CmdError> {
        let mut words = args.words.as_slice();
        let mut to = args.to.clone();
        if to.is_none()
            && let Some((first, rest)) = words.split_first()
            && let Some(point) = second_point(args, store, first)?
        {
            (to, words) = (Some(point), rest);
        }
        let paths: Vec<_> = words.iter().chain(&args.paths).cloned().collect();
        if args.all && !paths.is_empty() {
            return Err(CmdError::refused(
                format!("diff {}", args.point),
                "--all is for everything, and a PATH for a part",
                "leave one of the two out",
            ));
        }
        Ok(match to {
            Some(to) => Asked {
                from: Some(args.point.clone()),
                point: to,
                paths,
            },
            None => Asked {
                from: None,
                point: args.point.clone(),
                paths,
            },
        })
    }

    /// The points, as they are written behind `agentfs diff`.
    pub fn words(&self) -> String {
        match &self.from {
            Some(from) => format!("{from} --to {}", self.point),
            None => self.point.to_string(),
        }
    }

    /// The points that are looked at.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.from.iter().chain([&self.point])
    }

    /// Reads and compares what is asked for.
    pub fn review(&self, store: &Store, scope: &Scope) -> Result<Review, CmdError> {
        match &self.from {
            Some(from) => Review::between(store, from, &self.point, scope.tops()),
            None => Review::open(store, &self.point, Effort::Exact, scope.tops()),
        }
    }

    /// What is in scope: the workspace of the point that is looked at, or given paths, or everything.
    pub fn scope(&self, store: &Store, all: bool) -> Result<Scope, CmdError> {
        let workspace = store.branch(&self.point.branch)?.workspace;
        let workspace = workspace.into_os_string().into_encoded_bytes();
        if all {
            return Ok(Scope::below(b"/"));
        }
        let mut only = Vec::new();
        for path in &self.paths {
            only.push(absolute(path)?.into_os_string().into_encoded_bytes());
        }
        // Something elsewhere: then everything is told from the root.
        let inside = only.iter().all(|path| is_at_or_below(path, &workspace));
        let top = if inside { workspace } else { b"/".to_vec() };
        Ok(Scope { top, only })
    }
}

/// The point that `word` names, if it names one and no path.
fn second_point(args: &DiffArgs, store: &Store, word: &Path) -> Result<Option<Point>, CmdError> {
    let Some(point) = word.to_str().and_then(|text| text.parse::<Point>().ok()) else {
        return Ok(None);
    };
    // A branch that is damaged is one too; what is wrong with it is told when it is read.
    if matches!(store.branch(&point.branch), Err(StoreError::NoBranch(_))) {
        return Ok(None);
    }
    let path = absolute(word)?;
    let is_path = path.symlink_metadata().is_ok() || {
        // What only the first point has is a path as well.
        let review = Review::open(store, &args.point, Effort::Exact, &[])?;
        review.has_at(path.as_os_str().as_encoded_bytes())
    };
    if !is_path {
        return Ok(Some(point));
    }
    let is_known = match &point.snapshot {
        Some(name) => store.branch(&point.branch)?.snapshot(name).is_some(),
        None => true,
    };
    if !is_known {
        return Ok(None);
    }
    let (first, word) = (
        &args.point,
        escape_word(word.as_os_str().as_encoded_bytes()),
    );
    Err(CmdError::refused(
        format!("diff {first} {word}"),
        format!("{word} is a path, and {} as well", kind(&point)),
        format!("`agentfs diff {first} --to {point}` or `agentfs diff {first} -- {word}`"),
    ))
}

fn kind(point: &Point) -> &'static str {
    match point.snapshot {
        Some(_) => "a snapshot",
        None => "a branch",
    }
}

/// `path` from the current directory, with no `.` or `..`. Links in the directories on the way are
/// resolved, since a branch knows a file by its real place; the last component may be a link itself.
fn absolute(path: &Path) -> Result<PathBuf, CmdError> {
    let joined = std::path::absolute(path).map_err(|e| CmdError::io("find", path, e))?;
    let mut plain = PathBuf::from("/");
    for part in joined.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let real = plain.parent().and_then(|parent| parent.canonicalize().ok());
    match (real, plain.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.join(name)),
        // A directory that only the branch has.
        _ => Ok(plain),
    }
}
