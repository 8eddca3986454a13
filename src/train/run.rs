//! A run from its first step to its last.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::checkpoint::CheckpointError;
use crate::cluster::Groups;
use crate::deck::Deck;
use crate::exit::Exit;
use crate::fabric::Control;
use crate::metrics::{Metrics, Progress, Record, Row, RunInfo, Validation};
use crate::output::{self, outln};

use super::guard::{self, Guard, Verdict};
use super::kept::Kept;
use super::lock::Lock;
use super::stop::Cause;
use super::{
    Agreed, MakeWire, RunState, Session, StepInput, StepResult, Stop, TrainOptions, agree, folder, learning_rate,
    meter, patience, trace,
};

/// Trains on one rank of a world; every rank calls it. See [`super::train`]. `found` are the groups that share memory;
/// the deck may say others.
///
/// # Errors
/// [`super::Agreed`] if all ranks know of it; else this rank has failed alone, and the others wait.
pub fn run(
    deck: &Deck,
    options: TrainOptions,
    control: &dyn Control,
    found: &Groups,
    wire: &MakeWire,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    let mut run = Run::start(deck.clone(), options, control, found, wire)?;
    if options.dry_run {
        run.session.finish()?;
        return Ok(Exit::Done);
    }
    let at_end = |run: &Run| run.state.step == deck.run.steps;
    if at_end(&run) {
        // An earlier part has taken the last step; it may have ended before it had validated.
        let ended = if run.lacks_validation() { run.validate(stop)? } else { None };
        return run.finish(ended);
    }
    loop {
        let mut ended = run.train(stop)?;
        let last = at_end(&run);
        let step = run.state.step;
        let due = |every: u64| every > 0 && step % every == 0;
        if ended.is_none() && (last || due(deck.run.validate_every)) {
            ended = run.validate(stop)?;
        }
        if last || ended.is_some() || due(deck.run.checkpoint_every) {
            run.save()?;
            if ended.is_none() {
                // What has come while that took its time.
                ended = stop.agreed(control);
                run.announce(ended, "");
            }
        }
        if last || ended.is_some() {
            return run.finish(ended);
        }
    }
}

/// A run in progress, on one rank.
pub(super) struct Run<'a> {
    /// With everything that was decided at the start.
    pub deck: Deck,
    pub options: TrainOptions,
    pub control: &'a dyn Control,
    pub session: Session,
    pub folder: PathBuf,
    pub guard: Guard,
    pub state: RunState,
    /// Step of the checkpoint that was gone on from, until a step has been taken.
    pub resumed: Option<u64>,
    /// FLOP/s of all ranks (rank 0).
    pub peak: f64,
    /// Factor from nats a token to bits a byte.
    pub bits: Option<f64>,
    /// Bytes of the rank's memory on a GPU; 0 on processors.
    pub gpu_memory: u64,
    /// Whether there is something to validate with.
    pub validates: bool,
    pub info: RunInfo,
    /// Rank 0 only.
    pub output: Option<Output>,
}

/// What rank 0 writes.
pub(super) struct Output {
    pub metrics: Metrics,
    pub progress: Progress,
    pub kept: Kept,
    pub lock: Lock,
}

impl Run<'_> {
    /// One step; says whether all ranks have agreed to stop after it.
    fn train(&mut self, stop: &Stop) -> anyhow::Result<Option<Cause>> {
        let (input, result, step_s) = loop {
            let start = Instant::now();
            let RunState { step, position, .. } = &self.state;
            let lr = learning_rate(&self.deck.optim, *step, self.deck.run.steps);
            let bound = self.guard.bound(position);
            let input = StepInput { first: position.sequences, update: position.updates + 1, lr, bound };
            let result = self.session.step(&input)?;
            let step_s = start.elapsed().as_secs_f64();
            match self.resumed.take().filter(|_| !result.is_finite()) {
                Some(step) if self.go_back(step)? => {}
                _ => break (input, result, step_s),
            }
        };
        self.state.advance(self.session.schedule.job.batch);
        let verdict = self.guard.judge(&result, input.bound, &mut self.state.position);
        if self.deck.run.trace == Some(self.state.step) {
            let written = trace::write(&self.folder, &self.session.schedule, &result.measured, self.control);
            agree(self.control, Exit::Failure, written)?;
        }
        let (record, ended) = self.gather(&result, input.lr, step_s, stop.wanted());
        if let Some(Output { metrics, progress, kept, lock }) = &mut self.output {
            lock.check()?;
            if self.options.json {
                let well = output::failed().is_none();
                outln!("{}", record.json());
                if let (true, Some(reason)) = (well, output::failed()) {
                    log::warn!("standard output cannot be written: {reason}; the training goes on without it");
                }
            }
            progress.step(&record);
            metrics.step(record)?;
            kept.confirm(metrics.history());
        }
        self.follow(verdict, &result)?;
        self.announce(ended, "");
        Ok(ended)
    }

    /// Says what ends the run early, and what is left out for it.
    fn announce(&mut self, ended: Option<Cause>, left: &str) {
        if let (Some(cause), Some(Output { progress, .. })) = (ended, &mut self.output) {
            progress.note(&format!("{cause}: stopping after step {}{left}", self.state.step));
        }
    }

    /// Collective, when the first step after the checkpoint of `step` was not finite: goes back to the one before. Says
    /// whether there is one.
    fn go_back(&mut self, step: u64) -> anyhow::Result<bool> {
        let found = self.session.resume(&folder::checkpoints(&self.folder), Some(step), self.control);
        let none = |error: &CheckpointError| matches!(error, CheckpointError::NoCheckpoint { .. });
        if found.as_ref().is_err_and(|error| error.downcast_ref().is_some_and(none)) {
            return Ok(false);
        }
        let (path, header) = agree(self.control, Exit::BadInput, found)?;
        self.state = RunState::after(&header, self.session.dataset(), self.deck.data.seq);
        self.resumed = Some(header.step);
        let reopened = self.output.as_mut().map_or(Ok(()), |output| {
            let path = path.display();
            log::warn!("the first step after step_{step}.h5 is not finite: passing over it, continuing from {path}");
            output.kept.go_back(header.step);
            output.metrics = Metrics::resume(&self.folder, self.info.clone(), header.step)?;
            folder::describe(&self.folder, &self.deck, &output.metrics.history().parts)
        });
        agree(self.control, Exit::Failure, reopened)?;
        self.session.prepare()?;
        Ok(true)
    }

    /// Says which update was left out and why, and ends the run if that is what the guard wants.
    fn follow(&mut self, verdict: Verdict, result: &StepResult) -> anyhow::Result<()> {
        let (reason, stop) = match verdict {
            Verdict::Applied => return Ok(()),
            Verdict::Skipped(reason) => (reason, false),
            Verdict::Stop(reason) => (reason, true),
        };
        let place = if result.is_finite() { None } else { guard::place(&self.session, self.control)? };
        let place = place.map_or_else(String::new, |place| format!(", {place}"));
        let step = self.state.step;
        if !stop {
            if let Some(Output { progress, .. }) = &mut self.output {
                progress.note(&format!("warn: step {step}: {reason}{place}; its update was left out"));
            }
            return Ok(());
        }
        let mut message = format!("step {step}: {reason}{place}; its update was not applied");
        if let Some(Output { metrics, kept, .. }) = &mut self.output {
            metrics.flush()?;
            message += &match kept.best(metrics.history()) {
                Some(path) => format!("; the checkpoint to go back to is {} (--resume)", path.display()),
                None => "; there is no checkpoint to go back to".into(),
            };
        }
        Err(Agreed::new(self.control, Exit::Failure, message).into())
    }

    /// Sums what the ranks measured, and lets rank 0 decide whether to stop. All in one gather and one broadcast.
    fn gather(&self, result: &StepResult, lr: f64, step_s: f64, wanted: Option<Cause>) -> (Record, Option<Cause>) {
        let job = &self.session.schedule.job;
        let sent = result.measured.sent.traffic(self.session.rank(), &job.groups);
        let memory = if self.gpu_memory > 0 { self.gpu_memory } else { meter::peak_memory() };
        let mine = [sent.intra as u64, sent.inter as u64, sent.control as u64, memory, Cause::encode(wanted)];
        let mut totals = [0u64; 5];
        let mut verdict = Vec::new();
        // All ranks come from the same step, at whose end they have heard of each other: who is missing longer than a
        // message may be is lost.
        self.control.set_patience(Duration::from_secs_f64(self.deck.run.timeout.0));
        if let Some(all) = self.control.gather(bytemuck::cast_slice(&mine)) {
            for part in &all {
                let part: [u64; 5] = bytemuck::pod_read_unaligned(part);
                (0..3).for_each(|i| totals[i] += part[i]);
                (3..5).for_each(|i| totals[i] = totals[i].max(part[i]));
            }
            verdict.push(totals[4] as u8);
        }
        self.control.broadcast(0, &mut verdict);
        self.control.set_patience(patience(&self.deck));
        let ended = Cause::decode(verdict[0].into());
        let rate = job.batch.tokens() as f64 / step_s;
        let flops = |causal| rate * job.shape.flops_per_token(job.batch.seq, causal) / self.peak;
        let record = Record {
            step: self.state.step,
            loss: result.loss,
            grad_norm: result.grad_norm,
            lr,
            tokens: self.state.tokens,
            step_s,
            tokens_per_s: rate,
            tokens_per_s_rank: rate / self.control.size() as f64,
            mfu: flops(true),
            mfu_full: flops(false),
            exposed_s: result.measured.exposed,
            bytes_intra: totals[0],
            bytes_inter: totals[1],
            bytes_control: totals[2],
            memory_peak: totals[3],
            skipped: !result.applied,
        };
        (record, ended)
    }

    /// Whether this step's validation is missing. Rank 0 knows, and tells.
    fn lacks_validation(&self) -> bool {
        let mut lacks = Vec::new();
        if let Some(Output { metrics, .. }) = &self.output {
            let last = metrics.history().validations.last().map(|validation| validation.step);
            lacks.push(u8::from(last != Some(self.state.step)));
        }
        self.control.broadcast(0, &mut lacks);
        lacks == [1]
    }

    /// Validates, unless a rank wants to stop in the meantime: then all leave it at that.
    fn validate(&mut self, stop: &Stop) -> anyhow::Result<Option<Cause>> {
        if !self.validates {
            return Ok(None);
        }
        let start = Instant::now();
        let mut ended = None;
        let valid_loss = self.session.validate(|| {
            ended = stop.agreed(self.control);
            ended.is_some()
        })?;
        let step = self.state.step;
        if let (Some(valid_loss), Some(Output { metrics, progress, .. })) = (valid_loss, &mut self.output) {
            let bits_per_byte = self.bits.map_or(f64::NAN, |bits| valid_loss * bits);
            let valid_s = start.elapsed().as_secs_f64();
            let validation = Validation { step, valid_loss, bits_per_byte, valid_s };
            progress.validation(&validation);
            metrics.validation(validation)?;
        }
        self.announce(ended, if valid_loss.is_none() { ", its validation is left out" } else { "" });
        Ok(ended)
    }

    /// Writes a checkpoint together with all ranks, and removes old ones.
    fn save(&mut self) -> anyhow::Result<()> {
        if !cfg!(feature = "hdf5") || !self.deck.run.checkpoint {
            return Ok(());
        }
        let header = self.state.header(&self.deck, &self.session.schedule.job.shape);
        let folder = folder::checkpoints(&self.folder);
        let saved = self.session.save(&folder, &header, self.control);
        let path = agree(self.control, Exit::Failure, saved)?;
        if let Some(Output { metrics, progress, kept, .. }) = &mut self.output {
            progress.note(&format!("checkpoint {}", path.display()));
            metrics.flush()?;
            kept.add(self.state.step, metrics.history());
        }
        Ok(())
    }

    /// Ends the program's part of the run. A run that has taken its last step is done, unless its last validation was left out.
    fn finish(&mut self, ended: Option<Cause>) -> anyhow::Result<Exit> {
        let last = self.state.step == self.deck.run.steps;
        let done = last && (!self.validates || !self.lacks_validation());
        let exit = if done { Exit::Done } else { ended.map_or(Exit::Done, Cause::exit) };
        let written = self.output.as_mut().map_or(Ok(()), |Output { metrics, progress, .. }| {
            metrics.flush()?;
            progress.finish();
            if done { folder::set_done(&self.folder, true) } else { Ok(()) }
        });
        agree(self.control, Exit::Failure, written)?;
        self.session.finish()?;
        Ok(exit)
    }
}
