//! `tawpipe doctor`: what this machine and this launch offer to a training.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use crate::doctor::{Finding, Verdict, alone, inside, json, probe, refused, text};
use crate::exit::Exit;
use crate::fabric::{FabricError, is_launched, leave};
use crate::output::outln;

use super::args::DoctorArgs;
use super::launch::launched_rank;

/// Examines and prints, on rank 0.
pub fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    if args.probe {
        outln!("{}", probe()?);
        return Ok(Exit::Done);
    }
    let (wait, as_json) = (Duration::from_secs_f64(args.wait), args.json);
    if !is_launched() {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["doctor", "--probe"]);
        let command = cfg!(feature = "mpi").then_some(&mut command);
        return Ok(print(&alone(command, wait), 1, as_json));
    }
    let first = launched_rank().unwrap_or(0) == 0;
    let late = move |findings: Vec<Finding>| {
        if first {
            print(&findings, 0, as_json);
        }
        leave(i32::from(Exit::BadInput.code()));
    };
    match inside(first, wait, late) {
        Ok(Some((findings, ranks))) => Ok(print(&findings, ranks, as_json)),
        Ok(None) => Ok(Exit::Done),
        // Ranks that do not find each other all come here.
        Err(error) if error.is::<FabricError>() && first => Ok(print(&refused(&format!("{error:#}")), 0, as_json)),
        Err(error) if error.is::<FabricError>() => Ok(Exit::BadInput),
        Err(error) => Err(error),
    }
}

/// Prints the findings; what training needs and is broken is bad input.
fn print(findings: &[Finding], ranks: usize, as_json: bool) -> Exit {
    let text = if as_json { format!("{}\n", json(findings, ranks)) } else { text(findings) };
    // A reader that has gone is no failure of the examination.
    let _ = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
    let broken = findings.iter().any(|finding| finding.verdict == Verdict::Broken);
    if broken { Exit::BadInput } else { Exit::Done }
}
