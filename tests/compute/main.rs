//! The device's operations and the network's units, against plain references.

mod parity;
mod support;
