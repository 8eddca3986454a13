//! What a cell's plan says by itself: bytes and memory, or why there is none.

use std::collections::BTreeMap;

use crate::cluster::Costs;
use crate::plan::check::check;
use crate::plan::systems::schedule;
use crate::results::{Cell, Counted};

/// Plans a cell, proves the plan right, and counts.
///
/// # Errors
/// The plan's refusal, in a sentence. PyTorch has no plan: `Ok(None)`.
pub fn count(cell: &Cell) -> Result<Option<Counted>, String> {
    let Some(job) = cell.job(Costs::flops(&cell.shape, cell.micro, cell.seq)) else { return Ok(None) };
    let schedule = schedule(&job).map_err(|refusal| refusal.to_string())?;
    let summary = check(&schedule, &schedule.ranks())
        .map_err(|defects| format!("the plan has {} defects: a bug of system {}", defects.len(), cell.system))?;
    let total = summary.traffic();
    let leaving = |group| job.groups.members(group).map(|rank| summary.train[rank].inter as u64).sum();
    let most = summary.memory.iter().max_by_key(|table| table.values().sum::<usize>());
    Ok(Some(Counted {
        bytes_inter: total.inter as u64,
        bytes_intra: total.intra as u64,
        bytes_control: total.control as u64,
        bytes_leaving: (0..job.groups.count()).map(leaving).collect(),
        memory: most.map_or_else(BTreeMap::new, |table| {
            table.iter().map(|(&segment, &bytes)| (segment, bytes as u64)).collect()
        }),
    }))
}
