//! Folders that a training writes to.

use std::path::{Path, PathBuf};

use super::{Finding, Verdict, gigabytes};
use crate::device::free_bytes;

/// Less than this is told.
const LITTLE: u64 = 1_000_000_000;

/// The folders of run folders, token files, and temporary files.
pub fn look() -> Vec<Finding> {
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    vec![
        judge(
            "run folders",
            &here.join("runs"),
            Verdict::Broken,
            "go to a folder that you may write to, or set run.folder",
        ),
        judge(
            "token cache",
            &crate::data::cache_folder(),
            Verdict::Attention,
            "set TAWPIPE_CACHE to a folder that you may write to; text for a tokenizer.json is tokenised into it",
        ),
        judge(
            "temporary files",
            &std::env::temp_dir(),
            Verdict::Attention,
            "set TMPDIR to a folder that you may write to; MPI libraries keep files there",
        ),
    ]
}

/// Whether files can be made in `folder`, or in the folder that it would be made in.
fn judge(topic: &str, folder: &Path, otherwise: Verdict, advice: &str) -> Finding {
    let there = existing(folder);
    if let Err(error) = tempfile::tempfile_in(&there) {
        let says = format!("{} cannot be written to: {}", folder.display(), reason(&error));
        return Finding::new(topic, otherwise, says).advice(advice);
    }
    let finding = Finding::new(topic, Verdict::Fine, format!("{} can be written to", folder.display()));
    let Some(free) = free_bytes(&there) else { return finding };
    let finding = finding.now(format!("{} free", gigabytes(free)));
    if free < LITTLE {
        return Finding { verdict: Verdict::Attention, ..finding }
            .advice("make space there: checkpoints need 12 bytes a parameter");
    }
    finding
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    // The library for temporary files adds the name of the one it tried, and the system its number.
    text.split(" (os error").next().unwrap_or(&text).split(" at path").next().unwrap_or(&text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that does not exist yet is judged by the one above; nothing is left in either.
    #[test]
    fn the_folder_above_counts() {
        let folder = tempfile::tempdir().unwrap();
        let finding = judge("run folders", &folder.path().join("a/b"), Verdict::Broken, "go");
        assert_ne!(finding.verdict, Verdict::Broken, "{finding:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Where no file can be made, the verdict is the caller's.
    #[test]
    fn folders_that_refuse() {
        let finding = judge("run folders", Path::new("/proc/none/runs"), Verdict::Broken, "go elsewhere");
        assert_eq!((finding.verdict, finding.advice.as_str()), (Verdict::Broken, "go elsewhere"));
        assert!(finding.says.starts_with("/proc/none/runs cannot be written to: "), "{}", finding.says);
    }
}
