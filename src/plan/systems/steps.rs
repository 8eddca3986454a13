//! The steps of a micro-batch through the model, shard by shard: forward, and in training backward.

use crate::model::{ShardId, Shards, Unit};
use crate::plan::build::List;
use crate::plan::{Region, Work};

use super::local::Local;

/// What is computed at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Token embedding.
    Embed,
    /// The shard's blocks, upwards.
    Forward,
    /// Head and loss, in training also their backward.
    Head,
    /// The shard's blocks, downwards.
    Backward,
    /// Gradient of the token embedding; needs no weights.
    EmbedBackward,
}

impl Pass {
    /// Whether it reads weights.
    pub fn needs_weights(self) -> bool {
        self != Pass::EmbedBackward
    }
}

/// A computation with the parameters of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub pass: Pass,
    /// Whose parameters.
    pub shard: ShardId,
}

/// The steps of one micro-batch.
pub fn steps(shards: &Shards, training: bool) -> Vec<Step> {
    let [embed, head] = [Unit::Embed, Unit::Head].map(|unit| shards.place(unit).shard);
    let mut blocks: Vec<ShardId> =
        shards.units.iter().filter(|(unit, _)| matches!(unit, Unit::Block(_))).map(|(_, place)| place.shard).collect();
    blocks.dedup();

    let step = |pass| move |shard| Step { pass, shard };
    let mut steps = vec![step(Pass::Embed)(embed)];
    steps.extend(blocks.iter().copied().map(step(Pass::Forward)));
    steps.push(step(Pass::Head)(head));
    if training {
        steps.extend(blocks.iter().rev().copied().map(step(Pass::Backward)));
        steps.push(step(Pass::EmbedBackward)(embed));
    }
    steps
}

impl Local {
    /// The computation of a step on one micro-batch. `weights` says where a unit's parameters are; in training
    /// `gradient` says where their gradient goes, and whether it is added to what is there.
    pub fn step(
        &self,
        list: &mut List,
        shards: &Shards,
        Step { pass, shard }: Step,
        work: Work,
        weights: impl Fn(Unit) -> Region,
        gradient: Option<impl Fn(Unit) -> (Region, bool)>,
    ) {
        let training = gradient.is_some();
        let into = |unit| gradient.as_ref().map(|gradient| gradient(unit));
        let blocks: Vec<Unit> = shards.blocks(shard).collect();
        match pass {
            Pass::Embed => {
                self.load(list, work);
                self.forward(list, Unit::Embed, work, weights(Unit::Embed), training);
            }
            Pass::Forward => {
                blocks.into_iter().for_each(|unit| self.forward(list, unit, work, weights(unit), training));
            }
            Pass::Head => self.head(list, work, weights(Unit::Head), into(Unit::Head)),
            Pass::Backward => {
                for unit in blocks.into_iter().rev() {
                    let (region, accumulate) = into(unit).expect("backward is training");
                    self.backward(list, unit, work, Some(weights(unit)), region, accumulate);
                }
            }
            Pass::EmbedBackward => {
                let (region, accumulate) = into(Unit::Embed).expect("backward is training");
                self.backward(list, Unit::Embed, work, None, region, accumulate);
            }
        }
    }
}
