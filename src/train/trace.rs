//! The measured timeline of one step, of all ranks on one clock: as a drawing, and as a trace for ui.perfetto.dev.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::engine::Measured;
use crate::fabric::Control;
use crate::plan::systems::Schedule;
use crate::plan::{Lane, Span, Timeline};
use crate::report::{Picture, TimeUnit, gantt, perfetto};

/// Messages to and fro by which a rank's clock is compared with rank 0's. The quickest decides, so the error is at most
/// half of its time.
const PINGS: usize = 16;

/// Collective. Rank 0 writes every rank's operations as `trace.json` and `trace.svg` into the run folder. Times count
/// from the moment in which the first rank began the step; clocks of other ranks are compared with rank 0's by messages
/// right after it.
///
/// # Errors
/// If a file cannot be written (rank 0).
pub fn write(folder: &Path, schedule: &Schedule, measured: &Measured, control: &dyn Control) -> anyhow::Result<()> {
    let shift = offset(measured.began, control);
    let mine: Vec<[f64; 4]> = measured
        .spans
        .iter()
        .map(|span| [span.lane.index() as f64, span.op as f64, span.start + shift, span.end + shift])
        .collect();
    let Some(all) = control.gather(bytemuck::cast_slice(&mine)) else { return Ok(()) };
    let ranks = all.iter().map(|bytes| bytes.chunks_exact(size_of::<[f64; 4]>()).map(span).collect()).collect();
    let timeline = Timeline { ranks };
    let plans = schedule.ranks();
    let picture = Picture { schedule, plans: &plans, timeline: &timeline, unit: TimeUnit::Seconds };
    for (name, text) in [("trace.json", perfetto(&picture)), ("trace.svg", gantt(&picture, true))] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A span as it was sent; lanes and ops are far below 2^53.
fn span(bytes: &[u8]) -> Span {
    let [lane, op, start, end]: [f64; 4] = bytemuck::pod_read_unaligned(bytes);
    let lane = if lane == 0.0 { Lane::Compute } else { Lane::Comm(lane as usize - 1) };
    Span { lane, op: op as usize, start, end }
}

/// Collective. Seconds from the moment that rank 0 calls `began` to the one that this rank does.
fn offset(began: Instant, control: &dyn Control) -> f64 {
    let clock = || began.elapsed().as_secs_f64();
    if control.rank() > 0 {
        for _ in 0..PINGS {
            control.receive(0);
            control.send(0, &clock().to_le_bytes());
        }
        let shift = control.receive(0);
        return f64::from_le_bytes(shift.try_into().expect("one number"));
    }
    for rank in 1..control.size() {
        let ping = |_| {
            let sent = clock();
            control.send(rank, &[]);
            let theirs = f64::from_le_bytes(control.receive(rank).try_into().expect("one number"));
            let received = clock();
            // They read their clock somewhere between sending and receiving, most likely half-way.
            (received - sent, (sent + received) / 2.0 - theirs)
        };
        let quickest = (0..PINGS).map(ping).min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are pings");
        control.send(rank, &quickest.1.to_le_bytes());
    }
    0.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fabric::local::{LocalOptions, run};

    /// Ranks that begin a second apart are found to: their clocks, which here are one, are compared to within a
    /// message's time.
    #[test]
    fn clocks_are_compared() {
        let base = Instant::now();
        let began = |rank| base - Duration::from_secs(2 - rank as u64);
        let shifts = run(3, LocalOptions::default(), |rank, world| offset(began(rank), world));
        for (rank, shift) in shifts.into_iter().enumerate() {
            // A message between threads takes microseconds; far more is allowed to a machine that is busy.
            assert!((shift - rank as f64).abs() < 0.2, "rank {rank}: {shift}");
        }
    }
}
