//! jobs/ on virtual clusters: real hosts, real links, a real Slurm, on this machine. Skipped, with the reason, where
//! there is no root or a package is missing (`scripts/deps.sh test` installs them).
#![cfg(all(feature = "mpi", feature = "hdf5", target_os = "linux"))]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const DECK: &str = r#"
model = { dim = 64, layers = 4, heads = 4, ffn = 96 }
data = { text = "text.txt", seq = 64, valid = 0.1 }
batch = { global = 8, micro = 2 }
run = { steps = 60, timeout = 20 }
system = { name = "tawpipe" }
"#;

/// More steps than any test waits for.
const ENDLESS: &str = "run.steps=100000";

/// Nothing here takes longer, but a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(100);

/// One cluster at a time: the tests are about order and time, and cores are few.
static TURN: Mutex<()> = Mutex::new(());

/// A cluster of two nodes with two ranks each and Slurm, and a folder with a deck.
struct Cluster {
    folder: TempDir,
    /// The cluster ends when this closes, also if this process is killed.
    _tie: ChildStdin,
    _turn: MutexGuard<'static, ()>,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs").join(name)
}

impl Cluster {
    /// Starts one; `None` where that is not possible, and the test is skipped.
    fn up(options: &[&str]) -> Option<Self> {
        if !common::virtual_cluster(options.contains(&"--slurm")) {
            return None;
        }
        // A test that has failed leaves no mess for the next: its cluster is gone.
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = tempfile::Builder::new().prefix("tawpipe-").tempdir().unwrap();
        // Slurm wants a path that others may pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("deck.toml"), DECK).unwrap();
        fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(200)).unwrap();
        let mut up = command(folder.path());
        let mut up = up.args(["up", "--tied"]).args(options).stdin(Stdio::piped()).spawn().unwrap();
        let tie = up.stdin.take().unwrap();
        let cluster = Cluster { folder, _tie: tie, _turn: turn };
        assert!(up.wait().unwrap().success(), "the cluster starts");
        Some(cluster)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(self.folder.path());
        command.args(words);
        command
    }

    /// Standard output of a command of jobs/virtual-cluster, which must succeed.
    fn call(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).trim().to_string()
    }

    /// Submits jobs/train.sbatch with a log `NAME.out` and a run folder `NAME`; returns the job's number.
    fn train(&self, name: &str, options: &[&str], settings: &[&str]) -> String {
        let (log, script) = (format!("--output={name}.out"), script("train.sbatch"));
        let mut submit = self.command(&["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", &log]);
        submit.args(options).arg(script).arg("deck.toml").env("RUN", self.path(name));
        settings.iter().for_each(|setting| {
            submit.args(["--set", setting]);
        });
        let output = submit.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// Waits until a file of the folder has this text so many times.
    fn until(&self, file: &str, text: &str, times: usize) -> String {
        let start = Instant::now();
        loop {
            let found = self.text(file);
            if found.matches(text).count() >= times {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "no {text:?} x {times} in {file}:\n{found}\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until some steps are in a run's journal.
    fn until_step(&self, run: &str, steps: usize) {
        self.until(&format!("{run}/metrics.jsonl"), "\"loss\"", steps);
    }

    /// Waits until a run is done.
    fn until_done(&self, run: &str) {
        let start = Instant::now();
        while !self.path(run).join("DONE").exists() {
            assert!(start.elapsed() < PATIENCE, "{run} is not done\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until Slurm's queue is empty.
    fn until_idle(&self) {
        let start = Instant::now();
        while !self.call(&["squeue", "--noheader"]).is_empty() {
            assert!(start.elapsed() < PATIENCE, "still in the queue\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A job's state, such as COMPLETED.
    fn state(&self, job: &str) -> String {
        let text = self.call(&["scontrol", "show", "job", job]);
        let state = text.split_whitespace().find_map(|word| word.strip_prefix("JobState="));
        state.expect("Slurm knows the job").to_string()
    }

    /// Every step's loss as written, to the last digit.
    fn losses(&self, run: &str) -> Vec<String> {
        let journal = self.text(&format!("{run}/metrics.jsonl"));
        let losses = journal.lines().filter_map(|line| line.split("\"loss\":").nth(1));
        losses.map(|rest| rest.split([',', '}']).next().unwrap().to_string()).collect()
    }

    /// For a test that fails: the queue and all logs.
    fn everything(&self) -> String {
        let output = self.command(&["squeue"]).output().map(|output| output.stdout).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&output).into_owned();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".out") {
                text += &format!("== {name}\n{}", self.text(&name));
            }
        }
        text
    }
}

/// jobs/virtual-cluster, about the cluster that belongs to a folder.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(script("virtual-cluster"));
    command
        .env("TAWPIPE_CLUSTERS", folder.join("clusters"))
        .env("TAWPIPE_CLUSTER", "test")
        .env("TAWPIPE", env!("CARGO_BIN_EXE_tawpipe"))
        .env("MPIEXEC_TIMEOUT", "100")
        .env("RUST_BACKTRACE", "0")
        .env_remove("MACHINE")
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// Processes that know of a folder, by command line or environment.
fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let knows = |pid: &String| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        ["cmdline", "environ"].iter().any(|file| String::from_utf8_lossy(&read(file)).contains(folder))
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).filter(knows).collect()
}

impl Drop for Cluster {
    /// Takes the cluster down, whatever has happened, and holds it to leaving nothing.
    fn drop(&mut self) {
        let down = self.command(&["down"]).output().unwrap();
        if std::thread::panicking() {
            return;
        }
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        let clusters = self.path("clusters");
        assert!(fs::read_dir(&clusters).unwrap().next().is_none(), "state is left");
        let left = processes(&clusters);
        assert!(left.is_empty(), "processes are left: {left:?}");
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(clusters.to_str().unwrap()), "mounts are left:\n{mounts}");
    }
}

/// MPI's own splits find the nodes, with no word about groups in the deck; what crosses the links is what the journal
/// counts, and links have the rate that was asked for.
#[test]
fn a_virtual_cluster_has_nodes_and_links() {
    let Some(cluster) = Cluster::up(&["--nodes", "3", "--ranks-per-node", "2", "--rate", "100mbit"]) else { return };
    let sent = |cluster: &Cluster| -> Vec<f64> {
        let table = cluster.call(&["status", "--json"]);
        let numbers = table.split("\"sent\":").skip(1);
        numbers.map(|rest| rest.split(',').next().unwrap().trim().parse().unwrap()).collect()
    };
    let train = |run: &str, steps: &str| {
        let program = env!("CARGO_BIN_EXE_tawpipe");
        let folder = format!("run.folder={}", cluster.path(run).display());
        let words = ["run", "--", program, "train", "deck.toml", "--set", &folder, "--set", steps];
        let (before, start) = (sent(&cluster), Instant::now());
        let output = cluster.command(&words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        let crossed = sent(&cluster).iter().zip(&before).map(|(now, then)| now - then).sum::<f64>();
        (text, crossed, start.elapsed())
    };
    let (text, few, _) = train("few", "run.steps=2");
    assert!(text.contains("6 ranks in groups of 2 + 2 + 2 on 3 nodes"), "{text}");
    let (_, many, _) = train("many", "run.steps=12");
    let journal = cluster.text("many/metrics.jsonl");
    let counted = journal.split("\"bytes_inter\":").nth(1).unwrap().split([',', '}']).next().unwrap();
    let counted = 10.0 * counted.parse::<f64>().unwrap();
    let wire = (many - few) / counted;
    assert!((0.99..1.08).contains(&wire), "{counted} bytes counted, {} on the wire", many - few);

    // At a tenth of the rate, the three links cannot carry a node's share sooner than this.
    for node in ["n1", "n2", "n3"] {
        cluster.call(&["link", node, "--rate", "10mbit"]);
    }
    let (_, crossed, took) = train("slow", "run.steps=4");
    let least = crossed / 3.0 / (10e6 / 8.0);
    assert!(took.as_secs_f64() > 0.8 * least, "{crossed} bytes within {took:?}");
}

/// A job is submitted and finishes; SIGUSR1 ends it with code 3, it is requeued and resumes, and its losses are those of
/// a run without interruption, bit for bit. Submitted once more it sees that all is done.
#[test]
fn a_signalled_job_continues_to_the_same_losses() {
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm"]) else { return };
    let job = cluster.train("cut", &[], &["run.steps=150"]);
    cluster.until_step("cut", 5);
    cluster.call(&["scancel", "--signal=USR1", &job]);
    let log = cluster.until("cut.out", "stopped by a signal; requeued", 1);
    assert!(log.contains("Exited with exit code 3"), "{log}");
    assert!(!cluster.path("cut/DONE").exists(), "it had been too quick");
    let whole = cluster.train("whole", &[], &["run.steps=150"]);
    cluster.until_done("cut");
    cluster.until_done("whole");
    cluster.until_idle();
    assert!(cluster.text("cut.out").contains("continuing from"), "{}", cluster.text("cut.out"));
    assert_eq!((cluster.state(&job), cluster.state(&whole)), ("COMPLETED".into(), "COMPLETED".into()));
    let losses = cluster.losses("whole");
    assert_eq!(losses.len(), 150);
    assert_eq!(cluster.losses("cut"), losses);

    let journal = cluster.text("whole/metrics.jsonl");
    cluster.train("whole", &[], &["run.steps=150"]);
    cluster.until("whole.out", "whole: done", 1);
    assert_eq!(cluster.text("whole/metrics.jsonl"), journal);
}

/// The program knows the job's time and ends with code 4 before Slurm would end it; the job continues by itself. A
/// cancelled job writes a checkpoint too, but stays down.
#[test]
fn wall_time_continues_and_scancel_does_not() {
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm"]) else { return };
    // One minute is Slurm's shortest.
    let margin = ["--time=1", "--signal=USR1@2", "--export=ALL,MARGIN=55"];
    let job = cluster.train("run", &margin, &[ENDLESS]);
    let log = cluster.until("run.out", "stopped by the wall time; requeued", 1);
    assert!(log.contains("Exited with exit code 4"), "{log}");
    cluster.until("run.out", "continuing from", 1);
    let steps = cluster.losses("run").len();
    cluster.until_step("run", steps + 3);
    cluster.call(&["scancel", &job]);
    cluster.until_idle();
    assert_eq!(cluster.state(&job), "CANCELLED");
    let steps = cluster.losses("run").len();
    let last = cluster.path(&format!("run/checkpoints/step_{steps}.h5"));
    assert!(last.exists(), "{}\n{}", last.display(), cluster.everything());
    // A busy machine may have needed more turns of five seconds before that; scancel is not another one.
    let (log, turn) = (cluster.text("run.out"), "stopped by the wall time; requeued");
    assert_eq!(log.matches("requeued").count(), log.matches(turn).count(), "{}", cluster.everything());
}

/// An array of three, from an experiment's file: each cell is a task of its own and leaves its result, and cells that have
/// one are not submitted again.
#[test]
fn an_experiment_is_an_array() {
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm"]) else { return };
    let experiment = "title = 'three'\ndeck = 'deck.toml'\nsteps = 2\n[where]\nkind = 'allocation'\n[systems]\n\
                      A = { name = 'ddp' }\nB = { name = 'ddp', run = { seed = 7 } }\nC = { name = 'tawpipe' }\n\
                      [[cells]]\nnodes = [1]\nranks = [2]\n";
    fs::write(cluster.path("three.toml"), experiment).unwrap();
    let scaling = script("scaling.sbatch");
    let submit = || cluster.call(&["head", "--", "bash", scaling.to_str().unwrap(), "three.toml"]);
    assert!(submit().contains("Submitted batch job"));
    cluster.until_idle();
    let losses = |cell: &str| -> Vec<f64> {
        let file = cluster.path(&format!("results/three/{cell}.1x2.unshaped.deck.s64.g8.json"));
        let record = tawpipe::results::read(&file).unwrap_or_else(|error| panic!("{error}\n{}", cluster.everything()));
        record.rounds().iter().flat_map(|round| &round.steps).map(|step| step.loss).collect()
    };
    let [a, b, c] = ["a", "b", "c"].map(losses);
    assert!(a.len() == 3 && a.iter().zip(&c).all(|(a, c)| (a / c - 1.0).abs() < 1e-5), "{a:?} {c:?}");
    assert_ne!(a, b);
    assert!(submit().contains("every cell has its result"));
}

/// Tasks that srun started without a process manager would each be alone: refused before anything is written.
#[test]
fn srun_without_pmix_is_caught() {
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm"]) else { return };
    let program = env!("CARGO_BIN_EXE_tawpipe");
    let mut srun = cluster.command(&["srun", "--nodes=2", "--ntasks=4", "--mpi=none", "--kill-on-bad-exit=1"]);
    let output = srun.args([program, "train", "deck.toml", "--set", "run.folder=run"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("tawpipe: ") && text.contains("srun --mpi=pmix"), "{text}");
    assert!(!cluster.path("run").exists());
}

/// Bad input ends a job for good, with code 2 and one line, whether the deck is wrong or a file that it names: all ranks end
/// by themselves, before srun ends them with a signal, whose number it would report.
#[test]
fn bad_input_stays_down() {
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm"]) else { return };
    for (name, setting, words) in
        [("typo", "optim.lrr=1", "did you mean optim.lr?"), ("file", "data.text=nowhere.txt", "nowhere.txt")]
    {
        let job = cluster.train(name, &[], &[setting]);
        cluster.until(&format!("{name}.out"), "bad input; starting again would not mend it", 1);
        cluster.until_idle();
        let log = cluster.text(&format!("{name}.out"));
        let ours: Vec<&str> = log.lines().filter(|line| line.starts_with("tawpipe: ")).collect();
        assert!(ours.len() == 1 && ours[0].contains(words) && !log.contains("requeued"), "{log}");
        assert_eq!(cluster.state(&job), "FAILED");
        let shown = cluster.call(&["scontrol", "show", "job", &job]);
        assert!(shown.contains("ExitCode=2:0") && shown.contains("Restarts=0"), "{shown}");
    }
}

/// A node's cable is pulled in mid-step: the job ends with a line that names op, shard and peer, within `run.timeout` and
/// the time that ending takes; it is requeued, and finishes once the cable is back.
#[test]
fn a_lost_link_is_noticed_and_outlived() {
    // Slow links, so that at nearly any moment a shard is on its way.
    let Some(cluster) = Cluster::up(&["--nodes", "2", "--slurm", "--rate", "20mbit"]) else { return };
    let job = cluster.train("run", &[], &["run.steps=40", "run.checkpoint_every=5", "run.timeout=4"]);
    // A cut between two steps is noticed too, but in other words: then once more.
    let mut cuts = 0;
    loop {
        // Two steps after a checkpoint, far from the next.
        let next = cluster.losses("run").len() / 5 * 5 + 7;
        cluster.until_step("run", next);
        cluster.call(&["link", "n2", "--down"]);
        cuts += 1;
        let start = Instant::now();
        let log = cluster.until("run.out", "srun: Job step aborted", cuts);
        assert!(start.elapsed() < Duration::from_secs(15), "ended after {:?}", start.elapsed());
        // Slurm may wait for the lost node before it answers the script's wish to be requeued.
        cluster.call(&["link", "n2", "--up"]);
        cluster.until("run.out", "; requeued", cuts);
        let names =
            |line: &str| ["no progress for 4 s", "op ", "shard ", "rank "].iter().all(|word| line.contains(word));
        if log.lines().any(names) {
            break;
        }
        assert!(cuts < 4, "no line names op, shard and peer:\n{log}");
    }
    cluster.until_done("run");
    cluster.until_idle();
    assert_eq!(cluster.state(&job), "COMPLETED");
    assert_eq!(cluster.losses("run").len(), 40);
    assert!(cluster.text("run.out").contains("continuing from"));
}
