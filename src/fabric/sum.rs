//! Sums of what comes over the wire.

use crate::device::View;
use crate::model::Dtype;

/// `dst += src`. bf16 is added in f32 and rounded once.
///
/// # Panics
/// If lengths or types differ, or the type is not one of numbers.
pub(super) fn add(dst: View, src: View) {
    assert_eq!((dst.len(), dst.dtype()), (src.len(), src.dtype()), "sum of unlike views");
    // SAFETY: the slices have the views' own types and live for this call only; the views do not overlap (region and
    // scratch are different slots) and belong to the running op until it is complete.
    unsafe {
        match dst.dtype() {
            Dtype::F32 => add_with(dst.slice_mut::<f32>(), src.slice(), |a, b| a + b),
            Dtype::F64 => add_with(dst.slice_mut::<f64>(), src.slice(), |a, b| a + b),
            Dtype::Bf16 => add_with(dst.slice_mut::<u16>(), src.slice(), |a, b| round(widen(a) + widen(b))),
            Dtype::I32 | Dtype::Byte => panic!("{} is not summed between ranks", dst.dtype().name()),
        }
    }
}

fn add_with<T: Copy>(dst: &mut [T], src: &[T], add: impl Fn(T, T) -> T) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = add(*d, s);
    }
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest bf16, ties to even; a NaN stays one. Without branches, so that loops over it are vectorised.
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let quiet = (bits >> 16) as u16 | 0x0040;
    if value.is_nan() { quiet } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding is IEEE's, as the `half` crate does it, on values of every magnitude, ties and specials.
    #[test]
    fn rounds_like_half() {
        let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, -0.0, f32::NAN];
        let spread = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(4_294_957)));
        let ties = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16 | 0x8000));
        for value in spread.chain(ties).chain(specials) {
            let (ours, theirs) = (round(value), half::bf16::from_f32(value).to_bits());
            assert!(ours == theirs || value.is_nan() && widen(ours).is_nan(), "{value}: {ours:x} {theirs:x}");
        }
    }
}
