//! Checkpoints: round trips over any number of ranks, damage, full disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tawpipe::checkpoint::hf::{ExportOptions, Width, export};
use tawpipe::checkpoint::{
    Checkpoint, CheckpointError, Header, Keep, Piece, Position, Source, checkpoints, inspect, load, open, prune,
    resume, save, tensors,
};
use tawpipe::fabric::{Control, Solo};
use tawpipe::model::ModelShape;
use tempfile::TempDir;

use crate::disk::SmallDisk;
use crate::ranks::{Part, shape, value, whole, world};

fn header(step: u64, shape: &ModelShape) -> Header {
    // Neither fits an f64: whole numbers must not pass through one.
    let (seed, tokens) = (u64::MAX - 1, (1 << 60) + 1);
    Header { step, seed, tokens, shape: shape.clone(), deck: "[model]\ndim = 24 # é\n".into(), position: None }
}

/// Saves a model from `size` ranks.
pub fn saved(folder: &Path, shape: &ModelShape, step: u64, size: usize) -> (PathBuf, Vec<Part>) {
    let results = world(size, |control| {
        let part = Part::new(shape, 2, control.rank(), size, value);
        let path = save(folder, &header(step, shape), &part.pieces(), control).expect("saved");
        (path, part)
    });
    let path = results[0].0.clone();
    (path, results.into_iter().map(|(_, part)| part).collect())
}

/// What 1, 3 and 5 ranks wrote is what 1, 2 and 4 ranks with other shards read, bit by bit, tied or not.
#[test]
fn any_number_of_ranks_reads_what_any_number_wrote() {
    let folder = TempDir::new().unwrap();
    for (writers, readers, tied) in [(1, 2, false), (3, 1, true), (5, 4, false), (3, 4, true)] {
        let shape = shape(tied);
        let (path, written) = saved(folder.path(), &shape, 7, writers);
        let read = world(readers, |control| {
            let mut part = Part::new(&shape, 1, control.rank(), readers, |_, _, _| f32::NAN);
            let found = load(&path, &shape, &mut part.pieces_mut(), control).expect("loaded");
            assert_eq!(found, header(7, &shape));
            part
        });
        assert_eq!(whole(&written), whole(&read), "{writers} -> {readers} ranks, tied = {tied}");
    }
}

/// Ranks may all read the same (replicas), a part only, or weights without moments.
#[test]
fn replicas_and_parts_are_read() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (path, written) = saved(folder.path(), &shape, 1, 2);
    let all = whole(&written);
    world(3, |control| {
        let mut part = Part::new(&shape, 1, 0, 1, |_, _, _| 0.0);
        load(&path, &shape, &mut part.pieces_mut(), control).expect("each rank reads all");
        assert_eq!(whole(&[part]), all);
        let mut part = Part::new(&shape, 1, control.rank(), 7, |_, _, _| 0.0);
        let mut pieces = part.pieces_mut();
        pieces.iter_mut().for_each(|piece| piece.moments = None);
        load(&path, &shape, &mut pieces, control).expect("three sevenths of the weights");
        for piece in pieces {
            let end = piece.start + piece.weights.len();
            assert_eq!(piece.weights, &all[&(piece.name.to_string(), 0)][piece.start..end]);
        }
    });
}

/// A checkpoint, its run folder and its export are the same model to whoever reads weights; a flipped bit is found by
/// reading its tensor whole or by checking the shares, and nothing is exported from it.
#[test]
fn weights_are_read_from_anywhere_and_checked() {
    let folder = TempDir::new().unwrap();
    let shape = shape(true);
    let (path, written) = saved(&folder.path().join("checkpoints"), &shape, 1, 2);
    let all = whole(&written);
    let exported = folder.path().join("hf");
    let options = ExportOptions { width: Width::F32, positions: 8, tokenizer: None };
    export(open(&path).unwrap().as_ref(), &exported, &options).unwrap();
    for from in [path.as_path(), folder.path(), path.parent().unwrap(), exported.as_path()] {
        let source = open(from).unwrap();
        assert_eq!(source.shape(), &shape);
        for param in tensors(&shape) {
            let mut values = vec![0.0; param.len()];
            source.read(&param.name, 0, &mut values).unwrap();
            assert_eq!(values, all[&(param.name, 0)], "{}", from.display());
        }
    }
    for (from, which) in [(&path, 0), (&path, 2), (&exported.join("model.safetensors"), 0)] {
        let bytes = fs::read(from).unwrap();
        let value = all[&("model.norm.weight".to_string(), which)][5].to_le_bytes();
        let at = bytes.windows(4).position(|word| word == value).unwrap();
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(from, flipped).unwrap();
        let source = open(if from == &path { &path } else { &exported }).unwrap();
        let mut values = vec![0.0; shape.dim];
        let read = source.read("model.norm.weight", 0, &mut values);
        // Who reads weights does not depend on moments.
        assert_eq!(read.is_err(), which == 0);
        let shares = [0, 1, 2].map(|part| source.check(part, 3));
        for error in shares.into_iter().chain([read]).filter_map(Result::err) {
            assert!(error.to_string().contains("model.norm.weight"), "{error}");
            assert!(error.to_string().contains("does not match its checksum"), "{error}");
        }
        assert!(source.check(0, 1).is_err());
        let again = folder.path().join("again");
        assert!(export(source.as_ref(), &again, &options).is_err() && !again.exists());
        fs::write(from, bytes).unwrap();
    }
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "started by a_kill_leaves_whole_checkpoints"]
fn saver() {
    let Some(folder) = std::env::var_os("TAWPIPE_TEST_FOLDER") else { return };
    for step in 1.. {
        saved(Path::new(&folder), &shape(false), step, 2);
    }
}

/// However a process that saves all the time is killed, every `step_N.h5` is whole and a run continues from the newest.
#[test]
fn a_kill_leaves_whole_checkpoints() {
    let shape = shape(false);
    for round in 0..6 {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "checkpoint::saver"]).env("TAWPIPE_TEST_FOLDER", folder.path());
        let mut child = child.stdout(Stdio::null()).spawn().unwrap();
        while !folder.path().join("step_1.h5").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(11 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = checkpoints(folder.path()).unwrap();
        for path in &found {
            Checkpoint::open(path).unwrap().verify().unwrap();
        }
        let mut part = Part::new(&shape, 1, 0, 1, |_, _, _| 0.0);
        let (path, header) = resume(folder.path(), None, &shape, &mut part.pieces_mut(), &Solo).unwrap();
        assert_eq!((&path, header.step), (&found[0], found.len() as u64));
    }
}

/// Pieces that leave a hole, overlap, or name no tensor are refused on all ranks, and no file appears.
#[test]
fn pieces_must_tile_the_model() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    type Spoil = fn(&mut Vec<Piece>);
    let hole: Spoil = |pieces| pieces.truncate(pieces.len() - 1);
    let twice: Spoil = |pieces| pieces.push(pieces[0]);
    let unknown: Spoil = |pieces| pieces[0].name = "model.layers.9.mlp.up_proj.weight";
    let shifted: Spoil = |pieces| pieces[0].start = 1 << 40;
    for spoil in [hole, twice, unknown, shifted] {
        for result in world(3, |control| {
            let part = Part::new(&shape, 2, control.rank(), 3, value);
            let mut pieces = part.pieces();
            if control.rank() == 1 {
                spoil(&mut pieces);
            }
            save(folder.path(), &header(1, &shape), &pieces, control)
        }) {
            let error = result.expect_err("refused");
            assert!(error.to_string().contains("do not make up the model"), "{error}");
            assert!(!error.is_bad_input());
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Loading reports the same error on every rank of a world and alone.
fn refused(path: &Path, shape: &ModelShape) -> CheckpointError {
    let errors = world(2, |control| {
        let mut part = Part::new(shape, 1, control.rank(), 2, |_, _, _| 0.0);
        load(path, shape, &mut part.pieces_mut(), control).expect_err("refused")
    });
    assert_eq!(errors[0], errors[1]);
    assert!(errors[0].is_bad_input(), "{}", errors[0]);
    let text = errors[0].to_string();
    assert!(text.contains(path.to_str().unwrap()) && !text.contains('\n'), "{text}");
    errors.into_iter().next().unwrap()
}

/// A checkpoint cut at any length is refused with one line that names the file.
#[test]
fn truncated_checkpoints_are_refused() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (path, _) = saved(folder.path(), &shape, 3, 1);
    let bytes = fs::read(&path).unwrap();
    for len in [0, 4, 8, 100, 1000, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        refused(&path, &shape);
    }
    fs::remove_file(&path).unwrap();
    assert!(refused(&path, &shape).to_string().contains("No such file"));
}

/// Wherever one bit is flipped, the checkpoint is refused, or still reads as exactly what was written (bits that
/// HDF5 does not use). Tried are a seventh of the bytes outside the datasets, and bytes of every dataset. What must not
/// happen either is an endless loop or a crash in HDF5.
#[test]
fn bit_flips_are_found() {
    let folder = TempDir::new().unwrap();
    let shape = ModelShape { layers: 1, ..shape(true) };
    let (path, written) = saved(folder.path(), &shape, 3, 1);
    let all = whole(&written);
    let bytes = fs::read(&path).unwrap();
    let broken = folder.path().join("broken.h5");
    let (mut refusals, mut harmless) = (0, 0);
    let data: std::collections::HashSet<[u8; 4]> = all.values().flatten().map(|v| v.to_le_bytes()).collect();
    for at in 0..bytes.len() {
        let word = at & !3;
        let is_data = bytes.get(word..word + 4).is_some_and(|w| data.contains(w));
        if at % (if is_data { 997 } else { 7 }) != 0 {
            continue;
        }
        let mut copy = bytes.clone();
        copy[at] ^= 1 << (at % 8);
        fs::write(&broken, &copy).unwrap();
        let mut part = Part::new(&shape, 1, 0, 1, |_, _, _| 0.0);
        match load(&broken, &shape, &mut part.pieces_mut(), &Solo) {
            Err(_) => refusals += 1,
            Ok(found) => {
                assert_eq!(found, header(3, &shape), "byte {at}");
                assert_eq!(whole(&[part]), all, "byte {at}");
                harmless += 1;
            }
        }
    }
    println!("{refusals} flips refused, {harmless} in bits that nothing reads, of {} bytes", bytes.len());
    assert!(refusals > 500);
}

/// A flipped bit is found on loading, whatever parts of its tensor the ranks ask for: all of it together, all of it each, or a
/// part that it is in or is not in. Resuming passes over such a checkpoint.
#[test]
fn flipped_bits_are_found_on_loading() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (good, _) = saved(folder.path(), &shape, 1, 1);
    let (path, written) = saved(folder.path(), &shape, 2, 1);
    let all = whole(&written);
    let bytes = fs::read(&path).unwrap();
    for which in 0..3 {
        let tensor = &all[&("model.embed_tokens.weight".to_string(), which)];
        for element in [1, tensor.len() - 2] {
            let two = [tensor[element].to_le_bytes(), tensor[element + 1].to_le_bytes()].concat();
            let at = bytes.windows(8).position(|words| words == two).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            // Ranks, the part that each takes, and of how many.
            let together: fn(usize) -> usize = |rank| rank;
            for (ranks, part, parts) in
                [(1, together, 1), (2, together, 2), (2, |_| 0, 1), (2, together, 3), (1, |_| 1, 3)]
            {
                for result in world(ranks, |control| {
                    let mut part = Part::new(&shape, 1, part(control.rank()), parts, |_, _, _| 0.0);
                    load(&path, &shape, &mut part.pieces_mut(), control)
                }) {
                    let text = result.expect_err("refused").to_string();
                    let words = "model.embed_tokens.weight does not match its checksum";
                    assert!(text.contains(words), "{ranks} ranks, {parts} parts, element {element}: {text}");
                }
            }
            let mut part = Part::new(&shape, 1, 0, 1, |_, _, _| 0.0);
            let (found, _) = resume(folder.path(), None, &shape, &mut part.pieces_mut(), &Solo).unwrap();
            assert_eq!(found, good);
        }
    }
}

/// What a checkpoint says about itself is sealed: numbers and texts that another program has changed in it, in a file that HDF5
/// has nothing against, are refused.
#[test]
fn edited_attributes_are_refused() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (path, _) = saved(folder.path(), &shape, 3, 1);
    let bytes = fs::read(&path).unwrap();
    for (name, before) in [("step", 3), ("seed", u64::MAX - 1), ("tokens", (1 << 60) + 1)] {
        fs::write(&path, &bytes).unwrap();
        let edit = |value: u64| {
            let file = hdf5::File::open_rw(&path).unwrap();
            let attribute = file.attr(name).unwrap();
            assert_eq!(attribute.read_scalar::<u64>().unwrap(), before);
            attribute.write_scalar(&value).unwrap();
            file.close().unwrap();
        };
        // Writing the same again is no change.
        edit(before);
        Checkpoint::open(&path).unwrap();
        edit(before - 1);
        let text = refused(&path, &shape).to_string();
        assert!(text.contains("its attributes do not match their checksum"), "{text}");
    }
}

/// A checkpoint whose end is missing is refused as soon as it is opened, before anything is read, also where its beginning says
/// that it ends there, as a tool that repairs HDF5 files leaves it.
#[test]
fn a_missing_end_is_found() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (path, _) = saved(folder.path(), &shape, 3, 1);
    let elsewhere = TempDir::new().unwrap();
    let (short, _) = saved(elsewhere.path(), &ModelShape { vocab: 30, ..shape.clone() }, 3, 1);
    let (bytes, short) = (fs::read(&path).unwrap(), fs::read(short).unwrap());
    // The superblock, with the end of the file and a checksum, is the first 48 bytes.
    let mut cut = bytes[..short.len()].to_vec();
    assert!(cut.len() < bytes.len() && cut[..48] != short[..48]);
    cut[..48].copy_from_slice(&short[..48]);
    fs::write(&path, cut).unwrap();
    let error = refused(&path, &shape);
    assert!(error.to_string().contains("is truncated: "), "{error}");
    assert_eq!(Checkpoint::open(&path).unwrap_err(), error);
}

/// Resuming passes over a damaged newest checkpoint; with none left it is bad input that says why.
#[test]
fn resume_falls_back_to_the_newest_good_checkpoint() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (_, written) = saved(folder.path(), &shape, 9, 1);
    let (newest, _) = saved(folder.path(), &shape, 10, 1);
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let attempt = || {
        world(2, |control| {
            let mut part = Part::new(&shape, 1, control.rank(), 2, |_, _, _| 0.0);
            resume(folder.path(), None, &shape, &mut part.pieces_mut(), control).map(|found| (found, part))
        })
    };
    let mut parts = Vec::new();
    for result in attempt() {
        let ((path, header), part) = result.expect("the older one is good");
        assert!(path.ends_with("step_9.h5") && header.step == 9);
        parts.push(part);
    }
    assert_eq!(whole(&parts), whole(&written));
    fs::write(folder.path().join("step_9.h5"), b"not a checkpoint").unwrap();
    for result in attempt() {
        let error = result.err().expect("none is left");
        assert!(error.is_bad_input());
        let text = error.to_string();
        assert!(text.contains("step_9.h5") && text.contains("step_10.h5"), "{text}");
    }
    let error = resume(Path::new("/nowhere"), None, &shape, &mut [], &Solo).unwrap_err();
    assert_eq!(error.to_string(), "/nowhere: no checkpoint to continue from");
}

/// A checkpoint of another model is refused, naming the key and both values; resuming does not pass over it.
#[test]
fn another_model_is_refused() {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(folder.path(), &shape(false), 3, 2);
    let other = ModelShape { norm_eps: 1e-6, ..shape(false) };
    let text = refused(&path, &other).to_string();
    assert!(text.contains("another model: it has model.norm_eps = 0.00001, this run needs 1e-6"), "{text}");
    let other = ModelShape { layers: 2, ..shape(false) };
    assert!(refused(&path, &other).to_string().contains("model.layers = 3, this run needs 2"));
    let mut part = Part::new(&other, 1, 0, 1, |_, _, _| 0.0);
    let error = resume(folder.path(), None, &other, &mut part.pieces_mut(), &Solo).unwrap_err();
    assert!(matches!(error, CheckpointError::OtherModel { .. }));
}

/// Only the newest are kept, and the newest confirmed one; what an interrupted save left behind goes too; other files stay.
/// Checkpoints of steps that are taken anew count for nothing, and go once the run is past them.
#[test]
fn old_checkpoints_are_deleted() {
    let all = [2, 9, 10, 12, 15];
    let cases: [(_, _, _, &[u64], &[u64]); 8] = [
        (2, 15, None, &[], &[15, 12]),
        (1, 15, None, &[], &[15, 12]),
        (1, 10, None, &[], &[15, 9]),
        (1, 1, None, &[], &[15]),
        (1, 1, Some(2), &[], &[15, 2]),
        (1, 15, Some(12), &[], &[15, 12]),
        (1, 15, None, &[12, 15], &[15, 12, 10]),
        (2, 10, None, &[12], &[15, 10, 9]),
    ];
    for (newest, last, spared, outdated, left) in cases {
        let folder = TempDir::new().unwrap();
        let names = all.map(|step| format!("step_{step}.h5"));
        for name in names.iter().map(String::as_str).chain(["step_11.h5.tmp", "best.h5", "step_x.h5"]) {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        let keep = Keep { newest, spared, confirmed: &|step| step < last, outdated: &|step| outdated.contains(&step) };
        prune(folder.path(), &keep).unwrap();
        let left: Vec<_> = left.iter().map(|step| folder.path().join(format!("step_{step}.h5"))).collect();
        assert_eq!(checkpoints(folder.path()).unwrap(), left, "{newest} {last} {outdated:?}");
        assert!(folder.path().join("best.h5").exists() && !folder.path().join("step_11.h5.tmp").exists());
    }
}

/// A value that is not finite, on whichever rank and in whichever of a tensor's three arrays, is refused by name on all ranks,
/// and no file appears.
#[test]
fn only_finite_values_are_written() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    for (which, place, odd) in
        [(0, "model", f32::NAN), (1, "moment1", f32::INFINITY), (2, "moment2", f32::NEG_INFINITY)]
    {
        let spoilt = |shard, at, array| if (shard, at, array) == (0, 5, which) { odd } else { value(shard, at, array) };
        let results = world(3, |control| {
            let part = Part::new(&shape, 2, control.rank(), 3, spoilt);
            save(folder.path(), &header(3, &shape), &part.pieces(), control)
        });
        for result in results {
            let error = result.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(place) && text.contains("model.embed_tokens.weight is not finite at element 5"),
                "{text}"
            );
            assert!(!error.is_bad_input());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// Checkpoints of version 0.1 are read; one that is NaN, which that version wrote, is shown but not used: neither as weights nor
/// to go on from.
#[test]
fn checkpoints_of_version_0_1_are_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/version_0.1");
    let folder = TempDir::new().unwrap();
    for (name, step) in [("good.h5", 3), ("nan.h5", 4)] {
        fs::copy(data.join(name), folder.path().join(format!("step_{step}.h5"))).unwrap();
    }
    let [good, nan] = [3, 4].map(|step| folder.path().join(format!("step_{step}.h5")));
    let header = Checkpoint::open(&good).unwrap().header().clone();
    assert_eq!((header.step, header.tokens, &header.position), (3, 96, &None));
    assert!(inspect(&nan).unwrap().contains("rms NaN"));
    let read = |path: &Path| {
        let source = open(path).unwrap();
        let read = |param: &tawpipe::model::Param| source.read(&param.name, 0, &mut vec![0.0; param.len()]);
        tensors(source.shape()).iter().try_for_each(read)
    };
    read(&good).unwrap();
    let error = read(&nan).unwrap_err();
    assert!(error.is_bad_input());
    assert!(
        error.to_string().contains("step_4.h5: tensor model/")
            && error.to_string().contains("is not finite at element")
    );
    let mut part = Part::new(&header.shape, 1, 0, 1, |_, _, _| 0.0);
    let (path, found) = resume(folder.path(), None, &header.shape, &mut part.pieces_mut(), &Solo).unwrap();
    assert_eq!((path, found), (good, header));
}

/// How far a run has come is kept to the bit, and changes of it show; a file without it is as good.
#[test]
fn positions_are_kept() {
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let part = Part::new(&shape, 1, 0, 1, value);
    let norms = [0.1 + 0.2, f64::MIN_POSITIVE, 1e300, 7.0];
    let position = Position {
        sequences: u64::MAX - 3,
        seq: 7,
        updates: 5,
        skipped: 3,
        skipped_in_a_row: 2,
        norms: norms.repeat(250),
    };
    let header = Header { position: Some(position), ..header(4, &shape) };
    let path = save(folder.path(), &header, &part.pieces(), &Solo).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().header(), &header);
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(12).position(|word| word == b"\"updates\":5,").unwrap();
    let mut changed = bytes;
    changed[at + 10] = b'6';
    fs::write(&path, changed).unwrap();
    assert!(Checkpoint::open(&path).is_err());
}

/// On a full disk all ranks get the same error, nobody hangs, the previous checkpoint stays, no half file remains and
/// the next save succeeds once there is room. The disk fills at every possible place: in the HDF5 structure (rank 0),
/// and in the data of the first, second and third rank.
#[test]
fn a_full_disk_is_an_error_on_all_ranks() {
    let shape = shape(false);
    let Some(disk) = SmallDisk::new(4 << 20) else { return };
    let folder = disk.path().join("checkpoints");
    let (first, written) = saved(&folder, &shape, 1, 3);
    // What it takes of the disk: the file has holes.
    let size = 512 * fs::metadata(&first).unwrap().blocks();
    // Part of that which is free, and who meets the end of it; the structure comes first, then the ranks' thirds.
    for (percent, culprit) in
        [(0, ""), (10, ""), (35, " (on rank 0 and 2 more)"), (65, " (on rank 1 and 1 more)"), (90, " (on rank 2)")]
    {
        let filler = disk.fill();
        let filler = fs::File::options().write(true).open(filler).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - size * percent / 100).unwrap();
        let errors = world(3, |control| {
            let part = Part::new(&shape, 2, control.rank(), 3, value);
            save(&folder, &header(2, &shape), &part.pieces(), control).expect_err("the disk is full")
        });
        let file = folder.join("step_2.h5.tmp");
        let wanted = format!("{}: cannot write: No space left on device{culprit}", file.display());
        assert!(errors.iter().all(|error| error.to_string() == wanted), "{percent} %: {}", errors[0]);
        assert!(!errors[0].is_bad_input());
        assert_eq!(checkpoints(&folder).unwrap(), std::slice::from_ref(&first));
        assert!(!file.exists());
    }
    fs::remove_file(disk.path().join("filler")).unwrap();
    saved(&folder, &shape, 2, 3);
    let mut part = Part::new(&shape, 1, 0, 1, |_, _, _| 0.0);
    load(&first, &shape, &mut part.pieces_mut(), &Solo).expect("the first is untouched");
    assert_eq!(whole(&[part]), whole(&written));
}

/// A folder that cannot be written is one clear error on all ranks.
#[test]
fn an_unwritable_folder_is_an_error_on_all_ranks() {
    let folder = TempDir::new().unwrap();
    // A file where the folder should be stops root too, whom permissions do not.
    let blocked = folder.path().join("checkpoints");
    fs::write(&blocked, b"").unwrap();
    let shape = shape(false);
    for result in world(2, |control| {
        let part = Part::new(&shape, 2, control.rank(), 2, value);
        save(&blocked, &header(1, &shape), &part.pieces(), control)
    }) {
        let error = result.expect_err("no folder");
        assert!(matches!(&error, CheckpointError::Io { path, .. } if Path::new(path) == blocked), "{error}");
    }
}

/// What `inspect` prints: step, model, every tensor, the deck.
#[test]
fn inspect_describes_a_checkpoint() {
    let folder = TempDir::new().unwrap();
    let (path, _) = saved(folder.path(), &shape(false), 3, 2);
    let text = inspect(&path).unwrap();
    for part in
        ["step      3", "layers 3", "checksums all match", "model.layers.2.mlp.down_proj.weight", "dim = 24 # é"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(Checkpoint::open(&path).unwrap().shape(), &shape(false));
}
