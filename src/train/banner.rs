//! What the log of a run says first: the program and its ranks, what they compute with, and what is trained.

use std::path::Path;

use crate::cluster::Groups;
use crate::deck::Deck;
use crate::device::{Bf16Products, Chosen, HostMemory, allowed_cores, online_cores};
use crate::fabric::{MpiLibrary, mpi_library};
use crate::model::Dtype;
use crate::plan::Job;

/// Writes three lines to the log, on rank 0. `found` are the groups of ranks that share memory, `job.groups` those that the
/// deck makes of them.
pub fn say(deck: &Deck, job: &Job, found: &Groups, device: &Chosen, threads: usize, folder: &Path) {
    log::info!("{}", program(&job.groups, found, mpi_library().as_ref()));
    log::info!("{}", computing(device, threads, job.dtype));
    log::info!(
        "{}: {} parameters, system {}, {} tokens a step, into {}",
        deck.file.display(),
        job.shape.params(),
        deck.system.name(),
        job.batch.tokens(),
        folder.display(),
    );
}

/// This program's version, the MPI library, and the ranks.
fn program(groups: &Groups, found: &Groups, library: Option<&MpiLibrary>) -> String {
    let mpi = match library {
        Some(library) => format!("{}, thread level {}", library.name, library.threads),
        None => "without MPI".into(),
    };
    let ranks = match groups.ranks() {
        1 => "1 rank".to_string(),
        ranks => {
            let sizes: Vec<String> = groups.sizes().iter().map(usize::to_string).collect();
            let nodes = if found.count() == 1 { "1 node".into() } else { format!("{} nodes", found.count()) };
            format!("{ranks} ranks in groups of {} on {nodes}", sizes.join(" + "))
        }
    };
    format!("tawpipe {}, {mpi}: {ranks}", env!("CARGO_PKG_VERSION"))
}

/// What each rank computes with: rank 0 speaks for all.
fn computing(device: &Chosen, threads: usize, dtype: Dtype) -> String {
    let on = match device.gpu() {
        Some(name) => format!("on a GPU ({name})"),
        None => {
            let plural = if threads == 1 { "" } else { "s" };
            let products = match dtype {
                Dtype::Bf16 => format!(" (products of bf16: {:?})", Bf16Products::available()[0]),
                _ => String::new(),
            };
            format!("with {threads} thread{plural}{products}")
        }
    };
    let cores = format!("{} of {} cores", allowed_cores().len(), online_cores());
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let memory = HostMemory::look()
        .map(|memory| format!(" and {:.1} of {:.1} GB memory", gigabytes(memory.usable()), gigabytes(memory.total)));
    format!("each rank computes {on} in {}; free on rank 0's node: {cores}{}", dtype.name(), memory.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first line names library, ranks, groups and nodes.
    #[test]
    fn the_program_and_its_ranks() {
        let library =
            MpiLibrary { name: "Open MPI v4.1.4".into(), standard: "3.1".into(), threads: "serialized".into() };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            program(&Groups::new(&[2, 2]), &Groups::new(&[4]), Some(&library)),
            format!(
                "tawpipe {version}, Open MPI v4.1.4, thread level serialized: 4 ranks in groups of 2 + 2 on 1 node"
            )
        );
        let alone = Groups::new(&[1]);
        assert_eq!(program(&alone, &alone, None), format!("tawpipe {version}, without MPI: 1 rank"));
    }
}
