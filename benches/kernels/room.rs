//! Operands in the GPU's memory.

use half::bf16;
use tawpipe::device::cuda::Cuda;
use tawpipe::device::{DeviceError, Element, Memory, View};
use tawpipe::model::Dtype;
use tawpipe::plan::{Segment, Slot};

/// Memory for the operands of one case, which lives as long as that.
pub struct Room {
    memory: Memory,
    next: usize,
}

impl Room {
    /// Room for tensors of these lengths and types, filled with numbers between -1 and 1 that look random (whole numbers
    /// below 512 for i32): zeros would run faster than real data.
    pub fn new(cuda: &Cuda, tensors: &[(usize, Dtype)]) -> Self {
        let slot = |&(elems, dtype): &(usize, Dtype)| Slot {
            name: "operand".into(),
            elems,
            dtype,
            segment: Segment::Workspace,
            holds: None,
        };
        let slots: Vec<Slot> = tensors.iter().map(slot).collect();
        let memory = Memory::on(&cuda.place(), &slots).unwrap_or_else(|e| panic!("{e}"));
        for (i, &(elems, dtype)) in tensors.iter().enumerate() {
            fill(&memory, memory.slot(i), elems, dtype);
        }
        Room { memory, next: 0 }
    }

    /// The next tensor.
    pub fn take(&mut self) -> View {
        self.next += 1;
        self.memory.slot(self.next - 1)
    }
}

/// Different numbers of an operand: those behind repeat them. A host takes half a minute to draw all of them for every case. It
/// is a prime, so that no two rows of a matrix are equal.
const DRAWN: usize = 1_000_003;

fn fill(memory: &Memory, view: View, elems: usize, dtype: Dtype) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut one = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let drawn: Vec<f32> = (0..elems.min(DRAWN)).map(|_| one()).collect();
    let done = match dtype {
        Dtype::F32 => repeat(memory, view, &drawn),
        Dtype::Bf16 => repeat(memory, view, &drawn.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()),
        Dtype::I32 => repeat(memory, view, &drawn.iter().map(|x| (256.0 * (x + 1.0)) as i32).collect::<Vec<_>>()),
        Dtype::F64 => repeat(memory, view, &drawn.iter().map(|x| f64::from(x.abs())).collect::<Vec<_>>()),
        _ => Ok(()),
    };
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// Writes values into a tensor, again and again.
fn repeat<T: Element>(memory: &Memory, view: View, values: &[T]) -> Result<(), DeviceError> {
    for start in (0..view.len()).step_by(values.len().max(1)) {
        let len = values.len().min(view.len() - start);
        memory.upload(view.sub(start..start + len), &values[..len])?;
    }
    Ok(())
}
