//! What multiplies bf16 matrices in a run: oneDNN, in one version, on all ranks, or on none.

use crate::device::cpu::library;
use crate::device::{Bf16Products, Chosen};
use crate::fabric::Control;
use crate::model::Dtype;

/// Collective. The same device, where the ranks compute bf16 on processors with a decision about oneDNN that all share: other
/// versions of it take sums in other orders.
pub fn settle(device: Chosen, dtype: Dtype, control: &dyn Control) -> Chosen {
    #[cfg_attr(
        not(feature = "cuda"),
        allow(irrefutable_let_patterns, reason = "a build without GPUs has processors only")
    )]
    let Chosen::Cpu { threads, .. } = device else { return device };
    if dtype != Dtype::Bf16 {
        return device;
    }
    let mut products = Bf16Products::best();
    let mine = if products == Bf16Products::OneDnn { library() } else { None }.unwrap_or_default();
    let mut verdict = Vec::new();
    if let Some(all) = control.gather(mine.as_bytes()) {
        let all: Vec<_> = all.iter().map(|name| String::from_utf8_lossy(name)).collect();
        if let Some(warning) = difference(&all) {
            log::warn!("{warning}");
            verdict.push(1);
        }
    }
    control.broadcast(0, &mut verdict);
    if !verdict.is_empty() {
        products = Bf16Products::own();
    }
    if control.rank() == 0 {
        log::info!("bf16 matrices are multiplied by {}", products.name());
    }
    Chosen::Cpu { threads, products: Some(products) }
}

/// A warning if the ranks have not the same library, or not all of them one.
fn difference(names: &[impl AsRef<str>]) -> Option<String> {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for name in names {
        *counts.entry(name.as_ref()).or_default() += 1;
    }
    let counted = counts
        .iter()
        .map(|(name, ranks)| format!("{} on {ranks} rank(s)", if name.is_empty() { "none" } else { name }));
    let list = counted.collect::<Vec<_>>().join(", ");
    (counts.len() > 1).then(|| format!("oneDNN is used by no rank, because the ranks would use different ones: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ranks use the same library or none does, and one line says who would have used which.
    #[test]
    fn ranks_use_the_same_library_or_none() {
        assert_eq!(difference(&["oneDNN 2.6.3", "oneDNN 2.6.3"]), None);
        assert_eq!(difference(&["", ""]), None);
        let mixed = difference(&["oneDNN 2.6.3", "oneDNN 3.7.2", "oneDNN 2.6.3"]).unwrap();
        assert!(mixed.ends_with("oneDNN 2.6.3 on 2 rank(s), oneDNN 3.7.2 on 1 rank(s)"), "{mixed}");
        let partly = difference(&["", "oneDNN 2.6.3"]).unwrap();
        assert!(partly.ends_with("none on 1 rank(s), oneDNN 2.6.3 on 1 rank(s)"), "{partly}");
    }
}
