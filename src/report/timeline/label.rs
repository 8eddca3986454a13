//! What stands inside a box: the block and the micro-batch, or the blocks that travel.

use crate::model::{ShardId, Unit};
use crate::plan::{Action, Call, Payload, Work};

use super::Picture;

/// Which numbers tell the boxes of a picture apart.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Some rank works on several blocks.
    units: bool,
    /// There are several micro-batches.
    micros: bool,
}

impl Labels {
    /// Looks at what varies.
    pub fn new(picture: &Picture) -> Self {
        let blocks = |plan: &crate::plan::RankPlan| {
            let mut found = None;
            plan.train
                .iter()
                .filter_map(|op| computed(&op.action))
                .any(|(unit, _)| matches!(unit, Unit::Block(_)) && *found.get_or_insert(unit) != unit)
        };
        Labels { units: picture.plans.iter().any(blocks), micros: picture.schedule.job.batch.micros > 1 }
    }

    /// What the numbers are, for the legend.
    pub fn words(self) -> &'static str {
        match (self.units, self.micros) {
            (true, true) => "block / micro-batch",
            (false, true) => "micro-batch",
            (_, false) => "block",
        }
    }

    /// The label of an op; empty for those that have none.
    pub fn of(self, picture: &Picture, action: &Action) -> String {
        if let Some((unit, work)) = computed(action) {
            return self.work(unit, work);
        }
        let payload = match action {
            Action::Exchange { sends, recvs, .. } => sends.iter().chain(recvs).next().map(|message| &message.payload),
            Action::Collective(Call { payload, .. }) => Some(payload),
            _ => None,
        };
        match payload {
            Some(Payload::Weights(shard, _) | Payload::Gradient(shard, _)) => shard_label(picture, *shard),
            Some(Payload::Activation(work, layer) | Payload::Dx(work, layer)) => self
                .work(if *layer < picture.schedule.job.shape.layers { Unit::Block(*layer) } else { Unit::Head }, *work),
            Some(Payload::Scalars) | None => String::new(),
        }
    }

    fn work(self, unit: Unit, work: Work) -> String {
        let name = match unit {
            Unit::Embed => "E".into(),
            Unit::Block(block) => block.to_string(),
            Unit::Head => "H".into(),
        };
        match (self.units, self.micros) {
            (true, true) => format!("{name}/{}", work.micro),
            (false, true) => work.micro.to_string(),
            (_, false) => name,
        }
    }
}

/// What a computation works on.
fn computed(action: &Action) -> Option<(Unit, Work)> {
    match action {
        Action::Forward { unit, work, .. }
        | Action::Recompute { unit, work, .. }
        | Action::Backward { unit, work, .. }
        | Action::BackwardInput { unit, work, .. }
        | Action::BackwardWeight { unit, work, .. } => Some((*unit, *work)),
        Action::HeadLoss { work, .. } => Some((Unit::Head, *work)),
        _ => None,
    }
}

/// The blocks of a shard; E for the embedding's, H for the head's.
fn shard_label(picture: &Picture, shard: ShardId) -> String {
    let shards = &picture.schedule.shards;
    let mut blocks = shards.blocks(shard).filter_map(|unit| match unit {
        Unit::Block(block) => Some(block),
        _ => None,
    });
    match (blocks.next(), blocks.last()) {
        (Some(first), Some(last)) => format!("{first}-{last}"),
        (Some(only), None) => only.to_string(),
        (None, _) => if shard == shards.place(Unit::Embed).shard { "E" } else { "H" }.into(),
    }
}
