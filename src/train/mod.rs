//! The training loop.
//!
//! [`train`] starts the world, [`run()`] is the loop on one screen, [`Session`] one rank's plan, memory and
//! engine. Beside them, one concern a file: `start` what comes before the first step, `guard` which updates are applied, `state`
//! how far the run has come, `changes` what a resumed deck does differently, `kept` which checkpoints are good, `lock` that one
//! process writes, `stop` what ends a run early. Everything that all ranks must agree on before they go on goes through `agree`.

mod agree;
mod banner;
mod changes;
mod choice;
mod costs;
mod device;
mod executor;
mod folder;
mod guard;
mod kept;
mod lock;
mod messages;
mod meter;
mod need;
mod products;
mod remark;
mod run;
mod schedule;
mod session;
mod start;
mod state;
mod stop;
mod trace;
mod weights;

pub use agree::{Agreed, agree};
pub use device::choose;
pub use messages::Messages;
pub use run::run;
pub use schedule::learning_rate;
pub use session::{Session, StepInput, StepResult};
pub use state::RunState;
pub use stop::Stop;

use std::time::Duration;

use crate::deck::Deck;
#[cfg(feature = "cuda")]
use crate::deck::{DeviceKind, FabricKind};
use crate::exit::Exit;
use crate::fabric::Wire;
use crate::plan::Split;

/// What the command line adds to a deck.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOptions {
    /// Continue from the newest checkpoint of the run folder, if it holds one; otherwise start.
    pub resume: bool,
    /// Print one JSON object a step on standard output (rank 0).
    pub json: bool,
    /// Check the plan and stop before anything is written.
    pub dry_run: bool,
}

/// Makes a rank's messages for the splits of a schedule; `None` where a world has one rank.
pub type MakeWire<'a> = dyn Fn(&[Split]) -> Option<Box<dyn Wire>> + 'a;

/// How long ranks wait for each other outside a plan: reading a corpus or writing a checkpoint may take others long; a
/// deck that is patient with messages is patient with that too.
fn patience(deck: &Deck) -> Duration {
    Duration::from_secs_f64((10.0 * deck.run.timeout.0).max(600.0))
}

/// Trains what a deck describes, on the ranks that the launcher started. Every rank calls it with what reads the deck, and
/// every rank returns the same unless something failed on it alone: then the whole job is aborted.
///
/// # Errors
/// [`Agreed`] if something was wrong that all ranks know of; anything else ends the job.
pub fn train(read: impl FnOnce() -> anyhow::Result<Deck>, options: TrainOptions) -> anyhow::Result<Exit> {
    // First of all: a launcher that sees one rank end with an error sends SIGTERM to the others, which may still be at the
    // deck. They too end by themselves, with their own code: `srun` reports the highest code of all.
    let stop = Stop::watch()?;
    let deck = read();
    #[cfg(feature = "cuda")]
    if let Ok(deck) = &deck
        && deck.run.device != DeviceKind::Cpu
        && deck.run.fabric != FabricKind::Mpi
    {
        // Before MPI: it changes the environment, which must not have a second reader.
        crate::fabric::nccl::prepare(deck.gpu.share);
    }
    #[cfg(feature = "mpi")]
    {
        use crate::fabric::{launched_ranks, mpi::World};
        let deck = match deck {
            // A rank that is alone says what is wrong with its deck without MPI.
            Err(error) if launched_ranks() == 1 => return Err(error),
            deck => deck,
        };
        let world = World::start()?;
        let outcome = agree(&world, Exit::BadInput, deck).and_then(|deck| {
            world.set_patience(patience(&deck));
            // Also for one rank: its plan may have lanes of communication with nobody to talk to.
            let wire = |splits: &[Split]| Some(Box::new(world.wire(splits)) as Box<dyn Wire>);
            let groups = world.groups().clone();
            run(&deck, options, &world, &groups, &wire, &stop.within(deck.run.wall_time.map(|limit| limit.0)))
        });
        match outcome {
            Err(error) if !error.is::<Agreed>() => {
                // Only this rank knows: say so, and take the others along by dropping the world.
                log::error!("{error:#}");
                Err(error)
            }
            outcome => {
                world.finish();
                outcome
            }
        }
    }
    #[cfg(not(feature = "mpi"))]
    {
        use crate::fabric::local::{LocalOptions, world};
        use crate::fabric::refuse_singletons;
        refuse_singletons(1, |name| std::env::var(name).ok())?;
        let alone = world(1, LocalOptions::default()).remove(0);
        let wire = |_: &[Split]| Some(Box::new(alone.wire()) as Box<dyn Wire>);
        let deck = deck?;
        let stop = stop.within(deck.run.wall_time.map(|limit| limit.0));
        run(&deck, options, &alone, &crate::cluster::Groups::new(&[1]), &wire, &stop)
    }
}
