//! Whether the library can do on this processor what it would be used for: a small product of each kind, compared with the
//! exact result.

use super::{Key, OneDnn, shape};
use crate::device::cpu::pool::Pool;
use crate::device::{Matrix, Memory};
use crate::model::Dtype;
use crate::plan::{Segment, Slot};
use half::bf16;

/// Sizes of the product: not multiples of any vector's length.
const SIZES: [usize; 3] = [33, 70, 35];

/// Small whole numbers, whose products and sums are exact in bf16.
fn number(i: usize, j: usize) -> i32 {
    [1, 0, -1, 0, 0, 1, 0][(5 * i + 3 * j) % 7]
}

/// Tries every kind of product; what the library calls its way of doing them.
///
/// # Errors
/// What it cannot do.
pub fn works(library: &OneDnn) -> Result<String, String> {
    let mut ways = std::collections::BTreeSet::new();
    for case in 0..16 {
        let [left, right, wide, add] = [1, 2, 4, 8].map(|bit| case & bit != 0);
        ways.insert(product(library, left, right, if wide { Dtype::F32 } else { Dtype::Bf16 }, add)?);
    }
    Ok(Vec::from_iter(ways).join(", "))
}

/// One product: operands transposed or not, a result of a type, written or added.
fn product(library: &OneDnn, left: bool, right: bool, dtype: Dtype, add: bool) -> Result<String, String> {
    let [rows, depth, cols] = SIZES;
    let slot = |elems, dtype| Slot { name: String::new(), elems, dtype, segment: Segment::Workspace, holds: None };
    let memory =
        Memory::new(&[slot(rows * depth, Dtype::Bf16), slot(depth * cols, Dtype::Bf16), slot(rows * cols, dtype)]);
    let operand = |i, rows, cols, transposed| match transposed {
        true => Matrix::new(memory.slot(i), cols, rows).t(),
        false => Matrix::new(memory.slot(i), rows, cols),
    };
    let (a, b) = (operand(0, rows, depth, left), operand(1, depth, cols, right));
    let c = Matrix::new(memory.slot(2), rows, cols);
    for m in [a, b] {
        // SAFETY: the memory is this function's, and of this type.
        let values = unsafe { m.view.slice_mut::<bf16>() };
        for (i, j) in (0..m.rows).flat_map(|i| (0..m.cols).map(move |j| (i, j))) {
            values[i * m.row_stride + j * m.col_stride] = bf16::from_f32(number(i, j) as f32);
        }
    }
    let what = format!("{dtype:?} = bf16 x bf16 (transposed: {left}, {right}; added: {add})");
    for _ in 0..=usize::from(add) {
        if !library.product(&Pool::new(1), a, b, c, add) {
            return Err(format!("it has no {what}"));
        }
    }
    let times = 1 + i32::from(add);
    for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
        let exact = times * (0..depth).map(|k| number(i, k) * number(k, j)).sum::<i32>();
        // SAFETY: as above; nobody writes any more.
        let got = unsafe {
            match dtype {
                Dtype::F32 => c.view.slice::<f32>()[i * cols + j],
                _ => c.view.slice::<bf16>()[i * cols + j].to_f32(),
            }
        };
        if got != exact as f32 {
            return Err(format!("its {what} is wrong: {got} in place of {exact}"));
        }
    }
    let plan = library.plan(Key { a: shape(a), b: shape(b), c: shape(c), add, threads: 1 }).ok_or("a plan is gone")?;
    let way = library.library.implementation(&plan.parts[0].primitive);
    // Its plain loops are for comparisons, and slower than our own code.
    if way.starts_with("ref") { Err(format!("it has only {way} for {what}")) } else { Ok(way) }
}
