//! What a deck leaves to its system, settled once for all parts of a run.

use std::path::Path;

use anyhow::Context;

use crate::cluster::Groups;
use crate::deck::Deck;
use crate::device::{Chosen, beside, memory_bytes};
use crate::exit::Exit;
use crate::fabric::Control;
use crate::model::ModelShape;
use crate::plan::Job;
use crate::plan::systems::{SystemOptions, schedule};
use crate::units::memory;

use super::agree;

/// Collective. Gives a deck whose system leaves something open what was chosen in the run in `earlier`, else what is best
/// within `cluster.memory`, else within the least memory that any rank has: the size of its GPU, or its part of its
/// machine's. Rank 0 decides for all. What the machine has is its size, not what happens to be free, so that the same
/// deck on the same machines always gives the same plan. Returns what was chosen in words, on rank 0.
///
/// `found` are the ranks that share a machine, `groups` those of the job.
pub fn settle(
    deck: &mut Deck,
    shape: &ModelShape,
    groups: &Groups,
    device: &Chosen,
    control: &dyn Control,
    found: &Groups,
    earlier: Option<&Path>,
) -> anyhow::Result<String> {
    if !deck.system.is_open() {
        return Ok(String::new());
    }
    let mine = own_memory(device, deck.gpu.share, found.members(found.group_of(control.rank())).len());
    let all = control.gather(&mine.to_le_bytes()).unwrap_or_default();
    let of = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(u64::MAX, u64::from_le_bytes);
    let least = all.iter().map(of).min().unwrap_or(u64::MAX);
    let chosen = match control.rank() {
        0 => choose(deck, shape, groups, device, least, earlier),
        _ => Ok(Default::default()),
    };
    let (mut chosen, words) = agree(control, Exit::BadInput, chosen)?;
    control.broadcast(0, &mut chosen);
    deck.system = serde_json::from_slice(&chosen).context("the system that rank 0 has chosen")?;
    Ok(words)
}

/// The options of the system, as JSON, and what was chosen, in words.
fn choose(
    deck: &Deck,
    shape: &ModelShape,
    groups: &Groups,
    device: &Chosen,
    least: u64,
    earlier: Option<&Path>,
) -> anyhow::Result<(Vec<u8>, String)> {
    let mut job = deck.job(shape.clone(), groups.clone())?;
    let beside: usize = match device.gpu() {
        Some(_) => beside(&job.shape, job.batch.seq).iter().map(|(_, bytes)| bytes).sum(),
        None => 0,
    };
    let limit = job.memory.unwrap_or(usize::try_from(least).unwrap_or(usize::MAX));
    job.memory = Some(limit.saturating_sub(beside));
    // On other ranks what was chosen may be impossible, or need more than there is.
    let fits = |kept: &SystemOptions| {
        let planned = schedule(&Job { system: kept.clone(), ..job.clone() });
        planned.is_ok_and(|schedule| Some(schedule.peak()) <= job.memory)
    };
    let kept = earlier.and_then(remembered).filter(|kept| deck.system.admits(kept) && fits(kept));
    let (system, why) = match kept {
        Some(kept) => (kept, "as this run did before".to_string()),
        None => (schedule(&job)?.job.system, format!("within {} a rank", memory(limit))),
    };
    let words = system.choices(&deck.system);
    let words = if words.is_empty() { words } else { format!("{} chooses {words}, {why}", system.name()) };
    Ok((serde_json::to_vec(&system)?, words))
}

/// The system of an earlier part of the run, if its deck can be read.
fn remembered(folder: &Path) -> Option<SystemOptions> {
    Deck::read(&folder.join("deck.toml"), &[]).ok().map(|deck| deck.system)
}

/// Part of a machine's memory that plans may use by themselves: the system, the data and the programs need some too.
const PART: f64 = 0.9;

/// Bytes that are this rank's own, of which `ranks` share the machine, and the GPU if `shared`.
fn own_memory(device: &Chosen, shared: bool, ranks: usize) -> u64 {
    let ranks = ranks.max(1) as f64;
    match (device.gpu_memory(), memory_bytes()) {
        (Some(gpu), _) => (if shared { gpu / ranks } else { gpu }) as u64,
        (None, Some(whole)) => (PART * whole / ranks) as u64,
        (None, None) => u64::MAX,
    }
}
