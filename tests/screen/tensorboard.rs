//! Event files for TensorBoard: read by a parser of our own, and by TensorBoard itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tawpipe::metrics::{Metrics, Record, RunInfo, Validation};

/// CRC-32C bit by bit, as its polynomial says.
fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// The data of every record of a file, whose checksums must be right.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut records) = (&bytes[..], Vec::new());
    let masked = |data: &[u8]| ((crc(data) >> 15 | crc(data) << 17).wrapping_add(0xa282_ead8)).to_le_bytes();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        assert_eq!(after[..4], masked(length));
        let (data, after) = after[4..].split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(after[..4], masked(data));
        records.push(data.to_vec());
        rest = &after[4..];
    }
    records
}

/// Fields of a protobuf message: number, and bytes (of numbers the eight or four little-endian ones).
fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, varint(&mut data).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut data) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, data[..length].to_vec()));
        data = &data[length..];
    }
    fields
}

/// The only field of a number.
fn field(fields: &[(u64, Vec<u8>)], number: u64) -> Option<&[u8]> {
    fields.iter().find(|(n, _)| *n == number).map(|(_, bytes)| &bytes[..])
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn record(step: u64) -> Record {
    let loss = 5.5 / step as f64;
    Record {
        step,
        loss,
        grad_norm: 2.0,
        lr: 3e-4,
        tokens_per_s: 1e4,
        mfu: f64::NAN,
        exposed_s: 0.25,
        ..Record::default()
    }
}

fn info() -> RunInfo {
    RunInfo { system: "single".into(), groups: vec![1], ..RunInfo::default() }
}

/// A run of four steps, killed, and resumed from the checkpoint of step 2: its event files.
fn resumed(folder: &Path) -> Vec<PathBuf> {
    let mut metrics = Metrics::create(folder, info()).unwrap().tensorboard(0).unwrap();
    for step in 1..=4 {
        metrics.step(record(step)).unwrap();
    }
    metrics.validation(Validation { step: 4, valid_loss: 9.0, bits_per_byte: f64::NAN, valid_s: 0.1 }).unwrap();
    drop(metrics);
    let mut metrics = Metrics::resume(folder, info(), 2).unwrap().tensorboard(2).unwrap();
    for step in 3..=5 {
        metrics.step(Record { loss: 1.0, ..record(step) }).unwrap();
    }
    metrics.validation(Validation { step: 5, valid_loss: 4.5, bits_per_byte: 2.25, valid_s: 0.1 }).unwrap();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("events.out.tfevents.");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(name).collect();
    files.sort();
    files
}

/// Frames and messages as their formats say; a resumed run begins a new file, which says from which step on others do not count.
#[test]
fn frames_hold_events() {
    let folder = tempfile::tempdir().unwrap();
    let files = resumed(folder.path());
    assert_eq!(files.len(), 2, "{files:?}");
    let first: Vec<_> = records(&files[0]).iter().map(|data| fields(data)).collect();
    assert_eq!(field(&first[0], 3), Some(&b"brain.Event:2"[..]));
    assert_eq!(first.len(), 1 + 4 + 1);
    assert_eq!(number(field(&first[2], 2).unwrap()), 2, "the step");
    let wall = f64::from_le_bytes(field(&first[2], 1).unwrap().try_into().unwrap());
    assert!((1.6e9..1e10).contains(&wall), "{wall}");
    let values: Vec<(String, f32)> = fields(field(&first[2], 5).unwrap())
        .iter()
        .map(|(number, value)| {
            assert_eq!(*number, 1);
            let value = fields(value);
            let tag = String::from_utf8(field(&value, 1).unwrap().to_vec()).unwrap();
            (tag, f32::from_le_bytes(field(&value, 2).unwrap().try_into().unwrap()))
        })
        .collect();
    let expected =
        [("loss", 2.75), ("grad_norm", 2.0), ("learning_rate", 3e-4), ("tokens_per_s", 1e4), ("exposed_s", 0.25)];
    // The utilisation is unknown (NaN) here, and so left out.
    assert_eq!(values, expected.map(|(tag, value)| (format!("train/{tag}"), value)));

    let second: Vec<_> = records(&files[1]).iter().map(|data| fields(data)).collect();
    let start = fields(field(&second[1], 7).unwrap());
    assert_eq!((number(field(&second[1], 2).unwrap()), number(field(&start, 1).unwrap())), (3, 1));
    assert_eq!(second.len(), 2 + 3 + 1);
}

/// TensorBoard shows every step once, with the values of the run that went on.
#[test]
fn tensorboard_shows_every_step_once() {
    let Some(python) = crate::common::python("tensorboard") else { return };
    let folder = tempfile::tempdir().unwrap();
    resumed(folder.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_events.py");
    let output = Command::new(&python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&seen["files"], &seen["events"]), (&2.into(), &serde_json::json!([6, 6])));
    assert_eq!(seen["shown"]["train/loss"], serde_json::json!([[1, 5.5], [2, 2.75], [3, 1.0], [4, 1.0], [5, 1.0]]));
    assert_eq!(seen["shown"]["valid/loss"], serde_json::json!([[5, 4.5]]), "the validation of step 4 is gone");
    assert_eq!(seen["shown"]["valid/bits_per_byte"], serde_json::json!([[5, 2.25]]));
    assert!(seen["shown"].get("train/mfu").is_none());
}

/// `run.tensorboard = true` is all that it takes.
#[test]
fn a_deck_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(20)).unwrap();
    let deck = "[model]\ndim = 32\nlayers = 2\nheads = 4\n[data]\ntext = \"text.txt\"\nseq = 8\nvalid = 0.2\n\
                [batch]\nglobal = 4\n[run]\nsteps = 3\nfolder = \"run\"\n[system]\nname = \"single\"\n";
    std::fs::write(folder.path().join("deck.toml"), deck).unwrap();
    let train = |set: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
        command.args(["train", "deck.toml", "--set", set, "--set", "run.folder=run"]).current_dir(folder.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let log = train("run.tensorboard=true");
    let events = || {
        let names = std::fs::read_dir(folder.path().join("run")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.to_string_lossy().contains("tfevents")).collect::<Vec<_>>()
    };
    // The version, three steps and a validation.
    assert_eq!(events().iter().map(|path| records(path).len()).collect::<Vec<_>>(), [5], "{log}");
    std::fs::remove_dir_all(folder.path().join("run")).unwrap();
    train("run.tensorboard=false");
    assert_eq!(events(), Vec::<PathBuf>::new());
}
