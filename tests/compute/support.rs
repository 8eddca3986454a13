//! Memory for tests.

use tawpipe::device::{Memory, View};
use tawpipe::model::Dtype;
use tawpipe::plan::{Segment, Slot};

/// One allocation of `elems` zeros.
pub struct Buffer {
    memory: Memory,
}

impl Buffer {
    pub fn new(elems: usize, dtype: Dtype) -> Self {
        let slot = Slot { name: "test".into(), elems, dtype, segment: Segment::Workspace, holds: None };
        Buffer { memory: Memory::new(&[slot]) }
    }

    pub fn f32(values: &[f32]) -> Self {
        let buffer = Self::new(values.len(), Dtype::F32);
        buffer.write(values);
        buffer
    }

    pub fn i32(values: &[i32]) -> Self {
        let buffer = Self::new(values.len(), Dtype::I32);
        buffer.write(values);
        buffer
    }

    pub fn f64(values: &[f64]) -> Self {
        let buffer = Self::new(values.len(), Dtype::F64);
        buffer.write(values);
        buffer
    }

    pub fn view(&self) -> View {
        self.memory.slot(0)
    }

    /// Overwrites the first elements.
    pub fn write<T: Copy>(&self, values: &[T]) {
        // SAFETY: tests use one thread and the buffer's own type.
        unsafe { self.view().slice_mut::<T>()[..values.len()].copy_from_slice(values) };
    }

    pub fn read<T: Copy>(&self) -> Vec<T> {
        // SAFETY: tests use one thread and the buffer's own type.
        unsafe { self.view().slice::<T>().to_vec() }
    }
}
