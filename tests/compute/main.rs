//! The device's operations and the network's units, against plain references.

mod attention;
mod ops;
mod parity;
mod products;
mod support;
mod units;
