//! The sections of a deck, each key with its documentation: `docs/deck.md` is written from this file.

use std::path::PathBuf;

use crate::data::{Order, TokenType, TokenizerChoice, Valid};
use crate::model::{
    Dtype, MOST_DIM, MOST_FFN, MOST_HEAD_DIM, MOST_HEADS, MOST_LAYERS, MOST_VOCAB, ModelShape, Recompute,
};
use crate::plan::{MOST_GLOBAL, MOST_SEQ};

use super::guard::{OnNonfinite, Spike};
use super::section::section;
use super::value::{CostSource, DeviceKind, FabricKind, Memory, Poll, RanksPerGroup, Schedule, Seconds};

/// Most steps.
const MOST_STEPS: u64 = 1_000_000_000_000;
/// Most threads of a rank: what the largest machines have.
const MOST_THREADS: u64 = 1024;

section! {
    /// The model: either `from` an existing one, or a shape that starts from random weights.
    "model": ModelSection {
        /// A Hugging Face folder (`config.json` and safetensors) or a checkpoint `.h5`; replaces all other keys.
        from: Option<PathBuf> = None,
        /// Hidden size. Required without `from`.
        dim: Option<usize> = None => 1..=MOST_DIM as u64,
        /// Number of decoder blocks. Required without `from`.
        layers: Option<usize> = None => 1..=MOST_LAYERS as u64,
        /// Query heads. Required without `from`.
        heads: Option<usize> = None => 1..=MOST_HEADS as u64,
        /// Key/value heads; `heads` must be a multiple. Left out: as many as `heads`.
        kv_heads: Option<usize> = None => 1..=MOST_HEADS as u64,
        /// Size of one head, even. Left out: `dim / heads`.
        head_dim: Option<usize> = None => 2..=MOST_HEAD_DIM as u64,
        /// Inner size of SwiGLU. Left out: 8/3 of `dim`, rounded up to a multiple of 16.
        ffn: Option<usize> = None => 1..=MOST_FFN as u64,
        /// Vocabulary size. Left out: the tokenizer's.
        vocab: Option<usize> = None => 1..=MOST_VOCAB as u64,
        /// The output projection is the embedding table. Left out: false.
        tied: Option<bool> = None,
        /// Base of the rotary frequencies. Left out: 10000.
        rope_theta: Option<f64> = None,
        /// Epsilon inside RMSNorm's root. Left out: 1e-5.
        norm_eps: Option<f64> = None,
    }
}

section! {
    /// What the model reads.
    "data": DataSection {
        /// A text file. Either this or `tokens` is required.
        text: Option<PathBuf> = None,
        /// A file of raw little-endian token ids.
        tokens: Option<PathBuf> = None,
        /// Type of the ids in `tokens` and in the file `valid`, little-endian.
        token_type: TokenType = TokenType::U16,
        /// How text becomes token ids. The ids of a tokenizer.json are cached under `$TAWPIPE_CACHE`
        /// (default `~/.cache/tawpipe`).
        tokenizer: TokenizerChoice = TokenizerChoice::Bytes,
        /// Tokens of a sequence.
        seq: usize = 256 => 1..=MOST_SEQ as u64,
        /// Order of the sequences: as in the file and around again, or every epoch a new permutation.
        order: Order = Order::Random,
        /// What validates: the last fraction of the data (which then is not trained on), or a file. 0: nothing.
        valid: Valid = Valid::Fraction(0.0),
    }
}

section! {
    /// Sequences of one step, over all ranks.
    "batch": BatchSection {
        /// Sequences a step; a multiple of `micro`.
        global: usize = 8 => 1..=MOST_GLOBAL as u64,
        /// Sequences of a micro-batch, what one rank computes at a time.
        micro: usize = 1 => 1..=MOST_GLOBAL as u64,
    }
}

section! {
    /// AdamW and its learning rate.
    "optim": OptimSection {
        /// Highest learning rate.
        lr: f64 = 1e-3,
        /// Decay of the averages of gradient and squared gradient.
        betas: [f64; 2] = [0.9, 0.95],
        /// Added to the root of the squared gradient.
        eps: f64 = 1e-8,
        /// Decoupled weight decay of tensors of two or more dimensions.
        weight_decay: f64 = 0.1,
        /// Largest global gradient norm; 0: no clipping.
        clip: f64 = 1.0,
        /// What follows the warm-up; `wsd` holds for four fifths of the run, then falls linearly.
        schedule: Schedule = Schedule::Cosine,
        /// Steps of linear warm-up.
        warmup: u64 = 0 => 0..=MOST_STEPS,
        /// Learning rate at the end of the schedule.
        min_lr: f64 = 0.0,
    }
}

section! {
    /// How the run goes.
    "run": RunSection {
        /// Training steps.
        steps: u64 = 100 => 1..=MOST_STEPS,
        /// Seed of the initial weights and of the data order.
        seed: u64 = 0,
        /// Type of weights and activations in computation; master weights are always f32.
        dtype: Dtype = Dtype::F32,
        /// Type of gradients on the wire.
        grad_dtype: Dtype = Dtype::F32,
        /// What computes: `cuda` takes one NVIDIA GPU a rank, `auto` does so where every rank finds one of its own.
        device: DeviceKind = DeviceKind::Auto,
        /// What carries messages between GPUs: `nccl` from GPU to GPU, `mpi` through the hosts' memory, `auto` NCCL where it is
        /// installed and every rank has a GPU of its own. Processors always use MPI.
        fabric: FabricKind = FabricKind::Auto,
        /// Computing threads of a rank. Left out: 1 with several ranks, all cores with one.
        threads: Option<usize> = None => 1..=MOST_THREADS,
        /// What backward computes again instead of keeping it: `selective` what only passes over memory (normalised inputs, SwiGLU's result), `block` all but a block's input; `none` keeps most and computes least. Losses are the same.
        recompute: Recompute = Recompute::Selective,
        /// The same deck on the same cluster gives the same bits. `false` lets a GPU add up the gradients of attention's queries in any order, which takes fewer products (bf16, heads of 64 and 128); the CPU ignores it.
        deterministic: bool = true,
        /// Run folder. Left out: `runs/DECK-TIME` in the current directory.
        folder: Option<PathBuf> = None,
        /// `false`: the run writes no checkpoint at all, also where it is stopped. For measurements of speed: such a run cannot be continued, and its weights are lost.
        checkpoint: bool = true,
        /// Steps between checkpoints; 0: one at the end. The last step always writes one.
        checkpoint_every: u64 = 0 => 0..=MOST_STEPS,
        /// Checkpoints kept; older ones are removed, but never the newest one that a finite step has followed, nor the one that a run
        /// was continued from with another way to train.
        keep: usize = 2 => 1..=MOST_STEPS,
        /// Steps between validations; 0: one at the end. The last step always validates.
        validate_every: u64 = 0 => 0..=MOST_STEPS,
        /// Step (from 1) whose measured timeline is drawn as `trace.svg` in the run folder, and written as `trace.json` for ui.perfetto.dev.
        trace: Option<u64> = None => 1..=MOST_STEPS,
        /// Write the run's numbers also as an event file for TensorBoard: `tensorboard --logdir RUN`.
        tensorboard: bool = false,
        /// Stop with a checkpoint (exit code 4) after this time.
        wall_time: Option<Seconds> = None,
        /// What happens at a step whose loss or gradient norm is not finite; its update is never applied. `stop` ends the run
        /// with exit code 1, `skip` goes on, but stops after ten such steps in a row.
        on_nonfinite: OnNonfinite = OnNonfinite::Stop,
        /// Leave out updates whose gradient norm lies more than `z` standard deviations above the mean of the last `window`
        /// finite norms. Left out: none.
        spike: Option<Spike> = None,
        /// Without progress of a message for this time the job is ended.
        timeout: Seconds = Seconds(60.0),
        /// Name every op for NVIDIA's profilers (with NCCL or one rank); needs libnvtx3interop or libnvToolsExt.
        nvtx: bool = false,
        /// How the communication thread waits.
        poll: Poll = Poll::Nap,
    }
}

section! {
    /// NVIDIA GPUs, for `run.device` cuda or auto.
    "gpu": GpuSection {
        /// Several ranks may compute on one GPU. Meant for tests: they share its time and its memory.
        share: bool = false,
        /// Products of f32 matrices may round their operands to TF32 (10 bits of mantissa): several times faster.
        tf32: bool = false,
    }
}

section! {
    /// Which ranks share a fast link.
    "cluster": ClusterSection {
        /// Ranks of a group, instead of asking MPI which ranks share a node; lets one machine play several nodes.
        ranks_per_group: Option<RanksPerGroup> = None,
        /// What a rank may use; a plan that needs more is refused. On a GPU also for what it keeps beside the plan, some 64 MiB, but
        /// not for the driver's and NCCL's own memory. Left out: no limit.
        memory: Option<Memory> = None,
        /// What pipeline systems spread blocks by and order their work by: `flops` counts floating point operations,
        /// `measure` times them on rank 0 when a run begins (a resumed run takes what was measured then), a table gives
        /// times of `embed`, `block`, `head` (each `forward`, `backward_input`, `backward_weight`) and `hop`.
        costs: CostSource = CostSource::Flops,
    }
}

impl ModelSection {
    /// The shape, if the deck gives one; `None` with `from`. Complete after [`super::Deck::read`].
    pub fn shape(&self) -> Option<ModelShape> {
        Some(ModelShape {
            dim: self.dim?,
            layers: self.layers?,
            heads: self.heads?,
            kv_heads: self.kv_heads?,
            head_dim: self.head_dim?,
            ffn: self.ffn?,
            vocab: self.vocab?,
            tied: self.tied?,
            rope_theta: self.rope_theta?,
            norm_eps: self.norm_eps?,
            extra: Default::default(),
        })
    }
}
