//! A policy file as written: parses it, and turns its paths into absolute ones.
//!
//! An unknown key is an error that names the known ones; a section that nothing enforces yet is
//! refused, because silence would read as a promise.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::env::EnvPolicy;
use crate::error::PolicyError;
use crate::limits::Disk;
use crate::rule::{Access, Origin, Rule, Source};

/// What the paths of a file are relative to.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What `~` stands for; rules with `~` are left out if there is none.
    pub home: Option<PathBuf>,
    /// Further homes, in which the same is hidden as in `home`.
    pub other_homes: Vec<PathBuf>,
    /// What `$WORKSPACE` stands for, and relative paths of a repository's file.
    pub workspace: PathBuf,
}

/// One source's rules, in the order they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Rules over paths.
    pub rules: Vec<Rule>,
    /// Places whose files are shown as owned by the caller, where host root has no number inside.
    pub own: Vec<PathBuf>,
    /// Rules over environment variables.
    pub env: EnvPolicy,
    /// How much the branch may take up, and where that is written.
    pub disk: Option<(Disk, Origin)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    filesystem: Filesystem,
    #[serde(default)]
    env: Env,
    network: Option<Spanned<toml::Value>>,
    #[serde(default)]
    limits: Limits,
    process: Option<Spanned<toml::Value>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filesystem {
    cow: Vec<Spanned<String>>,
    read_only: Vec<Spanned<String>>,
    shared_rw: Vec<Spanned<String>>,
    hide: Vec<Spanned<String>>,
    deny_write: Vec<Spanned<String>>,
    own: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    disk: Option<Spanned<String>>,
    memory: Option<Spanned<toml::Value>>,
    cpus: Option<Spanned<toml::Value>>,
    pids: Option<Spanned<toml::Value>>,
    wall: Option<Spanned<toml::Value>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Env {
    keep: Vec<Spanned<String>>,
    drop: Vec<Spanned<String>>,
    set: BTreeMap<String, Spanned<String>>,
}

impl Profile {
    /// Parses the text of a policy file called `name`.
    ///
    /// Errors: everything of [`PolicyError`] but contradictions between sources.
    pub fn parse(
        text: &str,
        source: Source,
        name: &str,
        context: &Context,
    ) -> Result<Self, PolicyError> {
        let line_ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
        let at = |offset: usize| Origin {
            source,
            name: name.to_owned(),
            line: Some(1 + line_ends.partition_point(|end| *end < offset)),
        };
        let file: File = toml::from_str(text).map_err(|e| PolicyError::Syntax {
            at: at(e.span().map_or(0, |s| s.start)),
            why: e.message().to_owned(),
        })?;
        for (section, value) in [("network", &file.network), ("process", &file.process)] {
            if let Some(value) = value {
                return Err(PolicyError::NotEnforced {
                    at: at(value.span().start),
                    section,
                });
            }
        }
        let limit = limit(file.limits, &at)?;
        let fs = file.filesystem;
        let lists = [
            (Access::Cow, fs.cow),
            (Access::ReadOnly, fs.read_only),
            (Access::SharedRw, fs.shared_rw),
            (Access::Hide, fs.hide),
            (Access::DenyWrite, fs.deny_write),
        ];
        let mut profile = Profile {
            disk: limit,
            ..Profile::default()
        };
        let mut hidden = Vec::new();
        for (access, list) in lists {
            for word in list {
                let origin = at(word.span().start);
                let word = word.get_ref();
                if access == Access::Hide {
                    hidden.extend(in_other_homes(word, source, context, &origin)?);
                }
                if let Some(path) = absolute(word, source, context, &origin)? {
                    profile.push(Rule {
                        path,
                        access,
                        origin,
                        named: word.starts_with('/') || word.starts_with('~'),
                    })?;
                }
            }
        }
        for rule in hidden {
            // What the source itself says of such a path goes first.
            if profile.rules.iter().all(|r| r.path != rule.path) {
                profile.rules.push(rule);
            }
        }
        for word in fs.own {
            let origin = at(word.span().start);
            if source == Source::Repository {
                return Err(PolicyError::WidensOwn { at: origin });
            }
            profile
                .own
                .extend(absolute(word.get_ref(), source, context, &origin)?);
        }
        profile.env = env_policy(file.env, source, &at)?;
        Ok(profile)
    }

    /// Adds a rule; the same path twice with different access is a contradiction. The built-in
    /// profile cannot help where the workspace is: there the tighter access holds.
    pub fn push(&mut self, rule: Rule) -> Result<(), PolicyError> {
        let same = self.rules.iter_mut().find(|r| r.path == rule.path);
        match same {
            Some(first) if rule.origin.source == Source::Builtin => {
                if rule.access < first.access {
                    *first = rule;
                }
                Ok(())
            }
            Some(first) if first.access != rule.access => Err(PolicyError::Contradiction {
                path: rule.path,
                first: first.origin.clone(),
                first_access: first.access,
                second: rule.origin,
                second_access: rule.access,
            }),
            Some(_) => Ok(()),
            None => {
                self.rules.push(rule);
                Ok(())
            }
        }
    }

    /// The same profile with every path replaced by the real one that `real` gives for it. Where two
    /// rules meet on one path the tighter stays.
    pub fn resolved(self, mut real: impl FnMut(&Path) -> PathBuf) -> Self {
        let mut rules: Vec<Rule> = Vec::with_capacity(self.rules.len());
        let mut at: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for mut rule in self.rules {
            let path = real(&rule.path);
            rule.named &= path == rule.path;
            rule.path = path;
            match at.get(&rule.path) {
                Some(index) if rules[*index].access <= rule.access => {}
                Some(index) => rules[*index] = rule,
                None => {
                    at.insert(rule.path.clone(), rules.len());
                    rules.push(rule);
                }
            }
        }
        let own = self.own.iter().map(|path| real(path)).collect();
        Self { rules, own, ..self }
    }
}

/// The limit of `[limits]` that is enforced. Errors: `LimitNotEnforced`, `BadLimit`.
fn limit(
    limits: Limits,
    at: &dyn Fn(usize) -> Origin,
) -> Result<Option<(Disk, Origin)>, PolicyError> {
    for (limit, value) in [
        ("memory", &limits.memory),
        ("cpus", &limits.cpus),
        ("pids", &limits.pids),
        ("wall", &limits.wall),
    ] {
        if let Some(value) = value {
            let at = at(value.span().start);
            return Err(PolicyError::LimitNotEnforced { at, limit });
        }
    }
    let Some(disk) = limits.disk else {
        return Ok(None);
    };
    let at = at(disk.span().start);
    match disk.get_ref().parse() {
        Ok(disk) => Ok(Some((disk, at))),
        Err(why) => Err(PolicyError::BadLimit { at, why }),
    }
}

/// The places in further homes that a hidden `~/..` stands for.
fn in_other_homes(
    word: &str,
    source: Source,
    context: &Context,
    origin: &Origin,
) -> Result<Vec<Rule>, PolicyError> {
    if !word.starts_with('~') {
        return Ok(Vec::new());
    }
    let mut rules = Vec::new();
    for home in &context.other_homes {
        let there = Context {
            home: Some(home.clone()),
            ..context.clone()
        };
        rules.extend(absolute(word, source, &there, origin)?.map(|path| Rule {
            path,
            access: Access::Hide,
            origin: origin.clone(),
            named: true,
        }));
    }
    Ok(rules)
}

fn env_policy(
    env: Env,
    source: Source,
    at: &dyn Fn(usize) -> Origin,
) -> Result<EnvPolicy, PolicyError> {
    if source == Source::Repository {
        let first = |spans: Option<usize>, verb| match spans {
            Some(start) => Err(PolicyError::WidensEnv {
                at: at(start),
                verb,
            }),
            None => Ok(()),
        };
        first(env.keep.first().map(|w| w.span().start), "keep")?;
        first(env.set.values().next().map(|w| w.span().start), "set")?;
    }
    Ok(EnvPolicy {
        keep: env.keep.into_iter().map(Spanned::into_inner).collect(),
        drop: env.drop.into_iter().map(Spanned::into_inner).collect(),
        set: env
            .set
            .into_iter()
            .map(|(k, v)| (k, v.into_inner()))
            .collect(),
    })
}

/// Makes a written path absolute. `None`: it hangs on a home that there is not.
fn absolute(
    word: &str,
    source: Source,
    context: &Context,
    at: &Origin,
) -> Result<Option<PathBuf>, PolicyError> {
    let bad = |why| PolicyError::BadPath {
        at: at.clone(),
        path: word.to_owned(),
        why,
    };
    if word.is_empty() {
        return Err(bad("is empty"));
    }
    if word.contains('\0') {
        return Err(bad("holds a NUL"));
    }
    let (base, rest) = if word == "~" || word.starts_with("~/") {
        match &context.home {
            Some(home) => (home.as_path(), word[1..].trim_start_matches('/')),
            None => return Ok(None),
        }
    } else if word == "$WORKSPACE" || word.starts_with("$WORKSPACE/") {
        (
            context.workspace.as_path(),
            word["$WORKSPACE".len()..].trim_start_matches('/'),
        )
    } else if word.starts_with('/') {
        (Path::new("/"), word)
    } else if word.starts_with('~') || word.starts_with('$') {
        return Err(bad(
            "starts with neither '~/' nor '$WORKSPACE/', the only names that are known",
        ));
    } else if source == Source::Repository {
        (context.workspace.as_path(), word)
    } else {
        return Err(bad("is relative; write it from '/', '~/' or '$WORKSPACE/'"));
    };
    match normal(&base.join(rest)) {
        Some(path) => Ok(Some(path)),
        None => Err(bad("holds '..'")),
    }
}

/// `path` without `.` and doubled or trailing slashes; `None` if it holds `..`.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => return None,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(out)
}
