//! Text from a checkpoint.
