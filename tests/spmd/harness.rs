//! Runs cases on threads and under mpirun.

use std::time::Duration;

use tawpipe::cluster::{GroupSizes, Groups, Rank};
use tawpipe::fabric::local::{self, LocalOptions};
use tawpipe::fabric::{Control, Wire};
use tawpipe::plan::Split;

/// What a case sees of the rank that runs it.
pub struct Context<'a> {
    pub rank: Rank,
    pub groups: Groups,
    pub control: &'a dyn Control,
    /// Makes the messages of these splits; at most once in a case.
    pub wire: &'a dyn Fn(&[Split]) -> Box<dyn Wire>,
}

impl Context<'_> {
    pub fn ranks(&self) -> usize {
        self.groups.ranks()
    }
}

/// Something that holds on all ranks; it panics if it does not.
pub struct Case {
    pub name: &'static str,
    pub run: fn(&Context),
}

/// Group sizes of a world: uneven, so that nothing is right by symmetry.
fn sizes(ranks: usize) -> Vec<usize> {
    match ranks {
        2 => vec![1, 1],
        3 => vec![1, 2],
        4 => vec![2, 2],
        6 => vec![1, 2, 3],
        other => vec![other],
    }
}

pub fn main(cases: &[Case], ranks: &[usize]) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let cases: Vec<&Case> =
        cases.iter().filter(|case| wanted.is_empty() || wanted.iter().any(|w| case.name.contains(w))).collect();
    #[cfg(feature = "mpi")]
    if std::env::var("TAWPIPE_SPMD").is_ok() {
        return mpi::rank(&cases);
    }
    for &n in ranks {
        for case in &cases {
            threads(case, n);
        }
    }
    #[cfg(feature = "mpi")]
    for &n in ranks {
        mpi::launch(n, &wanted);
    }
    println!("spmd: all cases hold");
}

/// On threads: sends that last until they are received, and a random time for each message.
fn threads(case: &Case, ranks: usize) {
    println!("spmd: {} on {ranks} threads", case.name);
    let options = LocalOptions { eager: 0, delay: Duration::from_micros(300), seed: 7 };
    local::run(ranks, options, |rank, wire, control| {
        let wire = std::cell::Cell::new(Some(Box::new(wire) as Box<dyn Wire>));
        let groups = GroupSizes::List(sizes(ranks)).groups(ranks).unwrap();
        let wire = |_: &[Split]| wire.take().expect("one wire a case");
        (case.run)(&Context { rank, groups, control, wire: &wire });
    });
}

#[cfg(feature = "mpi")]
mod mpi {
    use std::process::Command;

    use tawpipe::fabric::mpi::World;

    use super::*;

    /// Runs all cases as one rank of an MPI job.
    pub fn rank(cases: &[&Case]) {
        let ranks = std::env::var("TAWPIPE_SPMD").unwrap().parse().unwrap();
        let world = World::start(Some(&GroupSizes::List(sizes(ranks)))).unwrap();
        assert_eq!(world.groups().ranks(), ranks);
        for case in cases {
            if world.rank() == 0 {
                println!("spmd: {} on {ranks} MPI ranks", case.name);
            }
            let wire = |splits: &[Split]| Box::new(world.wire(splits)) as Box<dyn Wire>;
            (case.run)(&Context { rank: world.rank(), groups: world.groups().clone(), control: &world, wire: &wire });
            world.barrier();
        }
        world.finish();
    }

    /// An mpirun that works for root, on any machine, and ends by itself if ranks wait for each other.
    pub fn mpirun(ranks: usize) -> Command {
        let mut command = Command::new("mpirun");
        command
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .args(["-n", &ranks.to_string(), "--bind-to", "none", "--timeout", "120"]);
        command
    }

    /// Starts this program under mpirun.
    pub fn launch(ranks: usize, wanted: &[String]) {
        let status = mpirun(ranks)
            .arg(std::env::current_exe().unwrap())
            .args(wanted)
            .env("TAWPIPE_SPMD", ranks.to_string())
            .status()
            .expect("mpirun starts");
        assert!(status.success(), "{ranks} MPI ranks: {status}; the last case named above did not hold or did not end");
    }
}
