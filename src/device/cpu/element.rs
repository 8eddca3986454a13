//! The number types that CPU kernels work on.

use half::bf16;

/// A stored number; arithmetic is in f32.
pub trait Element: Copy + Send + Sync + 'static {
    /// As f32.
    fn get(self) -> f32;
    /// Rounded from f32, to nearest even.
    fn of(value: f32) -> Self;
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
