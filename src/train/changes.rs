//! What is different between a checkpoint's deck and the one that continues it.

use std::path::Path;

use toml::{Table, Value};

use crate::data::Order;
use crate::deck::Deck;

use super::learning_rate;

/// Keys that change neither what is computed nor what is reported.
const WITHOUT_EFFECT: [&str; 6] = ["run.folder", "run.wall_time", "run.timeout", "run.poll", "run.nvtx", "run.trace"];

/// Least change of a learning rate that is worth a word, as a part of the highest one.
const JUMP: f64 = 1e-3;

/// Keys, or the sections of keys, that change what is trained.
const TRAINING: [&str; 7] = ["model.", "data.", "batch.", "optim.", "run.dtype", "run.grad_dtype", "run.seed"];

/// Says, on rank 0, what of the deck is different from that of the checkpoint after `step` steps, and what follows from it.
/// Returns whether the run trains differently from then on.
pub fn report(old: &str, new: &Deck, step: u64) -> bool {
    let parsed = Deck::parse(old, Path::new("checkpoint"), &[]).ok();
    // Of an older version a deck need not be readable; read again it has the keys that are new since, with their defaults.
    let text = parsed.as_ref().map_or_else(|| old.to_string(), Deck::to_toml);
    let changed = differences(&text, &new.to_toml());
    if !changed.is_empty() {
        log::info!("changed since the checkpoint: {}", changed.join(", "));
    }
    let differs = changed.iter().any(|change| TRAINING.iter().any(|key| change.starts_with(key)));
    let Some(old) = parsed else { return differs };
    if new.data.order == Order::Random && sees_another_order(&old, new) {
        log::warn!(
            "data.order = \"random\": the permutation of the sequences differs from the checkpoint's, so some are read twice \
             in this epoch and others not"
        );
    }
    if let Some((from, to)) = jump(&old, new, step) {
        log::warn!(
            "the learning rate goes from {from:.3e} at step {step} to {to:.3e} at step {}: the schedule is another one",
            step + 1
        );
    }
    differs
}

/// `key old -> new` for every key that matters.
fn differences(old: &str, new: &str) -> Vec<String> {
    let (Ok(old), Ok(new)) = (old.parse::<Table>(), new.parse::<Table>()) else { return Vec::new() };
    let flat = |deck: &Table| -> Vec<(String, Value)> {
        let sections = deck.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
        let keys = sections.flat_map(|(section, keys)| keys.iter().map(move |(key, value)| (section, key, value)));
        keys.map(|(section, key, value)| (format!("{section}.{key}"), value.clone())).collect()
    };
    let (old, new) = (flat(&old), flat(&new));
    let of = |deck: &[(String, Value)], key: &str| deck.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
    let words = |value: Option<Value>| value.map_or("nothing".into(), |value| value.to_string());
    let gone = old.iter().filter(|(key, _)| of(&new, key).is_none());
    new.iter()
        .chain(gone)
        .map(|(key, _)| (key, of(&old, key), of(&new, key)))
        .filter(|(key, old, new)| old != new && !WITHOUT_EFFECT.contains(&key.as_str()))
        .map(|(key, old, new)| format!("{key} {} -> {}", words(old), words(new)))
        .collect()
}

/// Whether a random order is a permutation of other sequences, or another permutation.
fn sees_another_order(old: &Deck, new: &Deck) -> bool {
    let (a, b) = (&old.data, &new.data);
    a.order != b.order
        || (a.seq, &a.text, &a.tokens, &a.tokenizer, &a.valid) != (b.seq, &b.text, &b.tokens, &b.tokenizer, &b.valid)
        || old.run.seed != new.run.seed
}

/// The learning rates of the last step and of the next one, if the next one's is not what the old schedule would have made it.
fn jump(old: &Deck, new: &Deck, step: u64) -> Option<(f64, f64)> {
    let rate = |deck: &Deck, step: u64| learning_rate(&deck.optim, step, deck.run.steps);
    let (expected, to) = (rate(old, step), rate(new, step));
    let apart = (to - expected).abs() > JUMP * old.optim.lr.max(new.optim.lr);
    (apart && step > 0).then(|| (rate(old, step - 1), to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deck(sets: &[&str]) -> Deck {
        let text =
            "model = { dim = 8, layers = 1, heads = 1 }\ndata = { text = \"t\", seq = 32 }\nrun = { steps = 100 }";
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        Deck::parse(text, Path::new("deck.toml"), &sets).unwrap()
    }

    /// All keys that matter are named with both values, also those that only one deck has; others are not.
    #[test]
    fn changed_keys_are_named() {
        let old = deck(&["run.folder=a", "batch.global=4", "cluster.memory=1000"]).to_toml();
        let new = deck(&["run.folder=b", "batch.global=8", "run.steps=200", "run.wall_time=5", "system.name=fsdp"]);
        let found = differences(&old, &new.to_toml());
        for wanted in ["batch.global 4 -> 8", "run.steps 100 -> 200", "system.name \"single\" -> \"fsdp\""] {
            assert!(found.iter().any(|found| found == wanted), "{wanted} in {found:?}");
        }
        assert!(found.iter().any(|found| found == "cluster.memory 1000 -> nothing"), "{found:?}");
        assert!(!found.iter().any(|found| found.contains("folder") || found.contains("wall_time")), "{found:?}");
        assert_eq!(differences(&old, &old), Vec::<String>::new());
    }

    /// A longer cosine makes the learning rate jump, and so does another peak; a longer run at a constant rate does not.
    #[test]
    fn a_jump_of_the_learning_rate_is_seen() {
        let old = deck(&[]);
        let (from, to) = jump(&old, &deck(&["run.steps=200"]), 100).unwrap();
        assert!(from < 1e-9 && (to - 5e-4).abs() < 1e-5, "{from} {to}");
        assert_eq!(jump(&old, &deck(&["batch.global=16"]), 50), None);
        assert!(jump(&old, &deck(&["optim.lr=2e-3"]), 50).is_some());
        let constant = |steps| deck(&["optim.schedule=constant", steps]);
        assert_eq!(jump(&constant("run.steps=100"), &constant("run.steps=200"), 100), None);
    }

    /// Another batch leaves a permutation as it is; other sequences or another seed do not.
    #[test]
    fn another_order_is_seen() {
        let old = deck(&[]);
        assert!(!sees_another_order(&old, &deck(&["batch.global=16"])));
        for set in ["data.seq=16", "run.seed=1", "data.valid=0.1", "data.text=u"] {
            assert!(sees_another_order(&old, &deck(&[set])), "{set}");
        }
    }
}
