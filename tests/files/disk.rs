//! A file system that is full when we want it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common;

/// A small tmpfs, for as long as it lives.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one; `None` where that is not possible, and the test is skipped.
    pub fn new(bytes: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        common::mount_small(folder.path(), &bytes.to_string()).then(|| SmallDisk(folder))
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
