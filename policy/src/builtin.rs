//! The profile that is compiled in, `default.toml` beside this file.

use crate::PolicyError;
use crate::profile::{Context, Profile};
use crate::rule::Source;

/// Its text, as TOML.
pub const TEXT: &str = include_str!("default.toml");

/// The built-in profile for `context`.
///
/// Errors: none in a released build; a test parses it.
pub fn profile(context: &Context) -> Result<Profile, PolicyError> {
    Profile::parse(TEXT, Source::Builtin, "built-in profile", context)
}
