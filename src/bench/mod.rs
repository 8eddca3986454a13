//! What this machine can do: its kernels and links, as the description that the simulator reads.

mod kernels;
mod links;

use std::path::PathBuf;

use crate::cluster::{Description, Duplex, InterLink, IntraLink, Links, Node, Overhead};
use crate::device::memory_bytes;
use crate::fabric::{Control, NAP};
use crate::model::Dtype;

/// Widths of the models that are measured.
const WIDTHS: [usize; 3] = [64, 128, 256];

/// Bytes of a machine that does not say.
const UNKNOWN_MEMORY: f64 = 4e9;

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
        let memory = memory_bytes().unwrap_or(UNKNOWN_MEMORY) / ranks as f64;
        let device = kernels::device(memory, memory_rate, rates);
        // The engine looks at messages every nap: that is how much later it finds one that has come.
        let overhead = Overhead { op, message: NAP.as_secs_f64(), copy };
        Description::new("calibrated", nodes, device, links, overhead)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::local;

    /// What is measured on two ranks is a description that can be read again, of two ranks in their groups, with rates
    /// of both types at every width.
    #[test]
    fn a_calibration_is_a_description() {
        let found = local::run(2, local::LocalOptions::default(), |_, world| calibrate(world, &[1, 1]));
        assert!(found[1].is_none(), "only rank 0 gets it");
        let description = found[0].as_ref().expect("rank 0 gets it");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("here.toml");
        std::fs::write(&file, description.to_toml()).unwrap();
        assert_eq!(Description::read(&file).unwrap(), *description);
        assert_eq!(description.groups().sizes(), [1, 1]);
        assert_eq!(description.device().rates.len(), 2 * WIDTHS.len());
    }
}
