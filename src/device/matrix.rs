//! A view seen as rows and columns.

use super::View;

/// A matrix in device memory: element (i, j) lies at `i * row_stride + j * col_stride`. Either stride is 1; transposing
/// swaps them and moves nothing.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The elements from (0, 0) on.
    pub view: View,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl Matrix {
    /// A matrix of contiguous rows.
    ///
    /// # Panics
    /// If the view is shorter than `rows * cols`.
    pub fn new(view: View, rows: usize, cols: usize) -> Self {
        Matrix { view: view.sub(0..rows * cols), rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed matrix, over the same memory.
    pub fn t(self) -> Self {
        Matrix {
            view: self.view,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// Columns `first..first + cols`.
    pub fn columns(self, first: usize, cols: usize) -> Self {
        assert!(first + cols <= self.cols);
        let start = first * self.col_stride;
        let len = match self.rows * cols {
            0 => 0,
            _ => (self.rows - 1) * self.row_stride + (cols - 1) * self.col_stride + 1,
        };
        Matrix { view: self.view.sub(start..start + len), cols, ..self }
    }

    /// Rows `first..first + rows`.
    pub fn rows(self, first: usize, rows: usize) -> Self {
        self.t().columns(first, rows).t()
    }
}
