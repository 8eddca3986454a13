//! What a user sees first: the examination of the machine, the log of a run, and what is installed.

#[path = "../common/mod.rs"]
mod common;
mod doctor;
mod install;
mod log;
mod report;
mod tensorboard;
mod words;
