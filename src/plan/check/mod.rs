//! Proves a plan right before anything runs.
