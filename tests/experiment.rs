//! `tawpipe experiment`: a matrix multiplied out, measured, kept and continued.
#![cfg(all(feature = "mpi", feature = "hdf5", target_os = "linux"))]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tawpipe::experiment::Experiment;
use tawpipe::results::{Outcome, Record, read_folder};
use tempfile::TempDir;

const DECK: &str = r#"
model = { dim = 64, layers = 4, heads = 4, ffn = 96 }
data = { text = "text.txt", seq = 64 }
batch = { global = 8, micro = 2 }
run = { timeout = 20 }
"#;

const SMALL: &str = r#"
title = "two systems, one that refuses and one that fails"
deck = "deck.toml"
warmup = 1
steps = 2
rounds = 2
limit = 100
[where]
kind = "machine"
[systems]
"TawPipe, cached" = { name = "tawpipe", weight_cache = "group" }
Refused = { name = "ddp", blocks_per_shard = 0 }
Fails = { name = "ddp", data = { text = "missing.txt" } }
DDP = { name = "ddp" }
PyTorch = { torch = "ddp" }
[[cells]]
nodes = [2]
ranks = [1]
"#;

struct Lab {
    folder: TempDir,
}

impl Lab {
    fn new(experiment: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tawpipe-experiment-").tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("deck.toml", DECK);
        write("text.txt", &"In the beginning was the Word.\n".repeat(200));
        write("small.toml", experiment);
        Lab { folder }
    }

    fn results(&self) -> PathBuf {
        self.folder.path().join("results/small")
    }

    fn run(&self, options: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tawpipe"))
            .args(["experiment", "small.toml", "--no-predictions"])
            .args(options)
            .current_dir(self.folder.path())
            .env("TAWPIPE_ROOT", env!("CARGO_MANIFEST_DIR"))
            .env("TAWPIPE_CLUSTERS", self.folder.path().join("clusters"))
            .env_remove("TAWPIPE_TORCH")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn record(&self, start: &str) -> Record {
        let records = read_folder(&self.results()).unwrap();
        records.into_iter().find(|record| record.cell.id.starts_with(start)).unwrap_or_else(|| panic!("no {start}"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every mistake in a file is one line that names the file, the key and what is accepted, with exit code 2; nothing is
/// written.
#[test]
fn bad_files_are_refused() {
    let axes = "nodes = [2]";
    for (from, to, words) in [
        ("warmup = 1", "warmpu = 1", vec!["line 4", "warmpu", "warmup"]),
        ("kind = \"machine\"", "kind = \"moon\"", vec!["moon", "machine", "virtual-cluster", "allocation"]),
        ("steps = 2", "steps = 0", vec!["steps = 0", "from 1 to"]),
        (axes, "nodes = [2]\nlinks = [\"fast\"]", vec!["cells 1", "links", "fast", "accepted"]),
        (axes, "nodes = [2]\nsystems = [\"DDPP\"]", vec!["DDPP", "accepted", "DDP"]),
        (axes, "nodes = [2]\nglobal = 8\nmicros_per_rank = 1", vec!["global", "micros_per_rank"]),
        (axes, "nodes = []", vec!["nodes"]),
        ("name = \"tawpipe\"", "name = \"tawpip\"", vec!["TawPipe, cached", "system.name", "tawpipe"]),
        ("weight_cache = \"group\"", "weight_cash = 1", vec!["weight_cash", "did you mean"]),
        ("torch = \"ddp\"", "torch = \"zero\"", vec!["torch", "zero", "fsdp-sync"]),
        ("[systems]", "[links.x]\nrate = \"fast\"\n[systems]", vec!["links", "fast", "200mbit"]),
        ("DDP = {", "\"tawpipe: cached\" = {", vec!["two different cells", "tawpipe-cached"]),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let lab = Lab::new(&SMALL.replacen(from, to, 1));
        let output = lab.run(&["--dry-run"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {said}");
        let line = said.trim();
        assert!(!line.contains('\n') && line.contains("small.toml"), "{to}: {said}");
        assert!(words.iter().all(|word| line.contains(word)), "{to}: {line} lacks one of {words:?}");
        assert!(!lab.results().exists());
    }
}

/// Lists are multiplied out, each cell once and with a name of its own; weak scaling sets the global batch.
#[test]
fn axes_are_multiplied_out() {
    let lab = Lab::new(&SMALL.replace(
        "nodes = [2]\nranks = [1]",
        "nodes = [1, 2]\nranks = [1, 2]\nseq = [32, 64]\nmicros_per_rank = 3\nsystems = [\"DDP\", \"PyTorch\"]\n\
         [[cells]]\nnodes = [2]\nranks = [2]\nseq = [64]\nglobal = 24\nsystems = [\"DDP\"]",
    ));
    let output = lab.run(&["--dry-run"]);
    let list = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // The last table's only cell is one of the first table's.
    assert_eq!(list.lines().count(), 2 * 2 * 2 * 2, "{list}");
    assert!(list.contains("    2     2 missing  ddp.2x2.unshaped.deck.s64.g24\n"), "{list}");
    assert!(list.contains("    1     2 left-out pytorch.1x2.unshaped.deck.s32.g12\n"), "{list}");
    // A cell of several tables is run as often as the one says that wants most.
    let file = lab.folder.path().join("small.toml");
    let more = fs::read_to_string(&file).unwrap()
        + "rounds = 5\n[[cells]]\nnodes = [2]\nranks = [2]\nseq = [64]\nglobal = 24\nsystems = [\"DDP\"]\n";
    fs::write(&file, more).unwrap();
    let cells = Experiment::read(&file).unwrap().cells(None).unwrap();
    let rounds = |id: &str| cells.iter().find(|planned| planned.cell.id.starts_with(id)).unwrap().rounds;
    assert_eq!((rounds("ddp.2x2.unshaped.deck.s64"), rounds("ddp.2x1.unshaped.deck.s64")), (5, 2));
    let only = text(&lab.run(&["--dry-run", "--only", "ddp.1x1", "--only", "2x2.unshaped.deck.s32"]).stdout);
    assert_eq!(only.lines().count(), 4, "{only}");
    assert_eq!(lab.run(&["--only", "nothing"]).status.code(), Some(2));
}

/// The whole way on this machine: what runs is measured in every round, what is refused or fails is kept with its reason
/// and stops nothing, a second call measures nothing again, and losses that ought to agree do.
#[test]
fn cells_are_measured_once() {
    let lab = Lab::new(SMALL);
    let output = lab.run(&[]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 cells are left out") && said.contains("--torch"), "{said}");
    assert!(text(&output.stdout).contains("| TawPipe, cached"), "{}", text(&output.stdout));

    let (tawpipe, ddp) = (lab.record("tawpipe"), lab.record("ddp"));
    for record in [&tawpipe, &ddp] {
        assert_eq!(record.rounds().len(), 2, "{said}");
        assert_eq!((record.samples(|step| Some(step.step_s)).len(), record.rounds()[0].steps.len()), (4, 3));
        assert!(record.tokens_per_s().unwrap() > 0.0 && record.remarks.is_empty(), "{:?}", record.remarks);
        let step = record.rounds()[1].steps[2];
        let counted = record.counted.as_ref().unwrap();
        assert_eq!((step.bytes_inter, step.bytes_intra), (Some(counted.bytes_inter), Some(counted.bytes_intra)));
        assert!(record.rounds()[0].command.contains("train deck.toml --json"), "{}", record.rounds()[0].command);
        assert!(record.rounds()[0].memory_peak.unwrap() > counted.peak());
        assert!(record.provenance.machine.cores > 0 && record.provenance.date.ends_with('Z'));
    }
    assert_eq!(tawpipe.cell.options["weight_cache"], "group");
    let reason = |record: &Record| match &record.outcome {
        Outcome::Failed { reason, log } => format!("{reason}; {}", log.join("\n")),
        other => panic!("{other:?}"),
    };
    assert!(reason(&lab.record("refused")).contains("blocks_per_shard"), "{}", reason(&lab.record("refused")));
    assert!(reason(&lab.record("fails")).contains("missing.txt"), "{}", reason(&lab.record("fails")));
    let mut left: Vec<_> = fs::read_dir(lab.results()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "logs");
    assert_eq!(left.len(), 4, "nothing but results and the logs of what failed is left: {left:?}");

    let again = text(&lab.run(&[]).stderr);
    assert!(!again.contains("tokens/s"), "{again}");
    assert_eq!(lab.record("ddp"), ddp);
    // A failure is tried again when asked for, and another protocol is another cell.
    fs::write(lab.folder.path().join("missing.txt"), "In the beginning was the Word.\n".repeat(200)).unwrap();
    let again = text(&lab.run(&["--retry-failed", "--only", "fails"]).stderr);
    assert!(again.contains("Fails, 2x1, unshaped: ") && again.contains("tokens/s"), "{again}");
    assert_eq!(lab.record("fails").rounds().len(), 2);
    fs::write(lab.folder.path().join("small.toml"), SMALL.replace("steps = 2", "steps = 1")).unwrap();
    let listed = text(&lab.run(&["--dry-run"]).stdout);
    assert!(listed.lines().all(|line| !line.contains(" done ")), "{listed}");

    // One system's losses are made to look wrong: that is said, and kept.
    let mut wrong = ddp.clone();
    if let Outcome::Measured(measured) = &mut wrong.outcome {
        measured.rounds[0].steps[1].loss *= 1.001;
    }
    tawpipe::results::write(&lab.results(), &wrong).unwrap();
    fs::write(lab.folder.path().join("small.toml"), SMALL).unwrap();
    let said = text(&lab.run(&[]).stderr);
    assert!(said.contains("losses differ: in step 2"), "{said}");
    assert!(lab.record("ddp").remarks[0].contains("losses differ"));
}

/// No run is started after the time limit, and the exit code says so.
#[test]
fn the_time_limit_ends_it() {
    let lab = Lab::new(SMALL);
    let output = lab.run(&["--limit", "0"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("before 8 runs"), "{said}");
    assert_eq!(read_folder(&lab.results()).unwrap(), []);
}

/// jobs/scaling.sbatch asks sbatch for the GPUs and cores that the machine file wants for a cell's ranks.
#[test]
fn an_array_asks_for_what_the_machine_needs() {
    let lab = Lab::new(&SMALL.replace("ranks = [1]", "ranks = [2]").replace("\"machine\"", "\"allocation\""));
    let (folder, sbatch) = (lab.folder.path(), lab.folder.path().join("sbatch"));
    fs::write(&sbatch, "#!/bin/sh\necho \"$@\" >>submitted\n").unwrap();
    fs::set_permissions(&sbatch, fs::Permissions::from_mode(0o755)).unwrap();
    let scaling = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/scaling.sbatch");
    let submitted = |machine: &str| {
        let _ = fs::remove_file(folder.join("submitted"));
        let mut bash = Command::new("bash");
        bash.arg(&scaling).arg("small.toml").current_dir(folder).env("MACHINE", machine);
        bash.env("SBATCH_OPTIONS", "--account=ours").env("TAWPIPE", env!("CARGO_BIN_EXE_tawpipe"));
        bash.env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()));
        let output = bash.env_remove("SLURM_ARRAY_TASK_ID").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read_to_string(folder.join("submitted")).unwrap()
    };
    let all = |line: &str, words: &[&str]| words.iter().all(|word| line.split(' ').any(|found| found == *word));
    for machine in ["nvlink-ethernet", "nvlink-infiniband"] {
        let line = submitted(machine);
        let wanted = ["--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=8", "--account=ours"];
        assert!(all(&line, &wanted), "{machine}: {line}");
    }
    let line = submitted("cpu");
    assert!(all(&line, &["--ntasks-per-node=2", "--cpus-per-task=1"]) && !line.contains("gpus"), "{line}");
}

/// On a virtual cluster links have their rates, what crosses them is counted by their own counters and is what the plan
/// says, and the cluster is gone afterwards.
#[test]
fn a_virtual_cluster_is_brought_along() {
    if !common::virtual_cluster(false) {
        return;
    }
    let links = "[links]\nslow = { rate = \"10mbit\" }\nfast = {}\n[systems]";
    let lab = Lab::new(
        &SMALL
            .replace("kind = \"machine\"", "kind = \"virtual-cluster\"")
            .replace("[systems]", links)
            .replace("rounds = 2", "rounds = 1")
            .replace("ranks = [1]", "ranks = [2]\nsystems = [\"DDP\", \"TawPipe, cached\"]"),
    );
    let output = lab.run(&[]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let records = read_folder(&lab.results()).unwrap();
    assert_eq!(records.len(), 4, "{said}");
    // Steps on the fast link are too short: the counters are read a few milliseconds after a step's end.
    for record in records.iter().filter(|record| record.cell.link.name == "slow") {
        let planned = record.counted.as_ref().unwrap().bytes_inter as f64 / 2.0;
        let wire = record.wire_sent().unwrap_or_else(|| panic!("{said}"));
        assert!((0.9..1.12).contains(&(wire / planned)), "{}: {wire} for {planned}", record.cell.id);
    }
    let step = |start: &str| lab.record(start).median(|step| Some(step.step_s)).unwrap();
    let least = lab.record("ddp.2x2.slow").wire_sent().unwrap() * 8.0 / 10e6;
    assert!(step("ddp.2x2.slow") > 0.8 * least, "{} s for {least}", step("ddp.2x2.slow"));
    let left = |folder: &Path| fs::read_dir(folder).map_or(0, |entries| entries.count());
    assert_eq!(left(&lab.folder.path().join("clusters")), 0, "state of the cluster is left");
}
