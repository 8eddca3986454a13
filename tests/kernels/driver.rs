//! The emulated driver does what a real one would, and tells of misuse: what other tests of the GPU rest on.

mod api;
mod messages;
mod products;
mod streams;
