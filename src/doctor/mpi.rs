//! MPI: the library, and the ranks as it sees them.

use serde::{Deserialize, Serialize};

use super::{Finding, Verdict};
use crate::fabric::MpiLibrary;

/// MPI, once it has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The library; `None` in a program without MPI.
    pub library: Option<MpiLibrary>,
    /// Ranks of every group of ranks that share memory.
    pub groups: Vec<usize>,
}

/// Library and ranks of an MPI that has started.
pub fn fine(started: &Started, launched: bool) -> Vec<Finding> {
    let library = match &started.library {
        Some(MpiLibrary { name, standard, threads }) => {
            Finding::new("MPI", Verdict::Fine, format!("{name} (MPI {standard}), thread level {threads}"))
        }
        None => Finding::new("MPI", Verdict::Attention, "this program was built without MPI: it trains on one rank")
            .advice("build it with the feature `mpi`"),
    };
    let ranks: usize = started.groups.iter().sum();
    let nodes = started.groups.len();
    let sizes = started.groups.iter().map(usize::to_string).collect::<Vec<_>>().join(" + ");
    let ranks = match (ranks, launched) {
        (1, false) => Finding::new("ranks", Verdict::Fine, "one: started without mpirun or srun")
            .advice("`mpirun -n 4 tawpipe doctor` examines a launch of 4 ranks"),
        (1, true) => Finding::new("ranks", Verdict::Fine, "one"),
        (ranks, _) => Finding::new(
            "ranks",
            Verdict::Fine,
            format!("{ranks} on {nodes} node(s), in groups of {sizes} as MPI sees them"),
        ),
    };
    vec![library, ranks]
}

/// MPI that does not start, and why.
pub fn broken(why: &str) -> Vec<Finding> {
    vec![Finding::new("MPI", Verdict::Broken, format!("it does not start: {why}")).advice(
        "start a program of this MPI's own (`mpirun -n 1 true`, then a compiled hello world); the library is the one that \
         `ldd` shows for this program, and mpirun must belong to it",
    )]
}
