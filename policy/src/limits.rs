//! [`Disk`]: how much a branch may take up, as it is written in policy files and on the command line.
//!
//! `2G`, `2G,inodes=100k`, `inodes=5000` or `none`. Bytes take K, M, G, T (powers of 1024), inodes k
//! and M (thousands and millions).

use std::fmt;
use std::str::FromStr;

/// Less than this holds no work at all: a limit of that kind is a slip.
const BYTES_MIN: u64 = 64 << 10;

/// The most that a branch may take up; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Inodes.
    pub inodes: Option<u64>,
}

impl Disk {
    /// The tighter of the two, in each respect.
    pub fn tightened(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            bytes: least(self.bytes, other.bytes),
            inodes: least(self.inodes, other.inodes),
        }
    }

    /// Whether it limits nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A text that is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is no limit: {why}; write 2G, 500M,inodes=100k, inodes=5000 or none", .text.escape_debug())]
pub struct BadDisk {
    text: String,
    why: &'static str,
}

impl FromStr for Disk {
    type Err = BadDisk;

    fn from_str(text: &str) -> Result<Self, BadDisk> {
        let bad = |why| BadDisk {
            text: text.to_owned(),
            why,
        };
        if text == "none" {
            return Ok(Self::default());
        }
        let mut disk = Self::default();
        for part in text.split(',') {
            let (place, value) = match part.split_once('=') {
                Some(("inodes", count)) => (&mut disk.inodes, number(count, 1000, "kM")),
                Some(_) => return Err(bad("only inodes= is known")),
                None => (&mut disk.bytes, number(part, 1024, "KMGT")),
            };
            let value = value.map_err(bad)?;
            if place.replace(value).is_some() {
                return Err(bad("the same is said twice"));
            }
        }
        match disk {
            Self { bytes: Some(n), .. } if n < BYTES_MIN => Err(bad("less than 64K holds nothing")),
            Self {
                inodes: Some(0), ..
            } => Err(bad("no inode at all holds nothing")),
            disk => Ok(disk),
        }
    }
}

/// A whole number with one of `suffixes`, each of which stands for `step` times the one before.
fn number(text: &str, step: u64, suffixes: &str) -> Result<u64, &'static str> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = &text[digits.len()..];
    let power = match suffix {
        "" => 0,
        _ => {
            let same = |c: char| suffix.len() == 1 && suffix.eq_ignore_ascii_case(&c.to_string());
            let at = suffixes.chars().position(same);
            1 + at.ok_or(match step {
                1024 => "bytes are a whole number, with K, M, G or T for powers of 1024",
                _ => "inodes are a whole number, with k or M for thousands and millions",
            })? as u32
        }
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it has no whole number");
    }
    let count: u64 = digits.parse().map_err(|_| "the number is too large")?;
    step.checked_pow(power)
        .and_then(|unit| count.checked_mul(unit))
        .filter(|n| i64::try_from(*n).is_ok())
        .ok_or("the number is too large")
}

/// As it can be parsed, with the largest unit that leaves a whole number.
impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.map(|n| short(n, 1024, "KMGT"));
        let inodes = self
            .inodes
            .map(|n| format!("inodes={}", short(n, 1000, "kM")));
        let parts: Vec<String> = bytes.into_iter().chain(inodes).collect();
        match parts.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&parts.join(",")),
        }
    }
}

fn short(mut n: u64, step: u64, suffixes: &str) -> String {
    let mut suffix = String::new();
    for next in suffixes.chars() {
        if n == 0 || !n.is_multiple_of(step) {
            break;
        }
        n /= step;
        suffix = next.to_string();
    }
    format!("{n}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_shown_alike() {
        let disk = |bytes, inodes| Disk { bytes, inodes };
        for (text, value, shown) in [
            ("2G", disk(Some(2 << 30), None), "2G"),
            ("2048M", disk(Some(2 << 30), None), "2G"),
            ("1t", disk(Some(1 << 40), None), "1T"),
            ("65537", disk(Some(65537), None), "65537"),
            (
                "500M,inodes=100k",
                disk(Some(500 << 20), Some(100_000)),
                "500M,inodes=100k",
            ),
            (
                "inodes=5m,64k",
                disk(Some(64 << 10), Some(5_000_000)),
                "64K,inodes=5M",
            ),
            ("inodes=5001", disk(None, Some(5001)), "inodes=5001"),
            ("none", disk(None, None), "none"),
        ] {
            let read: Disk = text.parse().expect(text);
            assert_eq!(read, value, "{text}");
            assert_eq!(read.to_string(), shown);
            assert_eq!(shown.parse(), Ok(value));
        }
    }

    #[test]
    fn what_is_no_limit_is_told_with_what_is() {
        for text in [
            "",
            "G",
            "2X",
            "2GB",
            "2 G",
            "-1",
            "1.5G",
            "2G,",
            "2G,3G",
            "bytes=2G",
            "inodes=",
            "inodes=2G",
            "inodes=0",
            "1K",
            "0",
            "9999999999T",
            "99999999999999999999",
            "None",
            "2G;inodes=1",
            "\u{663}G",
        ] {
            let error = text.parse::<Disk>().expect_err(text).to_string();
            assert!(error.contains("write 2G, 500M,inodes=100k"), "{error}");
        }
    }

    #[test]
    fn the_tighter_of_two_holds_in_each_respect() {
        let one: Disk = "2G,inodes=10".parse().expect("one");
        let other: Disk = "1G".parse().expect("other");
        assert_eq!(one.tightened(other).to_string(), "1G,inodes=10");
        assert_eq!(other.tightened(one), one.tightened(other));
        assert_eq!(one.tightened(Disk::default()), one);
    }
}
