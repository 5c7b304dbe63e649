//! What a branch's owner must do: by ourselves when nobody holds the branch, else by its daemon.

use std::time::{Duration, Instant};

use agentfs_fsd::backstore::{BranchInfo, NewBranch, Store, StoreError};
use agentfs_fsd::core::point::{Point, SnapshotName};
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::client::Client;
use agentfs_fsd::ctl::msg::ErrorCode;

use crate::error::CmdError;

/// How long a daemon may take to begin to serve its branch, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Makes a branch; of a live one by its daemon.
///
/// Errors: as `Store::create_branch`, and the daemon's refusal.
pub fn create_branch(
    store: &Store,
    name: &BranchName,
    from: Option<&Point>,
    new: &NewBranch,
) -> Result<BranchInfo, CmdError> {
    owner_does(
        store,
        |store| store.create_branch(name, from, new.clone()),
        |client| {
            client.branch_off(name.clone(), new.workspace.clone())?;
            Ok(store.branch(name))
        },
        || StoreError::BranchExists(name.to_string()),
    )
}

/// Makes a snapshot; of a live branch by its daemon. Gives its name.
///
/// Errors: as `Store::create_snapshot`, and the daemon's refusal.
pub fn create_snapshot(
    store: &Store,
    branch: &BranchName,
    name: Option<&SnapshotName>,
) -> Result<SnapshotName, CmdError> {
    let made = |s: agentfs_fsd::backstore::Snapshot| s.name;
    owner_does(
        store,
        |store| store.create_snapshot(branch, name.cloned()).map(made),
        |client| client.snapshot(name.cloned()).map(Ok),
        || StoreError::SnapshotExists {
            branch: branch.to_string(),
            snapshot: name.map(ToString::to_string).unwrap_or_default(),
        },
    )
}

/// Does `alone`, or lets the daemon of the branch that is in the way do `asked`.
fn owner_does<T>(
    store: &Store,
    alone: impl Fn(&Store) -> Result<T, StoreError>,
    asked: impl Fn(&Client) -> Result<Result<T, StoreError>, CtlError>,
    exists: impl Fn() -> StoreError,
) -> Result<T, CmdError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let branch = match alone(store) {
            Err(StoreError::Locked { branch, .. }) => branch,
            done => return Ok(done?),
        };
        let branch = BranchName::new(&branch).map_err(|_| StoreError::NoBranch(branch))?;
        let answer = match Client::connect(&store.control_path(&branch)) {
            Ok(client) => asked(&client),
            // It is just beginning, or ending.
            Err(CtlError::Closed | CtlError::Io { .. }) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(done) => return Ok(done?),
            Err(CtlError::Refused {
                code: ErrorCode::Exists,
                ..
            }) => return Err(exists().into()),
            // As above. One that goes while it is at it may have done it: that is told.
            Err(CtlError::Refused {
                code: ErrorCode::NotMounted,
                ..
            }) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(e) => return Err(CmdError::daemon(&branch, e)),
        }
    }
}
