//! What `tawpipe report` makes of results: tables and figures, from records that are made here.

use std::collections::BTreeMap;

use assert_cmd::Command;
use serde_json::json;
use tawpipe::experiment::Experiment;
use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::Segment;
use tawpipe::report::{Findings, findings};
use tawpipe::results::{
    Cell, Counted, FORMAT, Link, Machine, Measured, Outcome, Place, Prediction, Program, Provenance, Record, Round,
    Step, Wire, write, write_lines,
};

/// A cell of 2 nodes of 2 ranks.
fn cell(series: &str, program: Program, system: &str, link: (&str, Option<f64>)) -> Cell {
    let shape = json!({
        "dim": 256, "layers": 8, "heads": 8, "kv_heads": 8, "head_dim": 32, "ffn": 688, "vocab": 512, "tied": false,
        "rope_theta": 1e4, "norm_eps": 1e-5
    });
    let options = json!({"name": system, "weight_cache": "none", "grad_sync": "round"});
    Cell {
        experiment: "small".into(),
        id: format!("{series}.{}", link.0).replace([' ', '/', '+'], "-"),
        series: series.into(),
        program,
        system: system.into(),
        options: options.as_object().unwrap().clone(),
        place: Place::VirtualCluster,
        ranks_per_node: vec![2, 2],
        link: Link { name: link.0.into(), rate: link.1, latency: 0.0, derivation: None },
        cluster: None,
        model: "tiny".into(),
        shape: serde_json::from_value(shape).unwrap(),
        parameters: 6_600_000,
        seq: 256,
        micro: 8,
        global: 64,
        dtype: Dtype::F32,
        grad_dtype: Dtype::F32,
        recompute: Recompute::None,
        deck: "../bench-tiny.toml".into(),
        sets: Vec::new(),
        warmup: 1,
        steps: 3,
    }
}

fn record(cell: Cell, outcome: Outcome) -> Record {
    let machine = Machine {
        processor: "A processor".into(),
        cores: 2,
        memory: 23 << 30,
        kernel: "Linux 6".into(),
        mpi: "Open MPI 4.1".into(),
    };
    Record {
        format: FORMAT.into(),
        cell,
        outcome,
        counted: None,
        prediction: None,
        remarks: Vec::new(),
        provenance: Provenance {
            command: "tawpipe experiment small.toml".into(),
            date: "2026-01-02T03:04:05Z".into(),
            version: "0.1.0 (abc)".into(),
            torch: None,
            machine,
        },
    }
}

/// Three measured steps around a speed, after one of warm-up.
fn measured(cell: Cell, speed: f64, bytes: u64) -> Record {
    let tokens = cell.tokens() as f64;
    let torch = cell.program == Program::Torch;
    let step = |speed: f64| Step {
        step_s: tokens / speed,
        tokens_per_s: speed,
        loss: 5.25,
        exposed_s: (!torch).then_some(0.1 * tokens / speed),
        bytes_inter: None,
        bytes_intra: None,
    };
    let wire = |node: &str| Wire { node: node.into(), sent: 1.02 * bytes as f64, received: 1.02 * bytes as f64 };
    let round = Round {
        date: "2026-01-02T03:04:05Z".into(),
        command: "tawpipe train".into(),
        seconds: 9.0,
        warmup: 1,
        steps: vec![step(0.1 * speed), step(0.9 * speed), step(speed), step(1.2 * speed)],
        wire: vec![wire("n1"), wire("n2")],
        memory_peak: Some(1 << 30),
    };
    let mut record = record(cell, Outcome::Measured(Measured { rounds: vec![round] }));
    if !torch {
        record.counted = Some(Counted {
            bytes_inter: 2 * bytes,
            bytes_intra: bytes,
            bytes_control: 64,
            bytes_leaving: vec![bytes, bytes],
            memory: BTreeMap::from([(Segment::Master, 26 << 20), (Segment::Activation, 100 << 20)]),
        });
        record.prediction = Some(prediction(1.1 * speed, tokens));
    }
    record
}

fn prediction(speed: f64, tokens: f64) -> Prediction {
    let step_s = tokens / speed;
    Prediction {
        machine: "here".into(),
        step_s,
        tokens_per_s: speed,
        busy_s: 0.7 * step_s,
        exposed_s: 0.2 * step_s,
        idle_s: 0.1 * step_s,
        mfu: None,
    }
}

const SLOW: (&str, Option<f64>) = ("200 Mbit/s", Some(2e8));
const FAST: (&str, Option<f64>) = ("1 Gbit/s", Some(1e9));

/// Two links, this program and PyTorch, one failure.
fn small() -> Vec<Record> {
    let failed = Outcome::Failed { reason: "more stages | than blocks".into(), log: Vec::new() };
    let mut list = vec![record(cell("1F1B", Program::Tawpipe, "1f1b", SLOW), failed)];
    for (link, factor) in [(SLOW, 1.0), (FAST, 1.5)] {
        let ours =
            |series, speed, bytes| measured(cell(series, Program::Tawpipe, "tawpipe", link), factor * speed, bytes);
        list.push(ours("TawPipe", 2000.0, 50_000_000));
        list.push(ours("TawPipe cache+once", 3000.0, 26_000_000));
        list.push(ours("TawPipe no overlap", 1500.0, 50_000_000));
        list.push(measured(cell("PyTorch FSDP", Program::Torch, "fsdp", link), factor * 1300.0, 118_000_000));
    }
    list
}

fn report(records: &[Record]) -> Findings {
    findings("small", records, &[], &[], ".")
}

fn names(found: &Findings) -> Vec<&str> {
    found.figures.iter().map(|(name, _)| name.as_str()).collect()
}

/// Tables are exactly these: medians without the warm-up, wire against plan, errors of predictions, ratios to PyTorch,
/// failures with their reasons.
#[test]
fn tables_of_a_small_experiment() {
    insta::assert_snapshot!(report(&small()).markdown);
}

/// Every figure that the numbers allow is there, is a drawing, and says what it shows in which unit.
#[test]
fn figures_of_a_small_experiment() {
    let found = report(&small());
    assert_eq!(names(&found), ["throughput", "time", "bytes", "memory", "ablation", "prediction"]);
    let folder = tempfile::tempdir().unwrap();
    found.save(folder.path(), true).unwrap();
    for (name, svg) in &found.figures {
        let picture = std::fs::read(folder.path().join(format!("{name}.png"))).unwrap();
        assert_eq!(&picture[1..4], b"PNG", "{name}");
        assert!(picture.len() > 8000, "{name} has {} bytes", picture.len());
        let words: &[&str] = match name.as_str() {
            "throughput" => &["tokens/s, all ranks", "200 Mbit/s", "PyTorch FSDP", "does not run", "predicted"],
            "time" => &["seconds per step", "exposed communication", "not known"],
            "bytes" => &["MB per step and node", "(wire +2.0 %)", "118"],
            "memory" => &["MB per rank", "master weights", "activations"],
            "ablation" => &["TawPipe no overlap", "75 %", "150 %"],
            _ => &["measured, tokens/s", "predicted, tokens/s", "equal"],
        };
        for word in words {
            assert!(svg.contains(word), "{name} lacks {word}");
        }
    }
}

/// Simulated cells on a described cluster.
fn simulated(series: &str, system: &str, change: impl Fn(&mut Cell), speed: f64) -> Record {
    let mut cell = cell(series, Program::Tawpipe, system, SLOW);
    cell.place = Place::Simulated;
    cell.cluster = Some("a cluster".into());
    change(&mut cell);
    let tokens = cell.tokens() as f64;
    let counted = measured(cell.clone(), speed, 1_000_000).counted;
    Record { counted, prediction: Some(prediction(speed, tokens)), ..record(cell, Outcome::Predicted) }
}

/// A grid of sequence lengths and links becomes a map, and a sentence on who wins where: here TawPipe at 1 Gbit/s.
#[test]
fn a_map_says_who_wins() {
    let mut records = Vec::new();
    for rate in [1.0, 10.0, 100.0] {
        for seq in [1024, 2048, 4096] {
            let place = |cell: &mut Cell| {
                cell.seq = seq;
                cell.link =
                    Link { name: format!("{rate} Gbit/s"), rate: Some(rate * 1e9), latency: 0.0, derivation: None };
            };
            records.push(simulated("TawPipe", "tawpipe", place, 1000.0));
            records.push(simulated("1F1B", "1f1b", place, if rate > 5.0 { 2500.0 } else { 400.0 }));
        }
    }
    let found = report(&records);
    assert!(names(&found).contains(&"map"), "{:?}", names(&found));
    for line in [
        "The map has 9 settings: sequence lengths combined with rates of a node's link.",
        "- `1f1b` is fastest in 6 of them (links of 10 to 100 Gbit/s); its lead: 2.5 x.",
        "- `tawpipe` is fastest in 3 of them (links of 1 Gbit/s); its lead: 2.5 x.",
    ] {
        assert!(found.markdown.contains(line), "{}", found.markdown);
    }
}

/// Where two kinds are level the map names both and says by how much the next one is behind; its legend has no kind that wins
/// nowhere.
#[test]
fn a_map_of_level_systems_says_more() {
    let mut records = Vec::new();
    for rate in [1.0, 10.0, 100.0] {
        for seq in [1024, 2048, 4096] {
            let place = |cell: &mut Cell| {
                cell.seq = seq;
                cell.link =
                    Link { name: format!("{rate} Gbit/s"), rate: Some(rate * 1e9), latency: 0.0, derivation: None };
            };
            records.push(simulated("TawPipe", "tawpipe", place, 1000.0));
            records.push(simulated("HSDP", "hsdp", place, 995.0));
            records.push(simulated("1F1B", "1f1b", place, 500.0));
        }
    }
    let found = report(&records);
    let map = &found.figures.iter().find(|(name, _)| name == "map").unwrap().1;
    assert_eq!(map.matches(">= HSDP; 2.0 x<").count(), 9, "{map}");
    assert!(!map.contains("level<") && !map.contains(">1F1B<"), "{map}");
}

/// Weak and strong scaling of one experiment meet at settings that differ in the sequences of a step alone: their rows say so.
/// Families of lines differ in their titles.
#[test]
fn rows_and_panels_are_told_apart() {
    let of = |ranks: usize, global: usize, seq: usize| {
        let change = |cell: &mut Cell| {
            cell.ranks_per_node = vec![2; ranks / 2];
            (cell.global, cell.seq) = (global, seq);
        };
        simulated("TawPipe", "tawpipe", change, 1000.0)
    };
    let found = report(&[of(4, 64, 256), of(8, 128, 256), of(4, 96, 256), of(8, 96, 256)]);
    let rows: Vec<&str> = found.markdown.lines().filter(|line| line.starts_with("| TawPipe")).collect();
    let settings: Vec<&str> = rows.iter().map(|row| row.split('|').nth(2).unwrap().trim()).collect();
    assert!(settings.iter().any(|words| words.contains("96 sequences")), "{settings:?}");
    let found = report(&[of(4, 64, 256), of(8, 128, 256), of(4, 64, 512), of(8, 128, 512)]);
    let figure = &found.figures.iter().find(|(name, _)| name == "weak-scaling").unwrap().1;
    assert!(figure.contains("256 tokens: speed") && figure.contains("512 tokens: speed"), "{figure}");
}

/// Ranks that grow with the work are weak scaling, ranks that grow without it strong scaling; half the speed a rank is an
/// efficiency of 50 %.
#[test]
fn scaling_is_recognised() {
    let of = |ranks: usize, global: usize, speed: f64| {
        let change = |cell: &mut Cell| {
            cell.ranks_per_node = vec![2; ranks / 2];
            cell.global = global;
        };
        simulated("TawPipe", "tawpipe", change, speed)
    };
    let weak = [of(4, 64, 1000.0), of(8, 128, 1000.0)];
    let found = report(&weak);
    assert!(names(&found).contains(&"weak-scaling") && !names(&found).contains(&"strong-scaling"));
    let row = found.markdown.lines().rfind(|line| line.starts_with("| TawPipe")).unwrap();
    assert!(row.contains("100") && row.contains("50"), "{row}");
    let strong = [of(4, 64, 1000.0), of(8, 64, 1900.0)];
    let found = report(&strong);
    assert!(names(&found).contains(&"strong-scaling") && !names(&found).contains(&"weak-scaling"));
}

/// Nothing at all, failures alone and a single cell are reported without panic and without empty figures.
#[test]
fn little_is_reported_too() {
    assert!(report(&[]).markdown.contains("no results") && report(&[]).figures.is_empty());
    let found = report(&small()[..1]);
    assert!(found.figures.is_empty() && found.markdown.contains("more stages   than blocks"), "{}", found.markdown);
    let found = report(&small()[1..2]);
    assert!(names(&found).contains(&"throughput"), "{:?}", names(&found));
    assert!(found.markdown.contains("| TawPipe"));
}

fn program() -> Command {
    let mut command = Command::cargo_bin("tawpipe").unwrap();
    command.env("RUST_LOG", "error");
    command
}

/// The program writes README.md and figures beside the records, whether they are in one file or in many; what it cannot
/// use is one line and exit code 2.
#[test]
fn the_program_reports_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let records = small();
    write(folder.path(), &records[0]).unwrap();
    write_lines(&folder.path().join("more.jsonl"), &records[1..]).unwrap();
    program().arg("report").arg(folder.path()).assert().success();
    let text = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    assert_eq!(text, report(&records).markdown);
    assert!(folder.path().join("throughput.svg").exists() && !folder.path().join("throughput.png").exists());
    program().arg("report").arg(folder.path()).arg("--png").assert().success();
    assert!(folder.path().join("throughput.png").exists());

    let refused = |arguments: &[&str], words: &[&str]| {
        let output = program().arg("report").args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)) && text.trim().lines().count() == 1, "{text}");
    };
    let path = folder.path().display().to_string();
    refused(&[&path, "--reference", "Nobody"], &["no series \"Nobody\"", "TawPipe, ", "PyTorch FSDP"]);
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    refused(&[&path], &["broken.json", "no result of an experiment"]);
    refused(&["/nowhere/at/all"], &["/nowhere/at/all"]);
    let empty = tempfile::tempdir().unwrap();
    refused(&[&empty.path().display().to_string()], &["no run folder", "no results"]);
}

/// The simulated experiments that come with the program can be read, and a cheap cell of one can be priced again and again
/// with the same result, the second time from its file.
#[test]
fn simulated_experiments_run() {
    for name in ["scaling-simulated", "growth", "crossover", "map", "paper-simulated"] {
        let file = format!("inputs/experiments/{name}.toml");
        let cells = Experiment::read(file.as_ref()).and_then(|experiment| experiment.cells(None)).unwrap();
        assert!(cells.len() > 10 && cells.iter().all(|planned| planned.machine.is_some()), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("simulated.jsonl");
    let price = || {
        let mut command = program();
        let only = ["experiment", "inputs/experiments/paper-simulated.toml", "--only", "weipipe.3x8.unshaped.h1024"];
        command.args(only).arg("--results").arg(folder.path()).assert().success();
        std::fs::read_to_string(&file).unwrap()
    };
    let first = price();
    assert_eq!(first.lines().count(), 1, "{first}");
    assert_eq!(first, price(), "nothing is missing the second time");
    let without_date = |text: &str| text.split("\"provenance\"").next().unwrap().to_string();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(without_date(&first), without_date(&price()));
}
