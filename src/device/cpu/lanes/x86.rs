//! [`Lanes`] in AVX-512 and AVX2.
// SAFETY of every intrinsic here: a value of the type exists only where the processor has the instructions (see
// `Lanes`); pointers are good by the promise of `load` and `store`.

use std::arch::x86_64::*;

use super::{Lanes, Portable};

/// One AVX-512 register.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

impl Avx512 {
    /// The register.
    #[inline(always)]
    pub fn register(self) -> __m512 {
        self.0
    }
}

// SAFETY: see above.
unsafe impl Lanes for Avx512 {
    const WIDE: bool = true;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_upper(x: *const u16) -> Self {
        unsafe {
            let narrow = _mm256_loadu_si256(x.cast());
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))))
        }
    }
    #[inline(always)]
    unsafe fn store(self, x: *mut f32) {
        unsafe { _mm512_storeu_ps(x, self.0) }
    }
    #[inline(always)]
    unsafe fn store_upper(self, x: *mut u16) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let upper = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(x.cast(), _mm512_cvtepi32_epi16(upper));
        }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn over(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn plus_product(self, a: Self, b: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
    // The second operand is the result where one is NaN.
    #[inline(always)]
    fn at_least(self, floor: Self) -> Self {
        Avx512(unsafe { _mm512_max_ps(floor.0, self.0) })
    }
    #[inline(always)]
    fn at_most(self, ceiling: Self) -> Self {
        Avx512(unsafe { _mm512_min_ps(ceiling.0, self.0) })
    }
    #[inline(always)]
    fn zero_where_below(self, x: Self, floor: Self) -> Self {
        unsafe {
            let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, floor.0);
            Avx512(_mm512_maskz_mov_ps(keep, self.0))
        }
    }
    #[inline(always)]
    fn times_power(self, biased: Self) -> Self {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(biased.0), _mm512_set1_epi32(127));
            let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
            Avx512(_mm512_mul_ps(self.0, power))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Two AVX2 registers.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

impl Avx2 {
    #[inline(always)]
    fn portable(self) -> Portable {
        let mut lanes = [0f32; 16];
        // SAFETY: the array holds sixteen numbers.
        unsafe {
            self.store(lanes.as_mut_ptr());
            Portable::load(lanes.as_ptr())
        }
    }
}

// SAFETY: see above.
unsafe impl Lanes for Avx2 {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        unsafe { Avx2(_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_upper(x: *const u16) -> Self {
        unsafe {
            let half = |x: *const u16| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Avx2(half(x), half(x.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, x: *mut f32) {
        unsafe {
            _mm256_storeu_ps(x, self.0);
            _mm256_storeu_ps(x.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_upper(self, x: *mut u16) {
        unsafe { self.portable().store_upper(x) }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn over(self, other: Self) -> Self {
        unsafe { Avx2(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    // The second operand is the result where one is NaN.
    #[inline(always)]
    fn at_least(self, floor: Self) -> Self {
        unsafe { Avx2(_mm256_max_ps(floor.0, self.0), _mm256_max_ps(floor.1, self.1)) }
    }
    #[inline(always)]
    fn at_most(self, ceiling: Self) -> Self {
        unsafe { Avx2(_mm256_min_ps(ceiling.0, self.0), _mm256_min_ps(ceiling.1, self.1)) }
    }
    #[inline(always)]
    fn zero_where_below(self, x: Self, floor: Self) -> Self {
        unsafe {
            let keep = |y, x, floor| _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, floor));
            Avx2(keep(self.0, x.0, floor.0), keep(self.1, x.1, floor.1))
        }
    }
    #[inline(always)]
    fn times_power(self, biased: Self) -> Self {
        unsafe {
            let scale = |x, biased| {
                let exponent = _mm256_add_epi32(_mm256_castps_si256(biased), _mm256_set1_epi32(127));
                _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            };
            Avx2(scale(self.0, biased.0), scale(self.1, biased.1))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.portable().sum()
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        self.portable().greatest()
    }
}
