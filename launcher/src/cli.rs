//! The command line: every subcommand, flag and help text, and nothing else.
//!
//! Refuses to read files or the environment (beyond what clap does); `main` dispatches on it.

mod control;
mod given;
mod points;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::BranchName;
use agentfs_policy::Disk;

pub use control::{ControlCli, ControlCommand};
use given::{For, NameParser, PointParser};
pub use points::{BranchCommand, BranchCreateArgs, RestoreArgs, SnapshotCommand};

/// Runs commands on copy-on-write branches of your files.
///
/// A branch starts as an exact view of your host's files: warm caches, ignored files and all. What a
/// command writes goes to the branch; the host is never written. The branch stays when the command
/// ends: list it, look at its changes, run more commands on it, or drop it.
#[derive(Debug, Parser)]
#[command(
    name = "agentfs",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "\
Try it:
  agentfs run --branch feature -- cargo test   run the tests on a branch
  agentfs diff feature                         see what changed
  agentfs diff feature | git apply             land it, at the top of the checkout
  agentfs rm feature                           or drop it

Exit status: that of the command run; 128+N when signal N ended it; 126 when it could not be
executed, 127 when it was not found; 125 when agentfs itself could not do as asked.")]
pub struct Cli {
    #[command(flatten)]
    pub globals: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every subcommand takes.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Where branches are kept [default: $AGENTFS_STORE, else $XDG_DATA_HOME/agentfs, else
    /// ~/.local/share/agentfs]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command on a branch, making the branch when it is new
    #[command(after_help = "\
Examples:
  agentfs run -- make test                     on a new branch with a name made for you
  agentfs run --branch feature -- cargo test   on `feature`; made if new, re-entered if it exists
  agentfs run --branch two --from one -- sh    on a new branch that starts from what `one` holds
  agentfs run --dry-run -- true                print what would be set up, do nothing
  agentfs run --disk 2G,inodes=100k -- CMD     no more than that; then ENOSPC, as on a full disk

What the command sees: the whole host read-only, except the copy-on-write places (by default your
workspace, which is the git top level or else the current directory, and your home directory), a
private /tmp, /var/tmp and /run, a minimal /dev, and nothing of your secrets (~/.ssh, ~/.aws, ...).")]
    Run(RunArgs),
    /// Run a command on a branch that exists; joins the running one if it is live
    #[command(after_help = "\
Examples:
  agentfs exec feature -- git status
  agentfs exec feature -- bash")]
    Exec(ExecArgs),
    /// List the branches with their state, changes, size and last command
    #[command(name = "ls", visible_alias = "ls-branches")]
    #[command(after_help = "\
Examples:
  agentfs ls                     all branches
  agentfs ls feature feature@1   one, and a snapshot of it
  agentfs diff feature@1 --name-status         the changed files themselves

Columns:
  NAME, PARENT   the branch, and the one it started from (-: the host's files); or a snapshot,
                 and its branch
  STATE          new (nothing ran yet), running pid N, mounted PATH, interrupted (it ended
                 unseen), damaged, no permission, newer format or unreadable (the reason on
                 stderr); or how the last run ended: exit N, killed by SIGNAL; snapshot
  CHANGES        files of the workspace that were +added, ~modified, -deleted (>: at least);
                 where all are 0, changes in .git and outside of the workspace
  SIZE, AGE      bytes that the branch holds; time since it was made
  LIMIT          only when a branch has one (--disk)
  WORKSPACE      only when the branches are of more than one
  COMMAND        the last one")]
    LsBranches(LsArgs),
    /// Show what a branch or snapshot changed, as a patch that `git apply` takes
    #[command(after_help = "\
Examples:
  agentfs diff feature                the workspace's changes as a patch
  agentfs diff feature src --stat     counts per file, below src only
  agentfs diff feature --all          changes outside the workspace too (caches in ~, ...)
  agentfs diff feature@1              what a snapshot of it holds
  agentfs diff feature@1 feature      what changed since that snapshot
  agentfs diff one --to other         what `other` holds that `one` does not, paths or not
  agentfs diff feature | git apply    land the branch, at the top of the checkout
  agentfs diff feature | git -C TOP apply      the same from anywhere; TOP is the checkout's top

Land the branch's commits, from anywhere in the checkout:
  agentfs exec -q feature -- git bundle create - HEAD > feature.bundle
  git fetch feature.bundle HEAD && git merge FETCH_HEAD")]
    Diff(DiffArgs),
    /// Drop branches and all they hold, their snapshots too
    Rm(RmArgs),
    /// Freeze the state of a branch, running or not, under a name; list and drop such snapshots
    #[command(subcommand)]
    #[command(after_help = "\
A snapshot is written BRANCH@SNAPSHOT. Making one costs the same whatever the branch holds.

Examples:
  agentfs snapshot create feature                 the next number: feature@1
  agentfs snapshot create feature --name before   feature@before
  agentfs run --from feature@before -- sh         a new branch that starts from it
  agentfs restore feature@before                  the branch itself back to it
  agentfs ls feature@before                       how much it changed; `agentfs diff` shows what")]
    Snapshot(SnapshotCommand),
    /// Move a branch back to one of its snapshots; what it holds now becomes a snapshot first
    Restore(RestoreArgs),
    /// Make, rename, show and drop branches without running anything
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Mount a branch at a directory of the host, for tools that want a path
    #[command(after_help = "\
Returns once the mount can be used; a daemon stays until `agentfs umount`. The branch keeps its state.

Options of -o, comma separated: allow_other (other users too), suid, dev (root only), noexec, ro, rw,
remount (with ro or rw: change what is mounted), no_default_permissions, fsname=SOURCE, base=DIR,
store=DIR.

With --shared, DIR shows several branches, to each process the one that it is bound to, and to its
children; to all others the default branch, to look at only. agentfs-control-cli binds:
  agentfs mount --shared /mnt --base /srv/project
  agentfs-control-cli --mount /mnt branch-bind --branch feature --pid $$

With a link /sbin/mount.fuse.agentfs to agentfs, mount(8) and fstab can do it:
  mount -t fuse.agentfs feature /mnt -o base=/srv/project")]
    Mount(MountArgs),
    /// Unmount a branch, and wait until its state is safely closed
    Umount(UmountArgs),
    /// Check the store and its branches for damage, and mend it when asked to
    #[command(after_help = "\
Examples:
  agentfs fsck                   check everything; changes nothing, also while branches run
  agentfs fsck feature           one branch, and what it stands on
  agentfs fsck --repair          mend what can be mended of branches that nobody holds

Checked: each checksum, which tables, journals and the store's JSON files have, and that records, names,
links and lengths fit together. The bytes of changed files have no checksum: a changed length or a missing
file is found there, a flipped bit is not.

What a repair takes out is kept below lost+found/ in the store, never thrown away. What it cannot save
shows as the host has it, never as deleted, where the host can tell; the branch is marked, in lost.json
in its directory, and `agentfs diff` refuses a patch of it without --despite-loss.

Exit status: 0 clean (notes are no damage), 1 damage found, or left or files lost after a repair, 125 when
the check could not be made.")]
    Fsck(FsckArgs),
    /// Remove what no branch and no snapshot reaches any more, and compact deep stacks
    #[command(after_help = "\
Examples:
  agentfs gc --dry-run           what would go, and what stays though nothing shows it
  agentfs gc                     remove it; also while branches run, and again after an interruption

Removed: layers that no branch and no snapshot names; changed files that only dropped snapshots showed;
what was left of removals, new branches and writes that were cut short. The layers of a running branch
keep all their files, since programs may have some open that the branch no longer shows. lost+found/,
where fsck keeps what it took out, is left alone.

Sizes are what the host has allocated. What other files share (hard links, reflinks) is said apart: it
comes free only when the others go too.

Exit status: 0 done, 1 something could not be read or removed and stays, 125 nothing could be done.")]
    Gc(GcArgs),
    /// Try each thing that `run` needs, and print how to fix what is missing
    Doctor(DoctorArgs),
}

/// `agentfs run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The branch to run on: 1 to 64 letters, digits, '.', '_' or '-' [default: a new readable name]
    #[arg(long, short, value_name = "NAME", value_parser = NameParser(For::Run), allow_hyphen_values = true)]
    pub branch: Option<BranchName>,

    /// Start the new branch from this branch as it is now, or from a snapshot (BRANCH@SNAPSHOT),
    /// instead of from the host's files
    #[arg(long, value_name = "POINT", value_parser = PointParser, allow_hyphen_values = true)]
    pub from: Option<Point>,

    /// Refuse to run if the branch exists already
    #[arg(long)]
    pub fresh: bool,

    /// How much the branch may take up: bytes (K, M, G, T), inodes, or both: 2G, 2G,inodes=100k, inodes=5000;
    /// none takes the limit away. It stays with the branch [default: the branch's own, no looser than the policy's]
    #[arg(long, value_name = "LIMIT")]
    pub disk: Option<Disk>,

    #[command(flatten)]
    pub view: ViewArgs,

    /// Print the steps that would be taken, and take none; with --json as one JSON object
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub report: ReportArgs,

    #[command(flatten)]
    pub cmd: CmdArgs,
}

/// Heading of [`ViewArgs`] in the help. At each of them: one for the struct would go on behind it.
const VIEW: &str = "View";

/// What the command may see and change.
#[derive(Clone, Debug, Default, Args)]
pub struct ViewArgs {
    /// Show PATH copy-on-write: writes go to the branch. May be given many times
    #[arg(long, help_heading = VIEW, value_name = "PATH")]
    pub cow: Vec<PathBuf>,

    /// Show the host's PATH read-only, also inside a copy-on-write place
    #[arg(long, help_heading = VIEW, value_name = "PATH")]
    pub ro: Vec<PathBuf>,

    /// Share the host's PATH: writes go to the HOST, past the branch
    #[arg(long, help_heading = VIEW, value_name = "PATH")]
    pub rw: Vec<PathBuf>,

    /// Hide PATH: it looks empty inside
    #[arg(long, help_heading = VIEW, value_name = "PATH")]
    pub hide: Vec<PathBuf>,

    /// Read the user's policy from FILE [default: $XDG_CONFIG_HOME/agentfs/policy.toml if it exists]
    #[arg(long, help_heading = VIEW, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

impl ViewArgs {
    /// Whether any of them was given.
    pub fn asks_for_something(&self) -> bool {
        let lists = [&self.cow, &self.ro, &self.rw, &self.hide];
        self.policy.is_some() || lists.iter().any(|list| !list.is_empty())
    }
}

/// How the run is reported afterwards.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ReportArgs {
    /// No summary after the command, and no word of long waits
    #[arg(long, short)]
    pub quiet: bool,

    /// The summary as one JSON object, on stderr
    #[arg(long)]
    pub json: bool,

    /// Say afterwards how long each step of the run took
    #[arg(long)]
    pub timings: bool,
}

/// The command to run.
#[derive(Clone, Debug, Args)]
pub struct CmdArgs {
    /// The command and its arguments, after `--`
    #[arg(required = true, last = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}

/// `agentfs exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The branch to run on
    #[arg(value_name = "NAME", value_parser = NameParser(For::Exec), allow_hyphen_values = true)]
    pub branch: BranchName,

    #[command(flatten)]
    pub report: ReportArgs,

    #[command(flatten)]
    pub cmd: CmdArgs,
}

/// `agentfs ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only these: branches, or snapshots as BRANCH@SNAPSHOT [default: all branches]
    #[arg(value_name = "POINT", value_parser = PointParser)]
    pub points: Vec<Point>,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What to look at: a branch, or a snapshot as BRANCH@SNAPSHOT
    #[arg(value_name = "POINT", value_parser = PointParser, allow_hyphen_values = true)]
    pub point: Point,

    /// Only what is at or below these paths [default: the branch's workspace]. Where the first is
    /// another point and no such path exists, it is TO
    #[arg(value_name = "PATH")]
    pub words: Vec<PathBuf>,

    /// Paths, whatever they are named like
    #[arg(value_name = "PATH", last = true)]
    pub paths: Vec<PathBuf>,

    /// Show what this point holds that differs from POINT, instead of what POINT holds that
    /// differs from the host; the patch is for POINT's files then
    #[arg(long, value_name = "TO", value_parser = PointParser, allow_hyphen_values = true)]
    pub to: Option<Point>,

    /// Counts of changed lines per file
    #[arg(long, group = "format")]
    pub stat: bool,

    /// One line per file: A added, M modified, D deleted, T type changed, R100 only moved
    #[arg(long, group = "format")]
    pub name_status: bool,

    /// One JSON object, in a schema that stays
    #[arg(long, group = "format")]
    pub json: bool,

    /// Everything the branch changed, not only its workspace
    #[arg(long)]
    pub all: bool,

    /// Take the branch's version also of files that the host changed since the branch took them
    /// over; without it they are left out of the patch, and named
    #[arg(long)]
    pub overwrite: bool,

    /// Put in also the files that git would convert on their way (attributes filter, ident,
    /// working-tree-encoding); apply such a patch outside of a repository, as is said
    #[arg(long)]
    pub raw: bool,

    /// Make a patch also of a branch that lost files when it was repaired: what it deletes may be
    /// only what was lost
    #[arg(long)]
    pub despite_loss: bool,
}

/// `agentfs mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The branch to mount; made if it does not exist
    #[arg(value_name = "NAME", value_parser = NameParser(For::Mount), allow_hyphen_values = true)]
    #[arg(required_unless_present = "shared")]
    pub branch: Option<BranchName>,

    /// Where to mount it: a directory that exists
    #[arg(value_name = "MNT", required_unless_present = "shared")]
    pub mountpoint: Option<PathBuf>,

    /// Mount several branches at DIR, to each process the one that it is bound to
    #[arg(long, value_name = "DIR", conflicts_with_all = ["branch", "mountpoint"])]
    pub shared: Option<PathBuf>,

    /// With --shared, the branch of whoever is bound to none; made if it does not exist [default: one
    /// named after DIR, the same at each mount of it]
    #[arg(long, value_name = "NAME", value_parser = NameParser(For::Mount), allow_hyphen_values = true)]
    #[arg(requires = "shared")]
    pub default_branch: Option<BranchName>,

    /// The directory of the host to show there [default: the branch's workspace, or for a new one
    /// the workspace you are in]
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,

    /// How much the branch may take up: bytes (K, M, G, T), inodes, or both: 2G, 2G,inodes=100k, inodes=5000;
    /// none takes the limit away. It stays with the branch [default: the branch's own]
    #[arg(long, value_name = "LIMIT")]
    pub disk: Option<Disk>,

    /// Mount options
    #[arg(short, value_name = "OPTS")]
    pub options: Vec<OsString>,
}

/// `agentfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,

    /// Also while it is in use: it goes when its last user does
    #[arg(long, short)]
    pub lazy: bool,
}

/// `agentfs rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The branches to drop; a running one is refused
    // No hyphen values: a list would take the options behind its first name.
    #[arg(required = true, value_name = "NAME", value_parser = NameParser(For::Remove))]
    pub branches: Vec<BranchName>,
}

/// `agentfs fsck`.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// The branches to check, each with all its snapshots; BRANCH@SNAPSHOT stands for its branch
    /// [default: all, and the store around them]
    #[arg(value_name = "NAME", value_parser = PointParser)]
    pub points: Vec<Point>,

    /// Mend what is damaged, and remove what nothing uses
    #[arg(long)]
    pub repair: bool,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// The words for a `run` or `exec` whose command has no `--` before it; `None`: it is not that.
pub fn without_dashes(e: &clap::Error, args: &[OsString]) -> Option<String> {
    let takes_one = args.iter().skip(1).find(|a| *a == "run" || *a == "exec")?;
    let Some(ContextValue::String(word)) = e.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_flag = word.starts_with('-');
    if e.kind() != ErrorKind::UnknownArgument || is_flag || args.iter().any(|a| a == "--") {
        return None;
    }
    let after = args.iter().position(|a| a == takes_one)? + 1;
    let at = args.iter().skip(after).rposition(|a| *a == **word);
    let first = args.iter().skip(after).position(|a| *a == **word);
    // A word that comes twice may be a flag's value the first time.
    let at = after
        + if word_is_value(args, after + first?) {
            at?
        } else {
            first?
        };
    let mut line: Vec<String> = args.iter().map(|a| quoted(&a.to_string_lossy())).collect();
    line.insert(at, "--".into());
    if let Some(name) = line.first_mut() {
        *name = "agentfs".into();
    }
    Some(format!(
        "error: put -- before the command '{word}'\n\n  {}\n",
        line.join(" ")
    ))
}

fn word_is_value(args: &[OsString], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|i| args.get(i));
    before.is_some_and(|a| a.to_string_lossy().starts_with('-'))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["agentfs", "run", "-b", "x", "--", "ls", "--cow", "-b"]);
        let Ok(Cli {
            command: Command::Run(run),
            ..
        }) = cli
        else {
            panic!("{cli:?}")
        };
        assert_eq!(run.cmd.argv, ["ls", "--cow", "-b"]);
        assert!(run.view.cow.is_empty());
    }

    #[test]
    fn a_command_without_dashes_is_answered_with_the_right_line() {
        for (given, line) in [
            ("run cargo test", "agentfs run -- cargo test"),
            ("run -b x ls -la", "agentfs run -b x -- ls -la"),
            ("run --branch ls ls", "agentfs run --branch ls -- ls"),
            ("exec b git status", "agentfs exec b -- git status"),
        ] {
            let words = std::iter::once("/bin/agentfs").chain(given.split(' '));
            let args: Vec<OsString> = words.map(OsString::from).collect();
            let e = Cli::try_parse_from(&args).expect_err(given);
            let text = without_dashes(&e, &args).expect(given);
            assert!(text.contains("put -- before"), "{text}");
            assert!(text.contains(&format!("\n  {line}\n")), "{text}");
        }
        for other in ["run --nonsense -- ls", "doctor extra", "run --nonsense"] {
            let words = std::iter::once("agentfs").chain(other.split(' '));
            let args: Vec<OsString> = words.map(OsString::from).collect();
            let e = Cli::try_parse_from(&args).expect_err(other);
            assert_eq!(without_dashes(&e, &args), None);
        }
    }

    /// Whether two command lines mean the same.
    fn alike(one: &[&str], other: &[&str]) -> bool {
        let meaning = |words: &[&str]| {
            let words = std::iter::once("agentfs").chain(words.iter().copied());
            match Cli::try_parse_from(words) {
                Ok(cli) => format!("{cli:?}"),
                Err(e) => format!("{:?}", e.kind()),
            }
        };
        let (one, other) = (meaning(one), meaning(other));
        one == other && one != "UnknownArgument" && one != "ValueValidation"
    }

    #[test]
    fn options_mean_the_same_before_and_after_the_names() {
        let mut all = Cli::command();
        all.build();
        let mut tried = 0;
        for sub in all.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let globals = all.get_arguments().filter(|arg| arg.is_global_set());
            let options: Vec<_> = (sub.get_arguments().chain(globals))
                .filter(|arg| !arg.is_positional())
                .collect();
            let (command, names): (Vec<_>, Vec<_>) =
                sub.get_positionals().partition(|arg| arg.is_last_set());
            let many = |arg: &&clap::Arg| matches!(arg.get_action(), clap::ArgAction::Append);
            let lists = names.iter().filter(|arg| many(arg)).count();
            let command: &[&str] = if command.is_empty() {
                &[]
            } else {
                &["--", "x"]
            };
            // From those that must be there to all, and two more in a list.
            let fewest = names.iter().filter(|arg| arg.is_required_set()).count();
            for count in fewest..=names.len() + 2 * lists {
                let names = vec!["a"; count];
                for option in &options {
                    let flag = match (option.get_long(), option.get_short()) {
                        (Some(long), _) => format!("--{long}"),
                        (None, Some(short)) => format!("-{short}"),
                        (None, None) => continue,
                    };
                    let mut given = vec![flag.as_str()];
                    if option.get_action().takes_values() {
                        given.push(match option.get_id().as_str() {
                            "disk" => "1G",
                            _ => "v",
                        });
                    }
                    let name = [sub.get_name()];
                    let before = [&name, &given[..], &names, command].concat();
                    let after = [&name, &names[..], &given, command].concat();
                    assert!(alike(&before, &after), "{before:?} or {after:?}");
                    tried += usize::from(!names.is_empty());
                }
            }
        }
        assert!(tried > 40, "{tried}");
    }

    #[test]
    fn the_help_has_each_option_where_it_belongs() {
        let help = |name: &str| {
            let mut all = Cli::command();
            all.build();
            let sub = all.find_subcommand_mut(name).expect(name);
            sub.render_long_help().to_string()
        };
        let run = help("run");
        let (rest, view) = run.split_once("\nView:\n").expect("a heading");
        let view = view.split("\n\nGlobal options:").next().unwrap_or_default();
        for option in ["--cow", "--ro", "--rw", "--hide", "--policy"] {
            assert!(view.contains(option) && !rest.contains(option), "{run}");
        }
        for option in ["--dry-run", "--quiet", "--json", "<CMD>"] {
            assert!(rest.contains(option) && !view.contains(option), "{run}");
        }
        assert!(!help("exec").contains("--dry-run"));
    }

    #[test]
    fn bad_branch_names_are_refused_with_the_rule() {
        for bad in [
            "../x",
            "-rf",
            "",
            "a/b",
            "@",
            ".",
            "a b",
            "a\nb\x1b[2J",
            &"x".repeat(65),
        ] {
            let err = Cli::try_parse_from(["agentfs", "run", "--branch", bad, "--", "true"]);
            let text = err.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains("1 to 64 letters"), "{bad:?}: {text}");
            assert!(
                !text.trim_end().contains(['\n', '\x1b']),
                "{bad:?} is escaped: {text}"
            );
        }
    }
}
