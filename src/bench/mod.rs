//! What this machine can do: its kernels and links, as the description that the simulator reads.

mod kernels;
mod links;

use std::path::PathBuf;

use crate::cluster::{Description, Duplex, InterLink, IntraLink, Links, Node, Overhead};
use crate::device::{Chosen, DeviceError, memory_bytes, on_device};
use crate::fabric::{Control, NAP};
use crate::model::Dtype;

use self::kernels::{Clock, Sizes};

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

/// Collective. Measures this rank's kernels on a device (a processor: one thread of it) while all ranks measure theirs, so that
/// ranks that share cores and memory slow each other down as they do in training, and the way between ranks; rank 0 gets
/// the description of a node of `control.size()` ranks.
///
/// `groups` are the groups of the node's ranks; `widths` and `seq` those of the models that are measured and the tokens of their
/// sequences, where the caller does not want what such a device trains. On a processor times are its own: what a rank
/// loses by waiting for a core is the simulator's business.
pub fn calibrate(
    control: &dyn Control,
    groups: &[usize],
    device: &Chosen,
    widths: &[usize],
    seq: Option<usize>,
) -> Result<Option<Description>, DeviceError> {
    control.barrier();
    let clock = if device.gpu().is_some() { Clock::Wall } else { Clock::Processor };
    let mut sizes = Sizes::of(clock);
    sizes.seq = seq.unwrap_or(sizes.seq);
    if !widths.is_empty() {
        sizes.widths = widths.to_vec();
    }
    let each =
        [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|dtype| sizes.widths.iter().map(move |dim| (*dim, dtype)));
    let each = each.map(|(dim, dtype)| on_device!(device, device => kernels::rates(device, clock, &sizes, dim, dtype)));
    let rates: Vec<_> = each.collect::<Result<_, _>>()?;
    let memory_rate = on_device!(device, device => kernels::memory_rate(device, clock))?;
    let op = on_device!(device, device => kernels::op(device))?;
    control.barrier();
    let (latency, rate, copy) = links::measure(control);
    Ok((control.rank() == 0).then(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ranks = control.size();
        let nodes = vec![Node {
            count: 1,
            ranks,
            groups: Some(groups.to_vec()),
            cores: (clock == Clock::Processor).then_some(cores as f64),
        }];
        let links = Links {
            intra: IntraLink { latency, rate, duplex: Duplex::Half, shared: true },
            // There is one node: never used, but a description has to say something.
            inter: InterLink { latency, rate, duplex: Duplex::Full, nics: 1 },
        };
        let memory = device.gpu_memory().unwrap_or(memory_bytes().unwrap_or(UNKNOWN_MEMORY) / ranks as f64);
        let device = kernels::device(memory, memory_rate, rates);
        // The engine looks at messages every nap: that is how much later it finds one that has come.
        let overhead = Overhead { op, message: NAP.as_secs_f64(), copy };
        Description::new("calibrated", nodes, device, links, overhead)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::local;

    /// What is measured on two ranks is a description that can be read again, of two ranks in their groups, with rates
    /// of both types at every width.
    #[test]
    fn a_calibration_is_a_description() {
        let found = local::run(2, local::LocalOptions::default(), |_, world| {
            calibrate(world, &[1, 1], &Chosen::cpu(1), &[], None).unwrap()
        });
        assert!(found[1].is_none(), "only rank 0 gets it");
        let description = found[0].as_ref().expect("rank 0 gets it");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("here.toml");
        std::fs::write(&file, description.to_toml()).unwrap();
        assert_eq!(Description::read(&file).unwrap(), *description);
        assert_eq!(description.groups().sizes(), [1, 1]);
        assert_eq!(description.device().rates.len(), 2 * Sizes::of(Clock::Processor).widths.len());
    }
}
