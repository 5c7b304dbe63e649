//! Who is measured: the host, the peers, and agentfs in any of its forms, by the words of
//! `--subjects`.

use std::fmt;
use std::path::PathBuf;

use crate::Fallible;
use crate::rows::{Group, Row};

/// One column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As it was asked for; also its name in the results.
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The plain directory.
    Host,
    /// The kernel's overlayfs.
    Overlayfs,
    /// Debian's fuse-overlayfs.
    FuseOverlayfs,
    /// Only starts commands: a row of its own kind.
    Bwrap,
    Agentfs(Form),
}

/// A form of agentfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Run by the ordinary user.
    pub is_user: bool,
    /// Knobs for the launcher.
    pub env: Vec<(String, String)>,
    /// Other programs than those under test.
    pub bin: Option<PathBuf>,
}

pub const HELP: &str = "host, overlayfs, fuse-overlayfs, bwrap (starts only), agentfs, agentfs-user; after a colon, joined by \
     '+', what agentfs is to use: passthrough or zero-open, device or io-uring, NAME=VALUE of its \
     environment; after an '@' a directory with other programs: agentfs:zero-open+io-uring, agentfs@/old";

impl Subject {
    /// From its words.
    pub fn parse(text: &str) -> Fallible<Self> {
        let (head, bin) = match text.split_once('@') {
            Some((head, bin)) => (head, Some(PathBuf::from(bin))),
            None => (text, None),
        };
        let (word, knobs) = match head.split_once(':') {
            Some((word, knobs)) => (word, knobs.split('+').collect()),
            None => (head, Vec::new()),
        };
        let mut form = Form {
            bin,
            ..Form::default()
        };
        for knob in knobs {
            let (name, value) = match knob {
                "passthrough" | "zero-open" => ("AGENTFS_FUSE_REGIME", knob),
                "device" | "io-uring" => ("AGENTFS_FUSE_TRANSPORT", knob),
                _ => knob.split_once('=').ok_or_else(|| {
                    format!("{text}: {knob} is no regime, no transport and no NAME=VALUE")
                })?,
            };
            form.env.push((name.to_owned(), value.to_owned()));
        }
        let is_plain = form == Form::default();
        let kind = match word {
            "agentfs" => Kind::Agentfs(form),
            "agentfs-user" => Kind::Agentfs(Form {
                is_user: true,
                ..form
            }),
            _ if !is_plain => {
                return Err(format!("{text}: only agentfs has knobs and programs").into());
            }
            "host" => Kind::Host,
            "overlayfs" => Kind::Overlayfs,
            "fuse-overlayfs" => Kind::FuseOverlayfs,
            "bwrap" => Kind::Bwrap,
            _ => return Err(format!("no subject {word}; there are {HELP}").into()),
        };
        Ok(Subject {
            name: text.to_owned(),
            kind,
        })
    }

    /// Whether it is agentfs as the ordinary user.
    pub fn is_user(&self) -> bool {
        matches!(&self.kind, Kind::Agentfs(form) if form.is_user)
    }

    /// Whether this row is for it at all.
    pub fn does(&self, row: &Row) -> bool {
        match self.kind {
            Kind::Host | Kind::Agentfs(_) => true,
            Kind::Bwrap => row.group == Group::Launch,
            Kind::Overlayfs | Kind::FuseOverlayfs => row.group != Group::Launch,
        }
    }

    /// The name as a directory can have it.
    pub fn slug(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        self.name.chars().map(plain).collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        match Subject::parse(text).expect(text).kind {
            Kind::Agentfs(form) => form,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn words_give_subjects() {
        let plain = form("agentfs");
        assert!(!plain.is_user && plain.env.is_empty() && plain.bin.is_none());
        assert!(form("agentfs-user").is_user);
        let knobs = form("agentfs-user:zero-open+io-uring+A=b=c@/old/bin");
        let env: Vec<_> = knobs
            .env
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            env,
            [
                ("AGENTFS_FUSE_REGIME", "zero-open"),
                ("AGENTFS_FUSE_TRANSPORT", "io-uring"),
                ("A", "b=c")
            ]
        );
        assert_eq!(knobs.bin, Some(PathBuf::from("/old/bin")));
        for wrong in [
            "",
            "host:zero-open",
            "overlayfs@/x",
            "agentfs:fast",
            "agentfs:",
            "ext4",
        ] {
            assert!(Subject::parse(wrong).is_err(), "{wrong}");
        }
    }
}
