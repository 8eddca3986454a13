//! What a slot holds during the replay: symbols instead of numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::model::{ShardId, Unit};
use crate::random::{STEP, mix};

/// One micro-batch's contribution to a sum of an iteration: of a unit's gradient, or (for the head) to the loss.
pub type Term = (usize, Unit);

/// A sum of terms: how many, and the wrapping sum of their 128-bit hashes. The terms themselves are kept only when a
/// defect has to be put into words.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    pub count: u64,
    pub hash: u128,
    pub terms: Option<Rc<BTreeMap<Term, u64>>>,
}

impl PartialEq for Sum {
    fn eq(&self, other: &Sum) -> bool {
        (self.count, self.hash) == (other.count, other.hash)
    }
}

impl Sum {
    /// One term of an iteration.
    pub fn term(version: u64, term: Term, explain: bool) -> Sum {
        let unit = match term.1 {
            Unit::Embed => 0,
            Unit::Head => 1,
            Unit::Block(i) => i as u64 + 2,
        };
        let terms = explain.then(|| Rc::new(BTreeMap::from([(term, 1)])));
        Sum { count: 1, hash: hash(&[version, term.0 as u64, unit]), terms }
    }

    /// A range of a shard's elements, so that adjoining ranges add up to their union.
    pub fn elements(version: u64, shard: ShardId, range: &Range<usize>) -> Sum {
        let mark = |at: usize| hash(&[version, shard as u64, at as u64, 7]);
        Sum { count: range.len() as u64, hash: mark(range.end).wrapping_sub(mark(range.start)), terms: None }
    }

    pub fn add(&mut self, other: &Sum) {
        self.count += other.count;
        self.hash = self.hash.wrapping_add(other.hash);
        if let Some(theirs) = &other.terms {
            let mine = Rc::make_mut(self.terms.get_or_insert_default());
            for (term, count) in theirs.iter() {
                *mine.entry(*term).or_default() += count;
            }
        }
    }

    /// How this sum differs from what it should be.
    pub fn differs(&self, expected: &Sum) -> String {
        let (Some(mine), Some(theirs)) = (&self.terms, &expected.terms) else {
            return format!("{} contributions instead of {}", self.count, expected.count);
        };
        let list = |what: &str, of: &BTreeMap<Term, u64>, than: &BTreeMap<Term, u64>| {
            let more = of.iter().filter(|(term, count)| than.get(term).unwrap_or(&0) < count);
            let terms: Vec<String> = more.map(|((micro, unit), _)| format!("({unit}, micro-batch {micro})")).collect();
            let shown = terms.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
            match terms.len() {
                0 => String::new(),
                n @ 1..=6 => format!("; {n} {what}: {shown}"),
                n => format!("; {n} {what}: {shown}, …"),
            }
        };
        let missing = list("missing", theirs, mine);
        let extra = list("too often or out of place", mine, theirs);
        let stale = if missing.is_empty() && extra.is_empty() { "; some are of another iteration" } else { "" };
        format!("{} contributions instead of {}{missing}{extra}{stale}", self.count, expected.count)
    }
}

/// The words, mixed one after the other, from two seeds.
fn hash(words: &[u64]) -> u128 {
    let from = |seed: u64| words.iter().fold(seed, |h, &word| mix(h ^ word.wrapping_mul(STEP)));
    u128::from(from(0x5851_f42d_4c95_7f2d)) << 64 | u128::from(from(0x1405_7b7e_f767_814f))
}

/// What kind of parameter data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// f32 weights.
    Master,
    /// Weights that have been rounded to the compute dtype.
    Rounded,
    /// AdamW's first moment.
    Moment1,
    /// AdamW's second moment.
    Moment2,
}

/// What some elements of a slot hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing that may be read: never written, scratch, or left over.
    Junk,
    /// Zeros.
    Zero,
    /// Part of a shard's state after so many updates.
    State(State, ShardId, u64),
    /// Part of a shard's gradient.
    Gradient(ShardId, Sum),
    /// A micro-batch's inputs and targets.
    Tokens(usize),
    /// A micro-batch's input of block i (of the head, if there is no such block).
    Activation(usize, usize),
    /// A micro-batch's gradient with respect to that.
    Dx(usize, usize),
    /// What a micro-batch's forward of block i left for its backward.
    Saved(usize, usize),
    /// What a micro-batch's split backward of block i left for the gradient of the parameters.
    Pending(usize, usize),
    /// What the training loop writes before an iteration.
    Step(u64),
    /// Sum of losses.
    Loss(Sum),
    /// Sum of squares, by elements of gradients.
    Squares(Sum),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Junk => write!(f, "nothing that may be read"),
            Value::Zero => write!(f, "zeros"),
            Value::State(State::Master, shard, version) => write!(f, "weights of shard {shard} version {version}"),
            Value::State(State::Rounded, shard, version) => {
                write!(f, "rounded weights of shard {shard} version {version}")
            }
            Value::State(State::Moment1, shard, version) => {
                write!(f, "first moment of shard {shard} version {version}")
            }
            Value::State(State::Moment2, shard, version) => {
                write!(f, "second moment of shard {shard} version {version}")
            }
            Value::Gradient(shard, sum) => write!(f, "gradient of shard {shard} from {} contributions", sum.count),
            Value::Tokens(micro) => write!(f, "tokens of micro-batch {micro}"),
            Value::Activation(micro, layer) => write!(f, "activation {layer} of micro-batch {micro}"),
            Value::Dx(micro, layer) => write!(f, "gradient of activation {layer} of micro-batch {micro}"),
            Value::Saved(micro, block) => write!(f, "what block {block} saved of micro-batch {micro}"),
            Value::Pending(micro, block) => write!(f, "pending weight gradient of block {block}, micro-batch {micro}"),
            Value::Step(version) => write!(f, "step scalars of iteration {version}"),
            Value::Loss(sum) => write!(f, "loss of {} micro-batches", sum.count),
            Value::Squares(sum) => write!(f, "squares of {} elements", sum.count),
        }
    }
}

/// A run of elements with one value; the value's own elements start at `origin` (of its shard, of its activation, …).
#[derive(Clone, Debug)]
pub struct Piece {
    pub range: Range<usize>,
    pub origin: usize,
    pub value: Value,
}

impl Piece {
    /// The part of it within a range of the slot.
    pub fn cut(&self, range: &Range<usize>) -> Option<Piece> {
        let (start, end) = (self.range.start.max(range.start), self.range.end.min(range.end));
        let origin = self.origin + (start.max(self.range.start) - self.range.start);
        (start < end).then(|| Piece { range: start..end, origin, value: self.value.clone() })
    }
}

/// A slot's contents: pieces in order, without gaps.
#[derive(Clone, Debug)]
pub struct Contents {
    pieces: Vec<Piece>,
}

impl Contents {
    /// A slot that holds one value, from the value's element `origin` on.
    pub fn new(elems: usize, origin: usize, value: Value) -> Self {
        let pieces = if elems > 0 { vec![Piece { range: 0..elems, origin, value }] } else { Vec::new() };
        Contents { pieces }
    }

    /// What lies in a range.
    pub fn read(&self, range: &Range<usize>) -> Vec<Piece> {
        self.pieces.iter().filter_map(|piece| piece.cut(range)).collect()
    }

    /// Replaces what lies in a range by pieces that cover it.
    pub fn write(&mut self, range: &Range<usize>, new: Vec<Piece>) {
        let end = self.pieces.last().map_or(0, |piece| piece.range.end);
        if *range == (0..end) {
            self.pieces = new;
            return;
        }
        let mut pieces = self.read(&(0..range.start));
        pieces.extend(new);
        pieces.extend(self.read(&(range.end..end)));
        self.pieces = pieces;
    }
}
