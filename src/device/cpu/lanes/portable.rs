//! [`Lanes`] in plain Rust.

use half::bf16;

use super::super::element::Element;
use super::{LANES, Lanes};

/// Sixteen numbers; the compiler chooses the instructions.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn fold(mut self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                self.0[i] = f(self.0[i], self.0[i + half]);
            }
            half /= 2;
        }
        self.0[0]
    }
}

// SAFETY: no special instructions.
unsafe impl Lanes for Portable {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { x.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_upper(x: *const u16) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { x.cast::<[u16; LANES]>().read_unaligned() }.map(|x| bf16::from_bits(x).get()))
    }
    #[inline(always)]
    unsafe fn store(self, x: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_upper(self, x: *mut u16) {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[u16; LANES]>().write_unaligned(self.0.map(|x| bf16::of(x).to_bits())) }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn over(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn plus_product(self, a: Self, b: Self) -> Self {
        self.plus(a.times(b))
    }
    #[inline(always)]
    fn at_least(self, floor: Self) -> Self {
        self.zip(floor, |x, floor| if x < floor { floor } else { x })
    }
    #[inline(always)]
    fn at_most(self, ceiling: Self) -> Self {
        self.zip(ceiling, |x, ceiling| if x > ceiling { ceiling } else { x })
    }
    #[inline(always)]
    fn zero_where_below(self, x: Self, floor: Self) -> Self {
        Portable(std::array::from_fn(|i| if x.0[i] < floor.0[i] { 0.0 } else { self.0[i] }))
    }
    #[inline(always)]
    fn times_power(self, biased: Self) -> Self {
        self.zip(biased, |x, biased| x * f32::from_bits(biased.to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        self.fold(|a, b| if b > a { b } else { a })
    }
}
