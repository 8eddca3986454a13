//! tawpipe trains LLaMA-style models with weights that travel.

#![deny(missing_docs)]

pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod data;
pub mod deck;
pub mod device;
pub mod engine;
pub mod exit;
pub mod fabric;
pub mod generate;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod plan;
pub mod report;
pub mod train;
