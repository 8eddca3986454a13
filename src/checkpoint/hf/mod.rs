//! Hugging Face folders: `config.json` and safetensors files, read and written.

mod config;
mod export;
mod folder;
mod tensors;

pub use config::{read_config, write_config};
pub use export::{ExportOptions, export};
pub use folder::HfFolder;
pub use tensors::{TensorFile, Width};
