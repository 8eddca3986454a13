//! One cell of an experiment's matrix: everything that decides what is measured.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::{Costs, Groups, MOST_RANKS};
use crate::model::{Dtype, ModelShape, Recompute};
use crate::plan::systems::SystemOptions;
use crate::plan::{Batch, Job, MOST_GLOBAL, MOST_SEQ};

/// What trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// This program.
    Tawpipe,
    /// PyTorch, by `benches/torch_sharded.py`.
    Torch,
}

/// Where a cell is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On this machine alone; groups are what the deck says, and all links are its memory.
    Machine,
    /// On nodes and links of `jobs/virtual-cluster`.
    VirtualCluster,
    /// On the nodes that Slurm has given to this job.
    Allocation,
    /// Nowhere: the simulator alone says what would happen on a described cluster.
    #[value(skip)]
    Simulated,
}

/// The links between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// For tables and legends, such as `200 Mbit/s`.
    pub name: String,
    /// Bits a second of a node's link, in each direction; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Seconds added to each packet.
    pub latency: f64,
    /// Where the rate comes from, if it was not given but derived: the arithmetic, in words and numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<String>,
}

/// One cell of the matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The experiment's name: its file's, without extension.
    pub experiment: String,
    /// Name of the result file without extension; the same whenever the matrix is expanded.
    pub id: String,
    /// What this cell is compared as, in legends and rows: the label of a system with its options.
    pub series: String,
    /// What trains.
    pub program: Program,
    /// `system.name` of the deck; of PyTorch its mode (ddp, fsdp, fsdp-sync, hsdp).
    pub system: String,
    /// Every option of the system, defaults too, with its value; of PyTorch none.
    pub options: Map<String, Value>,
    /// Where.
    pub place: Place,
    /// Ranks of each node (on one machine: of each group).
    pub ranks_per_node: Vec<usize>,
    /// Links between nodes.
    pub link: Link,
    /// Name of the described cluster, in simulated cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The model's name in the experiment's file.
    pub model: String,
    /// The model.
    pub shape: ModelShape,
    /// Its parameters.
    pub parameters: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Sequences of a step, over all ranks.
    pub global: usize,
    /// Type of computation and of weights on the wire.
    pub dtype: Dtype,
    /// Type of gradients on the wire.
    pub grad_dtype: Dtype,
    /// What is kept between forward and backward.
    pub recompute: Recompute,
    /// The base deck, relative to the repository or as given.
    pub deck: String,
    /// What the cell changes in it: `section.key=value`.
    pub sets: Vec<String>,
    /// Steps at the start of every run that are not counted.
    pub warmup: usize,
    /// Steps of every run that are.
    pub steps: usize,
}

impl Cell {
    /// Ranks of all nodes.
    pub fn ranks(&self) -> usize {
        self.ranks_per_node.iter().sum()
    }

    /// Nodes.
    pub fn nodes(&self) -> usize {
        self.ranks_per_node.len()
    }

    /// Target tokens of a step, over all ranks.
    pub fn tokens(&self) -> usize {
        self.seq * self.global
    }

    /// Checks the numbers that others divide by, index with and multiply.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self) -> Result<(), String> {
        self.shape.validate().map_err(|error| error.to_string())?;
        let sizes = &self.ranks_per_node;
        let ranks = sizes.iter().copied().fold(0, usize::saturating_add);
        if sizes.contains(&0) || !(1..=MOST_RANKS).contains(&ranks) {
            return Err(format!("ranks_per_node must be numbers above 0, together from 1 to {MOST_RANKS}"));
        }
        for (key, value, most) in
            [("seq", self.seq, MOST_SEQ), ("micro", self.micro, MOST_GLOBAL), ("global", self.global, MOST_GLOBAL)]
        {
            if !(1..=most).contains(&value) {
                return Err(format!("{key} = {value} must be from 1 to {most}"));
            }
        }
        Ok(())
    }

    /// The job that a plan, and a prediction, is made for; `costs` are those by which pipelines spread their blocks.
    /// `None` for PyTorch.
    pub fn job(&self, costs: Costs) -> Option<Job> {
        if self.program == Program::Torch {
            return None;
        }
        let system: SystemOptions = serde_json::from_value(Value::Object(self.options.clone())).ok()?;
        Some(Job {
            shape: self.shape.clone(),
            groups: Groups::new(&self.ranks_per_node),
            batch: Batch { seq: self.seq, micro: self.micro, micros: self.global / self.micro },
            dtype: self.dtype,
            grad_dtype: self.grad_dtype,
            recompute: self.recompute,
            costs,
            memory: None,
            system,
        })
    }
}
