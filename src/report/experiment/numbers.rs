//! The table of all numbers: a row for each series in each setting.

use crate::report::figure::amount;

use super::columns::{self, Column, Defined};
use super::view::{Entry, View};

/// What a column says of an entry; a column that says nothing at all is left out.
type Says<'c> = Box<dyn Fn(&Entry) -> Option<String> + 'c>;

/// The table, if there are numbers.
pub fn numbers(view: &View) -> Option<Defined> {
    let runs: Vec<&Entry> = view.entries.iter().filter(|entry| entry.speed().is_some()).collect();
    let mut shown: Vec<(Column, Says)> = batch_and_speed(view);
    shown.extend(traffic());
    shown.extend(time_and_memory());
    shown.extend(prediction());
    for reference in &view.references {
        let ratio = move |entry: &Entry| {
            let other = view.find(entry.setting, reference)?.speed()?;
            Some(format!("{:.2}", entry.speed()? / other))
        };
        let meaning = "tokens/s divided by those of the named series in the same setting, there with the fastest \
                       micro-batch";
        shown.push((Column::new(format!("speedup over {reference}"), meaning), Box::new(ratio)));
    }
    shown.retain(|(_, of)| runs.iter().any(|entry| of(entry).is_some()));
    let settings = view.settings.len() > 1;
    let mut all = vec![columns::series()];
    all.extend(settings.then(columns::setting));
    all.extend(shown.iter().map(|(column, _)| column.clone()));
    let mut table = Defined::new(all);
    for entry in &runs {
        let mut row = vec![entry.record.cell.series.clone()];
        row.extend(settings.then(|| view.words(entry.setting)));
        row.extend(shown.iter().map(|(_, of)| of(entry).unwrap_or_else(|| "-".into())));
        table.row(row);
    }
    (!runs.is_empty()).then_some(table)
}

fn column(head: &str, meaning: &str, of: impl Fn(&Entry) -> Option<String> + 'static) -> (Column, Says<'static>) {
    (Column::new(head, meaning), Box::new(of))
}

fn percent(part: f64) -> String {
    format!("{:.1}", 100.0 * part)
}

fn megabytes(bytes: f64) -> String {
    amount(bytes / 1e6)
}

fn batch_and_speed(view: &View) -> Vec<(Column, Says<'static>)> {
    let (smaller, source) = if view.measured() {
        ("", "the median over the measured steps of all rounds (in a row without measurements: predicted)")
    } else {
        (", halved as often as needed to fit into memory", "predicted by the simulator")
    };
    vec![
        column("micro-batch", &format!("sequences in a micro-batch{smaller}"), |entry| {
            Some(entry.record.cell.micro.to_string())
        }),
        column("tokens/s", &format!("tokens per second of all ranks together, {source}"), |entry| {
            entry.speed().map(amount)
        }),
        column("tokens/s per rank", "tokens/s divided by the number of ranks", |entry| {
            Some(amount(entry.speed()? / entry.ranks()))
        }),
        column("lowest – highest tokens/s", "of the slowest and of the fastest of all measured steps", |entry| {
            entry.spread().map(|(low, high)| format!("{} – {}", amount(low), amount(high)))
        }),
        column(
            "MFU %",
            "model FLOP utilization, predicted: the operations of forward and backward pass, without recomputation \
             and with causal attention, in percent of what the devices could do at their peak rate",
            |entry| {
                let prediction = entry.record.prediction.as_ref().filter(|_| entry.spread().is_none())?;
                prediction.mfu.map(percent)
            },
        ),
    ]
}

fn traffic() -> Vec<(Column, Says<'static>)> {
    vec![
        column(
            "plan: MB sent per node and step",
            "weights, gradients and activations that leave a node (on a single machine: a group), counted in the \
             plan, mean over nodes",
            |entry| entry.leaving().map(megabytes),
        ),
        column(
            "wire: MB sent per node and step",
            "what the network interface of a node counted as sent, headers of Ethernet, IP and TCP included, mean \
             over the measured steps, nodes and rounds",
            |entry| entry.record.wire_sent().map(megabytes),
        ),
        column(
            "wire over plan %",
            "by how much the wire's bytes exceed the plan's, in percent of the plan's",
            |entry| {
                let plan = entry.leaving().filter(|bytes| *bytes > 0.0)?;
                Some(format!("{:+.1}", 100.0 * (entry.record.wire_sent()? / plan - 1.0)))
            },
        ),
    ]
}

fn time_and_memory() -> Vec<(Column, Says<'static>)> {
    vec![
        column(
            "exposed communication %",
            "percentage of a step in which a rank computes nothing because it waits for communication (measured on \
             rank 0, median over steps, including the wait for ranks that are not ready, or predicted, mean over \
             ranks, without that wait)",
            |entry| entry.exposed().map(percent),
        ),
        column(
            "idle %",
            "percentage of a step in which a rank waits for other ranks that are not ready, such as the bubble of a \
             pipeline, predicted, mean over ranks",
            |entry| {
                let prediction = entry.record.prediction.as_ref().filter(|_| entry.spread().is_none())?;
                Some(percent(prediction.idle_s / prediction.step_s))
            },
        ),
        column(
            "memory per rank, MB",
            "peak of the rank that needs most: all buffers of its plan, or, for PyTorch, which has no plan, the largest \
             resident set of a process",
            |entry| entry.peak().map(megabytes),
        ),
        column(
            "loss",
            "mean loss of the global batch in the last step of the last round (PyTorch's data are random tokens, so \
             its loss cannot be compared)",
            |entry| {
                let step = entry.record.rounds().last()?.steps.last()?;
                step.loss.is_finite().then(|| format!("{:.4}", step.loss))
            },
        ),
    ]
}

fn prediction() -> Vec<(Column, Says<'static>)> {
    vec![
        column("predicted tokens/s", "of all ranks together, by the simulator", |entry| {
            entry.spread().and(entry.predicted()).map(amount)
        }),
        column("prediction error %", "predicted minus measured tokens/s, in percent of the measured", |entry| {
            let error = entry.predicted()? / entry.spread().and(entry.speed())? - 1.0;
            Some(format!("{:+.0}", 100.0 * error))
        }),
    ]
}
