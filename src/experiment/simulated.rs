//! Cells that the simulator prices instead of running them: all of an experiment into one file, a record a line.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::cluster::{Costs, Description, Node};
use crate::results::{Cell, FORMAT, Machine, Outcome, Provenance, Record, read_lines, write_lines};
use crate::simulate::Unfit;

use super::provenance::{now, provenance};
use super::{Experiment, ExperimentError, Options, Planned, Progress, predict};

/// Cells that are priced between two looks at the clock.
const BATCH: usize = 16;

/// Prices all cells that have no result. `stop` says when to end early.
///
/// # Errors
/// If results cannot be read or written.
pub fn run(experiment: &Experiment, options: &Options, stop: &dyn Fn() -> bool) -> Result<Progress, ExperimentError> {
    let started = std::time::Instant::now();
    let file = file(options);
    let wanted = options.choose(experiment)?;
    std::fs::create_dir_all(&options.results).map_err(|reason| ExperimentError::Program {
        what: options.results.display().to_string(),
        reason: reason.to_string(),
    })?;
    let mut records = if file.exists() { read_lines(&file)? } else { Vec::new() };
    // A cell whose description has changed is priced again; one that the experiment no longer has is dropped.
    records.retain(|record| match wanted.iter().find(|planned| planned.cell.id == record.cell.id) {
        Some(planned) => same(&record.cell, planned),
        None => !options.only.is_empty(),
    });
    let missing: Vec<&Planned> =
        wanted.iter().filter(|planned| !records.iter().any(|record| same(&record.cell, planned))).collect();
    // A simulation has nothing to do with the machine that it runs on.
    let provenance = Provenance { machine: Machine::default(), ..provenance() };
    let mut left = missing.len();
    for batch in missing.chunks(BATCH) {
        if stop() {
            return Ok(Progress::Stopped(left));
        }
        if options.limit.is_some_and(|limit| started.elapsed() >= limit) {
            return Ok(Progress::Limit(left));
        }
        records.par_extend(batch.par_iter().map(|planned| record(planned, &provenance)));
        left -= batch.len();
        records.sort_by(|a, b| a.cell.id.cmp(&b.cell.id));
        write_lines(&file, &records)?;
        log::info!("{} of {} cells are simulated", wanted.len() - left, wanted.len());
    }
    Ok(Progress::Done)
}

/// Where the records of a simulated experiment are.
pub fn file(options: &Options) -> PathBuf {
    options.results.join("simulated.jsonl")
}

/// The result of a cell, if there is one.
///
/// # Errors
/// If the file is no file of results.
pub fn result(options: &Options, cell: &Cell) -> Result<Option<Record>, ExperimentError> {
    let file = file(options);
    let records = if file.exists() { read_lines(&file)? } else { Vec::new() };
    Ok(records.into_iter().find(|record| record.cell.id == cell.id))
}

/// Whether a result is of a cell; its micro-batch may have been made smaller to fit.
fn same(found: &Cell, wanted: &Planned) -> bool {
    Cell { micro: wanted.cell.micro, ..found.clone() } == wanted.cell
}

/// Prices a cell with its micro-batch, or, where that does not fit, with the largest of half, a quarter, … that does.
fn record(planned: &Planned, provenance: &Provenance) -> Record {
    let mut record = Record {
        format: FORMAT.into(),
        cell: planned.cell.clone(),
        outcome: Outcome::Predicted,
        counted: None,
        prediction: None,
        remarks: Vec::new(),
        provenance: Provenance { date: now(), ..provenance.clone() },
    };
    let failed = |reason: String| Outcome::Failed { reason, log: Vec::new() };
    let Some(machine) = &planned.machine else {
        record.outcome = failed("the experiment names no cluster to simulate (key where.cluster)".into());
        return record;
    };
    loop {
        let Some(job) = record.cell.job(Costs::default()) else {
            record.outcome = failed("only systems of this program can be simulated, not PyTorch's".into());
            return record;
        };
        match predict(&job, machine) {
            Ok(forecast) => {
                record.counted = Some(forecast.counted);
                record.prediction = Some(forecast.prediction);
                record.outcome = Outcome::Predicted;
                return record;
            }
            // What a system that plans for the memory refuses may fit in smaller pieces as well.
            Err(unfit) => {
                let reason = unfit.to_string();
                let memory = matches!(unfit, Unfit::TooLarge { .. }) || reason.contains("memory");
                record.outcome = failed(reason);
                let micro = record.cell.micro;
                if !memory || micro == 1 || !(record.cell.global).is_multiple_of(micro / 2) {
                    return record;
                }
                record.cell.micro = micro / 2;
            }
        }
    }
}

/// A machine of as many nodes and ranks as a cell has, all like its first node, with the cell's link.
pub fn grown(machine: &Description, sizes: &[usize], rate: Option<f64>) -> Description {
    let mut machine = machine.clone();
    let node = machine.nodes[0].clone();
    machine.nodes = sizes.iter().map(|&ranks| Node { count: 1, ranks, ..node.clone() }).collect();
    if let Some(bits) = rate {
        machine.links.inter.rate = bits / 8.0;
    }
    machine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::DeviceRates;
    use crate::results::read_folder;

    /// A cell that does not fit is simulated with the largest of half, a quarter, … of its micro-batch that does.
    #[test]
    fn what_does_not_fit_is_made_smaller() {
        let mut measured = read_folder("docs/results/overlap".as_ref()).unwrap();
        let at = measured.iter().position(|record| record.cell.id.starts_with("tawpipe.2x1")).unwrap();
        let Record { cell, provenance, .. } = measured.swap_remove(at);
        assert_eq!(cell.micro, 8);
        let machine = Description::read("inputs/clusters/paper-3x8-10gbe.toml".as_ref()).unwrap();
        let machine = grown(&machine, &[1, 1], None);
        let needs = |micro| {
            let job = Cell { micro, ..cell.clone() }.job(Costs::default()).unwrap();
            predict(&job, &machine).unwrap().counted.peak() as f64
        };
        for fits in [8, 4, 2] {
            let device = DeviceRates { memory: needs(fits), ..machine.device().clone() };
            let machine = Some(machine.clone().with_device(device));
            let planned = Planned { cell: cell.clone(), rounds: 1, probe: None, machine };
            let record = record(&planned, &provenance);
            assert_eq!((record.cell.micro, &record.outcome), (fits, &Outcome::Predicted));
        }
    }

    /// A cluster grows node by node and takes on the link of a cell.
    #[test]
    fn clusters_grow() {
        let machine = Description::read("inputs/clusters/paper-3x8-10gbe.toml".as_ref()).unwrap();
        let grown = grown(&machine, &[8; 128], Some(100e9));
        assert_eq!((grown.ranks(), grown.groups().count()), (1024, 128));
        assert_eq!((grown.links.inter.rate, machine.links.inter.rate), (12.5e9, 1.25e9));
    }
}
