//! How the program ends: the one table of exit codes.

use std::process::ExitCode;

/// What the program tells the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked is done.
    Done,
    /// Something failed while running.
    Failure,
    /// The deck, a file or the environment is wrong; nothing was started or overwritten.
    BadInput,
    /// Stopped by SIGINT or SIGTERM after writing a checkpoint.
    Signal,
    /// Wall time reached; a checkpoint is written.
    WallTime,
}

impl Exit {
    /// Every way to end, in the order of the codes.
    pub const ALL: [Exit; 5] = [Exit::Done, Exit::Failure, Exit::BadInput, Exit::Signal, Exit::WallTime];

    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failure => 1,
            Exit::BadInput => 2,
            Exit::Signal => 3,
            Exit::WallTime => 4,
        }
    }

    /// A few words for `--help`.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failure => "failure while running",
            Exit::BadInput => "bad input: deck, file or environment; nothing overwritten",
            Exit::Signal => "stopped by a signal, checkpoint written",
            Exit::WallTime => "wall time reached, checkpoint written",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
