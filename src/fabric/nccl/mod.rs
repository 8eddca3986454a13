//! Messages between GPUs through NCCL, which GPUs carry out in their streams while the host does something else.
//!
//! MPI starts the ranks and carries what makes NCCL's communicators; from then on a plan's communication ops are calls of
//! NCCL ([`calls()`]), in the plan's issue order on every rank. GPU memory is never given to MPI: NCCL's kernels hold the
//! GPU while they wait for their peers, and an MPI that uses the same GPU would wait behind them.

mod calls;
mod communicators;
mod library;

pub use calls::{Call, Calls, calls};
pub use communicators::Nccl;
pub use library::{Library, NAMES, Version};

use crate::cluster::Rank;

/// The first version that starts operations of different communicators in the order of the calls.
pub const ORDER: Version = Version(22600);

/// The first version that lets several ranks use one GPU.
pub const SHARED: Version = Version(23000);

/// Sets what NCCL reads from the environment, unless the user has. Call it before the program has a second thread.
///
/// - `NCCL_LAUNCH_ORDER_IMPLICIT=1`: operations of different communicators start in the order of the calls, which is the
///   plan's issue order on every rank. The checker proves that this order cannot deadlock even if they run one at a time.
/// - `NCCL_MULTI_RANK_GPU_ENABLE=1` with `shared`: several ranks may use one GPU.
pub fn prepare(shared: bool) {
    let mut wanted = vec!["NCCL_LAUNCH_ORDER_IMPLICIT"];
    if shared {
        wanted.push("NCCL_MULTI_RANK_GPU_ENABLE");
    }
    for name in wanted.into_iter().filter(|name| std::env::var_os(name).is_none()) {
        // SAFETY: the caller's promise: no other thread looks at the environment.
        unsafe { std::env::set_var(name, "1") };
    }
}

/// Some ranks, in words.
pub fn words(ranks: &[Rank]) -> String {
    let list = ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("{} {list}", if ranks.len() == 1 { "rank" } else { "ranks" })
}
