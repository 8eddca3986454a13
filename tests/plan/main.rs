//! Plans: every one of them checks clean and moves the bytes that theory says; broken ones are found out.

mod arithmetic;
mod clean;
mod defects;
mod fingerprint;
mod hops;
mod interpret;
mod jobs;
mod mutants;
mod pace;
mod pipeline;
mod sharded;
mod tawpipe;
mod truth;
mod weipipe;
