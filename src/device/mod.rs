//! Where arithmetic happens: memory, views of it, and the operations that the model is made of.

mod beside;
mod choice;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod host;
mod matrix;
mod memory;
mod ops;
mod view;

pub use beside::beside;
pub use choice::Chosen;
pub(crate) use choice::on_device;
pub use cpu::{Bf16Products, Cpu};
pub use error::DeviceError;
pub use host::{memory_bytes, processor_seconds};
pub use matrix::Matrix;
pub use memory::{Memory, Place};
pub use ops::{AdamW, AdamWStep, Attention, Device};
pub use view::{Element, View};
