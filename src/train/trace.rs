//! The measured timeline of one step, for ui.perfetto.dev or chrome://tracing.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::fabric::Control;
use crate::plan::{Lane, Op, Span, Split};

/// Microseconds in a second: the unit of the format.
const MICRO: f64 = 1e6;

/// Collective. Rank 0 writes every rank's operations into `path`: a process is a rank, a thread one of its lanes. Times
/// count from the moment in which a rank began the step, which ranks do at slightly different times.
///
/// # Errors
/// If the file cannot be written (rank 0).
pub fn write(path: &Path, spans: &[Span], ops: &[Op], splits: &[Split], control: &dyn Control) -> anyhow::Result<()> {
    let rank = control.rank();
    let mut events: Vec<Value> = Vec::new();
    let named = |what: &str, thread: usize, name: String| json!({"ph": "M", "name": what, "pid": rank, "tid": thread, "args": {"name": name}});
    events.push(named("process_name", 0, format!("rank {rank}")));
    events.push(named("thread_name", 0, "compute".into()));
    for (lane, split) in splits.iter().enumerate() {
        events.push(named("thread_name", lane + 1, split.name.into()));
    }
    events.extend(spans.iter().map(|span| {
        let thread = match span.lane {
            Lane::Compute => 0,
            Lane::Comm(lane) => lane + 1,
        };
        let (start, length) = (span.start * MICRO, (span.end - span.start) * MICRO);
        let name = ops[span.op].action.to_string();
        json!({"ph": "X", "name": name, "pid": rank, "tid": thread, "ts": start, "dur": length})
    }));
    let mine = serde_json::to_vec(&events).expect("plain data");
    let Some(all) = control.gather(&mine) else { return Ok(()) };
    // Each rank's bytes are a JSON array; together they are one.
    let inner: Vec<&[u8]> = all.iter().map(|array| &array[1..array.len() - 1]).collect();
    let text = [b"[", inner.join(&b",\n"[..]).as_slice(), b"]\n"].concat();
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
