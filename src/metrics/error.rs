//! What can go wrong with files of metrics.

use std::io;
use std::path::Path;

/// Why metrics could not be read or written; one line for the user.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricsError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {reason}")]
    Io {
        /// Which file.
        path: String,
        /// What was tried: read or write.
        action: &'static str,
        /// The system's words.
        reason: String,
    },
    /// The file is not what was once written there.
    #[error("{path}: {problem}")]
    Damaged {
        /// Which file.
        path: String,
        /// What was found.
        problem: String,
    },
}

impl MetricsError {
    /// Whether the user gave something unusable (exit code 2), rather than the machine failing (exit code 1).
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, MetricsError::Io { action: "write", .. })
    }

    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| {
            let text = error.to_string();
            let reason = text.split(" (os error").next().unwrap_or(&text).to_string();
            MetricsError::Io { path, action, reason }
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        MetricsError::Damaged { path: path.display().to_string(), problem: problem.into() }
    }
}
