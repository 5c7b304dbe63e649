//! [`Regime`]: whether the kernel tells us of opens, which it does for all files of a mount or none.

use std::ffi::OsStr;
use std::fmt;

use crate::fuse::session::BadKnob;

/// The variable that asks for one.
const NAME: &str = "AGENTFS_FUSE_REGIME";

/// The default where files can go past us, which takes privilege.
const PRIVILEGED: Regime = Regime::Passthrough;
/// The default elsewhere.
const UNPRIVILEGED: Regime = Regime::ZeroOpen;

/// How files come to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// Each is opened with us first, so it can go past us then (passthrough), where that is allowed.
    Passthrough,
    /// Files are used without a word: an open costs no request, each write does.
    ZeroOpen,
}

impl Regime {
    /// What a mount gets that asks for nothing else; `by_opens`: opens are worth more than they cost,
    /// since its files could go past us, or a close gives room back.
    pub const fn default_for(by_opens: bool) -> Self {
        if by_opens { PRIVILEGED } else { UNPRIVILEGED }
    }

    /// The regime that the environment asks for, if it asks for one.
    pub(super) fn from_env() -> Result<Option<Self>, BadKnob> {
        Self::read(std::env::var_os(NAME).as_deref())
    }

    fn read(text: Option<&OsStr>) -> Result<Option<Self>, BadKnob> {
        let text = text.unwrap_or_default().to_string_lossy();
        Ok(match text.trim() {
            "" | "auto" => None,
            "passthrough" => Some(Self::Passthrough),
            "zero-open" => Some(Self::ZeroOpen),
            _ => {
                let one_of = "none of auto, passthrough and zero-open";
                return Err(BadKnob::new(NAME, text.into_owned(), one_of.to_owned()));
            }
        })
    }
}

/// As the variable has it.
impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::ZeroOpen => "zero-open",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_a_regime_or_is_refused() {
        let read = |text: &str| Regime::read(Some(text.as_ref()));
        assert_eq!(Regime::read(None).ok(), Some(None));
        assert_eq!(read("").ok(), Some(None));
        assert_eq!(read(" auto ").ok(), Some(None));
        assert_eq!(read("passthrough").ok(), Some(Some(Regime::Passthrough)));
        assert_eq!(read("zero-open").ok(), Some(Some(Regime::ZeroOpen)));
        for bad in ["zero_open", "1", "Passthrough"] {
            let text = read(bad).expect_err(bad).to_string();
            assert!(text.contains(NAME) && text.contains(bad), "{text}");
            assert!(text.contains("auto, passthrough and zero-open"), "{text}");
        }
    }
}
