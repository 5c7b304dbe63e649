//! How fast a command starts: measured from outside, since there is nobody inside before.

use std::fs;
use std::process::{Command, Stdio};

use crate::Fallible;
use crate::rows::timing::{Timing, Watch};
use crate::session::{self, Common};
use crate::subject::{Kind, Subject};

/// Starts that make one measurement.
const STARTS: usize = 5;

/// One start of `true`.
#[derive(Debug)]
pub struct Start {
    pub took: Timing,
    /// What agentfs said on stderr, where its answers go.
    pub said: Vec<u8>,
}

/// The middle one of several, each on a new branch; `options` are for agentfs.
pub fn middle(common: &Common, subject: &Subject, options: &[&str]) -> Fallible<Start> {
    let dir = common
        .top
        .join("subjects")
        .join(format!("{}-starts", subject.slug()));
    fs::create_dir_all(dir.join("home"))?;
    let mut starts = Vec::new();
    for n in 0..STARTS {
        let branch = format!("start-{n}");
        let mut command = match &subject.kind {
            Kind::Host => Command::new("true"),
            Kind::Bwrap => {
                let mut command = Command::new("bwrap");
                command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]);
                command.args(["--unshare-all", "true"]);
                command
            }
            Kind::Agentfs(form) => {
                let mut command = session::launcher(common, form, &dir)?;
                command.args(["run", "--quiet", "--fresh", "--branch", &branch]);
                command.args(options).args(["--", "true"]);
                command
            }
            Kind::Overlayfs | Kind::FuseOverlayfs => return Err("starts no commands".into()),
        };
        command.current_dir(&common.base).stdin(Stdio::null());
        let start = Watch::start();
        let out = command.output();
        let took = start.elapsed();
        let name = command.get_program().to_string_lossy().into_owned();
        let out = out.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => format!("{name} is not installed"),
            _ => format!("{name}: {e}"),
        })?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(format!("{}: {}", out.status, said.trim()).into());
        }
        let said = out.stderr;
        starts.push(Start { took, said });
    }
    agentfs_tests::sandbox::remove_tree(&dir)?;
    starts.sort_by_key(|start| start.took.total());
    Ok(starts.swap_remove(STARTS / 2))
}
