//! What goes wrong in the daemon, in the words and codes of the control protocol.

use std::io;

use agentfs_fsd::backstore::StoreError;
use agentfs_fsd::bind::BindError;
use agentfs_fsd::core::error::FsError;
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::msg::ErrorCode;
use agentfs_fsd::ctl::server::Refusal;

/// A store that could not be opened, or failed later.
pub(super) fn of_store(error: &StoreError) -> Refusal {
    let code = match error {
        StoreError::Io { source, .. } => of_io(source),
        StoreError::NoSpace { .. } | StoreError::LimitReached(_) => ErrorCode::NoSpace,
        StoreError::NotWritable { .. } => ErrorCode::NotAllowed,
        StoreError::Poisoned { .. } | StoreError::Unsettled(_) | StoreError::Invalid(_) => {
            ErrorCode::Io
        }
        StoreError::Damaged { .. } | StoreError::NoStore { .. } => ErrorCode::Damaged,
        StoreError::NewerFormat { .. } => ErrorCode::NewerFormat,
        StoreError::Locked { .. } => ErrorCode::Locked,
        StoreError::BranchExists(_) | StoreError::SnapshotExists { .. } => ErrorCode::Exists,
        StoreError::NoBranch(_) => ErrorCode::NoSuchBranch,
        StoreError::NoSnapshot { .. }
        | StoreError::Needed { .. }
        | StoreError::TooManySnapshots(_) => ErrorCode::NotAllowed,
    };
    Refusal::new(code, error)
}

/// A core that refused.
pub(super) fn of_core(error: &FsError) -> Refusal {
    let code = match error {
        FsError::Store(error) => return of_store(error),
        FsError::Base { source, .. } => of_io(source),
        FsError::UnknownCaller(_) => ErrorCode::NoSuchProcess,
        FsError::Invalid(_) | FsError::BadName(_) => ErrorCode::Malformed,
        _ => ErrorCode::Io,
    };
    Refusal::new(code, error)
}

/// A process that could not be bound.
pub(super) fn of_bind(error: &BindError) -> Refusal {
    let code = match error {
        BindError::Gone(_) | BindError::Reused(_) | BindError::NotBound(_) => {
            ErrorCode::NoSuchProcess
        }
        BindError::Foreign { .. } => ErrorCode::ForeignProcess,
        BindError::Adopter => ErrorCode::NotAllowed,
    };
    Refusal::new(code, error)
}

/// A control socket that could not be made.
pub(super) fn of_ctl(error: CtlError) -> Refusal {
    let code = match &error {
        CtlError::Io { source, .. } => of_io(source),
        _ => ErrorCode::Io,
    };
    Refusal::new(code, error)
}

fn of_io(error: &io::Error) -> ErrorCode {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorCode::NotAllowed
        }
        _ => ErrorCode::Io,
    }
}
