//! The `tawpipe` program: parse, run, say what went wrong in one line, exit with a documented code.

use std::process::ExitCode;

use tawpipe::cli;
use tawpipe::device::Exhausted;

#[global_allocator]
static ALLOCATOR: Exhausted = Exhausted;

fn main() -> ExitCode {
    let cli = cli::parse();
    cli::start_log();
    match cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => cli::fail(&error).into(),
    }
}
