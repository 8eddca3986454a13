//! Where arithmetic happens: memory, views of it, and the operations that the model is made of.

mod memory;
mod view;

pub use memory::Memory;
pub use view::View;
