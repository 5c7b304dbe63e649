//! The tree that all subjects start from, the same whenever it is made.
//!
//! `crates/` source files of crates, `repo/` a git repository with a long history, `big` and `huge`
//! large files, `small/` files to append to, `project/` a crate to build. Beside it, outside of what
//! subjects change: an archive of `crates/`, and packages for npm. Who calls: the runner, once.

mod repo;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_tests::chance::Chance;
use serde::{Deserialize, Serialize};

use crate::{Fallible, called};

pub const MIB: usize = 1 << 20;
pub const SMALL_BYTES: u64 = 4096;

/// How much of everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sizes {
    /// Files below `crates/`.
    pub files: u64,
    /// Commits of `repo/`.
    pub commits: u64,
    /// Files of `repo/` at first.
    pub repo_files: u64,
    /// `big`.
    pub big_mib: u64,
    /// `huge`, sparse.
    pub huge_gib: u64,
    /// Written in one go.
    pub write_mib: u64,
    /// Written by each of four.
    pub writer_mib: u64,
    /// Times that one operation is done.
    pub ops: u64,
    /// Files below `small/`.
    pub small_files: u64,
    /// Packages to install.
    pub packages: u64,
}

impl Sizes {
    /// Those of the table.
    pub fn full() -> Self {
        Sizes {
            files: 12_500,
            commits: 250,
            repo_files: 2_000,
            big_mib: 1024,
            huge_gib: 100,
            write_mib: 1024,
            writer_mib: 64,
            ops: 2_000,
            small_files: 200,
            packages: 40,
        }
    }

    /// Enough to see that every row works.
    pub fn tiny() -> Self {
        Sizes {
            files: 100,
            commits: 12,
            repo_files: 30,
            big_mib: 8,
            huge_gib: 1,
            write_mib: 8,
            writer_mib: 1,
            ops: 40,
            small_files: 5,
            packages: 2,
        }
    }

    /// How far back the checkout goes: 200 commits of the usual history.
    pub fn commits_back(&self) -> u64 {
        self.commits * 4 / 5
    }
}

/// Where the fixture lies.
#[derive(Debug)]
pub struct Fixture {
    pub base: PathBuf,
    pub share: PathBuf,
    /// Where the crates are from.
    pub origin: String,
    /// What the crates amount to.
    pub files: u64,
    pub bytes: u64,
}

/// Makes it below `dir`.
pub fn make(dir: &Path, sizes: &Sizes, is_synthetic: bool) -> Fallible<Fixture> {
    let (base, share) = (dir.join("base"), dir.join("share"));
    fs::create_dir_all(base.join("crates"))?;
    fs::create_dir_all(&share)?;
    let registry = (!is_synthetic).then(registry).flatten();
    let mut files = 0;
    let mut origin = "synthetic".to_owned();
    if let Some(registry) = &registry {
        files = take_crates(registry, &base.join("crates"), sizes.files)?;
        origin = "the local cargo registry".to_owned();
        project(registry, &base)?;
    }
    if files < sizes.files {
        if files > 0 {
            origin = format!("{files} of the local cargo registry, the rest synthetic");
        }
        invent(&base.join("crates"), sizes.files - files)?;
    }
    repo::make(&base.join("repo"), sizes)?;
    large(&base, sizes)?;
    packages(&share, sizes)?;
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(&base)
        .arg("-cf")
        .arg(share.join("crates.tar"));
    called(tar.arg("crates"))?;
    let bytes = fs::metadata(share.join("crates.tar"))?.len();
    Ok(Fixture {
        base,
        share,
        origin,
        files: sizes.files,
        bytes,
    })
}

/// A mebibyte that is not all the same.
pub fn block(seed: u64) -> Vec<u8> {
    let mut chance = Chance::from(seed);
    (0..MIB / 8)
        .flat_map(|_| chance.below(u64::MAX).to_le_bytes())
        .collect()
}

/// The unpacked sources of cargo's registry, if there are any.
fn registry() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut dirs: Vec<_> = fs::read_dir(home.join("registry/src"))
        .ok()?
        .flatten()
        .collect();
    dirs.sort_by_key(fs::DirEntry::file_name);
    dirs.first().map(fs::DirEntry::path)
}

/// Copies whole crates, in the order of their names, until there are `wanted` files. Gives how many.
fn take_crates(registry: &Path, to: &Path, wanted: u64) -> Fallible<u64> {
    let mut taken = 0;
    let mut todo = vec![(registry.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = todo.pop() {
        let mut entries = fs::read_dir(&from)?.collect::<Result<Vec<_>, _>>()?;
        // Popped from the end: the last name first.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        fs::create_dir_all(&to)?;
        for entry in entries {
            let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                todo.push((entry.path(), to));
            } else if kind.is_file() && taken < wanted {
                fs::copy(entry.path(), &to)?;
                taken += 1;
            }
        }
        if taken == wanted {
            break;
        }
    }
    Ok(taken)
}

/// Files shaped like a registry's: most are small, a few are large, eight to a directory.
fn invent(to: &Path, files: u64) -> Fallible<()> {
    const WORDS: [&str; 12] = [
        "let",
        "self",
        "match",
        "Some(value)",
        "fn",
        "unwrap_or_else",
        "return",
        "=>",
        "{",
        "}",
        "pub",
        "// the license",
    ];
    let mut chance = Chance::from(12_500);
    for n in 0..files {
        let dir = to.join(format!("invented-{}/src/m{}", n / 64, n % 64 / 8));
        if n % 8 == 0 {
            fs::create_dir_all(&dir)?;
        }
        let lines = match chance.below(20) {
            0 => 4_000,
            1..=5 => 600,
            _ => 20 + chance.below(150),
        };
        let mut out = BufWriter::new(File::create_new(dir.join(format!("f{n}.rs")))?);
        for _ in 0..lines {
            for _ in 0..chance.below(6) {
                write!(out, "{} ", WORDS[chance.below(WORDS.len() as u64) as usize])?;
            }
            writeln!(out)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn large(base: &Path, sizes: &Sizes) -> Fallible<()> {
    let mut big = File::create_new(base.join("big"))?;
    for n in 0..sizes.big_mib {
        big.write_all(&block(n % 7))?;
    }
    big.sync_all()?;
    File::create_new(base.join("huge"))?.set_len(sizes.huge_gib << 30)?;
    fs::create_dir(base.join("small"))?;
    for n in 0..sizes.small_files {
        fs::write(
            base.join(format!("small/s{n}")),
            [b's'; SMALL_BYTES as usize],
        )?;
    }
    Ok(())
}

/// A crate with dependencies, taken from the registry's sources. Left out when they are not there.
fn project(registry: &Path, base: &Path) -> Fallible<()> {
    const DEPENDENCIES: [&str; 6] = ["bitflags", "cfg-if", "itoa", "log", "memchr", "smallvec"];
    let mut found = Vec::new();
    for name in DEPENDENCIES {
        let mut versions: Vec<_> = fs::read_dir(registry)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let file = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                file.strip_prefix(&format!("{name}-"))
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect();
        versions.sort();
        let Some(last) = versions.pop() else {
            return Ok(());
        };
        found.push((name, last));
    }
    let top = base.join("project");
    fs::create_dir_all(top.join("src"))?;
    let mut manifest = "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n\
                        [workspace]\nexclude = [\"vendor\"]\n\n[dependencies]\n"
        .to_owned();
    for (name, from) in &found {
        let to = top.join("vendor").join(name);
        take_crates(from, &to, u64::MAX)?;
        manifest += &format!("{name} = {{ path = \"vendor/{name}\" }}\n");
    }
    fs::write(top.join("Cargo.toml"), manifest)?;
    fs::write(
        top.join("src/main.rs"),
        "fn main() {\n    log::info!(\"quiet\");\n    let at = memchr::memchr(b'c', b\"abc\");\n    \
         println!(\"built {:?} {}\", at, itoa::Buffer::new().format(7));\n}\n",
    )?;
    Ok(())
}

/// Packages as `npm pack` makes them.
fn packages(share: &Path, sizes: &Sizes) -> Fallible<()> {
    let npm = share.join("npm");
    fs::create_dir(&npm)?;
    let stage = share.join("stage");
    for n in 0..sizes.packages {
        let package = stage.join("package");
        fs::create_dir_all(package.join("lib"))?;
        let manifest = format!("{{\"name\": \"bench-{n}\", \"version\": \"1.0.0\"}}\n");
        fs::write(package.join("package.json"), manifest)?;
        for f in 0..50 {
            let text = format!("module.exports = {f};\n").repeat(40);
            fs::write(package.join(format!("lib/f{f}.js")), text)?;
        }
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(&stage)
            .arg("-czf")
            .arg(npm.join(format!("bench-{n}.tgz")));
        called(tar.arg("package"))?;
        fs::remove_dir_all(&stage)?;
    }
    Ok(())
}
