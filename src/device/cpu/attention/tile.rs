//! Products of small f32 tiles that lie in the cache: no packing, sums in registers.

use crate::device::cpu::lanes::{LANES, Lanes};

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

/// Rows of `n` numbers, `row` apart: the right operand or the result.
#[derive(Clone, Copy)]
struct Rows<P> {
    start: P,
    row: usize,
}

/// `c[m x n] (+)= a[m x k]·b[k x n]`; n is a multiple of 16; rows of b and c are `b_row` and `c_row` apart.
///
/// # Safety
/// The processor has what `V` needs.
///
/// # Panics
/// If an operand is too short.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "sizes and operands of a product")]
pub unsafe fn product<V: Lanes>(
    (m, k, n): (usize, usize, usize),
    a: Left,
    b: &[f32],
    b_row: usize,
    c: &mut [f32],
    c_row: usize,
    add: bool,
) {
    assert!(n.is_multiple_of(LANES) && m > 0 && k > 0);
    assert!(b.len() >= (k - 1) * b_row + n && c.len() >= (m - 1) * c_row + n);
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.col);
    let mut left = 0;
    while left < n {
        let vectors = if V::WIDE { ((n - left) / LANES).min(4) } else { 1 };
        // SAFETY: the asserts above bound every access.
        unsafe {
            let b = Rows { start: b.as_ptr().add(left), row: b_row };
            let c = Rows { start: c.as_mut_ptr().add(left), row: c_row };
            match vectors {
                4 => columns::<V, 6, 4>(m, k, a, b, c, add),
                3 => columns::<V, 8, 3>(m, k, a, b, c, add),
                2 => columns::<V, 8, 2>(m, k, a, b, c, add),
                _ if V::WIDE => columns::<V, 16, 1>(m, k, a, b, c, add),
                _ => columns::<V, 6, 1>(m, k, a, b, c, add),
            }
        }
        left += vectors * LANES;
    }
}

/// `W` vectors of columns, `R` rows at a time.
///
/// # Safety
/// As [`product`]; b and c point to the first of the columns.
#[inline(always)]
unsafe fn columns<V: Lanes, const R: usize, const W: usize>(
    m: usize,
    k: usize,
    a: Left,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) {
    let mut i = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while i + R <= m {
            kernel::<V, R, W>(k, a, i, b, c, add);
            i += R;
        }
        while i + 4 <= m {
            kernel::<V, 4, W>(k, a, i, b, c, add);
            i += 4;
        }
        while i < m {
            kernel::<V, 1, W>(k, a, i, b, c, add);
            i += 1;
        }
    }
}

/// One block of registers: rows `i..i + R`.
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn kernel<V: Lanes, const R: usize, const W: usize>(
    k: usize,
    a: Left,
    i: usize,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let a_start = a.data.as_ptr().add(i * a.row);
        let c_start = c.start.add(i * c.row);
        let mut sums = [[V::splat(0.0); W]; R];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(c_start.add(i * c.row + LANES * j));
                }
            }
        }
        for p in 0..k {
            let mut right = [V::splat(0.0); W];
            for (j, right) in right.iter_mut().enumerate() {
                *right = V::load(b.start.add(p * b.row + LANES * j));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(*a_start.add(i * a.row + p * a.col));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.plus_product(left, right);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(c_start.add(i * c.row + LANES * j));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::lanes::Portable;

    /// Products of many sizes, straight and transposed, written and added.
    ///
    /// # Safety
    /// The processor has what `V` needs.
    unsafe fn check<V: Lanes>() {
        let number = |i: usize| ((i * 37 + 11) % 23) as f32 - 11.0;
        for (m, k, n) in [(1, 1, 16), (6, 5, 64), (17, 3, 48), (64, 64, 32), (13, 7, 112)] {
            for (turned, add) in [(false, false), (true, true)] {
                let a: Vec<f32> = (0..m * k).map(number).collect();
                let b: Vec<f32> = (0..k * (n + 3)).map(number).collect();
                let mut c: Vec<f32> = (0..m * (n + 5)).map(number).collect();
                let (row, col) = if turned { (1, m) } else { (k, 1) };
                let mut expected = c.clone();
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let sum: f32 = (0..k).map(|p| a[i * row + p * col] * b[p * (n + 3) + j]).sum();
                    let before = if add { expected[i * (n + 5) + j] } else { 0.0 };
                    expected[i * (n + 5) + j] = before + sum;
                }
                // SAFETY: the caller's promise.
                unsafe { product::<V>((m, k, n), Left { data: &a, row, col }, &b, n + 3, &mut c, n + 5, add) };
                // Integers: every order of summation gives the same.
                assert_eq!(c, expected, "{m}x{k}x{n}");
            }
        }
    }

    /// All three kinds of vectors, as far as the processor has them.
    #[test]
    fn every_kind_of_vector() {
        use crate::device::cpu::simd::{Level, level};
        // SAFETY: asked before each.
        unsafe {
            check::<Portable>();
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx2 {
                check::<crate::device::cpu::lanes::Avx2>();
            }
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx512 {
                check::<crate::device::cpu::lanes::Avx512>();
            }
        }
    }
}
