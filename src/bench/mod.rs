//! What this machine can do: its kernels and links, as the description that the simulator reads.

mod kernels;
mod links;

use std::path::PathBuf;

use crate::cluster::{Description, Duplex, InterLink, IntraLink, Links, Node, Overhead};
use crate::fabric::Control;
use crate::model::Dtype;

/// Widths of the models that are measured.
const WIDTHS: [usize; 3] = [64, 128, 256];

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The file cannot be written.
    #[error("{file}: cannot write the calibration: {reason}")]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
}

/// Collective. Measures this rank's kernels while all ranks measure theirs, so that ranks that share cores and memory
/// slow each other down as they do in training, and the way between ranks; rank 0 gets the description of a node of
/// `control.size()` ranks.
///
/// `groups` are the groups of the node's ranks. Times are processor times: what a rank loses by waiting for a core is the
/// simulator's business.
pub fn calibrate(control: &dyn Control, groups: &[usize]) -> Option<Description> {
    control.barrier();
    let rates: Vec<_> =
        [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|dtype| WIDTHS.map(|dim| kernels::rates(dim, dtype))).collect();
    let (memory_rate, op) = (kernels::memory_rate(), kernels::op());
    control.barrier();
    let (latency, rate, copy) = links::measure(control);
    (control.rank() == 0).then(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ranks = control.size();
        let nodes = vec![Node { count: 1, ranks, groups: Some(groups.to_vec()), cores: Some(cores as f64) }];
        let links = Links {
            intra: IntraLink { latency, rate, duplex: Duplex::Half, shared: true },
            // There is one node: never used, but a description has to say something.
            inter: InterLink { latency, rate, duplex: Duplex::Full, nics: 1 },
        };
        let memory = kernels::memory() / ranks as f64;
        let device = kernels::device(memory, memory_rate, rates);
        let overhead = Overhead { op, message: 0.0, copy };
        Description::new("calibrated", nodes, device, links, overhead)
    })
}
