//! How ranks talk: messages while a plan runs, and small agreements outside it.

mod control;

pub use control::{Control, Solo};
