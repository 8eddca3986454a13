//! Logs and errors of a program that may run many times at once under mpirun.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use clap::Parser;

use crate::checkpoint::CheckpointError;
use crate::cluster::DescriptionError;
use crate::data::DataError;
use crate::deck::DeckError;
use crate::exit::Exit;
use crate::experiment::ExperimentError;
use crate::fabric::FabricError;
use crate::generate::GenerateError;
use crate::metrics::{InspectError, MetricsError};
use crate::model::ShapeError;
use crate::plan::Refusal;
use crate::train::Agreed;

use super::Cli;

/// How long other ranks hold back what another one may be about to say.
const HOLD_BACK: Duration = Duration::from_secs(2);

/// This process's rank, as mpirun or srun tells it in the environment, known before MPI is initialised.
pub fn launched_rank() -> Option<usize> {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// What was typed; ends the program after help, version or a mistake.
pub fn parse() -> Cli {
    let shown = match Cli::try_parse() {
        Ok(cli) => return cli,
        Err(mistake) if mistake.use_stderr() => mistake.exit(),
        Err(help) => help.print(),
    };
    let exit = match shown {
        Err(reason) if reason.kind() != ErrorKind::BrokenPipe => {
            say(&format!("standard output cannot be written: {reason}"));
            Exit::Failure
        }
        _ => Exit::Done,
    };
    std::process::exit(exit.code().into())
}

/// Starts logging to standard error: `info` on rank 0, warnings elsewhere; `RUST_LOG` changes that. Lines of several
/// ranks carry the rank.
pub fn start_log() {
    let rank = launched_rank();
    let level = if rank.unwrap_or(0) == 0 { "info" } else { "warn" };
    let prefix = rank.map_or_else(String::new, |rank| format!("[{rank}] "));
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(move |out, record| match record.level() {
            log::Level::Info => writeln!(out, "{prefix}{}", record.args()),
            level => writeln!(out, "{prefix}{}: {}", level.as_str().to_lowercase(), record.args()),
        })
        .init();
}

/// Says in one line on standard error why the program ends, and which code that is.
///
/// An error that all ranks find is said once: rank 0 speaks at once, and when it exits the launcher ends the others
/// before their turn. An error that only another rank finds is said by that rank, after holding back.
pub fn fail(error: &anyhow::Error) -> Exit {
    let exit = exit_of(error);
    if let Some(agreed) = error.downcast_ref::<Agreed>() {
        if agreed.speaks {
            say(&line(error));
        } else {
            // The launcher ends all others as soon as one rank has failed: the one that speaks goes first.
            std::thread::sleep(HOLD_BACK);
        }
        return exit;
    }
    let rank = launched_rank().unwrap_or(0);
    if rank > 0 {
        std::thread::sleep(HOLD_BACK);
        say(&format!("rank {rank}: {}", line(error)));
    } else {
        say(&line(error));
    }
    exit
}

/// One line on standard error, written at once: the launcher writes its own lines between any two writes.
fn say(text: &str) {
    // Nothing can be done for a reader who has closed standard error.
    let _ = std::io::stderr().write_all(format!("tawpipe: {text}\n").as_bytes());
}

/// The chain of causes as one line.
fn line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An argument that cannot be used, where no module has an error of its own for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Errors that the user can mend in the input are bad input; all others are failures.
fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(agreed) = error.downcast_ref::<Agreed>() {
        return agreed.exit;
    }
    let bad_input = error.chain().any(|cause| {
        cause.is::<DeckError>()
            || cause.is::<DescriptionError>()
            || cause.is::<DataError>()
            || cause.is::<ShapeError>()
            || cause.is::<Refusal>()
            || cause.is::<GenerateError>()
            || matches!(cause.downcast_ref(), Some(FabricError::Singletons { .. } | FabricError::Threads { .. }))
            || cause.is::<Unusable>()
            || cause.downcast_ref().is_some_and(ExperimentError::is_bad_input)
            || cause.downcast_ref().is_some_and(CheckpointError::is_bad_input)
            || cause.downcast_ref().is_some_and(MetricsError::is_bad_input)
            || match cause.downcast_ref() {
                Some(InspectError::Checkpoint(error)) => error.is_bad_input(),
                Some(InspectError::Metrics(error)) => error.is_bad_input(),
                None => false,
            }
    });
    if bad_input { Exit::BadInput } else { Exit::Failure }
}
