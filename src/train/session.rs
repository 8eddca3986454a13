//! One rank's training: its plan, its memory, its engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{self, Header};
use crate::cluster::Rank;
use crate::data::Dataset;
use crate::deck::Deck;
use crate::device::{AdamW, Chosen, DeviceError, Memory, on_device};
use crate::engine::{Compute, EngineError, Executor, Measured, Phase, Source};
use crate::fabric::Control;
use crate::nn::Network;
use crate::plan::systems::Schedule;
use crate::plan::{Action, RankPlan, Segment, SlotId, applies, stats, step};

use super::executor::executor;
use super::messages::Messages;
use super::weights::{self, Incoming, Outgoing};

/// What one iteration gave, the same on every rank but for `measured`.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// Mean loss over the target tokens of the global batch, before the update.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Whether the weights were updated.
    pub applied: bool,
    /// Time and bytes on this rank.
    pub measured: Measured,
}

impl StepResult {
    /// Whether loss and gradient norm are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// What a step works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInput {
    /// Training sequences that lie behind; the step reads the next ones.
    pub first: u64,
    /// Number of its update among those that are applied, from 1.
    pub update: u64,
    /// Learning rate.
    pub lr: f64,
    /// Largest gradient norm whose update is applied; infinity for any finite one.
    pub bound: f64,
}

/// One rank's training.
pub struct Session {
    /// Decisions that concern all ranks.
    pub schedule: Schedule,
    /// This rank's plan.
    pub plan: RankPlan,
    executor: Box<dyn Executor>,
    dataset: Arc<Dataset>,
    /// Bound on the gradient norm; infinity for none.
    clip: f64,
    step: SlotId,
    stats: SlotId,
}

impl Session {
    /// Collective. Makes a rank's plan ready to run on `memory`, which is of the device and holds the plan's slots. The masters are zero
    /// until [`Session::memory`] is filled and [`Session::prepare`] called.
    pub fn new(
        deck: &Deck,
        schedule: Schedule,
        plan: RankPlan,
        device: &Chosen,
        mut memory: Memory,
        dataset: Arc<Dataset>,
        messages: Messages,
    ) -> anyhow::Result<Self> {
        let job = &schedule.job;
        let [beta1, beta2] = deck.optim.betas;
        let adamw = AdamW { beta1, beta2, eps: deck.optim.eps, weight_decay: deck.optim.weight_decay };
        let compute = on_device!(device, device => {
            let network = Network::new(&job.shape, &schedule.shards, job.batch, job.dtype, job.recompute, adamw, device)?;
            Arc::new(network) as Arc<dyn Compute>
        });
        let loads =
            |phase: Phase| phase.ops(&plan).iter().filter(|op| matches!(op.action, Action::Load { .. })).count();
        let most = Phase::ALL.map(loads).into_iter().max().unwrap_or(0);
        memory.expect_feeds(most, 2 * job.batch.micro_tokens())?;
        let executor = executor(deck, &schedule, &plan, device, memory, compute, messages)?;
        let scalars = |name: &str| {
            let found = plan.slots.iter().position(|slot| slot.segment == Segment::Scalars && slot.name == name);
            found.expect("every plan has its slots of scalars")
        };
        let (step, stats) = (scalars("step"), scalars("stats"));
        let clip = if deck.optim.clip > 0.0 { deck.optim.clip } else { f64::INFINITY };
        Ok(Session { schedule, executor, dataset, clip, step, stats, plan })
    }

    /// This rank's number.
    pub fn rank(&self) -> Rank {
        self.plan.rank
    }

    /// What it trains on.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// This rank's memory.
    pub fn memory(&self) -> &Memory {
        self.executor.memory()
    }

    /// Fills the masters with initial weights.
    pub fn initialise(&self, seed: u64) -> Result<(), DeviceError> {
        weights::initialise(&self.schedule, &self.plan, self.memory(), seed)
    }

    /// Fills the masters from a model on disk.
    pub fn read(&self, source: &dyn checkpoint::Source) -> anyhow::Result<()> {
        let mut incoming = Incoming::new(&self.plan, false);
        for piece in incoming.pieces(&self.schedule, &self.plan) {
            source.read(piece.name, piece.start, piece.weights)?;
        }
        Ok(incoming.store(&self.plan, self.memory())?)
    }

    /// Collective. Continues from the newest good checkpoint in a folder, of those `before` a step if that is given. Fills
    /// nothing if there is none.
    pub fn resume(
        &self,
        folder: &Path,
        before: Option<u64>,
        control: &dyn Control,
    ) -> anyhow::Result<(PathBuf, Header)> {
        let mut incoming = Incoming::new(&self.plan, true);
        let mut pieces = incoming.pieces(&self.schedule, &self.plan);
        let found = checkpoint::resume(folder, before, &self.schedule.job.shape, &mut pieces, control)?;
        incoming.store(&self.plan, self.memory())?;
        Ok(found)
    }

    /// Collective. Writes a checkpoint into a folder.
    pub fn save(&self, folder: &Path, header: &Header, control: &dyn Control) -> anyhow::Result<PathBuf> {
        let outgoing = Outgoing::new(&self.plan, self.memory())?;
        Ok(checkpoint::save(folder, header, &outgoing.pieces(&self.schedule), control)?)
    }

    /// Fills what is derived from the masters. Call it once they are loaded.
    pub fn prepare(&mut self) -> Result<(), EngineError> {
        self.pass(Phase::Prepare, Feed::Nothing).map(|_| ())
    }

    /// Trains on one batch.
    pub fn step(&mut self, input: &StepInput) -> Result<StepResult, EngineError> {
        let mut scalars = [0.0; step::LEN];
        scalars[step::LR] = input.lr;
        scalars[step::NUMBER] = input.update as f64;
        scalars[step::CLIP] = self.clip;
        scalars[step::BOUND] = (input.bound * input.bound).min(f64::MAX);
        self.upload(self.step, &scalars)?;
        let (found, measured) = self.pass(Phase::Train, Feed::Step(input.first))?;
        let (loss, squares) = (found[stats::LOSS], found[stats::SQUARES]);
        let applied = applies(scalars[step::BOUND], loss, squares);
        Ok(StepResult { loss, grad_norm: squares.sqrt(), applied, measured })
    }

    /// How many tensors' gradients this rank keeps (of copies only the primary one), and of which of them some element is
    /// not finite, each with its shard. Reads all of them: for after a step that has gone wrong.
    pub fn nonfinite_gradients(&self) -> Result<(usize, Vec<(usize, String)>), DeviceError> {
        weights::nonfinite_gradients(&self.schedule, &self.plan, self.memory())
    }

    /// Mean loss over all validation tokens; `None` if `stop`, which is asked after every batch, ends the validation before its
    /// last one. All ranks must answer alike.
    pub fn validate(&mut self, mut stop: impl FnMut() -> bool) -> Result<Option<f64>, EngineError> {
        let mut sum = 0.0;
        let batches = self.dataset.valid_batches();
        for batch in 0..batches {
            sum += self.pass(Phase::Evaluate, Feed::Validation(batch))?.0[stats::LOSS];
            if stop() && batch + 1 < batches {
                return Ok(None);
            }
        }
        // Each pass divides by a full batch's tokens; the last batch may hold fewer.
        Ok(Some(sum * self.schedule.job.batch.tokens() as f64 / self.dataset.valid_tokens() as f64))
    }

    /// Collective, after the last pass: takes leave of the other ranks.
    pub fn finish(&mut self) -> Result<(), EngineError> {
        self.executor.finish()
    }

    fn pass(&mut self, phase: Phase, feed: Feed) -> Result<([f64; stats::LEN], Measured), EngineError> {
        self.upload(self.stats, &[0.0; stats::LEN])?;
        let source = Loader { dataset: &self.dataset, feed };
        let measured = self.executor.run(phase, &source)?;
        let mut found = [0.0; stats::LEN];
        let memory = self.memory();
        memory.download(memory.slot(self.stats), &mut found).map_err(|source| self.broken(source))?;
        Ok((found, measured))
    }

    fn upload(&self, slot: SlotId, values: &[f64]) -> Result<(), EngineError> {
        let memory = self.memory();
        memory.upload(memory.slot(slot), values).map_err(|source| self.broken(source))
    }

    fn broken(&self, source: DeviceError) -> EngineError {
        EngineError::Device { rank: self.rank(), source }
    }
}

/// Which data a pass sees.
#[derive(Clone, Copy, Debug)]
enum Feed {
    Nothing,
    /// The training step with so many sequences behind it.
    Step(u64),
    /// Batch of a validation, from 0.
    Validation(usize),
}

/// The data of one pass.
struct Loader<'a> {
    dataset: &'a Dataset,
    feed: Feed,
}

impl Source for Loader<'_> {
    fn load(&self, micro: usize, tokens: &mut [i32]) {
        let (inputs, targets) = tokens.split_at_mut(tokens.len() / 2);
        match self.feed {
            Feed::Nothing => panic!("nothing is loaded while preparing"),
            Feed::Step(first) => self.dataset.micro(first, micro, inputs, targets),
            Feed::Validation(batch) => {
                self.dataset.valid_micro(batch, micro, inputs, targets);
            }
        }
    }
}
