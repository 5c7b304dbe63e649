//! Puts together what a run may see: reads the policy files, adds the flags, resolves links.
//!
//! Reads only; `plan` makes the steps of it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agentfs_policy::{
    Access, Context, Disk, Origin, Policy, Profile, Rule, Source, builtin, merge,
};
use sha2::{Digest, Sha256};

use crate::cli::ViewArgs;
use crate::error::CmdError;
use crate::homes::Homes;
use crate::plan::{self, Inputs, Plan};
use crate::probe::{self, Facts};
use crate::say::say;

/// The repository's own policy, at the top of the workspace.
pub const REPOSITORY_FILE: &str = ".agentfs.toml";

/// A policy for one run, and what is at the paths it speaks of.
#[derive(Debug)]
pub struct View {
    policy: Policy,
    facts: Facts,
    workspace: PathBuf,
    standing: String,
}

impl View {
    /// Reads and merges everything that speaks about a run in `workspace`, a real path. `also_cow`:
    /// further directories that are copy-on-write, with the reason, unless they are hidden.
    pub fn load(
        args: &ViewArgs,
        workspace: &Path,
        also_cow: &[(PathBuf, &'static str)],
    ) -> Result<Self, CmdError> {
        let homes = Homes::look(workspace);
        if homes.is_empty() {
            say!(
                "agentfs: no home directory is known ($HOME names none, and the user database has \
                 none of yours): no secrets are hidden but those of the system"
            );
        }
        let context = Context {
            home: homes.home,
            other_homes: homes.others,
            workspace: workspace.to_owned(),
        };
        let mut facts = Facts::default();
        facts.look_around();
        // What a path leads to is what counts, so links are resolved before anything is compared.
        let mut sources = |user: Option<&Path>| -> Result<Vec<Profile>, CmdError> {
            let must = user.is_some() && user == args.policy.as_deref();
            let user = user.map(|file| read(file, must, Source::User, &context));
            let file = workspace.join(REPOSITORY_FILE);
            let list = [
                Some(builtin::profile(&context)?),
                user.transpose()?.flatten(),
                read(&file, false, Source::Repository, &context)?,
            ];
            let real = |profile: Profile| profile.resolved(|path| facts.look(path));
            Ok(list.into_iter().flatten().map(real).collect())
        };
        let usual_file = user_file();
        let file = args.policy.as_deref().or(usual_file.as_deref());
        let mut profiles = sources(file)?;
        let standing = match &args.policy {
            Some(_) => sources(usual_file.as_deref()),
            None => Ok(profiles.clone()),
        };
        profiles.push(flags(args)?);
        let mut policy = merge(profiles)?;
        for (path, why) in also_cow {
            let origin = Origin {
                source: Source::Builtin,
                name: (*why).into(),
                line: None,
            };
            policy.add_unless_hidden(Rule {
                path: facts.look(path),
                access: Access::Cow,
                origin,
                named: false,
            });
        }
        for rule in policy.rules() {
            facts.look(&rule.path);
        }
        Ok(Self {
            policy,
            facts,
            workspace: workspace.to_owned(),
            standing: digest(standing.and_then(|profiles| Ok(merge(profiles)?))),
        })
    }

    /// Tells apart what the policy files say, flags left out: where the rules are those of a live
    /// run, a command may join it.
    pub fn standing(&self) -> &str {
        &self.standing
    }

    /// How much a branch may take up by the policy files.
    pub fn disk(&self) -> Disk {
        self.policy.disk
    }

    /// The plan for a run on `branch` of `store`, started in `cwd`.
    pub fn plan(&self, branch: &str, store: &Path, cwd: &Path) -> Result<Plan, CmdError> {
        let mut facts = self.facts.clone();
        facts.look(store);
        let dropped =
            std::env::vars_os().filter(|(name, _)| !self.policy.env.keeps(name.as_bytes()));
        plan::plan(&Inputs {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            branch,
            policy: &self.policy,
            facts: &facts,
            store,
            workspace: &self.workspace,
            cwd,
            env_dropped: dropped
                .map(|(name, _)| name.to_string_lossy().into_owned())
                .collect(),
            scratch_dirs: ["TMPDIR", "XDG_RUNTIME_DIR"]
                .iter()
                .filter_map(std::env::var_os)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
                .collect(),
        })
    }

    /// The environment of the command.
    pub fn environment(&self, branch: &str) -> Vec<(OsString, OsString)> {
        let keeps = |name: &OsString| {
            self.policy.env.keeps(name.as_bytes())
                && !self.policy.env.set.contains_key(&*name.to_string_lossy())
        };
        let set = self
            .policy
            .env
            .set
            .iter()
            .map(|(k, v)| (k.into(), v.into()));
        std::env::vars_os()
            .filter(|(name, _)| keeps(name))
            .chain(set)
            .chain([("AGENTFS_BRANCH".into(), branch.into())])
            .collect()
    }
}

/// The digest of what a policy hides, shows and denies. The copy-on-write places that every run has,
/// its workspace and its home, are left out: commands of several workspaces may share a branch.
fn digest(policy: Result<Policy, CmdError>) -> String {
    let mut sum = Sha256::new();
    match policy {
        Ok(policy) => {
            if !policy.disk.is_none() {
                sum.update(policy.disk.to_string());
            }
            for rule in policy.rules() {
                let is_usual = rule.access == Access::Cow && rule.origin.source == Source::Builtin;
                if !is_usual {
                    sum.update(rule.access.key());
                    sum.update(b"\0");
                    sum.update(rule.path.as_os_str().as_bytes());
                    sum.update(b"\0");
                }
            }
        }
        Err(e) => sum.update(e.to_string()),
    }
    let bytes = sum.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the user's own policy is.
fn user_file() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.filter(|p| p.is_absolute());
    let base =
        config.or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".config")))?;
    Some(base.join("agentfs/policy.toml"))
}

fn read(
    file: &Path,
    must_exist: bool,
    source: Source,
    context: &Context,
) -> Result<Option<Profile>, CmdError> {
    let text = probe::read_small(file).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
    });
    match text {
        Ok(text) => Ok(Some(Profile::parse(
            &text,
            source,
            &file.display().to_string(),
            context,
        )?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => Ok(None),
        Err(e) if must_exist => Err(CmdError::refused(
            format!("--policy {}", file.display()),
            e.to_string(),
            "name a policy file that can be read, or leave out --policy",
        )),
        Err(e) => Err(CmdError::refused(
            format!("read the policy {}", file.display()),
            e.to_string(),
            "make it a small text file that you can read, or remove it",
        )),
    }
}

fn flags(args: &ViewArgs) -> Result<Profile, CmdError> {
    let mut profile = Profile::default();
    for (flag, access, paths) in [
        ("--cow", Access::Cow, &args.cow),
        ("--ro", Access::ReadOnly, &args.ro),
        ("--rw", Access::SharedRw, &args.rw),
        ("--hide", Access::Hide, &args.hide),
    ] {
        for path in paths {
            let path = std::path::absolute(path).map_err(|e| CmdError::io("resolve", path, e))?;
            // Before the merge, so that two spellings of one path meet there.
            let real = probe::real_path(&path);
            profile.push(Rule {
                named: real == path,
                path: real,
                access,
                origin: Origin::flag(flag),
            })?;
        }
    }
    Ok(profile)
}
