//! Where arithmetic happens: memory, views of it, and the operations that the model is made of.

mod beside;
mod choice;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod exhausted;
mod host;
mod host_memory;
mod matrix;
mod memory;
mod ops;
mod view;

pub use beside::beside;
pub use choice::Chosen;
pub(crate) use choice::on_device;
pub use cpu::{Bf16Products, Cpu};
pub use error::DeviceError;
pub use exhausted::Exhausted;
pub use host::{allowed_cores, cores_together, free_bytes, memory_bytes, online_cores, processor_seconds};
pub use host_memory::{Bound, HostMemory, Limit};
pub use matrix::Matrix;
pub use memory::{Memory, Place};
pub use ops::{AdamW, AdamWStep, Attention, Device};
pub use view::{Element, View};
