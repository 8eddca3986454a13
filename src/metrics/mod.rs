//! What a run reports: the journal, HDF5 series, progress.
