//! Stands for `amx` on systems that cannot have it.

use super::pool::Pool;
use crate::device::Matrix;

/// Never.
pub fn available() -> bool {
    false
}

/// Is never called.
pub fn product(_: &Pool, _: Matrix, _: Matrix, _: Matrix, _: bool) {
    unreachable!("there is no AMX here");
}

/// Is never used.
pub mod attention {
    use half::bf16;

    use crate::device::Attention;
    use crate::device::cpu::attention::{Backward, Columns};

    /// Is never called.
    pub fn forward(_: &Attention, _: &[bf16], _: usize, _: usize, _: Columns<bf16>, _: &mut [f32]) {
        unreachable!("there is no AMX here");
    }

    /// Is never called.
    pub fn backward(_: &Backward<bf16>, _: usize, _: usize, _: &dyn Fn(usize) -> Columns<bf16>) {
        unreachable!("there is no AMX here");
    }
}
