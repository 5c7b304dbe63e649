//! Calls of the usual tools, timed. Output goes to memory, so that no reader has to be woken.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use agentfs_tests::sandbox::SYSTEM_PATH;
use rustix::fs::MemfdFlags;

use super::Place;
use super::timing::{Timing, Watch};
use crate::Fallible;

/// A finished call.
#[derive(Debug)]
pub struct Called {
    pub elapsed: Timing,
    pub stdout: Vec<u8>,
}

impl Called {
    pub fn lines(&self) -> usize {
        self.stdout.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A tool in the tree, with an environment that is the same everywhere.
pub fn tool(place: &Place, words: &[&str]) -> Command {
    let (program, args) = words.split_first().unwrap_or((&"false", &[]));
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(&place.top)
        .env_clear()
        .env("PATH", SYSTEM_PATH)
        .env("HOME", &place.home)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end; a status other than 0 is an error.
pub fn call(command: &mut Command) -> Fallible<Called> {
    call_ok(command, &[0])
}

/// [`call`], with other good statuses.
pub fn call_ok(command: &mut Command, good: &[i32]) -> Fallible<Called> {
    let (mut out, mut err) = (memory()?, memory()?);
    command.stdout(out.try_clone()?).stderr(err.try_clone()?);
    let start = Watch::start();
    let status = command.status();
    let elapsed = start.elapsed();
    let name = command.get_program().to_string_lossy().into_owned();
    let status = status.map_err(|e| format!("{name}: {e}"))?;
    if !status.code().is_some_and(|code| good.contains(&code)) {
        let text = contents(&mut err)?;
        let text = String::from_utf8_lossy(&text);
        let short: String = text.trim().chars().take(300).collect();
        return Err(format!("{name}: {status}: {short}").into());
    }
    Ok(Called {
        elapsed,
        stdout: contents(&mut out)?,
    })
}

/// Calls in the tree, by words alone.
pub fn run(place: &Place, words: &[&str]) -> Fallible<Called> {
    call(&mut tool(place, words))
}

fn memory() -> Fallible<File> {
    Ok(rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC)?.into())
}

fn contents(file: &mut File) -> Fallible<Vec<u8>> {
    file.rewind()?;
    let mut all = Vec::new();
    file.read_to_end(&mut all)?;
    Ok(all)
}

/// Files and bytes below `dir`: the proof that a tree is complete.
pub fn count(dir: &Path) -> Fallible<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else {
                files += 1;
                bytes += entry.metadata()?.len();
            }
        }
    }
    Ok((files, bytes))
}

/// A digest of lines in any order: sums cannot tell where a line stood.
pub fn digest(text: &[u8]) -> u64 {
    let lines = text.split(|byte| *byte == b'\n');
    lines.fold(0u64, |sum, line| {
        let hash = line.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        sum.wrapping_add(hash)
    })
}

/// Removes what may be there.
pub fn remove(path: &Path) -> Fallible<()> {
    let gone = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {e}", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// A path as a word.
pub fn word(path: &Path) -> Fallible<&str> {
    std::str::from_utf8(path.as_os_str().as_bytes())
        .map_err(|_| format!("{}: not UTF-8", path.display()).into())
}
