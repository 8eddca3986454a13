//! Where a unit's tensors lie in its region of weights or gradients.

use std::ops::Range;

use crate::device::{Device, Matrix, View};
use crate::model::{ModelShape, Param, Unit, unit_params};

/// A projection `y = x Wᵀ` whose W may be several matrices of the same input stacked on each other (queries, keys and
/// values; gate and up). Neighbours without padding between them are multiplied as one.
#[derive(Clone, Debug)]
pub struct Projection {
    pieces: Vec<Piece>,
    /// Input features.
    pub inputs: usize,
}

/// Rows of W that lie together.
#[derive(Clone, Debug)]
struct Piece {
    /// First output feature.
    first: usize,
    /// Output features.
    rows: usize,
    /// Elements from the region's start.
    offset: usize,
}

impl Projection {
    fn new(params: &[Param]) -> Self {
        let inputs = params[0].cols;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut outputs = 0;
        for param in params {
            match pieces.last_mut() {
                Some(last) if last.offset + last.rows * inputs == param.offset => last.rows += param.rows,
                _ => pieces.push(Piece { first: outputs, rows: param.rows, offset: param.offset }),
            }
            outputs += param.rows;
        }
        Projection { pieces, inputs }
    }

    fn matrix(&self, piece: &Piece, region: View) -> Matrix {
        Matrix::new(region.sub(piece.offset..piece.offset + piece.rows * self.inputs), piece.rows, self.inputs)
    }

    /// `y (+)= x Wᵀ`.
    pub fn forward(&self, device: &impl Device, weights: View, x: Matrix, y: Matrix, add: bool) {
        for piece in &self.pieces {
            device.matmul(x, self.matrix(piece, weights).t(), y.columns(piece.first, piece.rows), add);
        }
    }

    /// `dx = dy W`.
    pub fn backward_input(&self, device: &impl Device, weights: View, dy: Matrix, dx: Matrix) {
        for (i, piece) in self.pieces.iter().enumerate() {
            device.matmul(dy.columns(piece.first, piece.rows), self.matrix(piece, weights), dx, i > 0);
        }
    }

    /// `dW (+)= dyᵀ x`.
    pub fn backward_weight(&self, device: &impl Device, gradient: View, dy: Matrix, x: Matrix, add: bool) {
        for piece in &self.pieces {
            device.matmul(dy.columns(piece.first, piece.rows).t(), x, self.matrix(piece, gradient), add);
        }
    }
}

/// A block's tensors.
#[derive(Clone, Debug)]
pub struct BlockTable {
    /// Before the attention.
    pub norm1: Range<usize>,
    /// Queries, keys, values.
    pub qkv: Projection,
    /// Back into the residual stream.
    pub out: Projection,
    /// Before SwiGLU.
    pub norm2: Range<usize>,
    /// Gate, then up.
    pub gate_up: Projection,
    /// Back into the residual stream.
    pub down: Projection,
    /// Padding between tensors.
    pub gaps: Vec<Range<usize>>,
}

impl BlockTable {
    /// The same for every block of a model.
    pub fn new(shape: &ModelShape) -> Self {
        let (params, len) = unit_params(shape, Unit::Block(0));
        let [norm1, q, _, v, out, norm2, gate, up, down] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        BlockTable {
            norm1: elements(&params[norm1]),
            qkv: Projection::new(&params[q..=v]),
            out: Projection::new(&params[out..=out]),
            norm2: elements(&params[norm2]),
            gate_up: Projection::new(&params[gate..=up]),
            down: Projection::new(&params[down..=down]),
            gaps: gaps(&params, len),
        }
    }
}

/// The head's tensors.
#[derive(Clone, Debug)]
pub struct HeadTable {
    /// Output projection.
    pub projection: Projection,
    /// Final norm.
    pub norm: Range<usize>,
    /// Padding between tensors.
    pub gaps: Vec<Range<usize>>,
}

impl HeadTable {
    /// The head of a model.
    pub fn new(shape: &ModelShape) -> Self {
        let (params, len) = unit_params(shape, Unit::Head);
        HeadTable { projection: Projection::new(&params[..1]), norm: elements(&params[1]), gaps: gaps(&params, len) }
    }
}

/// A parameter's elements, without padding.
pub fn elements(param: &Param) -> Range<usize> {
    param.offset..param.offset + param.len()
}

/// What lies between and behind the tensors. A gradient that is overwritten gets zeros there, because the region may
/// have held another shard's gradient and its norm is taken over all of it.
fn gaps(params: &[Param], len: usize) -> Vec<Range<usize>> {
    let ends = params.iter().map(|p| elements(p).end);
    let starts = params.iter().skip(1).map(|p| p.offset).chain([len]);
    ends.zip(starts).map(|(end, start)| end..start).filter(|gap| !gap.is_empty()).collect()
}
