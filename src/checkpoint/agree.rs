//! One outcome for all ranks: an early return on one of them would leave the others waiting.

use crate::fabric::Control;

use super::{CheckpointError, Result};

/// Collective. If any rank brings an error, all ranks return that of the lowest such rank.
pub(super) fn agree<T>(control: &dyn Control, outcome: Result<T>) -> Result<T> {
    if control.size() == 1 {
        return outcome;
    }
    let mine = outcome.as_ref().err().map(encode).unwrap_or_default();
    let mut verdict = Vec::new();
    if let Some(all) = control.gather(&mine) {
        let mut failed = all.iter().enumerate().filter(|(_, text)| !text.is_empty());
        if let Some((rank, text)) = failed.next() {
            let others = failed.count();
            verdict = encode(&CheckpointError::OnRank { rank, others, error: Box::new(decode(text)) });
        }
    }
    control.broadcast(0, &mut verdict);
    if verdict.is_empty() { outcome } else { Err(decode(&verdict)) }
}

/// Collective. Rank 0 does something; all ranks return its result. `act` is called on rank 0 only.
pub(super) fn on_root<T: serde::Serialize + serde::de::DeserializeOwned>(
    control: &dyn Control,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if control.size() == 1 {
        return act();
    }
    let mut text = Vec::new();
    if control.rank() == 0 {
        text = serde_json::to_vec(&act()).expect("plain data");
    }
    control.broadcast(0, &mut text);
    serde_json::from_slice(&text).expect("rank 0 sent this type")
}

fn encode(error: &CheckpointError) -> Vec<u8> {
    serde_json::to_vec(error).expect("plain data")
}

fn decode(text: &[u8]) -> CheckpointError {
    serde_json::from_slice(text).expect("a rank of this program sent an error")
}
