//! Memory, random numbers and comparisons for tests.

use std::cell::RefCell;

use half::bf16;
use tawpipe::device::{Element, Memory, Place, View};
use tawpipe::model::Dtype;
use tawpipe::plan::{Segment, Slot};

thread_local! {
    /// Where this thread's buffers are made.
    static PLACE: RefCell<Place> = const { RefCell::new(Place::Host) };
}

/// Runs `body`, whose buffers lie in `place`.
#[allow(dead_code, reason = "not every test that includes this file has a GPU")]
pub fn on<R>(place: Place, body: impl FnOnce() -> R) -> R {
    let before = PLACE.replace(place);
    let result = body();
    PLACE.set(before);
    result
}

/// One allocation of `elems` zeros.
pub struct Buffer {
    memory: Memory,
}

impl Buffer {
    pub fn new(elems: usize, dtype: Dtype) -> Self {
        let slot = Slot { name: "test".into(), elems, dtype, segment: Segment::Workspace, holds: None };
        Buffer { memory: Memory::on(&PLACE.with_borrow(Place::clone), &[slot]).unwrap() }
    }

    pub fn f32(values: &[f32]) -> Self {
        Self::of(values, Dtype::F32)
    }

    /// f32 values rounded to a type.
    pub fn of(values: &[f32], dtype: Dtype) -> Self {
        let buffer = Self::new(values.len(), dtype);
        match dtype {
            Dtype::Bf16 => buffer.write(&values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()),
            _ => buffer.write(values),
        }
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
    pub fn write<T: Element>(&self, values: &[T]) {
        self.memory.upload(self.view().sub(0..values.len()), values).unwrap();
    }

    pub fn read<T: Element + Default>(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.view().len()];
        self.memory.download(self.view(), &mut values).unwrap();
        values
    }

    /// The numbers, whatever their type.
    pub fn wide(&self) -> Vec<f64> {
        match self.view().dtype() {
            Dtype::Bf16 => self.read::<bf16>().iter().map(|x| x.to_f64()).collect(),
            Dtype::F64 => self.read(),
            _ => self.read::<f32>().iter().map(|&x| f64::from(x)).collect(),
        }
    }
}

/// The two types of computation, with the relative error that one rounding to each makes, doubled.
pub const TYPES: [(Dtype, f64); 2] = [(Dtype::F32, 1.2e-7), (Dtype::Bf16, 7.9e-3)];

/// A stream of numbers that looks random and is the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between -1 and 1.
    pub fn one(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.one()).collect()
    }

    pub fn buffer(&mut self, len: usize, dtype: Dtype) -> Buffer {
        Buffer::of(&self.vec(len), dtype)
    }
}

/// Fails if the greatest difference exceeds `tolerance` times the greatest magnitude expected.
#[track_caller]
pub fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * scale, "{what}[{i}]: {g} instead of {e} (scale {scale:.2e})");
    }
}
