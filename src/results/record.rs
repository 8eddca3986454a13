//! What became of a cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Segment;

use super::Cell;

/// Value of [`Record::format`]; another one is refused.
pub const FORMAT: &str = "tawpipe experiment 1";

/// One result file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// What was asked for.
    pub cell: Cell,
    /// What became of it.
    pub outcome: Outcome,
    /// What the plan counts; `None` for PyTorch and for what no plan can be made for.
    pub counted: Option<Counted>,
    /// What the simulator says about the same plan on the machine that measured it.
    pub prediction: Option<Prediction>,
    /// What a reader must know, such as losses that differ from those of other systems.
    pub remarks: Vec<String>,
    /// By what, where and when.
    pub provenance: Provenance,
}

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Outcome {
    /// It ran, once or more often.
    Measured(Measured),
    /// It cannot be run, or failed; kept, so that the table shows it and the reason.
    Failed {
        /// In a sentence: the plan's refusal, the time limit, an exit code.
        reason: String,
        /// The last lines of standard error.
        log: Vec<String>,
    },
    /// It was not meant to be run: [`Record::prediction`] is all there is.
    Predicted,
}

/// Every run of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// In the order in which they ran; between two of them all other cells of the experiment ran.
    pub rounds: Vec<Round>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// When it started, RFC 3339.
    pub date: String,
    /// The command, as typed on the head node.
    pub command: String,
    /// Seconds from start to end of the command.
    pub seconds: f64,
    /// Steps at the start of `steps` that only warm up.
    pub warmup: usize,
    /// All steps, the warm-up too.
    pub steps: Vec<Step>,
    /// What crossed each node's link, by its counters; empty where there are none.
    pub wire: Vec<Wire>,
    /// Bytes of the largest resident set of any rank.
    pub memory_peak: Option<u64>,
}

/// One training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Seconds.
    pub step_s: f64,
    /// Tokens a second, all ranks together.
    pub tokens_per_s: f64,
    /// Mean loss of the global batch, before the update.
    pub loss: f64,
    /// Seconds in which rank 0 computed nothing because it waited for communication.
    pub exposed_s: Option<f64>,
    /// Bytes sent between groups, over all ranks, as the program counts them.
    pub bytes_inter: Option<u64>,
    /// Bytes sent inside groups, over all ranks.
    pub bytes_intra: Option<u64>,
}

/// What crossed a node's link in the measured steps of a run: the difference of its interface counters between the end of
/// the warm-up and the end of the last step, divided by the steps. Headers of TCP, IP and Ethernet are in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    /// The node.
    pub node: String,
    /// Bytes a step that left it.
    pub sent: f64,
    /// Bytes a step that reached it.
    pub received: f64,
}

/// What a plan says by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Bytes a step between groups, over all ranks.
    pub bytes_inter: u64,
    /// Bytes a step inside groups, over all ranks.
    pub bytes_intra: u64,
    /// Bytes a step of scalars and barriers, over all ranks.
    pub bytes_control: u64,
    /// Bytes a step that leave each group.
    pub bytes_leaving: Vec<u64>,
    /// Bytes by segment of the rank that needs most.
    pub memory: BTreeMap<Segment, u64>,
}

impl Counted {
    /// Bytes of the rank that needs most.
    pub fn peak(&self) -> u64 {
        self.memory.values().sum()
    }
}

/// What the simulator says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The machine that was simulated, by its description's name.
    pub machine: String,
    /// Seconds of a step.
    pub step_s: f64,
    /// Tokens a second, all ranks together.
    pub tokens_per_s: f64,
    /// Seconds of a step in which a rank computes, mean over ranks; with the next two it adds up to `step_s`.
    pub busy_s: f64,
    /// Seconds in which a rank waits while something moves to or from it: communication that nothing hides.
    pub exposed_s: f64,
    /// Seconds in which a rank waits for others that are not ready: the bubble.
    pub idle_s: f64,
    /// Model FLOP utilisation, attention counted as far as it is causal; unknown where the device's peak is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
}

/// By what, where and when a record came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The command that ran the experiment.
    pub command: String,
    /// When the record was last written, RFC 3339.
    pub date: String,
    /// This program's version and, if known, its commit.
    pub version: String,
    /// PyTorch's version, in its cells.
    pub torch: Option<String>,
    /// The machine.
    pub machine: Machine,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Operating system and kernel.
    pub kernel: String,
    /// MPI's first words about itself.
    pub mpi: String,
}

impl Record {
    /// All runs; none if the cell failed or was not run.
    pub fn rounds(&self) -> &[Round] {
        match &self.outcome {
            Outcome::Measured(measured) => &measured.rounds,
            _ => &[],
        }
    }

    /// A number of every measured step of every round, the warm-up left out; NaN and missing ones too.
    pub fn samples(&self, number: impl Fn(&Step) -> Option<f64>) -> Vec<f64> {
        let steps = self.rounds().iter().flat_map(Round::measured);
        steps.filter_map(number).filter(|value| value.is_finite()).collect()
    }

    /// The median of such a number.
    pub fn median(&self, number: impl Fn(&Step) -> Option<f64>) -> Option<f64> {
        median(self.samples(number))
    }

    /// Median of tokens a second, all ranks together.
    pub fn tokens_per_s(&self) -> Option<f64> {
        self.median(|step| Some(step.tokens_per_s))
    }

    /// Bytes a step that left a node, mean over nodes and rounds; `None` where nothing was counted.
    pub fn wire_sent(&self) -> Option<f64> {
        let sent: Vec<f64> = self.rounds().iter().flat_map(|round| &round.wire).map(|wire| wire.sent).collect();
        (!sent.is_empty()).then(|| sent.iter().sum::<f64>() / sent.len() as f64)
    }
}

impl Round {
    /// The steps that count.
    pub fn measured(&self) -> &[Step] {
        &self.steps[self.warmup.min(self.steps.len())..]
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
