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

    /// Columns `first..first + cols` of a matrix with contiguous rows.
    pub fn columns(self, first: usize, cols: usize) -> Self {
        assert!(self.col_stride == 1 && first + cols <= self.cols);
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.row_stride + cols };
        Matrix { view: self.view.sub(first..first + len), cols, ..self }
    }

    /// Rows `first..first + rows` of a matrix with contiguous rows.
    pub fn rows(self, first: usize, rows: usize) -> Self {
        assert!(self.col_stride == 1 && first + rows <= self.rows && rows > 0);
        let start = first * self.row_stride;
        Matrix { view: self.view.sub(start..start + (rows - 1) * self.row_stride + self.cols), rows, ..self }
    }
}
