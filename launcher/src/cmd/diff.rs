//! `agentfs diff`: what a branch or snapshot changed of the host's files, or holds that another
//! does not, as a patch, as counts, as names, or as JSON.

use std::ffi::OsStr;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use agentfs_fsd::backstore::{Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::review::{is_at_or_below, join};

use crate::cli::DiffArgs;
use crate::cmd::Globals;
use crate::error::{CmdError, EXIT_OURS};
use crate::review::convert::Converted;
use crate::review::loss::lost_words;
use crate::review::patch::{PatchError, PatchWriter, extent};
use crate::review::plan::{Applier, Held, Item, Plan, Scope, Status};
use crate::review::style::{Style, escape_word};
use crate::review::{Review, git, json, stat, table};
use crate::say::{self, say};

mod asked;

use asked::Asked;

/// Largest patch that git apply takes, in bytes.
const GIT_APPLY_BYTES: u64 = 1023 << 20;

/// How many of the branch's files at hidden places are named.
const NAMED_MAX: usize = 8;

/// Runs the subcommand.
pub fn run(args: &DiffArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let store = Store::open(&globals.store_path)?
        .ok_or_else(|| StoreError::NoBranch(args.point.branch.to_string()))?;
    let asked = Asked::of(args, &store)?;
    let scope = asked.scope(&store, args.all)?;
    check_losses(&store, args, &asked)?;
    let review = asked.review(&store, &scope)?;
    let converted = Converted::new(&review, &scope.top);
    let converts = |item: &Item<'_>| (!args.raw).then(|| converted.attribute(item)).flatten();
    // What the host changed meanwhile is in the way of what goes to the host only.
    let who = applier(args.overwrite, asked.from.is_some());
    let plan = Plan::with(&review.set, &scope, who, true, &converts);
    let mut out = Output {
        inner: BufWriter::new(io::stdout().lock()),
        written_bytes: 0,
    };
    let shown = match () {
        () if args.json => {
            let from = asked.from.as_ref().map(Point::to_string);
            let name = asked.point.to_string();
            let object = json::diff(from.as_deref(), &name, &scope.top, &plan, &review.set);
            writeln!(out, "{object:#}").map(|()| 0)
        }
        () if args.name_status => names(&mut out, args, &plan).map(|()| 0),
        () if args.stat => stats(&mut out, args, &review, &plan),
        () => patch(&mut out, &review, &plan),
    };
    let shown = shown.and_then(|failed| out.flush().map(|()| failed));
    let shown = say::taken(shown)?;
    let is_patch = !args.json && !args.name_status && !args.stat;
    if is_patch && out.written_bytes > GIT_APPLY_BYTES {
        say!(
            "agentfs: the patch has {} MiB, and git apply takes at most {}: give it in parts, by PATH",
            out.written_bytes >> 20,
            GIT_APPLY_BYTES >> 20,
        );
    }
    // A reader that has gone has seen enough; what could not be told counts all the same.
    if shown.is_some() {
        remarks(args, &asked, &scope, &plan, is_patch);
    }
    if review.set.clock_set_back {
        say!(
            "agentfs: the clock was set back since the branch changed this: what the host changed meanwhile \
             cannot be told, so files that the branch removed or made anew count as changed on the host"
        );
    }
    let is_found = untouched(&review, &asked, &scope, &plan);
    for problem in &review.set.problems {
        let (path, what) = (
            escape_word(&problem.path),
            escape_word(problem.what.as_bytes()),
        );
        say!("agentfs: cannot look at {path}: {what}");
    }
    if shown.is_some_and(|failed| failed > 0) || !review.set.problems.is_empty() {
        let live = asked.points().any(|point| {
            point.snapshot.is_none() && matches!(store.live_owner(&point.branch), Ok(Some(_)))
        });
        let why = if live {
            "; it is live and may have changed meanwhile: try again"
        } else {
            ""
        };
        let what = match asked.from {
            Some(_) => "all that differs",
            None => "all that the branch changed",
        };
        say!("agentfs: this is not {what}{why}");
        return Ok(ExitCode::from(EXIT_OURS));
    }
    Ok(match is_found {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_OURS),
    })
}

/// Says that a repair could not save all of a branch. A patch is refused then: what was lost may
/// look like what was deleted.
fn check_losses(store: &Store, args: &DiffArgs, asked: &Asked) -> Result<(), CmdError> {
    let is_patch = !args.json && !args.name_status && !args.stat;
    for point in asked.points() {
        let words = match store.losses(&point.branch) {
            Ok(losses) if losses.is_empty() => continue,
            Ok(losses) => lost_words(losses.listed.iter()),
            Err(e) => format!("files, and it is not known which: {e}"),
        };
        let (name, call) = (&point.branch, asked.words());
        if is_patch && !args.despite_loss {
            return Err(CmdError::refused(
                format!("diff {call}"),
                format!(
                    "branch {name} was damaged and lost {words}; a patch could delete files for it"
                ),
                format!(
                    "look at `agentfs diff {call} --stat` and below lost+found/ in the store, then \
                     `agentfs diff {call} --despite-loss`"
                ),
            ));
        }
        say!("agentfs: branch {name} was damaged and lost {words}");
    }
    Ok(())
}

/// Counts what passes through, for the limit of git apply.
struct Output<W> {
    inner: W,
    written_bytes: u64,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the patch; says how many entries are missing from it.
fn patch(out: &mut dyn Write, review: &Review, plan: &Plan<'_>) -> io::Result<u64> {
    let mut writer = PatchWriter::new(review.contents(), out, Style::of_stdout());
    let mut failed = 0;
    for item in plan.items.iter().filter(|item| item.in_patch) {
        match writer.item(item) {
            Ok(()) => {}
            Err(PatchError::Output(e)) => return Err(e),
            Err(PatchError::Unreadable(e)) => {
                failed += 1;
                unreadable(item, &e);
            }
        }
    }
    Ok(failed)
}

fn unreadable(item: &Item<'_>, e: &io::Error) {
    say!(
        "agentfs: not in the patch: {}: cannot be read: {e}",
        escape_word(&item.path)
    );
}

/// Items for people: what a patch has, and what it cannot have; `.git` only with `--all`.
fn listed<'p, 'a>(args: &DiffArgs, plan: &'p Plan<'a>) -> impl Iterator<Item = &'p Item<'a>> {
    let all = args.all;
    plan.items
        .iter()
        .filter(move |item| all || !item.in_git_dir)
}

fn names(out: &mut dyn Write, args: &DiffArgs, plan: &Plan<'_>) -> io::Result<()> {
    for item in listed(args, plan) {
        let slash = if item.is_dir() { "/" } else { "" };
        let path = git::quote("", &item.path);
        // A column of its own: the first two are those of git.
        let mark = if item.host_changed() {
            "\t(host changed)"
        } else {
            ""
        };
        match (item.status, &item.from) {
            (Status::Renamed, Some(from)) => {
                writeln!(out, "R100\t{}\t{path}{mark}", git::quote("", from))?;
            }
            (Status::Added, _) => writeln!(out, "A\t{path}{slash}{mark}")?,
            (Status::Deleted, _) => writeln!(out, "D\t{path}{slash}{mark}")?,
            (Status::TypeChanged, _) => writeln!(out, "T\t{path}{mark}")?,
            (Status::Modified | Status::Renamed, _) => writeln!(out, "M\t{path}{slash}{mark}")?,
        }
    }
    Ok(())
}

fn stats(
    out: &mut dyn Write,
    args: &DiffArgs,
    review: &Review,
    plan: &Plan<'_>,
) -> io::Result<u64> {
    let contents = review.contents();
    let (mut lines, mut failed) = (Vec::new(), 0);
    for item in listed(args, plan) {
        match extent(&contents, item) {
            Ok(extent) => lines.push(stat::Line::new(item, extent)),
            Err(e) => {
                failed += 1;
                unreadable(item, &e);
            }
        }
    }
    if !lines.is_empty() {
        let columns = table::terminal_columns().unwrap_or(80);
        out.write_all(stat::render(&lines, columns, Style::of_stdout()).as_bytes())?;
    }
    Ok(failed)
}

/// Says on stderr what is not on stdout.
fn remarks(args: &DiffArgs, asked: &Asked, scope: &Scope, plan: &Plan<'_>, is_patch: bool) {
    let top = escape_word(&scope.top);
    if is_patch {
        for item in &plan.items {
            let Some(held) = item.held_back else { continue };
            let (path, why) = (escape_word(&item.path), item.why_held_back(held));
            let way = match held {
                Held::HostChanged => ". To take the branch's version anyway: --overwrite",
                Held::MovedOutOfSight | Held::Converted(_) => "",
            };
            say!("not in the patch: {path} {why}{way}");
        }
        raw_remark(args, asked, scope, plan);
        for note in plan.notes.iter().filter(|note| !note.held_back) {
            let path = if note.path.is_empty() {
                "."
            } else {
                &escape_word(&note.path)
            };
            say!("not in the patch: {path}: {}", note.what);
        }
    }
    hidden_remark(args, plan, is_patch);
    if plan.git_dir > 0 && is_patch {
        let (n, changes) = (plan.git_dir, stat::plural(plan.git_dir, "change"));
        say!("not in the patch: {n} {changes} in .git (git apply refuses to write there)");
        // On a snapshot nothing can run.
        let is_branch = asked.from.is_none() && asked.point.snapshot.is_none();
        if is_branch && plan.items.iter().any(is_of_commits) {
            let name = &asked.point;
            say!(
                "agentfs: if the branch has commits, this lands them, in your checkout:\n  \
                 agentfs exec -q {name} -- git bundle create - HEAD > {name}.bundle && \
                 git fetch {name}.bundle HEAD && git merge FETCH_HEAD"
            );
        }
    } else if plan.git_dir > 0 && !args.json && !args.all {
        let (n, changes) = (plan.git_dir, stat::plural(plan.git_dir, "change"));
        say!("agentfs: {n} {changes} in .git not shown (--all shows them)");
    }
    // Given paths leave the rest out because they were asked to.
    if plan.outside > 0 && !args.json && asked.paths.is_empty() {
        let (n, changes) = (plan.outside, stat::plural(plan.outside, "change"));
        let call = asked.words();
        say!("agentfs: {n} {changes} outside {top} not shown; see `agentfs diff {call} --all`");
    }
    let drifted = plan.items.iter().filter(|item| item.host_changed()).count() as u64;
    if asked.from.is_some() && drifted > 0 && !args.json {
        let files = stat::plural(drifted, "file");
        say!(
            "agentfs: {drifted} {files} that the host changed meanwhile: one of the two took it over \
             before, the other shows it as it is now (--name-status marks them)"
        );
    }
    if is_patch && !plan.items.iter().any(|item| item.in_patch) {
        match &asked.from {
            Some(from) => say!(
                "agentfs: nothing to tell: {} has nothing for a patch that {} has not",
                holder(&asked.point),
                holder(from)
            ),
            None => say!(
                "agentfs: nothing to land: {} has no changes to put into a patch",
                holder(&asked.point)
            ),
        }
    } else if is_patch {
        place_remark(args, asked, scope);
    }
}

/// Says what a patch is for, unless that goes without saying.
fn place_remark(args: &DiffArgs, asked: &Asked, scope: &Scope) {
    let call = match () {
        () if args.all => format!("agentfs diff {} --all", asked.words()),
        () if asked.paths.is_empty() => format!("agentfs diff {}", asked.words()),
        () => format!("agentfs diff {} PATH..", asked.words()),
    };
    let apply = table::command([&b"git"[..], b"-C", &scope.top, b"apply"]);
    let top = escape_word(&scope.top);
    match &asked.from {
        Some(from) => {
            let run = inside(from);
            say!(
                "agentfs: this is for what {} holds: {call} | {run} -- {apply}",
                holder(from)
            );
        }
        None if !is_here(&scope.top) => {
            say!("agentfs: paths are relative to {top}; apply it at the top: {call} | {apply}");
        }
        None => {}
    }
}

/// How to run something on what a point holds.
fn inside(point: &Point) -> String {
    match point.snapshot {
        Some(_) => format!("agentfs run --branch NEW --from {point}"),
        None => format!("agentfs exec {point}"),
    }
}

/// Says how files land that git would convert: outside of a repository it knows no attributes.
fn raw_remark(args: &DiffArgs, asked: &Asked, scope: &Scope, plan: &Plan<'_>) {
    let is_converted = |item: &Item<'_>| matches!(item.held_back, Some(Held::Converted(_)));
    let (name, top) = (asked.words(), table::command([&scope.top[..]]));
    let env = match &asked.from {
        Some(from) => format!("{} -- env", inside(from)),
        None => String::new(),
    };
    let apply = format!(
        "{env} GIT_DIR=/dev/null GIT_ATTR_NOSYSTEM=1 git -C {top} -c core.attributesFile=/dev/null \
         -c core.autocrlf=false apply"
    );
    let apply = apply.trim_start();
    let all = if args.all { " --all" } else { "" };
    let paths = if asked.paths.is_empty() {
        ""
    } else {
        " PATH.."
    };
    if plan.items.iter().any(is_converted) {
        say!(
            "agentfs: this lands everything, these files too, byte for byte, instead of the patch \
             without them:\n  agentfs diff {name} --raw{all}{paths} | {apply}"
        );
    } else if args.raw {
        say!("agentfs: apply a raw patch outside of any repository: {apply}");
    }
}

/// Says what the branch has where its runs could not see what the host has.
fn hidden_remark(args: &DiffArgs, plan: &Plan<'_>, is_patch: bool) {
    let n = plan.hidden.len();
    if n == 0 || args.json {
        return;
    }
    let mut names: Vec<_> = plan.hidden.iter().map(|path| escape_word(path)).collect();
    if n > NAMED_MAX {
        names.truncate(NAMED_MAX);
        names.push("..".into());
    }
    let start = match is_patch {
        true => "not in the patch",
        false => "agentfs: not shown",
    };
    let (paths, were) = match n {
        1 => ("path", "was"),
        _ => ("paths", "were"),
    };
    let names = names.join(", ");
    say!("{start}: {n} {paths} that {were} hidden from the run: {names}");
}

/// Says which of the given paths have no changes; `false` if one is a path of nothing at all.
fn untouched(review: &Review, asked: &Asked, scope: &Scope, plan: &Plan<'_>) -> bool {
    let mut is_found = true;
    let name = match &asked.from {
        Some(from) => format!("{} or {}", holder(from), holder(&asked.point)),
        None => holder(&asked.point),
    };
    let only = scope.only.iter();
    for path in only.filter(|path| is_untouched(path, scope, plan)) {
        let shown = escape_word(path);
        // What a point shows there is the host's, or what both have made, if anything.
        let on_host = Path::new(OsStr::from_bytes(path)).symlink_metadata();
        match on_host.map_err(|e| e.kind()) {
            Err(ErrorKind::NotFound | ErrorKind::NotADirectory)
                if asked.from.is_none() || !review.has_at(path) =>
            {
                is_found = false;
                say!(
                    "agentfs: {shown} does not exist, on the host or on {name}\n  \
                     fix: `agentfs diff {} --name-status` lists what changed",
                    asked.words()
                );
            }
            _ if asked.from.is_some() => {
                say!("agentfs: {shown} is the same in both");
            }
            _ => say!("agentfs: {shown} has no changes on {name}"),
        }
    }
    is_found
}

/// `branch feature`, or `snapshot feature@1`.
fn holder(point: &Point) -> String {
    match point.snapshot {
        Some(_) => format!("snapshot {point}"),
        None => format!("branch {point}"),
    }
}

/// Whether it may be a commit: a change of a git branch, not only of git's index or configuration.
fn is_of_commits(item: &Item<'_>) -> bool {
    let words = b".git/refs/heads/";
    item.in_git_dir && item.path.windows(words.len()).any(|part| part == words)
}

/// Whether the plan tells nothing at or below `path`.
fn is_untouched(path: &[u8], scope: &Scope, plan: &Plan<'_>) -> bool {
    let below = |top: &[u8], other: &[u8]| is_at_or_below(&join(top, other), path);
    let items = plan.items.iter();
    let mut shown = items.flat_map(|item| [Some(&item.path), item.from.as_ref()]);
    !shown.any(|other| other.is_some_and(|other| below(&scope.top, other)))
        && !plan.notes.iter().any(|note| below(&scope.top, &note.path))
}

/// Whether git apply, called here, takes paths to be relative to `top`.
fn is_here(top: &[u8]) -> bool {
    std::env::current_dir().is_ok_and(|here| here.as_os_str().as_bytes() == top)
}

fn applier(overwrite: bool, of_points: bool) -> Applier {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    Applier {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: status.ok().and_then(|status| status.umask).unwrap_or(0o022),
        overwrite: overwrite || of_points,
        older: if of_points { "before:" } else { "the host has" },
    }
}
