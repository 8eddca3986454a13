//! A whole model in one process, for looking at it.

use crate::checkpoint::Source;
use crate::device::{AdamW, Device, DeviceError, Memory, View};
use crate::model::{Dtype, Recompute, Shards, Unit, footprint};
use crate::nn::{Network, Span};
use crate::plan::{Batch, Segment, Slot};

/// Weights of every unit, in f32.
pub struct Model {
    shards: Shards,
    weights: Memory,
}

impl Model {
    /// Reads all tensors.
    pub fn read(source: &dyn Source, device: &impl Device) -> anyhow::Result<Self> {
        let shards = Shards::new(source.shape(), 1);
        let slots: Vec<Slot> =
            shards.shards.iter().enumerate().map(|(i, s)| slot(&format!("shard {i}"), s.len, Dtype::F32)).collect();
        let weights = device.memory(&slots)?;
        for (shard, index) in shards.shards.iter().zip(0..) {
            let mut values = vec![0.0; shard.len];
            for param in &shard.params {
                source.read(&param.name, 0, &mut values[param.offset..param.offset + param.len()])?;
            }
            weights.upload(weights.slot(index), &values)?;
        }
        Ok(Model { shards, weights })
    }

    fn weights(&self, unit: Unit) -> View {
        let place = self.shards.place(unit);
        self.weights.slot(place.shard).sub(place.range.clone())
    }
}

fn slot(name: &str, elems: usize, dtype: Dtype) -> Slot {
    Slot { name: name.into(), elems, dtype, segment: Segment::Activation, holds: None }
}

/// A model at work on one sequence of at most [`Window::seq`] tokens.
pub struct Window<D> {
    model: Model,
    network: Network<D>,
    seq: usize,
    layers: usize,
    dim: usize,
    vocab: usize,
    /// Tokens, hidden states (twice), logits, workspace.
    memory: Memory,
    logits: Vec<f32>,
}

const TOKENS: usize = 0;
const HIDDEN: [usize; 2] = [1, 2];
const LOGITS: usize = 3;
const WORK: usize = 4;

impl<D: Device> Window<D> {
    /// A window of `seq` tokens.
    pub fn new(source: &dyn Source, seq: usize, device: D) -> anyhow::Result<Self> {
        let shape = source.shape().clone();
        let model = Model::read(source, &device)?;
        let batch = Batch { seq, micro: 1, micros: 1 };
        // No backward and no step of AdamW will run.
        let recompute = Recompute::default();
        let adamw = AdamW { beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0 };
        let network = Network::new(&shape, &model.shards, batch, Dtype::F32, recompute, adamw, device)?;
        let work =
            [Unit::Block(0), Unit::Head].map(|unit| footprint(&shape, unit, Dtype::F32, recompute, 1, seq).workspace);
        let memory = network.device().memory(&[
            slot("tokens", seq, Dtype::I32),
            slot("hidden", seq * shape.dim, Dtype::F32),
            slot("hidden too", seq * shape.dim, Dtype::F32),
            slot("logits", shape.vocab, Dtype::F32),
            slot("workspace", work[0].max(work[1]), Dtype::Byte),
        ])?;
        let logits = vec![0.0; shape.vocab];
        Ok(Window { model, network, seq, layers: shape.layers, dim: shape.dim, vocab: shape.vocab, memory, logits })
    }

    /// Longest context.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Number of tokens the model knows.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Logits of the token that follows `context`, `[vocab]`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the context is empty, longer than the window, or holds an unknown token.
    pub fn logits(&mut self, context: &[u32]) -> Result<&[f32], DeviceError> {
        let len = context.len();
        assert!((1..=self.seq).contains(&len), "a context of {len} tokens in a window of {}", self.seq);
        let ids: Vec<i32> = context.iter().map(|id| i32::try_from(*id).expect("a token id")).collect();
        let tokens = self.memory.slot(TOKENS).sub(0..len);
        self.memory.upload(tokens, &ids)?;
        let span = Span { micro: 1, seq: len };
        let hidden = HIDDEN.map(|slot| self.memory.slot(slot).sub(0..len * self.dim));
        let work = self.memory.slot(WORK);
        self.network.forward(Unit::Embed, span, self.model.weights(Unit::Embed), tokens, hidden[0], None, None);
        for block in 0..self.layers {
            let unit = Unit::Block(block);
            let (input, output) = (hidden[block % 2], hidden[(block + 1) % 2]);
            self.network.forward(unit, span, self.model.weights(unit), input, output, None, Some(work));
        }
        let last = hidden[self.layers % 2].sub((len - 1) * self.dim..len * self.dim);
        let out = self.memory.slot(LOGITS);
        self.network.logits(self.model.weights(Unit::Head), last, out, work);
        self.network.device().finish()?;
        self.memory.download(out, &mut self.logits)?;
        Ok(&self.logits)
    }
}
