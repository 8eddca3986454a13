//! `tawpipe experiment`: measures what is missing of a matrix.

use std::time::Duration;

use crate::exit::Exit;
use crate::experiment::{Experiment, Options, Progress, run as measure};
use crate::output::{out, outln};
use crate::report::Table;
use crate::results::{Outcome, Place, Record, read_folder};
use crate::train::Stop;

use super::args::ExperimentArgs;

/// Lists, or runs and shows what there is then.
pub fn run(args: &ExperimentArgs) -> anyhow::Result<Exit> {
    let experiment = Experiment::read(&args.file)?;
    let results = args.results.clone().unwrap_or_else(|| ["results", &experiment.name].iter().collect());
    let torch = args.torch.clone().or_else(|| std::env::var("TAWPIPE_TORCH").ok()).filter(|python| !python.is_empty());
    let options = Options {
        only: args.only.clone(),
        results,
        retry_failed: args.retry_failed,
        limit: args.limit.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
        place: args.on,
        torch,
        no_predictions: args.no_predictions,
    };
    if args.dry_run {
        return list(&experiment, &options);
    }
    let stop = Stop::watch()?;
    let progress = measure(&experiment, &options, &|| stop.wanted().is_some())?;
    let records = read_folder(&options.results)?;
    if records.iter().any(|record| record.cell.place != Place::Simulated) {
        out!("{}", table(&records));
    }
    Ok(match progress {
        Progress::Done => Exit::Done,
        Progress::Limit(missing) => {
            log::warn!("the time limit came before {missing} runs; the same command goes on with them");
            Exit::WallTime
        }
        Progress::Stopped(missing) => {
            log::warn!("stopped before {missing} runs; the same command goes on with them");
            Exit::Signal
        }
    })
}

/// A line a cell, in columns for people and scripts: nodes, ranks a node, state, name.
fn list(experiment: &Experiment, options: &Options) -> anyhow::Result<Exit> {
    for planned in options.choose(experiment)? {
        let cell = &planned.cell;
        let state = match options.result(cell)? {
            Some(Record { outcome: Outcome::Failed { .. }, .. }) => "failed",
            Some(record) if record.outcome == Outcome::Predicted => "done",
            Some(record) if record.rounds().len() >= planned.rounds => "done",
            _ if options.skips(&planned).is_some() => "left-out",
            _ => "missing",
        };
        outln!("{:5} {:5} {state:8} {}", cell.nodes(), cell.ranks_per_node[0], cell.id);
    }
    Ok(Exit::Done)
}

/// What is there, in short.
fn table(records: &[Record]) -> Table {
    let head = ["system", "nodes", "link", "seq", "tokens/s", "predicted", "wire MB/step", "plan's MB", "runs"];
    let mut table = Table::new(head.map(String::from).to_vec());
    for record in records {
        let (cell, dash) = (&record.cell, || "-".to_string());
        let number = |value: Option<f64>, digits: usize| value.map_or_else(dash, |value| format!("{value:.digits$}"));
        let mean = |counted: &crate::results::Counted| counted.bytes_inter as f64 / cell.nodes() as f64 / 1e6;
        table.row(vec![
            cell.series.clone(),
            format!("{}x{}", cell.nodes(), cell.ranks_per_node[0]),
            cell.link.name.clone(),
            cell.seq.to_string(),
            match &record.outcome {
                Outcome::Failed { .. } => "failed".into(),
                _ => number(record.tokens_per_s(), 0),
            },
            number(record.prediction.as_ref().map(|prediction| prediction.tokens_per_s), 0),
            number(record.wire_sent().map(|bytes| bytes / 1e6), 2),
            number(record.counted.as_ref().map(mean), 2),
            record.rounds().len().to_string(),
        ]);
    }
    table
}
