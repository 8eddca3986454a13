//! A run from its first step to its last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::checkpoint;
use crate::cluster::Groups;
use crate::deck::Deck;
use crate::device::beside;
use crate::exit::Exit;
use crate::fabric::{Control, warn_about_cores};
use crate::metrics::{Metrics, Progress, Record, Row, RunInfo, Validation};
use crate::plan::check::check;
use crate::plan::systems::{Schedule, schedule};

use super::guard::{self, Guard, Verdict};
use super::{
    Agreed, MakeWire, RunState, Session, StepInput, StepResult, Stop, TrainOptions, agree, costs, device, folder,
    learning_rate, messages, meter, patience, trace,
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
    if options.dry_run || run.state.step == deck.run.steps {
        run.session.finish()?;
        return Ok(Exit::Done);
    }
    loop {
        let ended = run.train(stop)?;
        let step = run.state.step;
        let last = step == deck.run.steps;
        let due = |every: u64| every > 0 && step % every == 0;
        if last || (ended.is_none() && due(deck.run.validate_every)) {
            run.validate()?;
        }
        if last || ended.is_some() || due(deck.run.checkpoint_every) {
            run.save()?;
        }
        if last || ended.is_some() {
            return run.finish(if last { Exit::Done } else { ended.unwrap_or(Exit::Done) });
        }
    }
}

/// A run in progress, on one rank.
struct Run<'a> {
    /// With everything that was decided at the start.
    deck: Deck,
    options: TrainOptions,
    control: &'a dyn Control,
    session: Session,
    folder: PathBuf,
    guard: Guard,
    state: RunState,
    /// FLOP/s of all ranks (rank 0).
    peak: f64,
    /// Factor from nats a token to bits a byte.
    bits: Option<f64>,
    /// Bytes of the rank's memory on a GPU; 0 on processors.
    gpu_memory: u64,
    validates: bool,
    /// Rank 0 only.
    output: Option<(Metrics, Progress)>,
}

impl<'a> Run<'a> {
    /// Everything before the first step. Each part that can fail on some ranks ends with an agreement.
    fn start(
        mut deck: Deck,
        options: TrainOptions,
        control: &'a dyn Control,
        found: &Groups,
        wire: &MakeWire,
    ) -> anyhow::Result<Self> {
        let rank = control.rank();
        let bad = Exit::BadInput;
        let ranks = control.size();
        let groups = agree(control, bad, deck.groups(ranks).map_err(Into::into))?.unwrap_or_else(|| found.clone());
        let source = agree(control, bad, deck.model.from.as_ref().map(|path| Ok(checkpoint::open(path)?)).transpose())?;
        let mut name = if rank == 0 { folder::name(&deck).into_os_string().into_encoded_bytes() } else { Vec::new() };
        control.broadcast(0, &mut name);
        let folder = PathBuf::from(String::from_utf8_lossy(&name).into_owned());
        agree(control, bad, if rank == 0 { folder::look(&folder, options.resume) } else { Ok(()) })?;

        let threads = deck
            .run
            .threads
            .unwrap_or_else(|| if ranks > 1 { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) });
        if ranks > 1 {
            warn_about_cores(threads);
        }
        let shape = match (&source, deck.model.shape()) {
            (Some(source), _) => source.shape().clone(),
            (None, Some(shape)) => shape,
            (None, None) => bail!("the deck gives neither model.from nor a shape"),
        };
        let device = device::choose(deck.run.device, &deck.gpu, threads, control, found)?;
        let device = device.deterministic(deck.run.deterministic);
        let messages = messages::choose(&deck, &device, control, wire)?;
        costs::settle(&mut deck, &shape, &device, control, options.resume.then_some(&folder))?;
        let gpu = device.gpu().is_some();
        let planned = (|| {
            let mut job = deck.job(shape, groups.clone())?;
            let beside = if gpu { beside(&job.shape, job.batch.seq).iter().map(|(_, bytes)| bytes).sum() } else { 0 };
            let limit = job.memory;
            job.memory = limit.map(|limit| limit.saturating_sub(beside));
            let schedule = schedule(&job)?;
            if rank == 0 {
                prove(&schedule, limit, beside)?;
            }
            Ok(schedule)
        })();
        let schedule = agree(control, bad, planned)?;
        // A text is tokenised once a machine; here one rank after the other would be the safest, but the cache file
        // appears whole, so that at worst the work is done twice.
        let dataset = agree(control, bad, deck.dataset(schedule.job.shape.vocab).map_err(Into::into))?;
        if rank == 0 {
            dataset.remarks().iter().for_each(|remark| log::warn!("{remark}"));
        }
        let plan = schedule.rank(rank);
        let bits = dataset.bytes_per_token().map(|bytes| 1.0 / (std::f64::consts::LN_2 * bytes));
        let validates = dataset.valid_batches() > 0;
        let memory = device.memory(&plan.slots).context("the plan's memory; `tawpipe plan` shows what it is for");
        let memory = agree(control, bad, memory)?;
        let mut session = Session::new(&deck, schedule, plan, &device, memory, Arc::new(dataset), messages)?;
        control.set_patience(patience(&deck));
        let state = load(&deck, options, control, &session, source.as_deref(), &folder)?;
        session.prepare()?;
        let peak = meter::peak(control, &device, deck.run.dtype);

        let gpu_memory = device::gpu_memory(&device, &session.schedule, &session.plan);
        let output = (rank == 0 && !options.dry_run).then(|| {
            folder::create(&folder, &deck)?;
            let system = deck.system.name().to_string();
            let info = RunInfo { deck: deck.to_toml(), system, groups: groups.sizes() };
            let metrics = match options.resume {
                true => Metrics::resume(&folder, info, state.step)?,
                false => Metrics::create(&folder, info)?,
            };
            Ok((metrics, Progress::new(deck.run.steps, state.step)))
        });
        let output = agree(control, bad, output.transpose())?;
        if rank == 0 {
            let shape = &session.schedule.job.shape;
            log::info!(
                "{}: {} parameters, {} on {ranks} rank(s) in groups of {:?}, {} tokens a step, into {}",
                deck.name(),
                shape.params(),
                deck.system.name(),
                groups.sizes(),
                session.schedule.job.batch.tokens(),
                folder.display(),
            );
        }
        let guard = Guard::new(&deck.run);
        Ok(Run { deck, options, control, session, folder, guard, state, peak, bits, gpu_memory, validates, output })
    }

    /// One step; says whether all ranks have agreed to stop behind it.
    fn train(&mut self, stop: &Stop) -> anyhow::Result<Option<Exit>> {
        let start = Instant::now();
        let RunState { step, position, .. } = &self.state;
        let lr = learning_rate(&self.deck.optim, *step, self.deck.run.steps);
        let bound = self.guard.bound(position);
        let input = StepInput { first: position.sequences, update: position.updates + 1, lr, bound };
        let result = self.session.step(&input)?;
        let step_s = start.elapsed().as_secs_f64();
        self.state.advance(self.session.schedule.job.batch);
        let verdict = self.guard.judge(&result, bound, &mut self.state.position);
        if self.deck.run.trace == Some(self.state.step) {
            let written = trace::write(&self.folder, &self.session.schedule, &result.measured, self.control);
            agree(self.control, Exit::Failure, written)?;
        }
        let wanted = stop.wanted();
        let (record, ended) = self.gather(&result, lr, step_s, wanted);
        if let Some((metrics, progress)) = &mut self.output {
            if self.options.json {
                println!("{}", record.json());
            }
            progress.step(&record);
            metrics.step(record)?;
        }
        self.follow(verdict, &result)?;
        Ok(ended)
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
            if let Some((_, progress)) = &mut self.output {
                progress.note(&format!("warn: step {step}: {reason}{place}; its update was left out"));
            }
            return Ok(());
        }
        let mut message = format!("step {step}: {reason}{place}; its update was not applied");
        if let Some((metrics, _)) = &mut self.output {
            metrics.flush()?;
            message += &match checkpoint::checkpoints(&folder::checkpoints(&self.folder))?.first() {
                Some(path) => format!("; the checkpoint to go back to is {} (--resume)", path.display()),
                None => "; there is no checkpoint to go back to".into(),
            };
        }
        Err(Agreed::new(self.control, Exit::Failure, message).into())
    }

    /// Sums what the ranks measured, and lets rank 0 decide whether to stop. All in one gather and one broadcast.
    fn gather(&self, result: &StepResult, lr: f64, step_s: f64, wanted: Option<Exit>) -> (Record, Option<Exit>) {
        let job = &self.session.schedule.job;
        let sent = result.measured.sent.traffic(self.session.rank(), &job.groups);
        let wanted = wanted.map_or(0, |exit| u64::from(exit.code()));
        let memory = if self.gpu_memory > 0 { self.gpu_memory } else { meter::peak_memory() };
        let mine = [sent.intra as u64, sent.inter as u64, sent.control as u64, memory, wanted];
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
        let ended = Exit::ALL.into_iter().find(|exit| *exit != Exit::Done && exit.code() == verdict[0]);
        let tokens = job.batch.tokens() as f64;
        let rate = tokens / step_s;
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

    fn validate(&mut self) -> anyhow::Result<()> {
        if !self.validates {
            return Ok(());
        }
        let start = Instant::now();
        let valid_loss = self.session.validate()?;
        if let Some((metrics, progress)) = &mut self.output {
            let bits_per_byte = self.bits.map_or(f64::NAN, |bits| valid_loss * bits);
            let valid_s = start.elapsed().as_secs_f64();
            let validation = Validation { step: self.state.step, valid_loss, bits_per_byte, valid_s };
            progress.validation(&validation);
            metrics.validation(validation)?;
        }
        Ok(())
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
        if let Some((metrics, progress)) = &mut self.output {
            progress.note(&format!("checkpoint {}", path.display()));
            metrics.flush()?;
            if let Err(error) = checkpoint::prune(&folder, self.deck.run.keep) {
                log::warn!("old checkpoints stay: {error}");
            }
        }
        Ok(())
    }

    fn finish(&mut self, exit: Exit) -> anyhow::Result<Exit> {
        let written = self.output.as_mut().map_or(Ok(()), |(metrics, progress)| {
            metrics.flush()?;
            progress.finish();
            if exit == Exit::Done {
                let path = self.folder.join(folder::DONE);
                std::fs::write(&path, "").with_context(|| path.display().to_string())?;
            }
            Ok(())
        });
        agree(self.control, Exit::Failure, written)?;
        self.session.finish()?;
        Ok(exit)
    }
}

/// Proves all ranks' plans, and that they fit where the deck sets a limit. A GPU holds some bytes beside the plan's slots.
fn prove(schedule: &Schedule, limit: Option<usize>, beside: usize) -> anyhow::Result<()> {
    let summary = match check(schedule, &schedule.ranks()) {
        Ok(summary) => summary,
        Err(defects) => {
            defects.iter().for_each(|defect| log::error!("{defect}"));
            bail!("the plan has {} defects: a bug, please report it", defects.len())
        }
    };
    if let Some(limit) = limit
        && summary.peak() + beside > limit
    {
        let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let and = if beside > 0 { format!(" and the GPU {} beside it", mib(beside)) } else { String::new() };
        bail!(
            "the plan needs {} on a rank{and}, but cluster.memory allows {}; try run.recompute = \"block\", a smaller \
             batch.micro, or another system (tawpipe plan --recommend)",
            mib(summary.peak()),
            mib(limit)
        );
    }
    Ok(())
}

/// Fills the masters: from the run's newest checkpoint, from a model on disk, or new. Says how far the run has come.
fn load(
    deck: &Deck,
    options: TrainOptions,
    control: &dyn Control,
    session: &Session,
    source: Option<&dyn checkpoint::Source>,
    folder: &std::path::Path,
) -> anyhow::Result<RunState> {
    if options.resume {
        let found = session.resume(&folder::checkpoints(folder), control);
        let (path, header) = agree(control, Exit::BadInput, found)?;
        let steps = deck.run.steps;
        if header.step > steps {
            // All ranks have read the same header.
            let message = format!("{} is at step {}, beyond run.steps = {steps}", path.display(), header.step);
            return Err(Agreed::new(control, Exit::BadInput, message).into());
        }
        if control.rank() == 0 {
            log::info!("continuing from {}", path.display());
        }
        return Ok(RunState::after(&header, session.dataset(), deck.data.seq));
    }
    match source {
        Some(source) => agree(control, Exit::BadInput, session.read(source))?,
        None => session.initialise(deck.run.seed)?,
    }
    Ok(RunState::start(deck.data.seq))
}
