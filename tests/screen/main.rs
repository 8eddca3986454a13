//! What a user sees first: the examination of the machine, the log of a run, and what is installed.

mod doctor;
mod install;
mod tensorboard;
