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
