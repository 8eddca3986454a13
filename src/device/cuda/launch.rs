//! A kernel's launch as a value, and who runs it.

use crate::device::{DeviceError, Matrix, Memory, View};
use crate::model::Dtype;
use crate::plan::Slot;

/// An argument of a kernel, in the kernel's own type.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer.
    View(View),
    /// `int`.
    I32(i32),
    /// `long long`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

impl Arg {
    /// The bytes of the argument, from the first on.
    pub fn bits(&self) -> u64 {
        match *self {
            Arg::View(view) => view.address() as u64,
            Arg::I32(x) => u64::from(x as u32),
            Arg::I64(x) => x as u64,
            Arg::F32(x) => u64::from(x.to_bits()),
            Arg::F64(x) => x.to_bits(),
        }
    }
}

impl From<View> for Arg {
    fn from(view: View) -> Self {
        Arg::View(view)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::F32(x)
    }
}

impl From<f64> for Arg {
    fn from(x: f64) -> Self {
        Arg::F64(x)
    }
}

/// A size: i32 in kernels, where no tensor has a longer side.
impl From<usize> for Arg {
    fn from(x: usize) -> Self {
        Arg::I32(i32::try_from(x).expect("a side of a tensor below 2^31"))
    }
}

impl From<bool> for Arg {
    fn from(x: bool) -> Self {
        Arg::I32(x.into())
    }
}

/// One launch, as `cuLaunchKernel` takes it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory beside the kernel's own arrays.
    pub shared: u32,
    /// Its arguments, in order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch without shared memory beside the kernel's own.
    pub fn new(kernel: impl Into<String>, grid: [usize; 3], block: u32, args: impl Into<Vec<Arg>>) -> Self {
        let grid = grid.map(|side| u32::try_from(side).expect("a grid below 2^32"));
        Launch { kernel: kernel.into(), grid, block, shared: 0, args: args.into() }
    }

    /// Whether no block would run, which a driver refuses.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// A type's name in names of kernels.
pub(super) fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
        other => panic!("{} is no type to compute in", other.name()),
    }
}

/// Who does what [`super::Gpu`] asks for, one operation after the other: the driver of a GPU, or a test's emulator.
pub trait Launcher: Send + Sync {
    /// Runs a kernel.
    fn launch(&self, launch: &Launch);
    /// As [`Device::matmul`](crate::device::Device::matmul).
    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool);
    /// As [`Device::memory`](crate::device::Device::memory).
    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError>;
    /// As [`Device::finish`](crate::device::Device::finish).
    fn finish(&self) -> Result<(), DeviceError>;
    /// Bytes of shared memory that a block may ask for.
    fn shared(&self) -> usize;
    /// `[1024]` (f64): partial sums of squares, of no other use.
    fn squares(&self) -> View;
}
