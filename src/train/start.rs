//! Everything before the first step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::checkpoint::{self, Header};
use crate::cluster::Groups;
use crate::deck::Deck;
use crate::device::beside;
use crate::exit::Exit;
use crate::fabric::{Control, is_launched, warn_about_cores};
use crate::metrics::{Metrics, Progress, RunInfo};
use crate::model::ModelShape;
use crate::plan::check::{Summary, check};
use crate::plan::systems::{Schedule, schedule};
use crate::units::memory;

use super::folder::Found;
use super::guard::Guard;
use super::kept::Kept;
use super::lock::Lock;
use super::run::{Output, Run};
use super::{
    Agreed, MakeWire, RunState, Session, TrainOptions, agree, banner, changes, choice, costs, device, folder, messages,
    meter, need, patience, products, remark,
};

impl<'a> Run<'a> {
    /// Everything before the first step. Each part that can fail on some ranks ends with an agreement.
    pub(super) fn start(
        mut deck: Deck,
        options: TrainOptions,
        control: &'a dyn Control,
        found: &Groups,
        wire: &MakeWire,
    ) -> anyhow::Result<Self> {
        let rank = control.rank();
        let bad = Exit::BadInput;
        let ranks = control.size();
        let alone = ranks == 1 && !is_launched();
        let groups = deck.groups(ranks).map_err(|error| match alone {
            true => anyhow::anyhow!("{error}; {}", remark::command(&deck)),
            false => error.into(),
        });
        let groups = agree(control, bad, groups)?.unwrap_or_else(|| found.clone());
        let (folder, lock, resumes) = enter(&deck, options, control)?;
        // The checkpoint holds the model that a run continues with.
        let source = deck.model.from.as_ref().filter(|_| !resumes).map(|path| Ok(checkpoint::open(path)?)).transpose();
        let source = agree(control, bad, source)?;
        let shape = match (&source, deck.model.shape()) {
            (Some(source), _) => source.shape().clone(),
            (None, Some(shape)) => shape,
            (None, None) if resumes => {
                agree(control, bad, checkpoint::newest(&folder::checkpoints(&folder), control).map_err(Into::into))?
                    .shape
            }
            (None, None) => bail!("the deck gives neither model.from nor a shape"),
        };

        let threads = deck
            .run
            .threads
            .unwrap_or_else(|| if ranks > 1 { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) });
        if ranks > 1 {
            warn_about_cores(threads);
        }
        let device = device::choose(deck.run.device, &deck.gpu, threads, control, found)?;
        let device = products::settle(device.deterministic(deck.run.deterministic), deck.run.dtype, control);
        let messages = messages::choose(&deck, &device, control, wire)?;
        costs::settle(&mut deck, &shape, &device, control, resumes.then_some(&folder))?;
        let chosen = choice::settle(&mut deck, &shape, &groups, &device, control, found, resumes.then_some(&folder))?;
        let gpu = device.gpu().is_some();
        let memory = agree(control, bad, need::look(&device, control).map_err(Into::into))?;
        let loaded = resumes || source.is_some();
        let fits =
            |summary: &Summary, beside| need::compare(&need::needs(summary, &device, beside, loaded), &memory, found);
        let schedule = agree(control, bad, planned(&deck, shape, &groups, gpu, (rank == 0).then_some(&fits as &Fits)))?;
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
        let (state, differs) = match resumes {
            true => resume(&deck, control, &session, &folder)?,
            false => {
                match source.as_deref() {
                    Some(source) => agree(control, bad, session.read(source))?,
                    None => session.initialise(deck.run.seed)?,
                }
                (RunState::start(deck.data.seq), false)
            }
        };
        session.prepare()?;
        let (peak, cores) = meter::together(control, &device, deck.run.dtype);

        let gpu_memory = device::gpu_memory(&device, &session.schedule, &session.plan);
        let info = RunInfo {
            deck: deck.to_toml(),
            system: deck.system.name().to_string(),
            groups: groups.sizes(),
            library: device.library(),
            cores,
        };
        let output =
            (rank == 0 && !options.dry_run).then(|| open(&folder, &deck, &info, lock, options, &state, differs));
        let output = agree(control, bad, output.transpose())?;
        if !chosen.is_empty() {
            log::info!("{chosen}");
        }
        if rank == 0 {
            banner::say(&deck, &session.schedule.job, found, &device, threads, &folder);
            let alone = alone.then(|| remark::alone(&deck)).flatten();
            remark::of_deck(&deck).into_iter().chain(alone).for_each(|remark| log::warn!("{remark}"));
        }
        let guard = Guard::new(&deck.run);
        let resumed = resumes.then_some(state.step);
        Ok(Run {
            deck,
            options,
            control,
            session,
            folder,
            guard,
            state,
            resumed,
            peak,
            bits,
            gpu_memory,
            validates,
            info,
            output,
        })
    }
}

/// Collective. The run folder, its lock if there is a run in it that this one continues (rank 0), and whether it holds a
/// checkpoint to go on from.
fn enter(deck: &Deck, options: TrainOptions, control: &dyn Control) -> anyhow::Result<(PathBuf, Option<Lock>, bool)> {
    let mut message = Vec::new();
    let looked = (|| {
        if control.rank() > 0 {
            return Ok(None);
        }
        if options.resume && deck.run.folder.is_none() {
            bail!("--resume needs run.folder: without it every start has a folder of its own");
        }
        let name = folder::name(deck);
        let mut found = folder::look(&name, options.resume)?;
        let locks = found != Found::Nothing && !options.dry_run;
        let lock = locks.then(|| Lock::take(&name, timeout(deck))).transpose()?;
        if lock.is_some() {
            // Whoever had it may have written something.
            found = folder::look(&name, options.resume)?;
        }
        let shown = name.display();
        match found {
            Found::Nothing if options.resume => log::info!("starting: there is no run in {shown} yet"),
            Found::Begun => log::info!("starting: the run in {shown} has ended before its first checkpoint"),
            _ => {}
        }
        message.push(found as u8);
        message.extend(name.into_os_string().into_encoded_bytes());
        Ok(lock)
    })();
    let lock = agree(control, Exit::BadInput, looked)?;
    control.broadcast(0, &mut message);
    let folder = PathBuf::from(String::from_utf8_lossy(&message[1..]).into_owned());
    Ok((folder, lock, Found::ALL.get(usize::from(message[0])) == Some(&Found::Checkpoint)))
}

fn timeout(deck: &Deck) -> Duration {
    Duration::from_secs_f64(deck.run.timeout.0)
}

/// Whether the machine has what a plan needs, with what a GPU keeps beside it; else a sentence.
type Fits<'a> = dyn Fn(&Summary, usize) -> Result<(), String> + 'a;

/// What the ranks are to do, on rank 0 proved and compared with what `fits` the machine (with what GPUs keep beside it).
fn planned(
    deck: &Deck,
    shape: ModelShape,
    groups: &Groups,
    gpu: bool,
    fits: Option<&Fits>,
) -> anyhow::Result<Schedule> {
    let mut job = deck.job(shape, groups.clone())?;
    let beside = if gpu { beside(&job.shape, job.batch.seq).iter().map(|(_, bytes)| bytes).sum() } else { 0 };
    let limit = job.memory;
    job.memory = limit.map(|limit| limit.saturating_sub(beside));
    let schedule = schedule(&job)?;
    if let Some(fits) = fits {
        fits(&prove(&schedule, limit, beside)?, beside).map_err(anyhow::Error::msg)?;
    }
    Ok(schedule)
}

/// Proves all ranks' plans, and that they fit where the deck sets a limit. A GPU holds some bytes beside the plan's slots.
fn prove(schedule: &Schedule, limit: Option<usize>, beside: usize) -> anyhow::Result<Summary> {
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
        let and = if beside > 0 { format!(" and the GPU {} beside it", memory(beside)) } else { String::new() };
        bail!(
            "the plan needs {} on a rank{and}, but cluster.memory allows {}; try run.recompute = \"block\", a smaller \
             batch.micro, or another system (tawpipe plan --recommend)",
            memory(summary.peak()),
            memory(limit)
        );
    }
    Ok(summary)
}

/// Collective. Goes on from the run's newest checkpoint. Says how far the run has come, and on rank 0 whether it trains
/// differently from there on.
fn resume(deck: &Deck, control: &dyn Control, session: &Session, folder: &Path) -> anyhow::Result<(RunState, bool)> {
    let found = session.resume(&folder::checkpoints(folder), None, control);
    let (path, header): (PathBuf, Header) = agree(control, Exit::BadInput, found)?;
    let steps = deck.run.steps;
    if header.step > steps {
        // All ranks have read the same header.
        let message = format!("{} is at step {}, beyond run.steps = {steps}", path.display(), header.step);
        return Err(Agreed::new(control, Exit::BadInput, message).into());
    }
    let mut differs = false;
    if control.rank() == 0 {
        log::info!("continuing from {}", path.display());
        differs = changes::report(&header.deck, deck, header.step);
    }
    Ok((RunState::after(&header, session.dataset(), deck.data.seq), differs))
}

/// Rank 0's files. A run that has steps to take is not done, and begins a part.
fn open(
    folder: &Path,
    deck: &Deck,
    info: &RunInfo,
    lock: Option<Lock>,
    options: TrainOptions,
    state: &RunState,
    differs: bool,
) -> anyhow::Result<Output> {
    folder::create(folder)?;
    let lock = match lock {
        Some(lock) => lock,
        None => {
            let lock = Lock::take(folder, timeout(deck))?;
            // Another process may have been here since it was looked at; its run is left alone.
            if ["metrics.jsonl", "deck.toml"].iter().any(|name| folder.join(name).exists()) {
                bail!("run folder {} is not empty: another run has just begun in it", folder.display());
            }
            lock
        }
    };
    let metrics = if state.step == deck.run.steps {
        Metrics::open(folder, state.step)?
    } else {
        folder::set_done(folder, false)?;
        let metrics = match options.resume {
            true => Metrics::resume(folder, info.clone(), state.step)?,
            false => Metrics::create(folder, info.clone())?,
        };
        folder::describe(folder, deck, &metrics.history().parts)?;
        folder::keep_tokenizer(folder, deck)?;
        if deck.run.tensorboard { metrics.tensorboard(state.step)? } else { metrics }
    };
    let kept = Kept::new(folder::checkpoints(folder), deck.run.keep, state.step, differs);
    Ok(Output { metrics, progress: Progress::new(deck.run.steps, state.step), kept, lock })
}
