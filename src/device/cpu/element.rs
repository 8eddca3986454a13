//! The number types that CPU kernels work on.

use half::bf16;

use super::lanes::{LANES, Lanes};

/// A stored number; arithmetic is in f32.
pub trait Element: Copy + Send + Sync + 'static {
    /// As f32.
    fn get(self) -> f32;
    /// Rounded from f32, to nearest even.
    fn of(value: f32) -> Self;
    /// The first sixteen, as f32.
    ///
    /// # Safety
    /// The processor has what `V` needs; there are sixteen.
    unsafe fn load<V: Lanes>(from: *const Self) -> V;
    /// Rounds sixteen numbers into the first places.
    ///
    /// # Safety
    /// There are sixteen.
    unsafe fn store<V: Lanes>(to: *mut Self, value: V);
}

impl Element for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn of(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(to: *mut f32, value: V) {
        // SAFETY: the caller's promise.
        unsafe { value.store(to) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    // Written without a branch, so that loops over it vectorise.
    #[inline(always)]
    fn of(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        bf16::from_bits(if value.is_nan() { quiet_nan } else { rounded } as u16)
    }
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const bf16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_upper(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(to: *mut bf16, value: V) {
        // SAFETY: the caller's promise.
        unsafe { value.store_upper(to.cast()) }
    }
}

/// Up to sixteen numbers from place `i` of a slice, zeros beyond its end.
///
/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
pub unsafe fn load<T: Element, V: Lanes>(from: &[T], i: usize) -> V {
    // SAFETY: within the slice, or from a full vector.
    unsafe {
        if i + LANES <= from.len() {
            return T::load(from.as_ptr().add(i));
        }
        let mut part = [0f32; LANES];
        for (part, x) in part.iter_mut().zip(&from[i..]) {
            *part = x.get();
        }
        V::load(part.as_ptr())
    }
}

/// Rounds sixteen numbers into a slice from place `i` on; what is beyond its end is dropped.
#[inline(always)]
pub fn store<T: Element, V: Lanes>(to: &mut [T], i: usize, value: V) {
    // SAFETY: within the slice, or into a full vector.
    unsafe {
        if i + LANES <= to.len() {
            return T::store(to.as_mut_ptr().add(i), value);
        }
        let mut part = [0f32; LANES];
        value.store(part.as_mut_ptr());
        for (to, x) in to[i..].iter_mut().zip(part) {
            *to = T::of(x);
        }
    }
}

/// Runs the body with `$T` as the Rust type of a dtype that computation uses.
macro_rules! typed {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::model::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::model::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            other => panic!("{} is no type to compute in", other.name()),
        }
    };
}
pub(crate) use typed;
