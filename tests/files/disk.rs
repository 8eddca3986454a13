//! A file system that is full when we want it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A small tmpfs, for as long as it lives.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one, or says why not.
    pub fn new(bytes: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(SmallDisk(folder));
        }
        println!("skipped: mounting a small tmpfs needs root");
        None
    }

    /// Its root folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last page with a file, whose path is returned.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = fs::File::create(&path).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}
