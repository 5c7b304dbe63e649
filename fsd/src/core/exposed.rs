//! [`Exposed`]: which host directories a mount shows, as a tree of names.
//!
//! Directories above the roots are skeletons: they show only the names that lead to a root.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::core::types::{Name, NameError};

/// A skeleton directory: the names it shows. `None` behind a name: a root, shown whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    names: BTreeMap<Name, Option<Arc<Exposed>>>,
}

/// What lies behind a name of a skeleton directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing that the mount shows.
    Nothing,
    /// Another skeleton.
    Skeleton(Arc<Exposed>),
    /// A copy-on-write root.
    Root,
}

impl Exposed {
    /// The tree for these absolute paths; `None` when `/` itself is one of them.
    ///
    /// A root below another root adds nothing. Errors: a path with a component that is no name.
    pub fn new(roots: &[PathBuf]) -> Result<Option<Arc<Exposed>>, NameError> {
        let mut paths = Vec::with_capacity(roots.len());
        for root in roots {
            let bytes = std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str());
            let names: Result<Vec<Name>, NameError> = bytes
                .split(|b| *b == b'/')
                .filter(|c| !c.is_empty())
                .map(Name::new)
                .collect();
            paths.push(names?);
        }
        Ok(build(&paths.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    }

    /// What the skeleton shows under `name`.
    pub fn get(&self, name: &Name) -> Shown {
        match self.names.get(name) {
            None => Shown::Nothing,
            Some(None) => Shown::Root,
            Some(Some(below)) => Shown::Skeleton(below.clone()),
        }
    }

    /// The names it shows, in order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }
}

fn build(paths: &[&[Name]]) -> Option<Arc<Exposed>> {
    if paths.iter().any(|p| p.is_empty()) {
        return None;
    }
    let mut groups: BTreeMap<Name, Vec<&[Name]>> = BTreeMap::new();
    for path in paths {
        groups.entry(path[0].clone()).or_default().push(&path[1..]);
    }
    let names = groups
        .into_iter()
        .map(|(name, below)| (name, build(&below)))
        .collect();
    Some(Arc::new(Exposed { names }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(s: &str) -> Name {
        Name::new(s.as_bytes()).unwrap()
    }

    #[test]
    fn shows_only_what_leads_to_roots() {
        let roots = ["/home/u", "/srv/main", "/home/u/inner"].map(PathBuf::from);
        let top = Exposed::new(&roots).unwrap().unwrap();
        assert_eq!(top.get(&name("etc")), Shown::Nothing);
        let Shown::Skeleton(home) = top.get(&name("home")) else {
            panic!("home leads to a root")
        };
        assert_eq!(home.get(&name("u")), Shown::Root);
        assert_eq!(home.get(&name("v")), Shown::Nothing);
    }

    #[test]
    fn the_root_of_all_shows_everything() {
        assert_eq!(Exposed::new(&["/".into(), "/home".into()]).unwrap(), None);
    }
}
