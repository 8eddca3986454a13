//! The command line: what was typed, and which module does it.
//!
//! Only `train`, `calibrate` (or `bench`) and `doctor` ever start MPI.

mod args;
mod calibrate;
mod convert;
mod doctor;
mod experiment;
mod generate;
mod inspect;
mod launch;
mod manual;
mod plan;
mod report;
mod tokenize;
mod train;

pub use args::Cli;
pub use launch::{fail, parse, start_log};

use args::Command;

use crate::exit::Exit;
use crate::output;

/// Does what was typed.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    if let Some(why) = crate::device::cpu::library_refused() {
        return Err(launch::Unusable(why.into()).into());
    }
    // A training has warned already, and what counts is in its run folder.
    let trains = matches!(cli.command, Command::Train(_));
    let exit = command(cli.command)?;
    if !trains {
        output::finish().map_err(Unwritten)?;
    }
    Ok(exit)
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {0}")]
struct Unwritten(&'static std::io::Error);

fn command(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Experiment(args) => experiment::run(&args),
        Command::Calibrate(args) => calibrate::run(&args.file, &args.measure),
        Command::Bench(args) => calibrate::run(&args.calibrate, &args.measure),
        Command::Doctor(args) => doctor::run(&args),
        Command::Manual { share } => manual::run(&share),
        Command::Plan(args) => plan::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Inspect { file } => inspect::run(&file),
        Command::Export(args) => convert::export(&args),
        Command::Import(args) => convert::import(&args),
        Command::Tokenize(args) => tokenize::run(&args),
    }
}
