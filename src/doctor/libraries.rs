//! Libraries that training uses on every machine.

use super::{Finding, Verdict};

/// HDF5 and oneDNN.
pub fn look() -> Vec<Finding> {
    vec![hdf5(), products()]
}

#[cfg(feature = "hdf5")]
fn hdf5() -> Finding {
    let (major, minor, patch) = ::hdf5::library_version();
    Finding::new(
        "HDF5",
        Verdict::Fine,
        format!("version {major}.{minor}.{patch}: checkpoints and metrics.h5 are written"),
    )
}

#[cfg(not(feature = "hdf5"))]
fn hdf5() -> Finding {
    let says = "this program was built without HDF5: it writes no checkpoints";
    Finding::new("HDF5", Verdict::Attention, says).advice("build it with the feature `hdf5`")
}

fn products() -> Finding {
    match crate::device::Bf16Products::available()[0] {
        crate::device::Bf16Products::OneDnn => {
            Finding::new("oneDNN", Verdict::Fine, "found: it multiplies bf16 matrices")
        }
        other => {
            Finding::new("oneDNN", Verdict::Fine, format!("not needed: bf16 matrices are multiplied by {other:?}"))
        }
    }
}
