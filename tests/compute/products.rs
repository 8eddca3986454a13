//! Matrix products.

use tawpipe::device::{Bf16Products, Cpu, Device, Matrix};
use tawpipe::model::Dtype;

use crate::support::{Buffer, Random, close};

/// `[rows, cols]` f64 elements of a matrix.
fn dense(m: Matrix, data: &[f64]) -> Vec<f64> {
    let place = |i| (i / m.cols) * m.row_stride + (i % m.cols) * m.col_stride;
    (0..m.rows * m.cols).map(|i| data[place(i)]).collect()
}

/// Every combination of transposes, types and accumulation equals a product in f64, also where c is some columns of a
/// wider matrix, whose other columns stay as they were.
#[test]
fn products_equal_a_reference() {
    let mut random = Random::new(1);
    let types = [(Dtype::F32, Dtype::F32, 1e-6), (Dtype::Bf16, Dtype::F32, 1e-6), (Dtype::Bf16, Dtype::Bf16, 4e-3)];
    let devices = Bf16Products::available().into_iter().flat_map(|p| [1, 2].map(|t| (t, p)));
    for (threads, products) in devices {
        let cpu = Cpu::with_products(threads, products);
        for (m, k, n) in
            [(1, 1, 1), (3, 5, 7), (65, 33, 257), (1, 300, 16), (300, 2, 40), (64, 128, 64), (33, 1500, 35)]
        {
            for (operand, result, tolerance) in types {
                for case in 0..8 {
                    let (a_turned, b_turned, add) = (case & 1 > 0, case & 2 > 0, case & 4 > 0);
                    let a_data = random.buffer(m * k, operand);
                    let b_data = random.buffer(k * n, operand);
                    let (a, b) = (a_data.view(), b_data.view());
                    let a = if a_turned { Matrix::new(a, k, m).t() } else { Matrix::new(a, m, k) };
                    let b = if b_turned { Matrix::new(b, n, k).t() } else { Matrix::new(b, k, n) };
                    let c_data = random.buffer(m * (n + 3), result);
                    let before = c_data.wide();
                    cpu.matmul(a, b, Matrix::new(c_data.view(), m, n + 3).columns(1, n), add);
                    let (left, right) = (dense(a, &a_data.wide()), dense(b, &b_data.wide()));
                    let mut expected = before;
                    for (i, row) in expected.chunks_exact_mut(n + 3).enumerate() {
                        for (j, x) in row[1..=n].iter_mut().enumerate() {
                            let sum: f64 = (0..k).map(|p| left[i * k + p] * right[p * n + j]).sum();
                            *x = if add { *x + sum } else { sum };
                        }
                    }
                    let what = format!("{m}x{k}x{n} {operand:?} {result:?} case {case} threads {threads} {products:?}");
                    close(&what, &c_data.wide(), &expected, tolerance);
                }
            }
        }
    }
}

/// What a product does not add to may hold anything, also NaN; and an operand's NaN is not lost.
#[test]
fn nan_of_the_past_is_forgotten_and_nan_of_the_present_is_not() {
    for (products, dtype) in Bf16Products::available().into_iter().flat_map(|p| [(p, Dtype::F32), (p, Dtype::Bf16)]) {
        let cpu = Cpu::with_products(1, products);
        let a = Buffer::of(&[1.0; 16], dtype);
        let c = Buffer::of(&[f32::NAN; 16], dtype);
        let square = |b: &Buffer| Matrix::new(b.view(), 4, 4);
        cpu.matmul(square(&a), square(&a), square(&c), false);
        assert_eq!(c.wide(), [4.0; 16]);
        let broken = Buffer::of(&[f32::NAN; 16], dtype);
        cpu.matmul(square(&a), square(&broken), square(&c), false);
        assert!(c.wide().iter().all(|x| x.is_nan()));
    }
}

/// A sum so long that it is taken in parts is still rounded once.
#[test]
fn long_sums_are_rounded_once() {
    let (m, k, n) = (2, 9000, 33);
    let mut random = Random::new(13);
    let (a, b) = (random.buffer(m * k, Dtype::Bf16), random.buffer(k * n, Dtype::Bf16));
    let (left, right) = (a.wide(), b.wide());
    for products in Bf16Products::available() {
        for threads in [1, 2] {
            let (wide, narrow) = (random.buffer(m * n, Dtype::F32), Buffer::new(m * n, Dtype::Bf16));
            let cpu = Cpu::with_products(threads, products);
            let rounded = Buffer::new(m * n, Dtype::Bf16);
            for c in [&wide, &narrow] {
                cpu.matmul(
                    Matrix::new(a.view(), m, k),
                    Matrix::new(b.view(), k, n),
                    Matrix::new(c.view(), m, n),
                    false,
                );
            }
            cpu.cast(wide.view(), rounded.view());
            close(&format!("{products:?}"), &narrow.wide(), &rounded.wide(), 4e-3);
            let expected: Vec<f64> =
                (0..m * n).map(|at| (0..k).map(|p| left[at / n * k + p] * right[p * n + at % n]).sum()).collect();
            close(&format!("{products:?} exact"), &wide.wide(), &expected, 1e-5);
        }
    }
}

/// The same bits whatever the number of threads (but for oneDNN's): forward, both gradients, and results that are added to.
#[test]
fn threads_do_not_change_a_bit() {
    let mut random = Random::new(17);
    for (products, dtype) in Bf16Products::available().into_iter().flat_map(|p| [(p, Dtype::F32), (p, Dtype::Bf16)]) {
        for (m, k, n) in [(520, 256, 344), (130, 344, 64), (70, 600, 520), (256, 64, 1000)] {
            let (x, w, y) = (random.buffer(m * k, dtype), random.buffer(n * k, dtype), random.buffer(m * n, dtype));
            let (x_of, w_of, y_of) =
                (Matrix::new(x.view(), m, k), Matrix::new(w.view(), n, k), Matrix::new(y.view(), m, n));
            let on = |threads: usize| {
                let cpu = Cpu::with_products(threads, products);
                let out = [Buffer::new(m * n, dtype), Buffer::new(m * k, dtype), Buffer::new(n * k, Dtype::F32)];
                for add in [false, true] {
                    cpu.matmul(x_of, w_of.t(), Matrix::new(out[0].view(), m, n), add);
                    cpu.matmul(y_of, w_of, Matrix::new(out[1].view(), m, k), add);
                    cpu.matmul(y_of.t(), x_of, Matrix::new(out[2].view(), n, k), add);
                }
                out.map(|buffer| buffer.wide())
            };
            let one = on(1);
            for threads in [2, 3] {
                let what = format!("{products:?} {dtype:?} {m}x{k}x{n}: {threads} threads");
                if (products, dtype) == (Bf16Products::OneDnn, Dtype::Bf16) {
                    // It may cut a long sum elsewhere for a smaller part of the result.
                    let tolerance = [2e-2, 2e-2, 1e-5];
                    let parts = on(threads).into_iter().zip(&one).zip(tolerance);
                    parts.for_each(|((a, b), tolerance)| close(&what, &a, b, tolerance));
                } else {
                    assert!(on(threads) == one, "{what}");
                }
            }
        }
    }
}
