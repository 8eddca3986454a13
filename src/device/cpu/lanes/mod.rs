//! Sixteen f32 at a time, for the kernels whose speed must not depend on a compiler's mood: tiles of attention and
//! everything with an exponential.
//!
//! A kernel is an `#[inline(always)]` function generic over [`Lanes`]; [`vectorised!`] compiles it for each processor
//! level and calls the best.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// Lanes of a vector.
pub const LANES: usize = 16;

/// A vector of [`LANES`] numbers.
///
/// # Safety
/// Values exist only where the processor has the instructions: whoever makes the first one answers for that.
pub unsafe trait Lanes: Copy {
    /// Whether there are 32 registers of sixteen lanes.
    const WIDE: bool;
    /// The same number in every lane.
    ///
    /// # Safety
    /// The processor has the instructions of this type.
    unsafe fn splat(x: f32) -> Self;
    /// Sixteen consecutive numbers.
    ///
    /// # Safety
    /// As [`Lanes::splat`], and the pointer is good for sixteen numbers.
    unsafe fn load(x: *const f32) -> Self;
    /// Sixteen consecutive numbers given as the upper halves of f32.
    ///
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load_upper(x: *const u16) -> Self;
    /// Writes sixteen consecutive numbers.
    ///
    /// # Safety
    /// The pointer is good for sixteen numbers.
    unsafe fn store(self, x: *mut f32);
    /// Writes the upper halves of sixteen numbers, rounded to nearest even.
    ///
    /// # Safety
    /// The pointer is good for sixteen halves.
    unsafe fn store_upper(self, x: *mut u16);
    /// Sum.
    fn plus(self, other: Self) -> Self;
    /// Difference.
    fn minus(self, other: Self) -> Self;
    /// Product.
    fn times(self, other: Self) -> Self;
    /// Quotient.
    fn over(self, other: Self) -> Self;
    /// `self + a * b`.
    fn plus_product(self, a: Self, b: Self) -> Self;
    /// The greater; `self` where it is NaN.
    fn at_least(self, floor: Self) -> Self;
    /// The smaller; `self` where it is NaN.
    fn at_most(self, ceiling: Self) -> Self;
    /// 0 where `x` is below `floor`, else `self`.
    fn zero_where_below(self, x: Self, floor: Self) -> Self;
    /// `self * 2^n`, n being the low bits of `biased`: an integer added to [`ROUND`].
    fn times_power(self, biased: Self) -> Self;
    /// The lanes, added pairwise.
    fn sum(self) -> f32;
    /// The greatest lane.
    fn greatest(self) -> f32;
}

/// 1.5 · 2²³: adding it rounds a number to an integer, which then stands in the low bits.
pub const ROUND: f32 = 12_582_912.0;

/// e^x to about one unit in the last place; 0 below -87.3; NaN stays NaN.
#[inline(always)]
pub fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: x proves that the processor has the instructions.
    let v = |c: f32| unsafe { V::splat(c) };
    // x = n ln 2 + r with |r| <= ln 2 / 2.
    let floor = v(-87.336_54);
    let bounded = x.at_least(floor).at_most(v(88.376_26));
    let biased = v(ROUND).plus_product(bounded, v(std::f32::consts::LOG2_E));
    let n = biased.minus(v(ROUND));
    let r = bounded.plus_product(n, v(-0.693_359_4)).plus_product(n, v(2.121_944_4e-4));
    // Cephes' polynomial for (e^r - 1 - r) / r².
    let mut p = v(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = v(c).plus_product(p, r);
    }
    let e = r.plus(v(1.0)).plus_product(p, r.times(r));
    e.times_power(biased).zero_where_below(x, floor)
}

/// Calls an `#[inline(always)] unsafe fn` whose last type parameter is a [`Lanes`], compiled for this processor.
macro_rules! vectorised {
    ($function:ident $(::<$T:ident>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            use $crate::device::cpu::lanes::{Avx2, Avx512};
            use $crate::device::cpu::simd::{Level, level};
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "the operands of a kernel")]
            fn avx512$(<$T: Element>)?($($argument: $type),*) $(-> $result)? {
                // SAFETY: this function runs only on such processors.
                unsafe { $function::<$($T,)? Avx512>($($argument),*) }
            }
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "the operands of a kernel")]
            fn avx2$(<$T: Element>)?($($argument: $type),*) $(-> $result)? {
                // SAFETY: this function runs only on such processors.
                unsafe { $function::<$($T,)? Avx2>($($argument),*) }
            }
            match level() {
                // SAFETY: the processor has these features.
                Level::Avx512 => return unsafe { avx512$(::<$T>)?($($argument),*) },
                // SAFETY: the processor has these features.
                Level::Avx2 => return unsafe { avx2$(::<$T>)?($($argument),*) },
                Level::Base => {}
            }
        }
        // SAFETY: plain Rust.
        unsafe { $function::<$($T,)? $crate::device::cpu::lanes::Portable>($($argument),*) }
    }};
}
pub(crate) use vectorised;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation of a vector type, lane by lane, against scalar arithmetic; numbers that are no numbers too.
    ///
    /// # Safety
    /// The processor has what `V` needs.
    unsafe fn check<V: Lanes>() {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.5) * 11.3);
        let y: [f32; LANES] = std::array::from_fn(|i| 0.3 * i as f32 - 2.0);
        let mut with_nan = x;
        with_nan[3] = f32::NAN;
        // SAFETY: the caller's promise; arrays of sixteen.
        unsafe {
            let get = |v: V| {
                let mut out = [0f32; LANES];
                v.store(out.as_mut_ptr());
                out
            };
            let (a, b) = (V::load(x.as_ptr()), V::load(y.as_ptr()));
            let each = |f: &dyn Fn(f32, f32) -> f32| -> [f32; LANES] { std::array::from_fn(|i| f(x[i], y[i])) };
            assert_eq!(get(a.plus(b)), each(&|x, y| x + y));
            assert_eq!(get(a.minus(b)), each(&|x, y| x - y));
            assert_eq!(get(a.times(b)), each(&|x, y| x * y));
            assert_eq!(get(a.over(b)), each(&|x, y| x / y));
            assert_eq!(get(a.at_least(b)), each(&f32::max));
            assert_eq!(get(a.at_most(b)), each(&f32::min));
            assert_eq!(get(a.zero_where_below(a, b)), each(&|x, y| if x < y { 0.0 } else { x }));
            assert_eq!(get(a.times_power(V::splat(ROUND - 3.0))), each(&|x, _| x / 8.0));
            let sum: f32 = x.iter().sum();
            assert!((a.sum() - sum).abs() < 1e-4 && a.greatest() == x[15]);
            for (got, (x, y)) in get(V::splat(1.5).plus_product(a, b)).iter().zip(x.iter().zip(y)) {
                assert!((got - (1.5 + x * y)).abs() < 1e-4);
            }
            for bound in [V::splat(-1.0), V::splat(1.0)] {
                let n = V::load(with_nan.as_ptr());
                assert!(get(n.at_least(bound))[3].is_nan() && get(n.at_most(bound))[3].is_nan());
                assert!(get(n.zero_where_below(n, bound))[3].is_nan());
            }
            let mut narrow = [0u16; LANES];
            V::load(with_nan.as_ptr()).store_upper(narrow.as_mut_ptr());
            for (narrow, x) in narrow.iter().zip(with_nan) {
                let expected = half::bf16::from_f32(x);
                assert!(*narrow == expected.to_bits() || half::bf16::from_bits(*narrow).is_nan() && x.is_nan());
            }
            assert_eq!(get(V::load_upper(narrow.as_ptr()))[0], half::bf16::from_f32(x[0]).to_f32());
        }
    }

    /// e^x over its whole range, to two units in the last place.
    ///
    /// # Safety
    /// The processor has what `V` needs.
    unsafe fn check_exp<V: Lanes>() {
        let one = |x: f32| {
            let mut out = [0f32; LANES];
            // SAFETY: the caller's promise.
            unsafe { exp(V::splat(x)).store(out.as_mut_ptr()) };
            out[5]
        };
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            let error = (f64::from(one(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "e^{x}: {} instead of {expected}", one(x));
        }
        assert_eq!((one(0.0), one(-88.0), one(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(one(f32::NAN).is_nan() && one(f32::INFINITY) > 1e38);
    }

    /// All three implementations, as far as the processor has them.
    #[test]
    fn every_kind_of_vector() {
        use crate::device::cpu::simd::{Level, level};
        // SAFETY: asked before each.
        unsafe {
            check::<Portable>();
            check_exp::<Portable>();
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx2 {
                check::<Avx2>();
                check_exp::<Avx2>();
            }
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx512 {
                check::<Avx512>();
                check_exp::<Avx512>();
            }
        }
    }
}
