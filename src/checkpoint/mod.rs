//! Checkpoints in HDF5 by logical tensor, and Hugging Face folders.
