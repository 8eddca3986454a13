//! What a run reports: the journal, HDF5 series, progress.
//!
//! One table names every number with its unit; the journal, `--json`, the HDF5 series and the documentation all read
//! it. Rank 0 alone writes.

mod error;
mod events;
mod inspect;
mod journal;
mod part;
mod progress;
#[cfg(feature = "hdf5")]
mod series;
#[cfg(not(feature = "hdf5"))]
#[path = "series_absent.rs"]
mod series;
mod table;
mod writer;

pub use error::MetricsError;
pub use inspect::{InspectError, inspect, is_journal};
pub use journal::{History, Journal, read_journal};
pub use part::{Cores, Part, RunInfo};
pub use progress::Progress;
pub use table::{Kind, Metric, Record, Row, Validation, Value, markdown};
pub use writer::Metrics;
