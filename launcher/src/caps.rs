//! Takes every privilege away, for good.

use caps::CapSet;

use crate::error::SetupError;

/// Sets no_new_privs and empties the ambient, bounding, inheritable, effective and permitted sets.
///
/// Init does this before it makes the command, so the command starts with nothing and, with an
/// empty bounding set, can gain nothing by executing as uid 0.
pub fn drop_all() -> Result<(), SetupError> {
    let fail = |set: &str, why: String| {
        SetupError::other("drop capabilities", set, std::io::Error::other(why))
    };
    nix::sys::prctl::set_no_new_privs()
        .map_err(|e| SetupError::new("set no_new_privs on", "the run", e))?;
    // The bounding set goes while CAP_SETPCAP is still there, and the permitted set goes last.
    for (name, set) in [
        ("bounding", CapSet::Bounding),
        ("ambient", CapSet::Ambient),
        ("inheritable", CapSet::Inheritable),
        ("effective", CapSet::Effective),
        ("permitted", CapSet::Permitted),
    ] {
        caps::clear(None, set).map_err(|e| fail(name, e.to_string()))?;
    }
    Ok(())
}
