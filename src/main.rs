//! The `tawpipe` program: parse, run, say what went wrong in one line, exit with a documented code.

use std::process::ExitCode;

use clap::Parser;
use tawpipe::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_log();
    match cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => cli::fail(&error).into(),
    }
}
