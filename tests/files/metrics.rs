//! Metrics: the journal and the series, while they are written, after a kill, on resume.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tawpipe::metrics::{
    Cores, Journal, Metrics, MetricsError, Progress, Record, Row, RunInfo, Validation, inspect, markdown, read_journal,
};
use tempfile::TempDir;

fn info() -> RunInfo {
    let deck = "[run]\nsteps = 3 # ü\n".into();
    RunInfo {
        deck,
        system: "tawpipe".into(),
        groups: vec![1, 2, 3],
        library: Some("oneDNN 3.6".into()),
        cores: Some(Cores { threads: 6, cores: 4 }),
    }
}

/// A step whose numbers all differ, and whose loss is exactly 1/step.
fn record(step: u64) -> Record {
    let numbers = Record::METRICS.iter().enumerate();
    let values: Vec<_> = numbers
        .map(|(i, metric)| match metric.kind {
            tawpipe::metrics::Kind::U64 => tawpipe::metrics::Value::U64((step << 40) + i as u64),
            tawpipe::metrics::Kind::F64 => tawpipe::metrics::Value::F64(step as f64 / 3.0 + i as f64),
            tawpipe::metrics::Kind::Bool => tawpipe::metrics::Value::Bool(step.is_multiple_of(2)),
        })
        .collect();
    Record { step, loss: 1.0 / step as f64, ..Record::from_values(&values) }
}

fn validation(step: u64) -> Validation {
    Validation { step, valid_loss: 1.0 / step as f64, bits_per_byte: f64::NAN, valid_s: 0.1 }
}

/// A line is one JSON object that begins with step and loss, keeps every bit, and writes NaN as null.
#[test]
fn lines_keep_every_bit() {
    let line = record(3).json();
    assert!(line.starts_with(r#"{"step":3,"loss":0.3333333333333333,"grad_norm":"#) && !line.contains('\n'), "{line}");
    let map: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(Record::from_json(map.as_object().unwrap()).unwrap(), record(3));
    assert!(validation(2).json().contains(r#""bits_per_byte":null"#));
    let map: Value = serde_json::from_str(&validation(2).json()).unwrap();
    assert!(Validation::from_json(map.as_object().unwrap()).unwrap().bits_per_byte.is_nan());
    let map: Value = serde_json::from_str(r#"{"step":"one"}"#).unwrap();
    let error = Record::from_json(map.as_object().unwrap()).unwrap_err();
    assert_eq!(error, "step = \"one\"; expected u64");
}

/// Resuming cuts what came after the checkpoint, passes over a line torn by a kill, and goes on; an existing journal is
/// never overwritten.
#[test]
fn resume_cuts_the_journal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut metrics = Metrics::create(folder.path(), info()).unwrap();
    for step in 1..=7 {
        metrics.step(record(step)).unwrap();
        if step % 2 == 0 {
            metrics.validation(validation(step)).unwrap();
        }
    }
    drop(metrics);
    let error = Metrics::create(folder.path(), info()).unwrap_err();
    assert!(matches!(&error, MetricsError::Io { reason, .. } if reason == "File exists"), "{error}");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(br#"{"step":8,"lo"#).unwrap();
    let before = read_journal(&path).unwrap();
    assert_eq!((before.steps.len(), before.validations.len()), (7, 3));
    let mut metrics = Metrics::resume(folder.path(), info(), 4).unwrap();
    assert_eq!(metrics.history().steps.len(), 4);
    metrics.step(record(5)).unwrap();
    drop(metrics);
    let steps: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            let map: Value = serde_json::from_str(line).unwrap();
            let kind = ["valid_loss", "part"].into_iter().find(|key| map.get(key).is_some()).unwrap_or_default();
            format!("{}{}", map["step"], kind.get(..1).unwrap_or_default())
        })
        .collect();
    assert_eq!(steps, ["0p", "1", "2", "2v", "3", "4", "4v", "4p", "5"]);
    assert_eq!(read_journal(&path).unwrap().steps, (1..=5).map(record).collect::<Vec<_>>());
    // A journal that was left behind when a checkpoint moved.
    assert_eq!(Journal::resume(&folder.path().join("other.jsonl"), 4).unwrap().1.steps.len(), 0);
}

/// Whatever a lost machine leaves at a journal's end (zeros, half a line, another line's rest, steps that do not follow, bytes
/// that are no text) costs that line and those behind it, and nothing else: reading and resuming go on.
#[test]
fn a_damaged_journal_is_cut() {
    let tails: [&[u8]; 8] = [
        b"\0\0\0\0\0\0\0\0\n",
        b"\0\0\0\0",
        b"{\"step\":5,\"loss\":0.2\0\0\0\0\0\n",
        b"{\"step\":5,\"loss\":0.2}\n",
        b"0.2,\"grad_norm\":1}\n",
        b"{\"step\":\"five\"}\n",
        b"\xff\xfe\n",
        b"[]\n",
    ];
    for tail in tails {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines: String = (1..=4).map(|step| record(step).json() + "\n").collect();
        fs::write(&path, [lines.as_bytes(), tail, record(5).json().as_bytes(), b"\n"].concat()).unwrap();
        let steps: Vec<u64> = read_journal(&path).unwrap().steps.iter().map(|record| record.step).collect();
        assert_eq!(steps, [1, 2, 3, 4], "{tail:?}");
        let mut metrics = Metrics::resume(folder.path(), info(), 6).unwrap();
        metrics.step(record(7)).unwrap();
        let steps: Vec<u64> = read_journal(&path).unwrap().steps.iter().map(|record| record.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 7], "{tail:?}");
    }
    // A last line without its end, even if it can be read: a resume overwrites it.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, record(1).json() + "\n" + &record(2).json()).unwrap();
    assert_eq!(read_journal(&path).unwrap().steps.len(), 1);
    // A step that was reported twice: the second part of a run that had two writers.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, [1, 2, 2, 3].map(|step| record(step).json() + "\n").concat()).unwrap();
    assert_eq!(read_journal(&path).unwrap().steps.len(), 2);
}

/// Every row belongs to a part that says what ran it, in the journal and in the series; a resume cuts parts as it cuts rows.
#[test]
fn parts_are_recorded() {
    let folder = TempDir::new().unwrap();
    let of = |system: &str| RunInfo { system: system.into(), ..info() };
    let mut metrics = Metrics::create(folder.path(), of("fsdp")).unwrap();
    (1..=4).for_each(|step| metrics.step(record(step)).unwrap());
    // Two parts that take no lasting step, then one that does.
    for (system, step) in [("ddp", 4), ("hsdp", 4), ("single", 3)] {
        drop(metrics);
        metrics = Metrics::resume(folder.path(), of(system), step).unwrap();
        metrics.step(record(step + 1)).unwrap();
    }
    metrics.flush().unwrap();
    let parts = read_journal(&folder.path().join("metrics.jsonl")).unwrap().parts;
    let found: Vec<_> = parts.iter().map(|part| (part.part, part.step, part.system.as_str(), part.ranks)).collect();
    assert_eq!(found, [(1, 0, "fsdp", 6), (2, 3, "single", 6)]);
    assert!(parts.iter().all(|part| part.deck == info().deck && part.version == env!("CARGO_PKG_VERSION")));
    assert!(parts.iter().all(|part| part.library.as_deref() == Some("oneDNN 3.6") && part.started.ends_with('Z')));
    let seen =
        inspect(&folder.path().join(if cfg!(feature = "hdf5") { "metrics.h5" } else { "metrics.jsonl" })).unwrap();
    for line in ["part 1, from step 1 on: fsdp", "part 2, from step 4 on: single, groups [1, 2, 3], tawpipe"] {
        assert!(seen.contains(line), "{seen}");
    }
}

/// Progress without a terminal is lines: the first and last step always, others as often as asked, and what a user
/// wants to know in each.
#[test]
fn progress_is_readable_without_a_terminal() {
    #[derive(Clone)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let out = Shared(Arc::default());
    let mut progress = Progress::lines(1000, Box::new(out.clone()), Duration::from_secs(3600));
    for step in 1..=1000 {
        let (loss, lr, grad_norm, tokens_per_s, mfu) = (2.5, 3e-4, 1.25, 12_345.0, 0.4);
        progress.step(&Record { step, loss, lr, grad_norm, tokens_per_s, mfu, step_s: 0.1, ..Record::default() });
    }
    progress.validation(&Validation { step: 1000, valid_loss: 1.5, bits_per_byte: 2.164, valid_s: 1.0 });
    progress.finish();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(
        text,
        "step    1/1000  loss 2.5000  lr 3.0e-4  norm 1.250  12.3k tokens/s  MFU 40.0%  1 min 40 s left\n\
         step 1000/1000  loss 2.5000  lr 3.0e-4  norm 1.250  12.3k tokens/s  MFU 40.0%  0 s left\n\
         step 1000  validation loss 1.5000  2.1640 bits per byte\n"
    );
}

/// docs/files.md carries the tables as they are. To renew them: UPDATE=1 cargo test --test files documented
#[test]
fn columns_are_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/files.md");
    let mut text = fs::read_to_string(&path).unwrap();
    for (name, table) in [("train", markdown::<Record>()), ("valid", markdown::<Validation>())] {
        let (begin, end) = (format!("<!-- table {name} -->\n"), format!("<!-- end {name} -->"));
        let from = text.find(&begin).expect("a marked place") + begin.len();
        let to = text.find(&end).expect("a marked place");
        if std::env::var_os("UPDATE").is_some() {
            text.replace_range(from..to, &table);
            fs::write(&path, &text).unwrap();
        } else {
            assert_eq!(&text[from..to], table, "docs/files.md is not what src/metrics/table.rs says");
        }
    }
}

/// `inspect` tells journal, run folder, safetensors, and token file apart.
#[test]
fn inspect_tells_files_apart() {
    let folder = TempDir::new().unwrap();
    let mut metrics = Metrics::create(folder.path(), info()).unwrap();
    metrics.step(record(1)).unwrap();
    metrics.step(record(2)).unwrap();
    let see = |path: &Path| inspect(path).unwrap();
    let journal = see(&folder.path().join("metrics.jsonl"));
    assert!(journal.contains("tawpipe journal") && journal.contains("train: 2 rows"), "{journal}");
    // First, last, least and greatest value.
    let steps = journal.lines().find(|line| line.trim_start().starts_with("step ")).unwrap();
    assert_eq!(steps.split_whitespace().take(5).collect::<Vec<_>>(), ["step", "1", "2", "1", "2"], "{journal}");
    assert!(see(folder.path()).contains("tawpipe run"));
    let parity = crate::hf::parity("a_mha4");
    assert!(see(&parity.join("init")).contains("Hugging Face folder"));
    assert!(see(&parity.join("init/model.safetensors")).contains("lm_head.weight"));
    let tokens = see(&parity.join("tokens.bin"));
    assert!(tokens.contains("i32  10241 tokens, ids 0 to 255"), "{tokens}");
    fs::write(folder.path().join("odd"), b"abc").unwrap();
    assert!(see(&folder.path().join("odd")).contains("impossible"));
    assert!(inspect(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere: cannot read"));
    #[cfg(feature = "hdf5")]
    {
        metrics.flush().unwrap();
        let series = see(&folder.path().join("metrics.h5"));
        assert!(series.contains("system tawpipe in groups [1, 2, 3]") && series.contains("steps = 3 # ü"), "{series}");
    }
}

#[cfg(feature = "hdf5")]
mod hdf5 {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::common::python;
    use crate::python::{h5dump, script, succeed};

    /// Not a test: the process that the next one watches and kills.
    #[test]
    #[ignore = "started by series_are_readable_during_a_run_and_after_a_kill"]
    fn writer() {
        let Some(folder) = std::env::var_os("TAWPIPE_TEST_FOLDER") else { return };
        let mut metrics = Metrics::create(Path::new(&folder), info()).unwrap();
        for step in 1.. {
            metrics.step(record(step)).unwrap();
            // As often as it can, to give readers every chance of a half-written file.
            metrics.flush().unwrap();
        }
    }

    fn start(folder: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "metrics::hdf5::writer"]).env("TAWPIPE_TEST_FOLDER", folder);
        let child = child.stdout(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while !folder.join("metrics.h5").exists() {
            assert!(begun.elapsed() < Duration::from_secs(10), "no metrics.h5");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// h5py and h5dump, unmodified, read whole files while a process rewrites them as fast as it can and after it was
    /// killed, and the run can be resumed. Five kills, at different moments.
    #[test]
    fn series_are_readable_during_a_run_and_after_a_kill() {
        for round in 0..5 {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("metrics.h5");
            let mut child = start(folder.path());
            if round == 0 {
                if let Some(python) = python("h5py") {
                    let seen = script(&python, "read_metrics.py", &[path.to_str().unwrap(), "25"]);
                    let rows = seen["rows"].as_array().unwrap();
                    assert!(rows[0].as_u64() < rows[24].as_u64(), "it grew: {rows:?}");
                    assert_eq!(seen["units"]["tokens_per_s"], "token/s");
                    assert_eq!(seen["attributes"]["deck"], "[run]\nsteps = 3 # ü\n");
                    assert_eq!(seen["groups"], serde_json::json!([1, 2, 3]));
                    assert_eq!(seen["layouts"], serde_json::json!(["contiguous"]));
                    let names: Vec<&str> = seen["units"].as_object().unwrap().keys().map(String::as_str).collect();
                    assert!(Record::METRICS.iter().all(|m| names.contains(&m.name)) && names.len() == 16);
                }
                if let Some(mut h5dump) = h5dump() {
                    let text = succeed(h5dump.args(["-d", "/train/loss", path.to_str().unwrap()]));
                    assert!(text.contains("H5T_IEEE_F64LE") && text.contains("nat/token"), "{text}");
                }
            }
            std::thread::sleep(Duration::from_millis(20 + 7 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            let text = inspect(&path).expect("readable after a kill");
            assert!(text.contains("tawpipe metrics"));
            let journal = read_journal(&folder.path().join("metrics.jsonl")).unwrap();
            let last = journal.steps.len() as u64;
            assert_eq!(journal.steps, (1..=last).map(record).collect::<Vec<_>>());
            let mut metrics = Metrics::resume(folder.path(), info(), last - 1).unwrap();
            metrics.step(record(last)).unwrap();
            metrics.flush().unwrap();
            assert_eq!(read_journal(&folder.path().join("metrics.jsonl")).unwrap().steps, journal.steps);
        }
    }

    /// Rewriting the series takes at most 0.5 % of a run's time, however many steps it has.
    #[test]
    fn rewriting_is_throttled() {
        let folder = TempDir::new().unwrap();
        let mut metrics = Metrics::create(folder.path(), info()).unwrap();
        let path = folder.path().join("metrics.h5");
        let mut rewrites = 0;
        let mut seen = None;
        let begun = Instant::now();
        let mut step = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            step += 1;
            metrics.step(record(step)).unwrap();
            let now = fs::metadata(&path).ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m));
            if now != seen {
                (seen, rewrites) = (now, rewrites + 1);
            }
        }
        // A rewrite takes at least a tenth of a millisecond, so 0.5 % of 2 s allow at most 100.
        assert!((1..=100).contains(&rewrites), "{rewrites} rewrites in 2 s, {step} steps");
    }

    /// A full disk is an error that names the file; the previous series stays.
    #[test]
    fn a_full_disk_keeps_the_previous_series() {
        let Some(disk) = crate::disk::SmallDisk::new(1 << 20) else { return };
        let mut metrics = Metrics::create(disk.path(), info()).unwrap();
        metrics.step(record(1)).unwrap();
        metrics.flush().unwrap();
        let filler = disk.fill();
        let error = metrics.flush().unwrap_err();
        assert!(error.to_string().contains("metrics.h5: cannot write: No space left on device"), "{error}");
        assert!(!error.is_bad_input());
        assert!(inspect(&disk.path().join("metrics.h5")).unwrap().contains("train: 1 rows"));
        fs::remove_file(filler).unwrap();
        metrics.step(record(2)).unwrap();
        metrics.flush().unwrap();
        assert!(inspect(&disk.path().join("metrics.h5")).unwrap().contains("train: 2 rows"));
    }
}
