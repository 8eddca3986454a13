//! The program under mpirun when something goes wrong: it ends in time, on all ranks, with one clear line and the
//! documented exit code, and overwrites nothing.
#![cfg(all(feature = "mpi", feature = "hdf5", target_os = "linux"))]

mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Everything must have ended by then, once it has gone wrong.
const SOON: Duration = Duration::from_secs(10);

const DECK: &str = r#"
model = { dim = 64, layers = 4, heads = 4, ffn = 96 }
data = { text = "text.txt", seq = 64, valid = 0.1 }
batch = { global = 12, micro = 2 }
run = { steps = 100000, timeout = 2 }
cluster = { ranks_per_group = [1, 2] }
system = { name = "tawpipe" }
"#;

/// A job on three ranks in a folder of its own.
struct Job {
    folder: TempDir,
    child: Child,
}

/// How a job ended.
struct End {
    code: Option<i32>,
    /// Standard output and error of all ranks and of mpirun.
    text: String,
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("deck.toml"), DECK).unwrap();
    fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(200)).unwrap();
    folder
}

impl Job {
    fn start(folder: TempDir, args: &[&str]) -> Self {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = common::mpirun(3)
            .env("RUST_BACKTRACE", "0")
            .args([env!("CARGO_BIN_EXE_tawpipe"), "train"])
            .arg(folder.path().join("deck.toml"))
            .args(["--set", &format!("run.folder={:?}", folder.path().join("run"))])
            .args(args)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mpirun starts");
        Job { folder, child }
    }

    fn text(&self) -> String {
        let mut bytes = Vec::new();
        fs::File::open(self.folder.path().join("log")).unwrap().read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.folder.path().join("run/metrics.jsonl")).unwrap_or_default()
    }

    /// Waits until some steps are in the journal.
    fn until_training(&self) {
        let start = Instant::now();
        while self.journal().lines().count() < 3 {
            assert!(start.elapsed() < Duration::from_secs(60), "no training: {}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process number of a rank of this job.
    fn rank(&self, rank: usize) -> i32 {
        self.find(rank).expect("a process of this rank")
    }

    /// The same, once there is one.
    fn find(&self, rank: usize) -> Option<i32> {
        let folder = self.folder.path().to_str().unwrap();
        let has = |pid: &str, file: &str, texts: &[String]| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let words: Vec<String> =
                bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
            words.iter().any(|word| texts.contains(word))
        };
        let ranks = ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].map(|name| format!("{name}={rank}"));
        let deck = [format!("{folder}/deck.toml")];
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let mut found = pids.filter(|pid| has(pid, "cmdline", &deck) && has(pid, "environ", &ranks));
        found.next().and_then(|pid| pid.parse().ok())
    }

    /// Sends a signal to a process.
    fn signal(pid: i32, signal: i32) {
        // SAFETY: kill has no preconditions.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end of the job, which must come within `limit`.
    fn end(mut self, limit: Duration) -> (End, TempDir) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > limit {
                let _ = self.child.kill();
                panic!("not over after {limit:?}: {}", self.text());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        (End { code: status.code(), text: self.text() }, self.folder)
    }
}

/// Lines of ours that say what is wrong.
fn complaints(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("tawpipe: ")).count()
}

/// Refused before the first step: code 2, said once, in words that name what is wrong.
fn refused(folder: TempDir, args: &[&str], words: &[&str]) -> TempDir {
    let (end, folder) = Job::start(folder, args).end(Duration::from_secs(30));
    assert_eq!(end.code, Some(2), "{args:?}: {}", end.text);
    assert_eq!(complaints(&end.text), 1, "{args:?}: {}", end.text);
    for word in words {
        assert!(end.text.contains(word), "{args:?}: no {word:?} in {}", end.text);
    }
    folder
}

/// A few steps that end by themselves.
fn trained(steps: u64) -> TempDir {
    let (end, folder) = Job::start(folder(), &["--set", &format!("run.steps={steps}")]).end(Duration::from_secs(60));
    assert_eq!(end.code, Some(0), "{}", end.text);
    folder
}

/// A rank that is killed takes the job along.
#[test]
fn a_killed_rank_ends_the_job() {
    let job = Job::start(folder(), &[]);
    job.until_training();
    Job::signal(job.rank(2), libc::SIGKILL);
    let (end, folder) = job.end(SOON);
    assert_ne!(end.code, Some(0), "{}", end.text);
    // The launcher says so, unless MPI's transport was first to find that a peer is gone.
    let words = ["signal 9", "KILLED", "No such process"];
    assert!(words.iter().any(|words| end.text.contains(words)), "{}", end.text);
    // What had been reported is there, and complete lines.
    let journal = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    assert!(journal.lines().count() >= 3 && !folder.path().join("run/DONE").exists());
}

/// A rank that no longer answers: the others name op, shard and peer, and end the job.
#[test]
fn a_stopped_rank_is_noticed() {
    let job = Job::start(folder(), &[]);
    job.until_training();
    Job::signal(job.rank(1), libc::SIGSTOP);
    let (end, _) = job.end(SOON);
    assert_eq!(end.code, Some(1), "{}", end.text);
    assert!(end.text.contains("no progress for 2 s") && end.text.contains("shard"), "{}", end.text);
}

/// Steps that are in the journal of a folder's run.
fn steps(folder: &TempDir) -> usize {
    let journal = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    journal.lines().filter(|line| line.contains("\"loss\"")).count()
}

/// Sends SIGUSR1 to rank 1, as batch systems do before the end: code 3, a checkpoint of the last step in the journal,
/// nothing unfinished; and the run continues from there. Returns how many steps had been taken.
fn stopped(job: Job) -> usize {
    Job::signal(job.rank(1), libc::SIGUSR1);
    let (end, folder) = job.end(SOON);
    assert_eq!(end.code, Some(3), "{}", end.text);
    let done = steps(&folder);
    let said = format!("SIGUSR1 received: stopping after step {done}");
    assert_eq!(end.text.matches("SIGUSR1 received").count(), 1, "{}", end.text);
    assert!(end.text.contains(&said), "{}", end.text);
    let files: Vec<_> =
        fs::read_dir(folder.path().join("run/checkpoints")).unwrap().map(|f| f.unwrap().path()).collect();
    let last = folder.path().join(format!("run/checkpoints/step_{done}.h5"));
    assert!(files.contains(&last), "{files:?}: {}", end.text);
    assert!(files.iter().all(|file| file.extension().unwrap() == "h5"), "{files:?}");
    let more = format!("run.steps={}", done + 2);
    let short = ["--resume", "--set", "run.validate_every=0", "--set", &more];
    let (end, folder) = Job::start(folder, &short).end(Duration::from_secs(60));
    assert_eq!(end.code, Some(0), "{}", end.text);
    assert_eq!(steps(&folder), done + 2);
    done
}

/// A signal in the middle of training.
#[test]
fn a_signal_stops_with_a_checkpoint() {
    let job = Job::start(folder(), &[]);
    job.until_training();
    stopped(job);
}

/// Ctrl-C for the launcher, which asks its ranks to end and kills them a second later: with short steps their checkpoint is
/// complete by then, and the run goes on from it.
#[test]
fn ctrl_c_for_the_launcher_stops_with_a_checkpoint() {
    let job = Job::start(folder(), &[]);
    job.until_training();
    Job::signal(i32::try_from(job.child.id()).unwrap(), libc::SIGINT);
    let (end, folder) = job.end(SOON);
    let done = steps(&folder);
    let last = folder.path().join(format!("run/checkpoints/step_{done}.h5"));
    assert!(last.exists(), "no checkpoint of step {done}: {}", end.text);
    let (end, folder) =
        Job::start(folder, &["--resume", "--set", &format!("run.steps={}", done + 2)]).end(Duration::from_secs(60));
    assert_eq!((end.code, steps(&folder)), (Some(0), done + 2), "{}", end.text);
}

/// A signal that comes before MPI has started, the data are read or the first step is taken, is not lost.
#[test]
fn a_signal_at_the_start_is_kept() {
    let job = Job::start(folder(), &[]);
    // As soon as the program catches it: before that it would be the end of any program.
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", job.find(1)?)).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        Some(u64::from_str_radix(mask.trim(), 16).unwrap() >> (libc::SIGUSR1 - 1) & 1 == 1)
    };
    let start = Instant::now();
    while caught() != Some(true) {
        assert!(start.elapsed() < Duration::from_secs(30), "no handler: {}", job.text());
        std::thread::sleep(Duration::from_millis(1));
    }
    // The handler is there a moment before it knows its flag.
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(stopped(job), 1);
}

/// A signal while the ranks validate, here for longer than it takes to see the step before in the journal.
#[test]
fn a_signal_while_validating_is_kept() {
    let folder = folder();
    fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(3_000)).unwrap();
    let job = Job::start(folder, &["--set", "data.valid=0.5", "--set", "run.validate_every=1"]);
    let start = Instant::now();
    while !job.journal().contains("\"loss\"") {
        assert!(start.elapsed() < Duration::from_secs(60), "no step: {}", job.text());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!job.journal().contains("valid_loss"), "validation is over already");
    // The validation is left at that, on all ranks alike.
    assert_eq!(stopped(job), 1);
}

/// Wall time that is over while the ranks validate.
#[test]
fn wall_time_is_kept_while_validating() {
    let folder = folder();
    fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(200_000)).unwrap();
    let sets = ["--set", "data.valid=0.9", "--set", "run.validate_every=1", "--set", "run.wall_time=10"];
    let (end, folder) = Job::start(folder, &sets).end(SOON + Duration::from_secs(10));
    assert_eq!(end.code, Some(4), "{}", end.text);
    assert!(
        end.text.contains("run.wall_time is over: stopping after step 1, its validation is left out"),
        "{}",
        end.text
    );
    assert_eq!(steps(&folder), 1);
    assert!(folder.path().join("run/checkpoints/step_1.h5").exists());
}

/// A signal while a checkpoint is being written: it is finished, and no further step is taken.
#[test]
fn a_signal_while_saving_is_kept() {
    let folder = folder();
    fs::write(folder.path().join("deck.toml"), DECK.replace("dim = 64", "dim = 256")).unwrap();
    let job = Job::start(folder, &["--set", "run.checkpoint_every=1"]);
    let start = Instant::now();
    let saving = || {
        let mut files = fs::read_dir(job.folder.path().join("run/checkpoints")).ok()?.filter_map(Result::ok);
        files.find(|file| file.path().extension().is_some_and(|e| e == "tmp"))
    };
    while saving().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint: {}", job.text());
    }
    let step = job.journal().matches("\"loss\"").count();
    assert_eq!(stopped(job), step);
}

/// A second writer is refused and names the first; when that has been killed, the next one goes on at once.
#[test]
fn a_run_folder_has_one_writer() {
    let folder = folder();
    let deck = folder.path().join("deck.toml");
    let job = Job::start(folder, &["--set", "run.checkpoint_every=2"]);
    job.until_training();
    let second = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.arg("train").arg(&deck).args(["--set", "cluster.ranks_per_group=[1]"]).args(args);
        command.args(["--set", &format!("run.folder={:?}", deck.with_file_name("run"))]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let before = job.journal();
    let first = job.rank(0);
    let (code, text) = second(&["--resume"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(&format!("is in use: process {first} on ")), "{text}");
    assert!(job.journal().starts_with(&before), "the first goes on undisturbed");
    let start = Instant::now();
    while fs::read_dir(deck.with_file_name("run").join("checkpoints")).unwrap().count() == 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "no checkpoint: {}", job.text());
        std::thread::sleep(Duration::from_millis(10));
    }
    Job::signal(first, libc::SIGKILL);
    let (_, folder) = job.end(SOON);
    assert!(folder.path().join("run/lock").exists(), "a killed process cannot give up its lock");
    let (code, text) = second(&["--resume", "--set", "run.wall_time=0.1"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("has died without giving up the folder"), "{text}");
    assert!(!folder.path().join("run/lock").exists());
}

/// Wall time: a checkpoint, code 4.
#[test]
fn wall_time_stops_with_a_checkpoint() {
    let (end, folder) = Job::start(folder(), &["--set", "run.wall_time=2"]).end(SOON + Duration::from_secs(2));
    assert_eq!(end.code, Some(4), "{}", end.text);
    assert_eq!(fs::read_dir(folder.path().join("run/checkpoints")).unwrap().count(), 1);
    assert!(!folder.path().join("run/DONE").exists());
}

/// A folder with a run in it is left as it is.
#[test]
fn an_existing_run_is_not_overwritten() {
    let folder = trained(2);
    let before = fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
    let folder = refused(folder, &[], &["is not empty", "--resume"]);
    assert_eq!(fs::read(folder.path().join("run/metrics.jsonl")).unwrap(), before);
}

/// Where there is nothing to continue, one command line serves a job's first start too; a run of which no checkpoint can be
/// used is not started again.
#[test]
fn resuming_starts_or_continues() {
    let again = ["--resume", "--set", "run.steps=2"];
    let (end, folder) = Job::start(folder(), &again).end(Duration::from_secs(60));
    assert_eq!(end.code, Some(0), "{}", end.text);
    assert!(end.text.contains("starting: there is no run in "), "{}", end.text);
    let more = ["--resume", "--set", "run.steps=4", "--set", "batch.global=24"];
    let (end, folder) = Job::start(folder, &more).end(Duration::from_secs(60));
    assert_eq!(end.code, Some(0), "{}", end.text);
    let words =
        ["continuing from ", "step_2.h5", "changed since the checkpoint: batch.global 12 -> 24, run.steps 2 -> 4"];
    for words in words {
        assert!(end.text.contains(words), "no {words:?} in {}", end.text);
    }
    // Cosine: down to zero at step 2, and up again.
    assert!(end.text.contains("warn: the learning rate goes from 0.000e0 at step 2 to "), "{}", end.text);
    assert_eq!(steps(&folder), 4);
    let folder = trained(2);
    let checkpoint = folder.path().join("run/checkpoints/step_2.h5");
    let whole = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &whole[..whole.len() / 2]).unwrap();
    refused(folder, &["--resume", "--set", "run.steps=4"], &["no checkpoint to continue from", "step_2.h5"]);
}

/// Weights to start from that are truncated, damaged, or not there.
#[test]
fn bad_weights_are_refused() {
    let folder = trained(2);
    let checkpoint = folder.path().join("run/checkpoints/step_2.h5");
    let start = folder.path().join("start.h5");
    let whole = fs::read(&checkpoint).unwrap();
    let from = format!("model={{from={start:?}}}");
    let deck = fs::read_to_string(folder.path().join("deck.toml")).unwrap();
    let deck = deck.replace("model = { dim = 64, layers = 4, heads = 4, ffn = 96 }", &from);
    fs::write(folder.path().join("deck.toml"), deck).unwrap();
    let other = "run.folder=\"other\"";
    let folder = refused(folder, &["--set", other], &["start.h5", "does not exist"]);
    fs::write(&start, &whole[..whole.len() - 5000]).unwrap();
    let folder = refused(folder, &["--set", other], &["start.h5"]);
    let folder = {
        fs::write(&start, &whole).unwrap();
        let (end, folder) = Job::start(folder, &["--set", other, "--set", "run.steps=1"]).end(Duration::from_secs(60));
        assert_eq!(end.code, Some(0), "the undamaged file is good: {}", end.text);
        folder
    };
    // A model of another shape cannot be continued.
    let deck = DECK.replace("dim = 64", "dim = 32");
    fs::write(folder.path().join("deck.toml"), deck).unwrap();
    refused(folder, &["--resume"], &["step_2.h5", "model.dim", "64", "32"]);
}

/// A folder that cannot be written to.
#[test]
fn a_read_only_folder_is_refused() {
    // Root may write anywhere but below /proc.
    refused(folder(), &["--set", "run.folder=\"/proc/tawpipe\""], &["/proc/tawpipe"]);
}

/// A disk that is full when the checkpoint is due: code 1, all ranks, one line; the run folder stays readable.
#[test]
fn a_full_disk_ends_the_job() {
    let folder = folder();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    if !common::mount_small(&disk, "256k") {
        return;
    }
    let place = format!("run.folder={:?}", disk.join("run"));
    let (end, _folder) = Job::start(folder, &["--set", &place, "--set", "run.steps=2"]).end(Duration::from_secs(30));
    let left = fs::read_dir(disk.join("run/checkpoints")).unwrap().count();
    let journal = fs::read_to_string(disk.join("run/metrics.jsonl")).unwrap();
    unmount(&disk);
    assert_eq!(end.code, Some(1), "{}", end.text);
    assert_eq!(complaints(&end.text), 1, "{}", end.text);
    assert!(end.text.contains("No space left"), "{}", end.text);
    assert_eq!((left, journal.lines().filter(|line| line.contains("\"loss\"")).count()), (0, 2));
}

fn unmount(disk: &Path) {
    assert!(Command::new("umount").arg(disk).status().unwrap().success());
}
