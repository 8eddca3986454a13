//! What every op costs on a described machine, or in the textbook's units.

use crate::cluster::{Costs, Description, Links, Overhead, UnitCost};
use crate::model::{Recompute, Unit};
use crate::plan::{Action, Job, RankPlan, Region};

/// What ops and messages cost.
#[derive(Clone, Debug)]
pub struct Prices {
    /// Seconds of each unit on a micro-batch.
    pub(super) costs: Costs,
    /// Seconds that a block's whole backward is spared where everything is kept. (One in halves copies instead.)
    pub(super) spared: f64,
    /// Bytes a second of ops that only pass over memory.
    pub(super) memory_rate: f64,
    pub(super) overhead: Overhead,
    /// Without a network: seconds of a message that carries weights.
    pub(super) weight_hop: f64,
    /// The machine's links; `None`: everything arrives at once.
    pub(super) network: Option<Network>,
    /// Cores of every node, where ranks share them.
    pub(super) cores: Vec<Option<f64>>,
    peak: Option<f64>,
}

/// Who is where, and what is between them.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub links: Links,
    /// Node and index there, of every rank.
    pub places: Vec<(usize, usize)>,
}

/// A job for more ranks than the machine has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job has {job} ranks, cluster \"{machine}\" has {ranks}")]
pub struct TooFewRanks {
    /// The machine's name.
    pub machine: String,
    /// The machine's ranks.
    pub ranks: usize,
    /// The job's ranks.
    pub job: usize,
}

impl Prices {
    /// On a machine; rank r of the job is the machine's rank r.
    ///
    /// # Errors
    /// If the machine has too few ranks.
    pub fn of(machine: &Description, job: &Job) -> Result<Prices, TooFewRanks> {
        let (ranks, job_ranks) = (machine.ranks(), job.groups.ranks());
        if ranks < job_ranks {
            return Err(TooFewRanks { machine: machine.name.clone(), ranks, job: job_ranks });
        }
        let device = machine.device();
        Ok(Prices {
            costs: costs(machine, job),
            spared: spared(machine, job),
            memory_rate: device.memory_rate,
            overhead: machine.overhead,
            weight_hop: 0.0,
            network: Some(Network { links: machine.links.clone(), places: machine.places() }),
            cores: machine.cores(),
            peak: device.peak,
        })
    }

    /// The mode in which papers draw schedules: a block's forward is 1, each half of its backward 1 (recomputation,
    /// which they leave out, 0), embedding, head, memory and communication are free, but a weight that hops in one slot
    /// can be used in the next: that is what makes groups start one after the other (`stagger = "slots"`).
    pub fn unit() -> Prices {
        Prices {
            costs: Costs::unit(),
            spared: 0.0,
            memory_rate: f64::INFINITY,
            overhead: Overhead::default(),
            weight_hop: 1.0,
            network: None,
            cores: Vec::new(),
            peak: None,
        }
    }

    /// Operations a second that MFU is measured by.
    pub fn peak(&self) -> Option<f64> {
        self.peak
    }

    fn unit_cost(&self, unit: Unit) -> UnitCost {
        match unit {
            Unit::Embed => self.costs.embed,
            Unit::Block(_) => self.costs.block,
            Unit::Head => self.costs.head,
        }
    }

    /// Seconds of an op of one rank alone, on a processor of its own.
    pub(super) fn seconds(&self, plan: &RankPlan, action: &Action) -> f64 {
        let bytes = |region: &Region| (region.len * plan.slots[region.slot].dtype.bytes()) as f64;
        let passes = |bytes: f64| bytes / self.memory_rate;
        let seconds = match action {
            Action::Load { .. } => 0.0,
            Action::Forward { unit: Unit::Embed, output, .. } => passes(2.0 * bytes(output)),
            Action::Forward { unit, .. } => self.unit_cost(*unit).forward,
            // In unit prices recomputation is left out, as in the textbook.
            Action::Recompute { unit, .. } if self.network.is_some() => self.unit_cost(*unit).forward,
            Action::Recompute { .. } => 0.0,
            Action::HeadLoss { gradient, .. } => {
                let cost = self.costs.head;
                if gradient.is_some() { cost.total() } else { cost.forward }
            }
            Action::Backward { unit: Unit::Embed, dx, gradient, accumulate, .. } => {
                let table = if *accumulate { 0.0 } else { bytes(gradient) };
                passes(table + 3.0 * bytes(dx))
            }
            Action::Backward { unit, .. } => {
                let cost = self.unit_cost(*unit);
                (cost.backward_input + cost.backward_weight - self.spared).max(0.0)
            }
            Action::BackwardInput { unit, .. } => self.unit_cost(*unit).backward_input,
            Action::BackwardWeight { unit, .. } => self.unit_cost(*unit).backward_weight,
            Action::Clear { dst } => passes(bytes(dst)),
            Action::Cast { src, dst } => passes(bytes(src) + bytes(dst)),
            Action::Accumulate { src, dst } => passes(bytes(src) + 2.0 * bytes(dst)),
            Action::NormPartial { gradient, .. } => passes(bytes(gradient)),
            Action::Update { gradient, master, home, .. } => {
                // Master and two moments are read and written.
                passes(bytes(gradient) + 6.0 * bytes(master) + home.as_ref().map_or(0.0, bytes))
            }
            Action::Exchange { .. } | Action::Collective(_) => 0.0,
        };
        seconds + self.overhead.op
    }
}

/// What a block's backward makes again, in seconds, if the job keeps it: two normalised tensors, each read and written,
/// and SwiGLU's result. Rates are measured with [`Recompute::Selective`].
fn spared(machine: &Description, job: &Job) -> f64 {
    if job.recompute != Recompute::None {
        return 0.0;
    }
    let elements = job.batch.micro_tokens() * (4 * job.shape.dim + job.shape.ffn);
    (elements * job.dtype.bytes()) as f64 / machine.device().memory_rate
}

/// What the parts of a job's model cost on a machine, in seconds: what pipelines spread blocks and order work by.
pub fn costs(machine: &Description, job: &Job) -> Costs {
    let (shape, batch) = (&job.shape, &job.batch);
    let rates = machine.device().at(shape.dim, job.dtype);
    let tokens = batch.micro_tokens() as f64;
    // Operations of a block's products and of its attention, and of the head's product.
    let head = 2.0 * (shape.vocab * shape.dim) as f64 * tokens;
    let products = 2.0 * ((shape.matmul_params() - shape.vocab * shape.dim) / shape.layers) as f64 * tokens;
    let attention = 2.0 * (shape.q_dim() * batch.seq) as f64 * tokens;
    let wide = tokens * (shape.dim * job.dtype.bytes()) as f64;
    let passes = |bytes: f64| bytes / machine.device().memory_rate;
    let each_head = head / rates.head;
    Costs {
        embed: UnitCost { forward: passes(2.0 * wide), backward_input: 0.0, backward_weight: passes(3.0 * wide) },
        block: UnitCost {
            forward: products / rates.forward + attention / rates.attention,
            backward_input: products / rates.backward + 2.5 * attention / rates.attention_backward,
            backward_weight: products / rates.backward,
        },
        head: UnitCost { forward: each_head, backward_input: each_head, backward_weight: each_head },
        hop: machine.links.inter.latency + wide / machine.links.inter.rate,
    }
}
