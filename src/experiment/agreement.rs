//! Cells that train the same model on the same sequences must report the same losses, whatever system trains.

use std::collections::BTreeMap;

use crate::model::Dtype;
use crate::results::{Cell, Program, Record, median};

/// How a remark of this check begins.
const REMARK: &str = "losses differ";

/// Largest relative difference in f32, where systems differ in the order of their sums only; and in bf16, where that order
/// decides roundings.
fn tolerance(cell: &Cell) -> f64 {
    if (cell.dtype, cell.grad_dtype) == (Dtype::F32, Dtype::F32) { 1e-5 } else { 2e-2 }
}

/// Compares all records that ought to agree, and notes in each whether its losses differ from the others'. Returns the
/// indices of records whose remarks have changed.
pub fn compare(records: &mut [Record]) -> Vec<usize> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        if record.cell.program == Program::Tawpipe && !record.rounds().is_empty() {
            groups.entry(key(record)).or_default().push(at);
        }
    }
    let mut verdicts: BTreeMap<usize, String> = BTreeMap::new();
    for members in groups.values().filter(|members| members.len() > 1) {
        let steps = members.iter().map(|&at| losses(&records[at]).len()).min().unwrap_or(0);
        for step in 0..steps {
            let all: Vec<f64> = members.iter().map(|&at| losses(&records[at])[step]).collect();
            let Some(middle) = median(all.clone()) else { continue };
            for (&at, loss) in members.iter().zip(all) {
                let apart = (loss / middle - 1.0).abs();
                if apart > tolerance(&records[at].cell) {
                    verdicts.entry(at).or_insert_with(|| {
                        format!(
                            "{REMARK}: in step {} the loss is {loss}, but the median of the {} systems that train \
                             the same model on the same data is {middle}",
                            step + 1,
                            members.len()
                        )
                    });
                }
            }
        }
    }
    let mut changed = Vec::new();
    for (at, record) in records.iter_mut().enumerate() {
        let before = record.remarks.clone();
        record.remarks.retain(|remark| !remark.starts_with(REMARK));
        record.remarks.extend(verdicts.remove(&at));
        if record.remarks != before {
            changed.push(at);
        }
    }
    changed
}

/// The losses of the first run; the others are the same, bit for bit.
fn losses(record: &Record) -> Vec<f64> {
    record.rounds().first().map_or_else(Vec::new, |round| round.steps.iter().map(|step| step.loss).collect())
}

/// What decides losses: everything in the cell except which rank computes what.
fn key(record: &Record) -> String {
    let cell = &record.cell;
    let indifferent = ["system.", "cluster.", "batch.micro", "run.threads", "run.recompute", "run.poll", "run.timeout"];
    let sets: Vec<&String> =
        cell.sets.iter().filter(|set| !indifferent.iter().any(|one| set.starts_with(one))).collect();
    format!(
        "{} {sets:?} {:?} {} {} {:?} {:?}",
        cell.deck, cell.shape, cell.seq, cell.global, cell.dtype, cell.grad_dtype
    )
}
