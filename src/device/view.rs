//! A typed run of elements in device memory.

use std::ops::Range;

use crate::model::Dtype;

/// What a [`crate::plan::Region`] becomes once its slot is allocated: address, length and type. It is a plain handle,
/// like a pointer: copies alias. Two threads may hold overlapping views; that they never use them at the same time is
/// what the plan checker's race rule proves, and executors keep to the plan's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    address: usize,
    len: usize,
    dtype: Dtype,
}

impl View {
    /// A view of memory at `address`.
    ///
    /// # Safety
    /// The memory must hold `len` elements of `dtype`, be aligned for it, and outlive every use of the view.
    pub unsafe fn new(address: usize, len: usize, dtype: Dtype) -> Self {
        View { address, len, dtype }
    }

    /// Where it starts.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    /// Elements `range` of this view.
    ///
    /// # Panics
    /// If the range does not lie within it.
    pub fn sub(&self, range: Range<usize>) -> View {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a view of {} elements", self.len);
        View { address: self.address + range.start * self.dtype.bytes(), len: range.len(), dtype: self.dtype }
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// If the size or the alignment does not fit.
    pub fn cast(&self, dtype: Dtype) -> View {
        assert!(self.bytes().is_multiple_of(dtype.bytes()) && self.address.is_multiple_of(dtype.bytes()));
        View { address: self.address, len: self.bytes() / dtype.bytes(), dtype }
    }

    /// The elements, on a device whose memory the host can reach.
    ///
    /// # Safety
    /// Host memory; `T` is the type that `dtype` names; nobody writes the elements while the slice lives.
    pub unsafe fn slice<'a, T>(&self) -> &'a [T] {
        debug_assert_eq!(size_of::<T>(), self.dtype.bytes());
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.address as *const T, self.len) }
    }

    /// The elements, to be changed.
    ///
    /// # Safety
    /// As [`View::slice`], and nobody else reads or writes them while the slice lives.
    pub unsafe fn slice_mut<'a, T>(&self) -> &'a mut [T] {
        debug_assert_eq!(size_of::<T>(), self.dtype.bytes());
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, self.len) }
    }
}

/// A plain element type that a view can be filled with or read into.
pub trait Element: Copy {
    /// The type's name in a plan.
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
}

impl Element for i32 {
    const DTYPE: Dtype = Dtype::I32;
}

impl Element for u8 {
    const DTYPE: Dtype = Dtype::Byte;
}

impl Element for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}
