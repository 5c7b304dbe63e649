//! Merges the sources into one [`Policy`], and answers which rule decides over a path.
//!
//! Built-in profile < user file < repository file < flags: on the same path the later source wins,
//! and the repository's may only tighten. Between paths the most specific one wins, in whatever
//! order and source the rules were written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::env::EnvPolicy;
use crate::error::PolicyError;
use crate::profile::Profile;
use crate::rule::{Access, Rule, Source};

/// What holds for a run: the merged rules, at most one per path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: BTreeMap<PathBuf, Rule>,
    /// Places whose files are shown as owned by the caller.
    pub own: Vec<PathBuf>,
    /// Which variables reach the command.
    pub env: EnvPolicy,
}

/// Merges `profiles`, given from the weakest source to the strongest.
///
/// Errors: `Widens` when a repository's rule gives more than the sources below it.
pub fn merge(profiles: Vec<Profile>) -> Result<Policy, PolicyError> {
    let mut policy = Policy::default();
    for profile in profiles {
        for rule in &profile.rules {
            if rule.origin.source == Source::Repository {
                policy.must_not_widen(rule)?;
            }
        }
        for rule in profile.rules {
            policy.rules.insert(rule.path.clone(), rule);
        }
        for path in profile.own {
            if !policy.own.contains(&path) {
                policy.own.push(path);
            }
        }
        policy.env.extend(profile.env);
    }
    Ok(policy)
}

impl Policy {
    /// The rules, parents before what lies below them.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// The rule that decides over `path`; `None`: no rule names it, so it is the host's, read-only.
    pub fn deciding(&self, path: &Path) -> Option<&Rule> {
        path.ancestors().find_map(|p| self.rules.get(p))
    }

    /// What may be done at `path`.
    pub fn access(&self, path: &Path) -> Access {
        self.deciding(path)
            .map_or(Access::ReadOnly, |rule| rule.access)
    }

    /// Every rule at `path` or above it, the deciding one first: the answer to "why".
    pub fn why(&self, path: &Path) -> Vec<&Rule> {
        path.ancestors().filter_map(|p| self.rules.get(p)).collect()
    }

    /// The same policy with every path put through `map` (the launcher resolves symbolic links).
    /// Where two rules meet on one path the stronger source wins, then the tighter access.
    pub fn map_paths(self, mut map: impl FnMut(&Rule) -> PathBuf) -> Self {
        let mut rules: BTreeMap<PathBuf, Rule> = BTreeMap::new();
        for rule in self.rules.into_values() {
            let path = map(&rule);
            let rule = Rule {
                path: path.clone(),
                ..rule
            };
            let wins = rules.get(&path).is_none_or(|old| {
                (rule.origin.source, std::cmp::Reverse(rule.access))
                    > (old.origin.source, std::cmp::Reverse(old.access))
            });
            if wins {
                rules.insert(path, rule);
            }
        }
        Self { rules, ..self }
    }

    fn must_not_widen(&self, rule: &Rule) -> Result<(), PolicyError> {
        let have = self.deciding(&rule.path);
        let have_access = have.map_or(Access::ReadOnly, |r| r.access);
        if rule.access <= have_access {
            return Ok(());
        }
        Err(PolicyError::Widens {
            at: rule.origin.clone(),
            path: rule.path.clone(),
            have: have_access,
            have_from: have.map_or("default".to_owned(), |r| r.origin.to_string()),
            want: rule.access,
        })
    }
}

#[cfg(test)]
mod tests;
