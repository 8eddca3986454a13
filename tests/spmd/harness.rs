//! Runs cases on threads and under mpirun.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tawpipe::cluster::{Groups, Rank};
use tawpipe::engine::EngineError;
use tawpipe::fabric::local::{self, LocalOptions};
use tawpipe::fabric::{Control, Wire};
use tawpipe::plan::Split;

use super::training;

/// What a case sees of the rank that runs it.
pub struct Context<'a> {
    pub rank: Rank,
    pub groups: Groups,
    pub control: &'a dyn Control,
    /// Makes the messages of these splits. All ranks call it equally often.
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
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w));
    let cases: Vec<&Case> = cases.iter().filter(|case| chosen(case.name)).collect();
    #[cfg(feature = "mpi")]
    if let Ok(mode) = std::env::var(mpi::MODE) {
        return mpi::rank(&mode, &cases);
    }
    for &n in ranks {
        for case in &cases {
            named(case.name, n, "threads", || {
                on_threads(n, case.run);
            });
        }
    }
    if chosen("watchdog") {
        named("watchdog", 3, "threads", || watchdog(&on_threads(3, training::watchdog)));
    }
    if chosen("panic") {
        named("panic", 3, "threads", panic);
    }
    #[cfg(feature = "mpi")]
    {
        if !cases.is_empty() {
            ranks.iter().for_each(|&n| mpi::cases(n, &wanted));
            HELD.fetch_add(ranks.len() * cases.len(), Ordering::Relaxed);
        }
        for (name, test) in mpi::LAUNCHES {
            if chosen(name) {
                named(name, 3, "MPI ranks", test);
            }
        }
    }
    // As the standard harness says it, for scripts that count.
    println!("test result: ok. {} passed; 0 failed; 0 ignored; 0 measured", HELD.load(Ordering::Relaxed));
}

/// Cases that held so far, those on MPI ranks included.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Says what runs, and for how long it did.
fn named(name: &str, ranks: usize, kind: &str, test: impl FnOnce()) {
    let start = Instant::now();
    println!("spmd: {name} on {ranks} {kind}");
    test();
    HELD.fetch_add(1, Ordering::Relaxed);
    println!("spmd:   holds, {:.1} s", start.elapsed().as_secs_f64());
}

/// On threads: sends that last until they are received, and a random time for each message.
fn on_threads<T: Send>(ranks: usize, case: impl Fn(&Context) -> T + Sync) -> Vec<T> {
    let options = LocalOptions { eager: 0, delay: Duration::from_micros(300), seed: 7 };
    local::run(ranks, options, |rank, control| {
        let wire = |_: &[Split]| Box::new(control.wire()) as Box<dyn Wire>;
        case(&Context { rank, groups: Groups::new(&sizes(ranks)), control, wire: &wire })
    })
}

/// What the ranks say after the last one stopped: each names op, shard and a peer, and one names the last rank.
fn watchdog(errors: &[Option<EngineError>]) {
    let errors: Vec<String> = errors.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for error in &errors {
        let parts = ["no progress for 1 s", "train op", "of shard", "waits for rank"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    assert!(errors.iter().any(|error| error.contains("waits for rank 2")), "{errors:?}");
}

/// The panic of one rank comes out of the whole world, after the others have failed because of it.
fn panic() {
    let world = || on_threads(3, |context| training::panic(context).expect_err("rank 1 is gone").to_string());
    let cause = std::panic::catch_unwind(world).unwrap_err();
    assert_eq!(*cause.downcast::<&str>().unwrap(), "this rank has had enough");
}

#[cfg(feature = "mpi")]
mod mpi {
    use std::fs;
    use std::process::{Command, Output};

    use tawpipe::fabric::abort;
    use tawpipe::fabric::mpi::World;

    use super::*;

    /// Variable that tells a rank what it is started for.
    pub const MODE: &str = "TAWPIPE_SPMD";

    /// Launches of their own: what ends badly, and what needs MPI's own counters.
    pub const LAUNCHES: [(&str, fn()); 6] = [
        ("watchdog", watchdog),
        ("silence", silence),
        ("absence", absence),
        ("panic", panic),
        ("singletons", singletons),
        ("monitoring", monitoring),
    ];

    /// Runs as one rank of an MPI job.
    pub fn rank(mode: &str, cases: &[&Case]) {
        let mut world = World::start().unwrap_or_else(|error| {
            println!("{error}");
            std::process::exit(2);
        });
        let ranks = world.size();
        assert_eq!(world.groups().sizes(), [ranks], "one machine is one group");
        world.regroup(Groups::new(&sizes(ranks)));
        let wire = |splits: &[Split]| Box::new(world.wire(splits)) as Box<dyn Wire>;
        let context = Context { rank: world.rank(), groups: world.groups().clone(), control: &world, wire: &wire };
        match mode {
            "cases" => {
                for case in cases {
                    let run = || {
                        (case.run)(&context);
                        world.barrier();
                    };
                    if world.rank() == 0 { named(case.name, ranks, "MPI ranks", run) } else { run() }
                }
            }
            "watchdog" => {
                if let Some(error) = training::watchdog(&context) {
                    println!("{error}");
                    // The others' sentences are wanted too.
                    std::thread::sleep(Duration::from_secs(1));
                    abort(1);
                }
                std::thread::sleep(Duration::from_secs(60));
            }
            "silence" => {
                world.set_patience(Duration::from_secs(1));
                if world.rank() == 1 {
                    std::thread::sleep(Duration::from_secs(60));
                }
                world.barrier();
            }
            "absence" => {
                if world.rank() == 1 {
                    std::thread::sleep(Duration::from_secs(60));
                }
                let missing = world.roll_call(&[0, 1, 2], Duration::from_secs(1));
                if world.rank() == 0 {
                    println!("missing: {missing:?}");
                    abort(1);
                }
                std::thread::sleep(Duration::from_secs(60));
            }
            "panic" => training::panic(&context).unwrap(),
            "monitoring" => {
                let mut sent = training::bytes(&context);
                for (to, bytes) in world.sent().table() {
                    *sent.entry(to).or_default() += bytes.control;
                }
                let lines: Vec<_> = sent.iter().map(|(to, bytes)| format!("{to} {bytes}\n")).collect();
                let folder = std::env::var("TAWPIPE_SPMD_FOLDER").unwrap();
                fs::write(format!("{folder}/ours.{}", world.rank()), lines.concat()).unwrap();
            }
            other => panic!("no mode {other}"),
        }
        world.finish();
    }

    /// This program under mpirun.
    fn mpirun(ranks: usize, mode: &str, options: &[&str]) -> Command {
        let mut command = crate::common::mpirun(ranks);
        command.env(MODE, mode).args(options).arg(std::env::current_exe().unwrap());
        command
    }

    /// All cases on MPI.
    pub fn cases(ranks: usize, wanted: &[String]) {
        let status = mpirun(ranks, "cases", &[]).args(wanted).status().expect("mpirun starts");
        assert!(status.success(), "{ranks} MPI ranks: {status}; the last case named above did not hold or did not end");
    }

    fn output(mut command: Command) -> (Output, String) {
        let start = Instant::now();
        let output = command.output().expect("the program starts");
        assert!(start.elapsed() < Duration::from_secs(30), "took {:?}", start.elapsed());
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output, text)
    }

    fn watchdog() {
        let (output, text) = output(mpirun(3, "watchdog", &[]));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("no progress for 1 s: train op"), "{text}");
    }

    /// One rank does not come to a barrier: the job ends, and the message names it.
    fn silence() {
        let (output, text) = output(mpirun(3, "silence", &[]));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("rank 1 has not answered for 1 s"), "{text}");
    }

    /// A rank does not come where communicators of NCCL are made: the first of the others names it, and only it.
    fn absence() {
        let (output, text) = output(mpirun(3, "absence", &[]));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("missing: [1]"), "{text}");
    }

    /// One rank panics in mid-step while its communication thread and the others wait: the job ends with code 1 and the
    /// panic's message.
    fn panic() {
        let (output, text) = output(mpirun(3, "panic", &[]));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("this rank has had enough"), "{text}");
    }

    /// Started as one of several that do not know of each other, it refuses.
    fn singletons() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(MODE, "cases").env("SLURM_NTASKS", "4").env_remove("OMPI_COMM_WORLD_SIZE");
        let (output, text) = output(command);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("SLURM_NTASKS=4") && text.contains("srun --mpi=pmix"), "{text}");
    }

    /// What every rank counts as sent to every other is what Open MPI counts, byte by byte.
    fn monitoring() {
        let version = output({
            let mut command = Command::new(std::env::var("MPIRUN").unwrap_or("mpirun".into()));
            command.arg("--version");
            command
        });
        if !version.1.contains("Open MPI") {
            crate::common::skip("only Open MPI counts messages", "`make test` runs with Debian's Open MPI");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let theirs = format!("{path}/theirs");
        let mut command = mpirun(
            4,
            "monitoring",
            &[
                ["--mca", "pml_monitoring_enable", "2"],
                ["--mca", "pml_monitoring_enable_output", "3"],
                ["--mca", "pml_monitoring_filename", &theirs],
            ]
            .concat(),
        );
        command.env("TAWPIPE_SPMD_FOLDER", path);
        let (output, text) = output(command);
        assert!(output.status.success(), "{text}");
        let mut total = 0;
        for rank in 0..4 {
            let ours = fs::read_to_string(format!("{path}/ours.{rank}")).unwrap();
            // Lines of messages between ranks: E, sender, receiver, "N bytes", "N msgs sent", sizes.
            let theirs = fs::read_to_string(format!("{theirs}.{rank}.prof")).unwrap();
            let external = theirs.lines().filter(|line| line.starts_with('E')).map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                assert_eq!(fields[1], rank.to_string(), "{line}");
                let bytes: u64 = fields[3].split(' ').next().unwrap().parse().unwrap();
                total += bytes;
                format!("{} {bytes}\n", fields[2])
            });
            assert_eq!(ours, external.collect::<String>(), "rank {rank}: ours and\n{theirs}");
        }
        assert!(total > 1_000_000, "{total} bytes is not a training");
    }
}
