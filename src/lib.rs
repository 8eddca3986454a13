//! tawpipe trains LLaMA-style models with TawPipe and the systems that it is compared with.
//!
//! In TawPipe (topology-aware weight pipeline parallelism, AAAI 2026, arXiv 2511.09741) every shard of the weights stays
//! with its owner. When a block of the model is due, its weights hop once to each other group of ranks (a node, say) and are
//! broadcast inside the group; gradients are summed inside the group and hop back once. `docs/tawpipe.md` explains it.
//! What each rank computes and sends is plain data, a *plan*: it is checked before anything runs, its memory and bytes
//! are counted, and the same plan is what the engine runs.
//!
//! # The tour: six files, in this order
//!
//! 1. `model/shard.rs`: what is computed (units) and what travels (shards);
//! 2. `plan/op.rs`: the vocabulary of a plan;
//! 3. `plan/systems/tawpipe/`: TawPipe itself, as a list of operations;
//! 4. `plan/check/mod.rs`: what makes a plan right;
//! 5. `engine/mod.rs`: how a rank runs its plan;
//! 6. `train/run.rs`: the loop.
//!
//! # The modules
//!
//! From the ground up; a module imports only modules above it in this list, which `tests/modules.rs` checks:
//!
//! - `output`: standard output that may be closed or full
//! - `paths`: paths as people write them
//! - `units`: how numbers with units are written
//! - `random`: random numbers that a seed gives on every machine
//! - `model`: shapes, units, shards, parameter names, initial weights
//! - `cluster`: which ranks share a fast link
//! - `plan`: jobs, operations, memory; the checker; one file a system
//! - `simulate`: when every operation of a plan would run on a described machine
//! - `device`: memory and kernels of the processor
//! - `nn`: forward and backward of each unit
//! - `fabric`: messages between ranks
//! - `engine`: runs a plan
//! - `data`: tokenizers, token files, which sequence a step sees
//! - `checkpoint`: weights on disk, Hugging Face folders
//! - `metrics`: what a run reports
//! - `results`: what experiments leave
//! - `report`: tables, curves, drawings and traces
//! - `deck`: what a run is asked to do
//! - `experiment`: many runs, measured or simulated, cell by cell
//! - `train`: the training loop
//! - `generate`: text from a checkpoint
//! - `bench`: measures this machine for the simulator
//! - `doctor`: what this machine and this launch offer
//! - `cli`: what was typed
#![deny(missing_docs)]
// They panic when standard output is closed; see output.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod data;
pub mod deck;
pub mod device;
pub mod doctor;
pub mod engine;
pub mod exit;
pub mod experiment;
pub mod fabric;
pub mod generate;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod output;
pub mod paths;
pub mod plan;
pub mod random;
pub mod report;
pub mod results;
pub mod simulate;
pub mod train;
pub mod units;
