//! NVIDIA GPUs and what computing on them needs.

use serde::{Deserialize, Serialize};

use super::{Finding, Found};
#[cfg(feature = "cuda")]
use super::{Verdict, gigabytes};

/// A GPU that a rank sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    name: String,
    uuid: String,
    /// Whether it is the one that this rank would take.
    taken: bool,
}

#[cfg(not(feature = "cuda"))]
pub fn look(_: usize) -> (Vec<Gpu>, Vec<Finding>) {
    (Vec::new(), Vec::new())
}

#[cfg(not(feature = "cuda"))]
pub fn judge(_: &[Found]) -> Vec<Finding> {
    let says = "this program was built without the feature `cuda`: ranks compute on the processor";
    vec![Finding::new("GPUs", super::Verdict::Missing, says)]
}

#[cfg(feature = "cuda")]
pub use here::{judge, look};

#[cfg(feature = "cuda")]
mod here {
    use super::*;
    use crate::device::DeviceError;
    use crate::device::cuda::{kernels_place, products_present, properties, select, visible};
    use crate::fabric::nccl;

    /// What only machines with GPUs need.
    const ONLY: &str = "only machines with GPUs need it";

    /// The GPUs that this process sees, and the libraries for them. `local` is the rank's number on its machine.
    pub fn look(local: usize) -> (Vec<Gpu>, Vec<Finding>) {
        let seen = visible().and_then(|count| {
            let taken = select::ordinal(local, count);
            let all: Result<Vec<_>, DeviceError> = (0..count).map(|at| Ok((properties(at)?, at == taken))).collect();
            all
        });
        let (gpus, driver) = match seen {
            Ok(all) => {
                let driver = all.first().map_or((0, 0), |(first, _)| first.driver);
                let gpus = all.into_iter().map(|(gpu, taken)| {
                    let name = format!("{}, {}", gpu.name, gigabytes(gpu.memory as u64));
                    Gpu { name, uuid: gpu.uuid, taken }
                });
                let says = format!("the NVIDIA driver is for CUDA {}.{}", driver.0, driver.1);
                (gpus.collect(), Finding::new("GPU driver", Verdict::Fine, says))
            }
            Err(error) => (Vec::new(), without_driver(&error)),
        };
        let kernels = match kernels_place() {
            Ok(place) => Finding::new("GPU kernels", Verdict::Fine, format!("from {place}")),
            Err(error) => absent("GPU kernels", &error, !gpus.is_empty()),
        };
        let products = match products_present() {
            Ok(()) => Finding::new("cuBLASLt", Verdict::Fine, "found"),
            Err(error) => absent("cuBLASLt", &error, !gpus.is_empty()),
        };
        let nccl = match nccl::Library::open() {
            Ok(library) => Finding::new("NCCL", Verdict::Fine, format!("version {}", library.version())),
            Err(error) => Finding::new("NCCL", Verdict::Missing, error.to_string())
                .advice("without it messages between GPUs pass through the hosts' memory (run.fabric)"),
        };
        (gpus, vec![driver, kernels, products, nccl])
    }

    /// A machine that has the driver's devices, but whose driver does not answer, is worth attention.
    fn without_driver(error: &DeviceError) -> Finding {
        let devices = std::path::Path::new("/dev/nvidiactl").exists();
        absent("GPU driver", error, devices)
    }

    fn absent(topic: &str, error: &DeviceError, needed: bool) -> Finding {
        let says = error.to_string();
        if needed {
            return Finding::new(topic, Verdict::Attention, says)
                .advice("docs/gpu.md says what computing on a GPU needs");
        }
        Finding::new(topic, Verdict::Missing, says).advice(ONLY)
    }

    /// Which GPUs the ranks would take, and whether each has its own.
    pub fn judge(found: &[Found]) -> Vec<Finding> {
        let finding = |verdict, says: String| Finding::new("GPUs", verdict, says);
        let seats: Vec<select::Seat> = found
            .iter()
            .filter_map(|rank| {
                let gpu = rank.gpus.iter().find(|gpu| gpu.taken)?;
                Some(select::Seat { host: rank.host.clone(), uuid: gpu.uuid.clone(), name: gpu.name.clone() })
            })
            .collect();
        let Some(first) = seats.first() else {
            return vec![finding(Verdict::Missing, "none: ranks compute on the processor".into())];
        };
        if seats.len() < found.len() {
            let says =
                format!("{} of {} ranks see a GPU, so that all compute on the processor", seats.len(), found.len());
            return vec![
                finding(Verdict::Attention, says)
                    .advice("show every rank a GPU, or start ranks on nodes with GPUs only"),
            ];
        }
        if let Some(shared) = select::shared(&seats) {
            return vec![finding(Verdict::Attention, shared)];
        }
        let alike = seats.iter().all(|seat| seat.name == first.name);
        let kinds = if alike { first.name.clone() } else { format!("{}, and others", first.name) };
        let one = if found.len() == 1 { "one" } else { "one for each rank" };
        vec![finding(Verdict::Fine, format!("{one}: {kinds}"))]
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::doctor::cores::Cores;

    fn rank(uuid: Option<&str>) -> Found {
        let gpu = |uuid: &str| Gpu { name: "NVIDIA H100".into(), uuid: uuid.into(), taken: true };
        Found {
            host: "a".into(),
            cores: Cores::look(),
            gpus: uuid.map(gpu).into_iter().collect(),
            findings: Vec::new(),
        }
    }

    /// Every rank has its own, or that is told.
    #[test]
    fn every_rank_needs_its_own() {
        let verdicts = |uuids: [Option<&str>; 2]| judge(&uuids.map(rank))[0].verdict;
        assert_eq!(verdicts([Some("1"), Some("2")]), Verdict::Fine);
        assert_eq!(verdicts([Some("1"), Some("1")]), Verdict::Attention);
        assert_eq!(verdicts([Some("1"), None]), Verdict::Attention);
        assert_eq!(verdicts([None, None]), Verdict::Missing);
    }
}
