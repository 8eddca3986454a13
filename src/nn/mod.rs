//! Forward and backward of every unit, composed of device operations: what the compute actions of a plan mean.
//!
//! Backward is written by hand; there is no automatic differentiation. `T` is the compute type, f32 or bf16; gradients
//! of parameters are always f32.

mod block;
mod head;
mod rope;
mod weights;

use crate::device::{AdamW, AdamWStep, Device, DeviceError, Memory, View};
use crate::model::{Dtype, ModelShape, Recompute, Shards, Unit, footprint};
use crate::plan::{Action, Batch, Region};

use self::block::Block;
use self::head::Head;
pub use self::head::HeadOut;
use self::weights::{BlockTable, HeadTable, elements};

/// The rows a unit works on: `micro` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Sequences.
    pub micro: usize,
    /// Tokens of each, at most the network's.
    pub seq: usize,
}

impl Span {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.micro * self.seq
    }
}

/// A model's mathematics on a device. It holds no weights: every call says where they are.
#[derive(Debug)]
pub struct Network<D> {
    device: D,
    shape: ModelShape,
    shards: Shards,
    batch: Batch,
    dtype: Dtype,
    recompute: Recompute,
    adamw: AdamW,
    block: BlockTable,
    head: HeadTable,
    /// Cosines and sines, `[seq, head_dim]` (f32).
    rope: Memory,
}

impl<D: Device> Network<D> {
    /// A network that computes in `dtype` (f32 or bf16) on sequences of at most `batch.seq` tokens. `recompute` says what
    /// lies in `saved` regions.
    ///
    /// # Errors
    /// If the device has no memory for the table of rotary angles.
    pub fn new(
        shape: &ModelShape,
        shards: &Shards,
        batch: Batch,
        dtype: Dtype,
        recompute: Recompute,
        adamw: AdamW,
        device: D,
    ) -> Result<Self, DeviceError> {
        Ok(Network {
            rope: rope::table(&device, shape, batch.seq)?,
            device,
            shape: shape.clone(),
            shards: shards.clone(),
            batch,
            dtype,
            recompute,
            adamw,
            block: BlockTable::new(shape),
            head: HeadTable::new(shape),
        })
    }

    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Type of weights and activations in computation.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Runs one compute action of a plan on a rank's memory. Actions on disjoint regions may run at the same time, from
    /// several threads.
    ///
    /// # Panics
    /// On `Load` and on communication, which are not the network's; and if a region has not the size its action needs.
    pub fn run(&self, action: &Action, memory: &Memory) {
        let view = |region: &Region| memory.view(*region);
        let views = |region: &Option<Region>| region.map(|region| memory.view(region));
        match action {
            Action::Forward { unit, weights, input, output, saved, workspace, .. } => self.forward(
                *unit,
                self.span(),
                view(weights),
                view(input),
                view(output),
                views(saved),
                views(workspace),
            ),
            Action::Recompute { unit, weights, input, saved, workspace, .. } => {
                self.recompute(*unit, self.span(), view(weights), view(input), view(saved), views(workspace));
            }
            Action::HeadLoss { weights, input, targets, gradient, loss, workspace, .. } => {
                let out = gradient.as_ref().map(|g| HeadOut {
                    dx: view(&g.dx),
                    gradient: view(&g.weights),
                    accumulate: g.accumulate,
                });
                let loss = view(loss);
                let scale = 1.0 / self.batch.tokens() as f64;
                self.head_loss(view(weights), view(input), view(targets), scale, out, loss, views(workspace));
            }
            Action::Backward { unit, weights, input, saved, dx, gradient, accumulate, workspace, .. } => self.backward(
                *unit,
                self.span(),
                views(weights),
                view(input),
                views(saved),
                view(dx),
                view(gradient),
                *accumulate,
                views(workspace),
            ),
            Action::BackwardInput { weights, input, saved, dx, pending, workspace, .. } => {
                let regions = [weights, input, saved, dx, pending].map(view);
                self.backward_input(self.span(), regions, views(workspace));
            }
            Action::BackwardWeight { pending, gradient, accumulate, .. } => {
                self.backward_weight(self.span(), view(pending), view(gradient), *accumulate);
            }
            Action::Clear { dst } => self.device.clear(view(dst)),
            Action::Cast { src, dst } => self.device.cast(view(src), view(dst)),
            Action::Accumulate { src, dst } => self.device.accumulate(view(src), view(dst)),
            Action::NormPartial { gradient, stats } => self.device.add_squares(view(gradient), view(stats)),
            Action::Update { shard, range, gradient, step, stats, master, moment1, moment2, home } => {
                let whole = AdamWStep {
                    rule: self.adamw,
                    decay: false,
                    step: view(step),
                    stats: view(stats),
                    gradient: view(gradient),
                    master: view(master),
                    moment1: view(moment1),
                    moment2: view(moment2),
                    home: views(home),
                };
                for param in &self.shards.shards[*shard].params {
                    let own = elements(param);
                    let (start, end) = (own.start.max(range.start), own.end.min(range.end));
                    if start < end {
                        let part = start - range.start..end - range.start;
                        self.device.adamw(&whole.part(part, param.decay));
                    }
                }
            }
            Action::Load { .. } | Action::Exchange { .. } | Action::Collective(_) => {
                panic!("no action of the network: {action:?}")
            }
        }
    }

    /// A unit's forward: tokens (embedding) or `[tokens, dim]` in, `[tokens, dim]` out. `saved` keeps what backward
    /// reads. A block needs a workspace; sizes are [`footprint`]'s for this span or a longer one.
    #[allow(clippy::too_many_arguments, reason = "the regions of an action")]
    pub fn forward(
        &self,
        unit: Unit,
        span: Span,
        weights: View,
        input: View,
        output: View,
        saved: Option<View>,
        workspace: Option<View>,
    ) {
        match unit {
            Unit::Embed => self.device.embed(weights, input, output, self.shape.dim),
            Unit::Block(_) => self.block(span).forward(weights, input, output, saved, needed(workspace)),
            Unit::Head => panic!("the head has no forward of its own"),
        }
    }

    /// A block's forward again, for what it saves.
    pub fn recompute(&self, unit: Unit, span: Span, weights: View, input: View, saved: View, workspace: Option<View>) {
        assert!(matches!(unit, Unit::Block(_)), "{unit} saves nothing");
        self.block(span).recompute(weights, input, saved, needed(workspace));
    }

    /// Final norm, projection and cross-entropy of `[tokens, dim]` hidden states: adds `scale * Σ nll` over the targets
    /// (i32) that are not negative to `loss` (one f64); with `out` also its gradients.
    #[allow(clippy::too_many_arguments, reason = "the regions of an action")]
    pub fn head_loss(
        &self,
        weights: View,
        input: View,
        targets: View,
        scale: f64,
        out: Option<HeadOut>,
        loss: View,
        workspace: Option<View>,
    ) {
        self.head().loss(weights, input, targets, scale, out, loss, needed(workspace));
    }

    /// A unit's backward; see [`Action::Backward`].
    #[allow(clippy::too_many_arguments, reason = "the regions of an action")]
    pub fn backward(
        &self,
        unit: Unit,
        span: Span,
        weights: Option<View>,
        input: View,
        saved: Option<View>,
        dx: View,
        gradient: View,
        accumulate: bool,
        workspace: Option<View>,
    ) {
        match unit {
            Unit::Embed => {
                if !accumulate {
                    self.device.clear(gradient);
                }
                let table = gradient.sub(0..self.shape.vocab * self.shape.dim);
                self.device.embed_backward(dx, input, table, self.shape.dim);
            }
            Unit::Block(_) => {
                let weights = weights.expect("a block's backward reads its weights");
                let saved = saved.expect("a block's backward reads what forward saved");
                let block = self.block(span);
                block.backward(weights, input, saved, dx, gradient, accumulate, needed(workspace));
            }
            Unit::Head => panic!("the head's backward is part of its loss"),
        }
    }

    /// A block's backward as far as its input's gradient; see [`Action::BackwardInput`]. Regions: weights, input, saved,
    /// dx, pending.
    pub fn backward_input(&self, span: Span, regions: [View; 5], workspace: Option<View>) {
        let [weights, input, saved, dx, pending] = regions;
        self.block(span).backward_input(weights, input, saved, dx, pending, needed(workspace));
    }

    /// The rest of a block's backward; see [`Action::BackwardWeight`].
    pub fn backward_weight(&self, span: Span, pending: View, gradient: View, accumulate: bool) {
        self.block(span).backward_weight(pending, gradient, accumulate);
    }

    /// Final norm and projection of hidden states `[rows, dim]` (T): writes logits `[rows, vocab]` (f32). The workspace
    /// is the head's of [`footprint`] for as many tokens or more.
    pub fn logits(&self, weights: View, hidden: View, out: View, workspace: View) {
        self.head().logits(weights, hidden, out, workspace);
    }

    /// Bytes of workspace that serves every unit on this span.
    pub fn workspace(&self, span: Span) -> usize {
        let of = |unit| footprint(&self.shape, unit, self.dtype, self.recompute, span.micro, span.seq).workspace;
        of(Unit::Block(0)).max(of(Unit::Head))
    }

    fn span(&self) -> Span {
        Span { micro: self.batch.micro, seq: self.batch.seq }
    }

    fn block(&self, span: Span) -> Block<'_, D> {
        assert!(span.seq <= self.batch.seq, "the network was made for {} tokens", self.batch.seq);
        Block {
            device: &self.device,
            shape: &self.shape,
            table: &self.block,
            rope: self.rope.slot(0),
            dtype: self.dtype,
            recompute: self.recompute,
            span,
        }
    }

    fn head(&self) -> Head<'_, D> {
        Head { device: &self.device, shape: &self.shape, table: &self.head, dtype: self.dtype }
    }
}

fn needed(workspace: Option<View>) -> View {
    workspace.expect("blocks and the head need a workspace")
}
