//! Products of small f32 tiles that lie in the cache: no packing, sums in registers.

/// Sixteen f32 and the three operations that a product needs.
///
/// # Safety
/// Methods may use instructions that the processor must have; pointers must be good for sixteen elements.
pub unsafe trait Vector: Copy {
    /// Whether there are 32 registers of sixteen lanes.
    const WIDE: bool;
    /// The same number in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// Sixteen consecutive numbers.
    unsafe fn load(x: *const f32) -> Self;
    /// Writes sixteen consecutive numbers.
    unsafe fn store(self, x: *mut f32);
    /// `self + a * b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub struct Portable([f32; 16]);

// SAFETY: no special instructions.
unsafe impl Vector for Portable {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 16])
    }
    #[inline(always)]
    unsafe fn load(x: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { x.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, x: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..16 {
            self.0[i] += a.0[i] * b.0[i];
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    /// One AVX-512 register.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY: used only where the processor has AVX-512.
    unsafe impl Vector for Avx512 {
        const WIDE: bool = true;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and below.
            Avx512(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(x: *const f32) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_loadu_ps(x) })
        }
        #[inline(always)]
        unsafe fn store(self, x: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(x, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
    }

    /// Two AVX2 registers.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    // SAFETY: used only where the processor has AVX2 and FMA.
    unsafe impl Vector for Avx2 {
        const WIDE: bool = false;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise, here and below.
            unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(x: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { Avx2(_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, x: *mut f32) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(x, self.0);
                _mm256_storeu_ps(x.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// The left operand: element (i, k) lies at `i * row + k * col`, so that a transposed tile is no copy.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// The tile, from element (0, 0) on.
    pub data: &'a [f32],
    /// Elements from row to row.
    pub row: usize,
    /// Elements from column to column.
    pub col: usize,
}

/// `c[m x n] (+)= a[m x k]·b[k x n]`; n is a multiple of 16 and the length of b's and c's rows.
///
/// # Safety
/// The processor has what `V` needs.
///
/// # Panics
/// If an operand is too short.
#[inline(always)]
pub unsafe fn product<V: Vector>(m: usize, k: usize, n: usize, a: Left, b: &[f32], c: &mut [f32], add: bool) {
    assert!(n.is_multiple_of(16) && b.len() >= k * n && c.len() >= m * n);
    assert!(m == 0 || k == 0 || a.data.len() > (m - 1) * a.row + (k - 1) * a.col);
    let mut left = 0;
    while left < n {
        let width = if V::WIDE { (n - left).min(64) } else { 16 };
        // SAFETY: the asserts above bound every access.
        unsafe {
            let (b, c) = (b.as_ptr().add(left), c.as_mut_ptr().add(left));
            match width / 16 {
                4 => columns::<V, 6, 4>(m, k, n, a, b, c, add),
                3 => columns::<V, 8, 3>(m, k, n, a, b, c, add),
                2 => columns::<V, 12, 2>(m, k, n, a, b, c, add),
                _ => columns::<V, 6, 1>(m, k, n, a, b, c, add),
            }
        }
        left += width;
    }
}

/// `W` vectors of columns, `R` rows at a time.
///
/// # Safety
/// As [`product`]; b and c point to the first of the columns.
#[inline(always)]
unsafe fn columns<V: Vector, const R: usize, const W: usize>(
    m: usize,
    k: usize,
    n: usize,
    a: Left,
    b: *const f32,
    c: *mut f32,
    add: bool,
) {
    let mut i = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while i + R <= m {
            kernel::<V, R, W>(k, n, a.data.as_ptr().add(i * a.row), a.row, a.col, b, c.add(i * n), add);
            i += R;
        }
        while i + 2 <= m {
            kernel::<V, 2, W>(k, n, a.data.as_ptr().add(i * a.row), a.row, a.col, b, c.add(i * n), add);
            i += 2;
        }
        if i < m {
            kernel::<V, 1, W>(k, n, a.data.as_ptr().add(i * a.row), a.row, a.col, b, c.add(i * n), add);
        }
    }
}

/// One block of registers.
///
/// # Safety
/// As [`columns`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the bare operands of an inner loop")]
unsafe fn kernel<V: Vector, const R: usize, const W: usize>(
    k: usize,
    n: usize,
    a: *const f32,
    row: usize,
    col: usize,
    b: *const f32,
    c: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; R];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(c.add(i * n + 16 * j));
                }
            }
        }
        for p in 0..k {
            let mut right = [V::splat(0.0); W];
            for (j, right) in right.iter_mut().enumerate() {
                *right = V::load(b.add(p * n + 16 * j));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(*a.add(i * row + p * col));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.add_product(left, right);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(c.add(i * n + 16 * j));
            }
        }
    }
}
