//! Merges the sources into one [`Policy`], and answers which rule decides over a path.
//!
//! Built-in profile < user file < repository file < flags: on the same path the later source wins,
//! and the repository's may only tighten. Between paths the most specific one wins, in whatever
//! order and source the rules were written; but a hidden place is shown only by the user, and only
//! by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::env::EnvPolicy;
use crate::error::PolicyError;
use crate::limits::Disk;
use crate::profile::Profile;
use crate::rule::{Access, Origin, Rule, Source};

/// What holds for a run: the merged rules, at most one per path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: BTreeMap<PathBuf, Rule>,
    /// Places whose files are shown as owned by the caller.
    pub own: Vec<PathBuf>,
    /// Which variables reach the command.
    pub env: EnvPolicy,
    /// How much the branch may take up, with where each part is written.
    pub disk: Disk,
    /// The sources that have a say in `disk`, the strongest last.
    pub disk_from: Vec<Origin>,
}

/// Merges `profiles`, given from the weakest source to the strongest, their paths real ones.
///
/// Errors: `Widens` and `Unveils` when a repository's rule gives more than the sources below it;
/// `Uncovers` when a rule that does not name a hidden path would show it.
pub fn merge(profiles: Vec<Profile>) -> Result<Policy, PolicyError> {
    let mut policy = Policy::default();
    let mut from_repository: Vec<Rule> = Vec::new();
    // What holds but for the repository: flags too bind it.
    let mut trusted = Policy::default();
    for profile in profiles {
        let mut wanted = Vec::new();
        for rule in profile.rules {
            if rule.origin.source == Source::Repository {
                wanted.push(policy.tightened(rule)?);
            } else {
                policy.must_be_named(&rule)?;
                trusted.rules.insert(rule.path.clone(), rule.clone());
                policy.rules.insert(rule.path.clone(), rule);
            }
        }
        for rule in wanted {
            from_repository.push(rule.clone());
            policy.rules.insert(rule.path.clone(), rule);
        }
        for path in profile.own {
            if !policy.own.contains(&path) {
                policy.own.push(path);
            }
        }
        policy.env.extend(profile.env);
        if let Some((disk, origin)) = profile.disk {
            policy.limit(disk, origin);
        }
    }
    for rule in from_repository {
        if rule.access > trusted.access(&rule.path) {
            policy.withdraw(&rule, &trusted);
        }
    }
    policy.keep_covered()?;
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

    /// Takes a source's limit over: a repository's holds where it is the tighter one, any other in the
    /// place of those before.
    fn limit(&mut self, disk: Disk, origin: Origin) {
        if origin.source != Source::Repository {
            self.disk = disk;
            // Where nothing is limited nobody has a say in it.
            self.disk_from = Some(origin)
                .filter(|_| !disk.is_none())
                .into_iter()
                .collect();
        } else if self.disk.tightened(disk) != self.disk {
            self.disk = self.disk.tightened(disk);
            self.disk_from.push(origin);
        }
    }

    /// Adds a rule for the sake of the run itself; what is hidden there, or spoken of by another
    /// rule, stays as it is.
    pub fn add_unless_hidden(&mut self, rule: Rule) {
        if self.access(&rule.path) != Access::Hide {
            self.rules.entry(rule.path.clone()).or_insert(rule);
        }
    }

    /// A repository's rule as it may hold.
    fn tightened(&self, mut rule: Rule) -> Result<Rule, PolicyError> {
        let have = self.deciding(&rule.path);
        let have_access = have.map_or(Access::ReadOnly, |r| r.access);
        if rule.access > have_access {
            return Err(PolicyError::Widens {
                at: rule.origin,
                path: rule.path,
                have: have_access,
                have_from: have.map_or("default".to_owned(), |r| r.origin.to_string()),
                want: rule.access,
            });
        }
        // The branch can hide what does not exist yet, the host's own files cannot.
        let on_branch = |access| matches!(access, Access::Cow | Access::DenyWrite);
        let loses_branch = rule.access == Access::ReadOnly
            || (rule.access == Access::DenyWrite && have.is_some_and(|r| r.path == rule.path));
        if loses_branch
            && on_branch(have_access)
            && let Some(below) = self.hidden_below(&rule.path)
        {
            let around = rule.path.parent().map(|parent| self.access(parent));
            if around.is_none_or(|access| access != Access::Cow) {
                return Err(PolicyError::Unveils {
                    at: rule.origin,
                    path: rule.path,
                    want: rule.access,
                    hidden: Box::new(below.clone()),
                });
            }
            rule.access = Access::DenyWrite;
        }
        Ok(rule)
    }

    /// Errors: `Uncovers` when `rule` takes the place of one that hides, and does not name it.
    fn must_be_named(&self, rule: &Rule) -> Result<(), PolicyError> {
        match self.rules.get(&rule.path) {
            Some(hider)
                if hider.access == Access::Hide && rule.access != Access::Hide && !rule.named =>
            {
                Err(uncovers(rule, hider))
            }
            _ => Ok(()),
        }
    }

    fn hidden_below(&self, path: &Path) -> Option<&Rule> {
        let below = self.rules.range(path.to_owned()..).map(|(_, rule)| rule);
        below
            .take_while(|rule| rule.path.starts_with(path))
            .find(|rule| rule.access == Access::Hide)
    }

    /// Takes a repository's rule out again; what the trusted sources say of the path holds.
    fn withdraw(&mut self, rule: &Rule, trusted: &Policy) {
        match trusted.rules.get(&rule.path) {
            Some(other) => self.rules.insert(rule.path.clone(), other.clone()),
            None => self.rules.remove(&rule.path),
        };
    }

    /// Sees to it that no rule shows a hidden place that its source does not name.
    ///
    /// Errors: `Uncovers`; what is built in just does not hold there.
    fn keep_covered(&mut self) -> Result<(), PolicyError> {
        // Parents first: a rule that goes may have been what uncovered the next.
        let paths: Vec<PathBuf> = self.rules.keys().cloned().collect();
        for path in paths {
            let above = path.ancestors().skip(1).find_map(|p| self.rules.get(p));
            let Some(hider) = above.filter(|rule| rule.access == Access::Hide) else {
                continue;
            };
            let Some(rule) = self.rules.get(&path) else {
                continue;
            };
            let source = rule.origin.source;
            let same = source == Source::Repository && hider.origin.source == source;
            if rule.access == Access::Hide || same {
                continue;
            }
            if source == Source::Builtin {
                self.rules.remove(&path);
            } else if !rule.named {
                return Err(uncovers(rule, hider));
            }
        }
        Ok(())
    }
}

fn uncovers(rule: &Rule, hider: &Rule) -> PolicyError {
    PolicyError::Uncovers {
        at: rule.origin.clone(),
        path: rule.path.clone(),
        want: rule.access,
        hidden_by: hider.origin.to_string(),
    }
}

#[cfg(test)]
mod tests;
