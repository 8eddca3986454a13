//! Kinds of ops that a drawing tells apart by colour.

use crate::plan::collective::Collective;
use crate::plan::{Action, Call};

/// What an op does, as far as colours go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Forward of the embedding or a block.
    Forward,
    /// A block's forward again, for what it saves.
    Recompute,
    /// Norm, output projection and loss, with their backward.
    Head,
    /// Backward of the embedding or a block, whole.
    Backward,
    /// The half of a backward that others wait for.
    BackwardInput,
    /// The other half.
    BackwardWeight,
    /// The optimizer.
    Update,
    /// Messages between two ranks.
    Hop,
    /// Broadcast and all-gather.
    Gather,
    /// Reduce, reduce-scatter and all-reduce.
    Reduce,
    /// Copies, sums, norms, loading of tokens.
    Other,
}

impl Kind {
    /// Every kind, in the order of a legend.
    pub const ALL: [Kind; 11] = [
        Kind::Forward,
        Kind::Recompute,
        Kind::Head,
        Kind::Backward,
        Kind::BackwardInput,
        Kind::BackwardWeight,
        Kind::Update,
        Kind::Hop,
        Kind::Gather,
        Kind::Reduce,
        Kind::Other,
    ];

    /// The kind of an action.
    pub fn of(action: &Action) -> Kind {
        match action {
            Action::Forward { .. } => Kind::Forward,
            Action::Recompute { .. } => Kind::Recompute,
            Action::HeadLoss { .. } => Kind::Head,
            Action::Backward { .. } => Kind::Backward,
            Action::BackwardInput { .. } => Kind::BackwardInput,
            Action::BackwardWeight { .. } => Kind::BackwardWeight,
            Action::Update { .. } => Kind::Update,
            Action::Exchange { .. } => Kind::Hop,
            Action::Collective(Call { what, .. }) => match what {
                Collective::Broadcast(_) | Collective::AllGather => Kind::Gather,
                Collective::Reduce(_) | Collective::ReduceScatter | Collective::AllReduce => Kind::Reduce,
            },
            Action::Load { .. }
            | Action::Clear { .. }
            | Action::Cast { .. }
            | Action::Accumulate { .. }
            | Action::NormPartial { .. } => Kind::Other,
        }
    }

    /// For legends.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Forward => "forward",
            Kind::Recompute => "recompute",
            Kind::Head => "head and loss",
            Kind::Backward => "backward",
            Kind::BackwardInput => "backward: input",
            Kind::BackwardWeight => "backward: weights",
            Kind::Update => "update",
            Kind::Hop => "hop",
            Kind::Gather => "broadcast, all-gather",
            Kind::Reduce => "reduce, reduce-scatter, all-reduce",
            Kind::Other => "copy, sum, load",
        }
    }

    /// Fill colour. The palette of Okabe and Ito (and a wine red of Tol's), told apart with any colour vision.
    pub fn colour(self) -> &'static str {
        match self {
            Kind::Forward => "#56b4e9",
            Kind::Recompute => "#b9dff5",
            Kind::Head => "#882255",
            Kind::Backward => "#e69f00",
            Kind::BackwardInput => "#d55e00",
            Kind::BackwardWeight => "#f0e442",
            Kind::Update => "#222222",
            Kind::Hop => "#cc79a7",
            Kind::Gather => "#009e73",
            Kind::Reduce => "#0072b2",
            Kind::Other => "#999999",
        }
    }

    /// Colour of text on it.
    pub fn ink(self) -> &'static str {
        match self {
            Kind::Head | Kind::Update | Kind::Gather | Kind::Reduce | Kind::BackwardInput => "#ffffff",
            _ => "#000000",
        }
    }
}
