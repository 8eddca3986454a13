//! Matrix products, and what the library refuses.

use crate::driver::api::{Gpu, blas, call, cuda, good};
use crate::support::Random;

const F32: i32 = 0;
const COMPUTE_F32: i32 = 68;
const INVALID_VALUE: i32 = 7;

/// Of `rows x columns` numbers, rows one after the other unless `columns_first`.
fn layout(rows: usize, columns: usize, columns_first: bool) -> usize {
    let mut layout = 0usize;
    let ld = if columns_first { rows } else { columns };
    good!(blas(), cublasLtMatrixLayoutCreate(&raw mut layout, F32, rows, columns, ld));
    let order = i32::from(!columns_first);
    good!(blas(), cublasLtMatrixLayoutSetAttribute(layout, 1, &raw const order, 4usize));
    layout
}

/// Products of all four transpositions and both orders are those of plain loops; what `beta` of 0 drops may be NaN; an
/// algorithm is refused for another problem and for operands that are less aligned than it was promised.
#[test]
fn products() {
    let gpu = Gpu::enter(0);
    let (mut handle, mut preference) = (0usize, 0usize);
    good!(blas(), cublasLtCreate(&raw mut handle));
    good!(blas(), cublasLtMatmulPreferenceCreate(&raw mut preference));
    let stream = gpu.stream();
    let [m, n, k] = [5, 131, 17];
    let mut random = Random::new(3);
    let [a, b, c] = [m * k, k * n, m * n].map(|len| random.vec(len));
    let [at, bt, ct] = [&a, &b, &c].map(|values| gpu.buffer(values));
    let out = gpu.buffer(&vec![f32::NAN; m * n]);
    for case in 0..8 {
        let [ta, tb, columns_first] = [case & 1, case >> 1 & 1, case >> 2 & 1].map(|bit| bit == 1);
        let mut product = 0usize;
        good!(blas(), cublasLtMatmulDescCreate(&raw mut product, COMPUTE_F32, F32));
        for (attribute, transposed) in [(3, ta), (4, tb)] {
            let transposed = i32::from(transposed);
            good!(blas(), cublasLtMatmulDescSetAttribute(product, attribute, &raw const transposed, 4usize));
        }
        let la = if ta { layout(k, m, columns_first) } else { layout(m, k, columns_first) };
        let lb = if tb { layout(n, k, columns_first) } else { layout(k, n, columns_first) };
        let lc = layout(m, n, columns_first);
        // An algorithm and what is told of it.
        let (mut found, mut count) = ([0u64; 12], 0i32);
        let heuristic = call!(
            blas(),
            cublasLtMatmulAlgoGetHeuristic(
                handle,
                product,
                la,
                lb,
                lc,
                lc,
                preference,
                1,
                found.as_mut_ptr(),
                &raw mut count
            )
        );
        assert_eq!((heuristic, count), (0, 1));
        let run = |beta: f32, c: u64, out: u64, layout_of_out: usize| {
            let alpha = 0.5f32;
            call!(
                blas(),
                cublasLtMatmul(
                    handle,
                    product,
                    &raw const alpha,
                    at,
                    la,
                    bt,
                    lb,
                    &raw const beta,
                    c,
                    layout_of_out,
                    out,
                    layout_of_out,
                    found.as_ptr(),
                    0usize,
                    0usize,
                    stream
                )
            )
        };
        // Where an element of a matrix lies whose sides, as they lie in memory, are these.
        let place = |i: usize, j: usize, rows: usize, columns: usize| {
            if columns_first { j * rows + i } else { i * columns + j }
        };
        let left = |i: usize, l: usize| if ta { a[place(l, i, k, m)] } else { a[place(i, l, m, k)] };
        let right = |l: usize, j: usize| if tb { b[place(j, l, n, k)] } else { b[place(l, j, k, n)] };
        for beta in [0.0, 2.0] {
            assert_eq!(run(beta, if beta == 0.0 { out } else { ct }, out, lc), 0);
            good!(cuda(), cuStreamSynchronize(stream));
            let got = gpu.numbers(out, m * n);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let sum: f32 = (0..k).map(|l| left(i, l) * right(l, j)).sum();
                let at = place(i, j, m, n);
                assert!((got[at] - (0.5 * sum + beta * c[at])).abs() < 1e-4, "case {case}, beta {beta}");
            }
        }
        assert_eq!(run(0.0, out, out + 4, lc), INVALID_VALUE, "less aligned than 256 bytes");
        assert_eq!(run(0.0, out, out, layout(m, n, !columns_first)), INVALID_VALUE, "another problem");
    }
}
