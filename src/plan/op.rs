//! The operations of a plan.
//!
//! An op starts when the previous op of its lane and the ops it waits for are complete, and owns its regions from start
//! to completion. Nothing else orders anything.

use std::ops::Range;

use crate::cluster::Rank;
use crate::model::{ShardId, Unit};

use super::Region;
use super::collective::Collective;

/// Index of an op in its list.
pub type OpId = usize;

/// Index of a [`super::Split`] in the schedule.
pub type CommId = usize;

/// What runs an op: ops of one lane run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// The rank's arithmetic.
    Compute,
    /// One of the rank's communication streams; also runs the copies and sums that belong to it.
    Comm(usize),
}

impl Lane {
    /// The lane's number among all lanes of a rank: computation first.
    pub fn index(self) -> usize {
        match self {
            Lane::Compute => 0,
            Lane::Comm(k) => k + 1,
        }
    }
}

/// What a computation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// Micro-batch of the iteration, counted over all ranks.
    pub micro: usize,
    /// Piece of its sequences; always 0 as long as sequences are not split.
    pub chunk: usize,
}

/// Layout of the slot that the training loop fills before each iteration (f64).
pub mod step {
    /// Learning rate.
    pub const LR: usize = 0;
    /// Number of the update among those that were applied, from 1 (bias correction of AdamW).
    pub const NUMBER: usize = 1;
    /// Bound on the global gradient norm; infinity for none.
    pub const CLIP: usize = 2;
    /// Largest squared gradient norm whose update is applied, see [`super::applies`]; [`f64::MAX`] for any finite one.
    pub const BOUND: usize = 3;
    /// Length of the slot.
    pub const LEN: usize = 4;
}

/// Whether the update of an iteration is applied: its loss is finite, and its squared gradient norm is at most `bound`
/// ([`step::BOUND`]; a norm that is not finite is above every bound). Both are summed over all ranks before any update, so
/// every rank decides alike, on every device, without a message.
pub fn applies(bound: f64, loss: f64, squares: f64) -> bool {
    loss.is_finite() && squares <= bound.min(f64::MAX)
}

/// Layout of the slot that an iteration leaves its results in (f64): zero before it, summed over all ranks by its
/// `AllReduce`.
pub mod stats {
    /// Mean loss over the target tokens of the global batch.
    pub const LOSS: usize = 0;
    /// Squared gradient norm before clipping.
    pub const SQUARES: usize = 1;
    /// Length of the slot.
    pub const LEN: usize = 2;
}

/// What a message carries; sender and receiver must name the same. Ranges are elements of the shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Weights of (a range of) a shard.
    Weights(ShardId, Range<usize>),
    /// Gradient of (a range of) a shard.
    Gradient(ShardId, Range<usize>),
    /// A micro-batch's input of block i (of the head, if there is no such block).
    Activation(Work, usize),
    /// A micro-batch's gradient with respect to that.
    Dx(Work, usize),
    /// Scalars of the iteration: class `control`.
    Scalars,
}

/// How a collective moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// In ring order, starting behind the root (reduce) or at it (broadcast), in pipelined chunks; the sum is taken in
    /// that order.
    Chain,
    /// Binomial tree from the root.
    Tree,
    /// To the lowest rank of the set in rank order and back.
    Flat,
    /// Reduce-scatter and all-gather round the ring.
    Ring,
}

/// One message of an [`Action::Exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The other rank, by its number in the world.
    pub peer: Rank,
    /// What is sent, or where it is received.
    pub region: Region,
    /// What it carries.
    pub payload: Payload,
}

/// What an op does. Regions that are only read come before those that are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Fetches a micro-batch: inputs, then targets, `[2, micro, seq]`.
    Load {
        /// Which micro-batch.
        work: Work,
        /// Written.
        tokens: Region,
    },
    /// A unit's forward (embedding or block).
    Forward {
        /// Which unit.
        unit: Unit,
        /// On what.
        work: Work,
        /// Read: the unit's parameters in the compute dtype.
        weights: Region,
        /// Read: tokens (embedding) or `[tokens, dim]`.
        input: Region,
        /// Written: `[tokens, dim]`.
        output: Region,
        /// Written, if kept: what backward reads; its size is `model::footprint`'s.
        saved: Option<Region>,
        /// Scratch.
        workspace: Option<Region>,
    },
    /// A block's forward again, for what it saves.
    Recompute {
        /// Which unit.
        unit: Unit,
        /// On what.
        work: Work,
        /// Read: parameters.
        weights: Region,
        /// Read: `[tokens, dim]`.
        input: Region,
        /// Written.
        saved: Region,
        /// Scratch.
        workspace: Option<Region>,
    },
    /// Final norm, output projection and cross-entropy, forward and (in training) backward, in chunks of tokens.
    HeadLoss {
        /// On what.
        work: Work,
        /// Read: the head's parameters.
        weights: Region,
        /// Read: `[tokens, dim]`.
        input: Region,
        /// Read: target tokens.
        targets: Region,
        /// Training: gradient with respect to the input, and of the head's parameters.
        gradient: Option<HeadGradient>,
        /// Added to: the one element [`stats::LOSS`] of the statistics.
        loss: Region,
        /// Scratch.
        workspace: Option<Region>,
    },
    /// A unit's backward (block or embedding).
    Backward {
        /// Which unit.
        unit: Unit,
        /// On what.
        work: Work,
        /// Read: parameters (none for the embedding).
        weights: Option<Region>,
        /// Read: the unit's input (tokens for the embedding).
        input: Region,
        /// Read: what forward or recomputation saved (none for the embedding).
        saved: Option<Region>,
        /// Read and, for a block, overwritten: gradient with respect to the output becomes that of the input.
        dx: Region,
        /// Written or added to: the unit's parameter gradient, f32; all of it, zeros where tensors are padded.
        gradient: Region,
        /// Add to `gradient` instead of overwriting it.
        accumulate: bool,
        /// Scratch.
        workspace: Option<Region>,
    },
    /// The part of a block's backward that others wait for: the gradient with respect to its input. What the rest needs
    /// is left in `pending`, so that input and saved state are free afterwards.
    BackwardInput {
        /// Which unit: a block.
        unit: Unit,
        /// On what.
        work: Work,
        /// Read: parameters.
        weights: Region,
        /// Read: the unit's input.
        input: Region,
        /// Read: what forward or recomputation saved.
        saved: Region,
        /// Read and overwritten: gradient with respect to the output becomes that of the input.
        dx: Region,
        /// Written: everything that the gradient of the parameters needs; its size is `model::footprint`'s.
        pending: Region,
        /// Scratch.
        workspace: Option<Region>,
    },
    /// The rest of a block's backward: the gradient of its parameters.
    BackwardWeight {
        /// Which unit: a block.
        unit: Unit,
        /// On what.
        work: Work,
        /// Read: what [`Action::BackwardInput`] left.
        pending: Region,
        /// Written or added to: the unit's parameter gradient, f32; all of it, zeros where tensors are padded.
        gradient: Region,
        /// Add to `gradient` instead of overwriting it.
        accumulate: bool,
    },
    /// Writes zeros.
    Clear {
        /// Written.
        dst: Region,
    },
    /// Copies, converting to the destination's dtype.
    Cast {
        /// Read.
        src: Region,
        /// Written.
        dst: Region,
    },
    /// `dst += src`, in f32.
    Accumulate {
        /// Read.
        src: Region,
        /// Added to.
        dst: Region,
    },
    /// Adds a gradient's sum of squares to the one element [`stats::SQUARES`] of the statistics.
    NormPartial {
        /// Read: f32.
        gradient: Region,
        /// Added to.
        stats: Region,
    },
    /// AdamW on (part of) a shard, with the clip factor from the summed statistics; nothing, unless these say that the update
    /// [`applies`].
    Update {
        /// Which parameters: decides what is decayed.
        shard: ShardId,
        /// Elements of the shard.
        range: Range<usize>,
        /// Read: f32 gradient of the iteration.
        gradient: Region,
        /// Read: see [`step`].
        step: Region,
        /// Read: see [`stats`].
        stats: Region,
        /// Updated: f32 weights.
        master: Region,
        /// Updated: first moment.
        moment1: Region,
        /// Updated: second moment.
        moment2: Region,
        /// Written: the weights in the compute dtype, if they are kept apart.
        home: Option<Region>,
    },
    /// Point-to-point messages that start and complete together.
    Exchange {
        /// Communicator.
        comm: CommId,
        /// Read.
        sends: Vec<Message>,
        /// Written.
        recvs: Vec<Message>,
    },
    /// Something that all members of a communicator do together.
    Collective(Call),
}

/// A rank's part in a collective.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Communicator.
    pub comm: CommId,
    /// What comes out.
    pub what: Collective,
    /// How.
    pub algorithm: Algorithm,
    /// As long on every member; the collective works in place. A sum leaves nothing that may be read where it does not
    /// promise a result.
    pub region: Region,
    /// Receives partial sums, see [`super::collective::scratch`]; none for what does not sum, or sums a few scalars.
    pub scratch: Option<Region>,
    /// What the whole region carries.
    pub payload: Payload,
}

/// Elements of a chunk of a pipelined collective.
pub const REDUCE_CHUNK: usize = 1 << 16;

/// Chunks in flight of a pipelined reduction.
pub const REDUCE_CHUNKS: usize = 2;

/// What a training [`Action::HeadLoss`] writes.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadGradient {
    /// Written: gradient with respect to the head's input, `[tokens, dim]`.
    pub dx: Region,
    /// Written or added to: gradient of the head's parameters, f32; all of it, zeros where tensors are padded.
    pub weights: Region,
    /// Add to `weights` instead of overwriting.
    pub accumulate: bool,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// What runs it.
    pub lane: Lane,
    /// Ops of the same list, issued earlier, that must be complete.
    pub waits: Vec<OpId>,
    /// What it does.
    pub action: Action,
}

/// Regions an op touches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Read only.
    pub reads: Vec<Region>,
    /// Written (and perhaps read).
    pub writes: Vec<Region>,
}

impl Action {
    /// Regions the action touches on a rank; `rank` tells a root from the others.
    pub fn access(&self, rank: Rank) -> Access {
        let (reads, writes): (Vec<Option<Region>>, Vec<Option<Region>>) = match self {
            Action::Load { tokens, .. } => (vec![], vec![Some(*tokens)]),
            Action::Forward { weights, input, output, saved, workspace, .. } => {
                (vec![Some(*weights), Some(*input)], vec![Some(*output), *saved, *workspace])
            }
            Action::Recompute { weights, input, saved, workspace, .. } => {
                (vec![Some(*weights), Some(*input)], vec![Some(*saved), *workspace])
            }
            Action::HeadLoss { weights, input, targets, gradient, loss, workspace, .. } => {
                let written = gradient.iter().flat_map(|g| [Some(g.dx), Some(g.weights)]);
                (vec![Some(*weights), Some(*input), Some(*targets)], written.chain([Some(*loss), *workspace]).collect())
            }
            Action::Backward { weights, input, saved, dx, gradient, workspace, .. } => {
                (vec![*weights, Some(*input), *saved], vec![Some(*dx), Some(*gradient), *workspace])
            }
            Action::BackwardInput { weights, input, saved, dx, pending, workspace, .. } => {
                (vec![Some(*weights), Some(*input), Some(*saved)], vec![Some(*dx), Some(*pending), *workspace])
            }
            Action::BackwardWeight { pending, gradient, .. } => (vec![Some(*pending)], vec![Some(*gradient)]),
            Action::Clear { dst } => (vec![], vec![Some(*dst)]),
            Action::Cast { src, dst } | Action::Accumulate { src, dst } => (vec![Some(*src)], vec![Some(*dst)]),
            Action::NormPartial { gradient, stats } => (vec![Some(*gradient)], vec![Some(*stats)]),
            Action::Update { gradient, step, stats, master, moment1, moment2, home, .. } => (
                vec![Some(*gradient), Some(*step), Some(*stats)],
                vec![Some(*master), Some(*moment1), Some(*moment2), *home],
            ),
            Action::Exchange { sends, recvs, .. } => {
                (sends.iter().map(|m| Some(m.region)).collect(), recvs.iter().map(|m| Some(m.region)).collect())
            }
            Action::Collective(Call { what: Collective::Broadcast(root), region, .. }) if *root == rank => {
                (vec![Some(*region)], vec![])
            }
            Action::Collective(Call { region, scratch, .. }) => (vec![], vec![Some(*region), *scratch]),
        };
        Access { reads: reads.into_iter().flatten().collect(), writes: writes.into_iter().flatten().collect() }
    }

    /// The communicator, if the action talks to other ranks.
    pub fn comm(&self) -> Option<CommId> {
        match self {
            Action::Exchange { comm, .. } | Action::Collective(Call { comm, .. }) => Some(*comm),
            _ => None,
        }
    }
}
