//! Where everything lies: as root an ext4 on a loop device over memory, so that no disk is measured;
//! else a directory that is given. Also what both can do: drop caches, let writes settle.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Fallible, called, machine};

/// Taken down when dropped.
#[derive(Debug)]
pub struct Disk {
    /// Its top directory.
    pub top: PathBuf,
    /// What it is, for the report.
    pub what: String,
    /// Mount points of its own, in their order.
    mounted: Vec<PathBuf>,
}

impl Disk {
    /// An ext4 of `gib`, sparse in memory, below `scratch`.
    pub fn in_memory(scratch: &Path, gib: u64) -> Fallible<Self> {
        let free_mib = machine::meminfo_mib("MemAvailable:");
        if free_mib < gib << 10 {
            eprintln!(
                "bench: a disk of {gib} GiB in {free_mib} MiB of free memory; if that gets full, take less: \
                 --base-mib 256 --write-mib 256, or --no-disk"
            );
        }
        Self::formatted(scratch, gib, &[])
    }

    /// One for `files` very small files, which lie in their inodes.
    pub fn of_many(scratch: &Path, files: u64) -> Fallible<Self> {
        let inodes = (files + files / 50 + 50_000).to_string();
        let gib = 4 + files / 300_000;
        Self::formatted(
            scratch,
            gib,
            &["-I", "256", "-O", "inline_data", "-N", &inodes],
        )
    }

    fn formatted(scratch: &Path, gib: u64, format: &[&str]) -> Fallible<Self> {
        let (memory, top) = (scratch.join("memory"), scratch.join("disk"));
        fs::create_dir_all(&memory)?;
        fs::create_dir_all(&top)?;
        let mut disk = Disk {
            top: top.clone(),
            what: format!("ext4 of {gib} GiB on a loop device over tmpfs"),
            mounted: Vec::new(),
        };
        let size = format!("size={gib}G,mode=700");
        called(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "agentfs-bench"])
                .arg(&memory),
        )?;
        disk.mounted.push(memory.clone());
        let image = memory.join("image");
        // A little less, for what tmpfs itself needs.
        File::create_new(&image)?.set_len((gib << 30) - (gib << 24))?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        called(mkfs.args(format).arg(&image))?;
        // A loop device that mount makes goes when the mount does.
        called(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&top),
        )?;
        disk.mounted.push(top.clone());
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755))?;
        Ok(disk)
    }

    /// The directory `dir`, on whatever it is.
    pub fn in_directory(dir: &Path) -> Fallible<Self> {
        let top = dir.join(format!("agentfs-bench-{}", std::process::id()));
        fs::create_dir_all(&top)?;
        Ok(Disk {
            what: format!("the directory {}", dir.display()),
            top,
            mounted: Vec::new(),
        })
    }

    /// Waits until what was written is on it: nobody pays for another's writes.
    pub fn settle(&self) -> Fallible<()> {
        Ok(rustix::fs::syncfs(File::open(&self.top)?)?)
    }

    /// Drops all clean caches of the machine.
    pub fn drop_caches(&self) -> Fallible<()> {
        self.settle()?;
        fs::write("/proc/sys/vm/drop_caches", "3")
            .map_err(|e| format!("dropping caches: {e}").into())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted.is_empty()
            && let Err(e) = agentfs_tests::sandbox::remove_tree(&self.top)
        {
            eprintln!("bench: {} is left: {e}", self.top.display());
        }
        while let Some(point) = self.mounted.pop() {
            unmount(&point);
        }
    }
}

/// Unmounts, now or when nobody uses it any more.
pub fn unmount(point: &Path) {
    if called(Command::new("umount").arg(point)).is_err()
        && let Err(e) = called(Command::new("umount").arg("--lazy").arg(point))
    {
        eprintln!("bench: {e}");
    }
}
