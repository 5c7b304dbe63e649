//! How much a branch may take up: what the caller, the policy and the branch itself say of it.
//!
//! The limit is the branch's own and stays with it. `--disk` sets it; without it the policy can only
//! make it tighter. A live branch keeps the one that its daemon began with.

use agentfs_fsd::backstore::{Limit, Store};
use agentfs_fsd::core::types::BranchName;
use agentfs_policy::Disk;

use crate::error::CmdError;

/// What the caller's words and files ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// By `--disk`.
    pub asked: Option<Disk>,
    /// By the policy.
    pub policy: Disk,
}

impl Wanted {
    /// The limit for a branch that has `now`.
    pub fn over(&self, now: Limit) -> Limit {
        let policy = of_disk(self.policy);
        self.asked.map_or(now.tightened(policy), of_disk)
    }

    /// Gives a branch that nobody holds its limit.
    ///
    /// Errors: `Locked` where somebody holds it all the same; then a second look may do.
    pub fn settle(&self, store: &Store, branch: &BranchName) -> Result<Limit, CmdError> {
        let now = store.branch(branch)?.limit;
        let wanted = self.over(now);
        if wanted != now {
            store.set_limit(branch, wanted)?;
        }
        Ok(wanted)
    }

    /// Refuses to join a live branch with another limit than this command is to have.
    pub fn check_live(&self, store: &Store, branch: &BranchName) -> Result<Limit, CmdError> {
        let now = store.branch(branch)?.limit;
        let wanted = self.over(now);
        if wanted == now {
            return Ok(now);
        }
        let (by, out) = match self.asked {
            Some(_) => ("--disk asks for", "leave out --disk, or "),
            None => ("the policy asks for", ""),
        };
        Err(CmdError::refused(
            format!("branch {branch}"),
            format!(
                "is live with the limit {}, and {by} {}",
                text(now),
                text(wanted)
            ),
            format!("{out}wait for the running commands to end: a limit changes between runs"),
        ))
    }
}

/// As the store notes it.
pub fn of_disk(disk: Disk) -> Limit {
    Limit {
        bytes: disk.bytes,
        inodes: disk.inodes,
    }
}

/// As `--disk` takes it.
pub fn text(limit: Limit) -> String {
    let disk = Disk {
        bytes: limit.bytes,
        inodes: limit.inodes,
    };
    disk.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_tightens_and_the_flag_decides() {
        let disk = |text: &str| text.parse::<Disk>().unwrap();
        let over = |asked: Option<&str>, policy: &str, now: &str| {
            let wanted = Wanted {
                asked: asked.map(disk),
                policy: disk(policy),
            };
            text(wanted.over(of_disk(disk(now))))
        };
        assert_eq!(over(None, "none", "2G"), "2G");
        assert_eq!(over(None, "1G", "2G,inodes=5"), "1G,inodes=5");
        assert_eq!(over(None, "4G", "2G"), "2G");
        assert_eq!(over(None, "inodes=7", "2G"), "2G,inodes=7");
        assert_eq!(over(Some("8G"), "1G", "2G,inodes=5"), "8G");
        assert_eq!(over(Some("none"), "1G", "2G"), "none");
    }
}
