//! The same cases on every fabric: ranks as threads, and ranks as MPI processes.
//!
//! Without arguments it runs all cases on threads and then starts itself under mpirun, once for each number of ranks;
//! started by mpirun it runs all cases as one rank. Any argument that is no option selects cases by part of their name.

#[path = "../common/mod.rs"]
mod common;

mod collectives;
mod harness;
mod model;
mod training;

use harness::{Case, Context};

/// Every case runs on every number of ranks.
const CASES: &[Case] = &[
    Case { name: "collectives give the sums of their order, bit by bit", run: collectives::exact },
    Case { name: "control calls agree on all ranks", run: collectives::control },
    Case { name: "training is that of one rank, and bytes are the plan's", run: training::like_single },
    Case { name: "other families train like one rank too", run: training::families },
    Case { name: "collective hops train like one rank", run: training::collective_hops },
    Case { name: "pauses change no bit", run: training::delays },
];

/// Numbers of ranks.
const RANKS: [usize; 4] = [2, 3, 4, 6];

fn main() {
    harness::main(CASES, &RANKS);
}
