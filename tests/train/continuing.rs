//! What a resumed run goes on from: the position in the data, the guard's memory, the newest checkpoint that is any good.
#![cfg(feature = "hdf5")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tawpipe::checkpoint::{self, Checkpoint, Header, State, pieces, tensors};
use tawpipe::deck::Deck;
use tawpipe::exit::Exit;
use tawpipe::fabric::Solo;
use tawpipe::model::Shards;
use tawpipe::train::{Agreed, Stop};

use super::world::{deck, journal, outcomes, program, stopped};

/// A model that stands still: the loss of a step tells which sequences it has read.
const STILL: &str = r#"
    model = { dim = 16, layers = 1, heads = 2, ffn = 24, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 32, order = "sequential" }
    batch = { global = 4, micro = 1 }
    optim = { lr = 1e-12, weight_decay = 0.0, schedule = "constant" }
    run = { steps = 20, seed = 3 }
"#;

/// One that learns.
const TEXT: &str = r#"
    model = { dim = 16, layers = 4, heads = 2, kv_heads = 1, ffn = 24, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 8 }
    batch = { global = 8, micro = 1 }
    optim = { lr = 3e-3, schedule = "constant" }
    run = { steps = 9, seed = 5, checkpoint_every = 3, keep = 9 }
"#;

fn with(text: &str, groups: &[usize], folder: &Path, sets: &[&str]) -> Deck {
    let path = format!("run.folder={folder:?}");
    deck(text, groups, &[&[path.as_str()], sets].concat())
}

fn losses(deck: &Deck) -> Vec<f64> {
    journal(deck).steps.iter().map(|record| record.loss).collect()
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let found = checkpoint::checkpoints(&folder.join("checkpoints")).unwrap();
    found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// What rank 0 says about a failure that all ranks know of.
fn said(ends: Vec<anyhow::Result<Exit>>) -> String {
    let errors: Vec<anyhow::Error> = ends.into_iter().map(Result::unwrap_err).collect();
    for error in &errors {
        assert_eq!(error.downcast_ref::<Agreed>().expect("all ranks know").exit, Exit::Failure, "{error}");
    }
    errors[0].to_string()
}

/// Another batch reads on at the next sequence, another length of sequences at the first one behind the tokens that were read,
/// and `tokens` goes on from the checkpoint; also when the keys change twice.
#[test]
fn data_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    program(&with(STILL, &[1], &whole, &["batch.global=1", "run.steps=60"]), false);
    // Losses of the sequences one by one.
    let single = losses(&with(STILL, &[1], &whole, &[]));
    let mean = |range: std::ops::Range<usize>| single[range.clone()].iter().sum::<f64>() / range.len() as f64;
    let run = folder.path().join("run");
    let sixteen = folder.path().join("sixteen");
    program(&with(STILL, &[1], &sixteen, &["data.seq=16", "batch.global=1", "run.steps=60"]), false);
    let sixteen = losses(&with(STILL, &[1], &sixteen, &[]));
    program(&with(STILL, &[1], &run, &["run.steps=6"]), false);
    program(&with(STILL, &[1], &run, &["run.steps=7", "batch.global=8"]), true);
    // 32 sequences of 32 tokens lie behind: 64 of 16 tokens, or 43 (42 and two thirds) of 24.
    program(&with(STILL, &[1], &run, &["run.steps=8", "batch.global=2", "data.seq=24"]), true);
    program(&with(STILL, &[1], &run, &["run.steps=9", "batch.global=2"]), true);
    let steps = journal(&with(STILL, &[1], &run, &[])).steps;
    let tokens: Vec<u64> = steps.iter().map(|record| record.tokens).collect();
    assert_eq!(tokens, [128, 256, 384, 512, 640, 768, 1024, 1072, 1136]);
    let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
    near(steps[5].loss, mean(20..24));
    near(steps[6].loss, mean(24..32));
    // 43 + 2 sequences of 24 tokens end at token 1080: the next one of 32 is number 34 (33 and three quarters).
    near(steps[8].loss, mean(34..36));
    // And straight from 32 to 16.
    let half = folder.path().join("half");
    program(&with(STILL, &[1], &half, &["run.steps=6"]), false);
    program(&with(STILL, &[1], &half, &["run.steps=7", "data.seq=16"]), true);
    near(losses(&with(STILL, &[1], &half, &[]))[6], sixteen[48..52].iter().sum::<f64>() / 4.0);
}

/// A checkpoint of version 0.1 does not say where in the data it is: it is where that version was, or would have been.
#[test]
fn a_run_of_version_0_1_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.txt"), "In the beginning was the Word, and the Word was with God.\n".repeat(20))
        .unwrap();
    let run = folder.path().join("run");
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/version_0.1/good.h5");
    fs::copy(good, run.join("checkpoints/step_3.h5")).unwrap();
    let text = format!(
        "model = {{ dim = 4, layers = 1, heads = 1, ffn = 4, vocab = 128 }}\n\
         data = {{ text = {:?}, seq = 16, order = \"sequential\" }}\n\
         batch = {{ global = 2 }}\noptim = {{ schedule = \"constant\" }}\nrun = {{ steps = 5 }}\n",
        folder.path().join("t.txt")
    );
    let steps = program(&with(&text, &[1], &run, &[]), true).steps;
    assert_eq!(steps.iter().map(|record| (record.step, record.tokens)).collect::<Vec<_>>(), [(4, 128), (5, 160)]);
    let whole = program(&with(&text, &[1], &folder.path().join("whole"), &[]), false).steps;
    let apart = |a: f64, b: f64| (a - b).abs() / b;
    assert!(apart(steps[0].loss, whole[3].loss) < 1e-5, "{} instead of {}", steps[0].loss, whole[3].loss);
    assert!(apart(steps[1].grad_norm, whole[4].grad_norm) < 1e-4);
}

/// The window of norms, the count of what was skipped and AdamW's count are in the checkpoint: interrupted anywhere, a run that
/// skips takes the same steps to the bit.
#[test]
fn the_guard_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let spike = ["run.spike={ window = 3, z = 0.5 }"];
    for groups in [&[1, 1][..], &[2, 2]] {
        let whole = folder.path().join(format!("whole {groups:?}"));
        let wanted = program(&with(TEXT, groups, &whole, &spike), false).steps;
        assert!(wanted.iter().any(|record| record.skipped) && wanted[3..].iter().any(|record| !record.skipped));
        for cut in 1..9 {
            let part = folder.path().join(format!("{cut} {groups:?}"));
            let until = format!("run.steps={cut}");
            program(&with(TEXT, groups, &part, &[spike[0], &until]), false);
            let found = program(&with(TEXT, groups, &part, &spike), true).steps;
            let bits = |record: &tawpipe::metrics::Record| {
                (record.step, record.loss.to_bits(), record.grad_norm.to_bits(), record.skipped, record.tokens)
            };
            assert!(found.iter().map(bits).eq(wanted.iter().map(bits)), "{groups:?}, cut behind step {cut}");
        }
        let [a, b] = [&whole, &folder.path().join(format!("4 {groups:?}"))].map(|run| {
            Checkpoint::open(&run.join("checkpoints/step_9.h5")).unwrap().header().position.clone().unwrap()
        });
        assert_eq!(a, b);
        assert_eq!(a.updates + a.skipped, 9);
        assert_eq!(a.norms.len(), 3);
    }
}

/// Weights so large that the next loss is no number, in place of a checkpoint's own.
fn spoil(path: &Path) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let header: Header = checkpoint.header().clone();
    let mut all = Vec::new();
    for shard in Shards::new(&header.shape, 1).shards {
        let mut arrays = State::ALL.map(|_| vec![0.0f32; shard.len]);
        for param in &shard.params {
            let place = param.offset..param.offset + param.len();
            for (array, state) in arrays.iter_mut().zip(State::ALL) {
                checkpoint.read_state(state, &param.name, 0, &mut array[place.clone()]).unwrap();
            }
            arrays[0][place].fill(1e25);
        }
        all.push((shard, arrays));
    }
    let pieces: Vec<_> = all.iter().flat_map(|(shard, [w, m, v])| pieces(shard, 0..shard.len, w, m, v)).collect();
    assert_eq!(pieces.len(), tensors(&header.shape).len());
    checkpoint::save(path.parent().unwrap(), &header, &pieces, &Solo).unwrap();
}

/// A checkpoint behind which the first step is not finite is passed over for the one before, in the same process and as often
/// as need be; the run then is the one that was never interrupted, to the bit.
#[test]
fn a_checkpoint_that_is_no_good_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    for (groups, policy) in [(&[1, 1][..], "run.on_nonfinite=stop"), (&[2, 2], "run.on_nonfinite=skip")] {
        let whole = folder.path().join(format!("whole {groups:?}"));
        let wanted = losses(&{
            let deck = with(TEXT, groups, &whole, &[]);
            program(&deck, false);
            deck
        });
        let run = folder.path().join(format!("run {groups:?}"));
        program(&with(TEXT, groups, &run, &["run.steps=8"]), false);
        spoil(&run.join("checkpoints/step_8.h5"));
        spoil(&run.join("checkpoints/step_6.h5"));
        let deck = with(TEXT, groups, &run, &[policy]);
        let history = program(&deck, true);
        assert_eq!(losses(&deck), wanted, "{groups:?}");
        let parts: Vec<u64> = history.parts.iter().map(|part| part.step).collect();
        assert_eq!(parts, [0, 3]);
    }
}

/// If no checkpoint is left whose next step is finite, the run ends and says so; nothing is written over.
#[test]
fn none_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    program(&with(TEXT, &[1, 1], &run, &["run.steps=3"]), false);
    spoil(&run.join("checkpoints/step_3.h5"));
    let before = fs::read(run.join("checkpoints/step_3.h5")).unwrap();
    let text = said(outcomes(&with(TEXT, &[1, 1], &run, &[]), true));
    assert!(text.contains("step 4: the ") && text.contains("there is no checkpoint to go back to"), "{text}");
    assert_eq!(fs::read(run.join("checkpoints/step_3.h5")).unwrap(), before);
    assert!(!run.join("DONE").exists());
}

/// `keep` never takes the newest checkpoint that a finite step has followed, however few are to be kept.
#[test]
fn the_newest_confirmed_checkpoint_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let one = ["run.keep=1", "run.checkpoint_every=1", "run.steps=5"];
    program(&with(TEXT, &[1, 1], &run, &one), false);
    assert_eq!(checkpoints(&run), ["step_5.h5", "step_4.h5"]);
    // The first update ruins the model: the checkpoint behind it is no good, the one before it is still there.
    let ruin = ["run.keep=1", "run.checkpoint_every=1", "run.steps=9", "optim.lr=1e12"];
    let ends = outcomes(&with(TEXT, &[1, 1], &run, &ruin), true);
    let text = said(ends);
    assert!(text.contains("step 7: ") && text.contains("step_5.h5 (--resume)"), "{text}");
    assert_eq!(checkpoints(&run), ["step_6.h5", "step_5.h5"]);
    let whole = folder.path().join("whole");
    let wanted = program(&with(TEXT, &[1, 1], &whole, &["run.steps=9"]), false).steps;
    let found = program(&with(TEXT, &[1, 1], &run, &["run.steps=9"]), true).steps;
    // What the first resume wrote at step 6 is passed over, and step 6 is taken again.
    assert!(found.iter().map(|r| r.loss.to_bits()).eq(wanted.iter().map(|r| r.loss.to_bits())));
}

/// A part that trains with other keys keeps the checkpoint it started from, however long it goes on: the way back. One that only
/// takes more steps does not.
#[test]
fn the_way_back_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let every = ["run.keep=1", "run.checkpoint_every=1"];
    for (name, set, left) in [
        ("other", "optim.lr=1e-3", ["step_6.h5", "step_5.h5", "step_2.h5"].as_slice()),
        ("same", "run.seed=5", &["step_6.h5", "step_5.h5"]),
    ] {
        let run = folder.path().join(name);
        program(&with(TEXT, &[1, 1], &run, &[every[0], every[1], "run.steps=2"]), false);
        program(&with(TEXT, &[1, 1], &run, &[every[0], every[1], "run.steps=6", set]), true);
        assert_eq!(checkpoints(&run), left);
    }
}

/// `--resume` starts where there is nothing to continue: no folder, an empty one, or a run that was killed before its first
/// checkpoint; a folder of something else is left alone, and so is one without a name.
#[test]
fn resume_starts_where_there_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["none", "empty", "killed"].map(|name| folder.path().join(name));
    fs::create_dir(&names[1]).unwrap();
    program(&with(TEXT, &[1, 1], &names[2], &["run.steps=2"]), false);
    fs::remove_file(names[2].join("checkpoints/step_2.h5")).unwrap();
    for name in &names {
        let history = program(&with(TEXT, &[1, 1], name, &["run.steps=3"]), true);
        assert_eq!(history.steps.iter().map(|record| record.step).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(name.join("DONE").exists());
    }
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.tex"), "").unwrap();
    let mut unnamed = with(TEXT, &[1, 1], &other, &[]);
    for end in outcomes(&unnamed, true) {
        assert!(end.unwrap_err().to_string().contains("holds something else than a run"));
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    unnamed.run.folder = None;
    for end in outcomes(&unnamed, true) {
        assert!(end.unwrap_err().to_string().contains("--resume needs run.folder"));
    }
}

/// A run continues although the model that it started from is gone: the checkpoint holds its own.
#[test]
fn the_first_model_may_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    program(&with(TEXT, &[1, 1], &first, &["run.steps=3"]), false);
    let text: String =
        TEXT.lines().filter(|line| !line.contains("model =")).map(|line| line.to_owned() + "\n").collect();
    let text = format!("model = {{ from = {first:?} }}\n{text}");
    program(&with(&text, &[1, 1], &second, &["run.steps=3"]), false);
    fs::remove_dir_all(&first).unwrap();
    assert_eq!(program(&with(&text, &[1, 1], &second, &["run.steps=5"]), true).steps.len(), 5);
    assert!(outcomes(&with(&text, &[1, 1], &first, &[]), true).into_iter().all(|end| end.is_err()));
}

/// DONE is there when and only when the last step that the deck asks for has been taken and validated.
#[test]
fn done_means_done() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let valid = "data.valid=0.2";
    let go = |steps: u64, stop: &Stop| {
        let steps = format!("run.steps={steps}");
        let ends = stopped(&with(TEXT, &[1, 1], &run, &[&steps, valid]), true, stop);
        let mut ends = ends.into_iter().map(Result::unwrap);
        let first = ends.next().unwrap();
        assert!(ends.all(|end| end == first));
        first
    };
    let signal = || Stop::when(Arc::new(AtomicUsize::new(15)));
    assert_eq!((go(3, &Stop::never()), run.join("DONE").exists()), (Exit::Done, true));
    // Extended, and stopped half way.
    assert_eq!((go(9, &signal()), run.join("DONE").exists()), (Exit::Signal, false));
    assert_eq!(checkpoints(&run)[0], "step_4.h5");
    assert_eq!((go(9, &Stop::never()), run.join("DONE").exists()), (Exit::Done, true));
    // Killed between its last checkpoint and DONE.
    fs::remove_file(run.join("DONE")).unwrap();
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    assert_eq!((go(9, &Stop::never()), run.join("DONE").exists()), (Exit::Done, true));
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
    // Stopped at its last step: the last validation is made up for.
    assert_eq!((go(10, &signal()), run.join("DONE").exists()), (Exit::Signal, false));
    assert_eq!(checkpoints(&run)[0], "step_10.h5");
    assert_eq!((go(10, &Stop::never()), run.join("DONE").exists()), (Exit::Done, true));
    let steps: Vec<u64> = journal(&with(TEXT, &[1, 1], &run, &[])).validations.iter().map(|v| v.step).collect();
    assert_eq!(steps, [3, 9, 10]);
}

/// The deck, the journal and the series of a run say what ran each part of it.
#[test]
fn parts_say_what_ran() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    program(&with(TEXT, &[1, 1], &run, &["run.steps=2", "system.name=ddp"]), false);
    let history = program(&with(TEXT, &[2, 2], &run, &["run.steps=4", "system.name=fsdp"]), true);
    let parts: Vec<_> = history.parts.iter().map(|p| (p.part, p.step, p.system.as_str(), p.groups.clone())).collect();
    assert_eq!(parts, [(1, 0, "ddp", vec![1, 1]), (2, 2, "fsdp", vec![2, 2])]);
    let text = fs::read_to_string(run.join("deck.toml")).unwrap();
    for line in ["# part 1, from step 1 on: ddp, groups [1, 1]", "# part 2, from step 3 on: fsdp, groups [2, 2]"] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(Deck::read(&run.join("deck.toml"), &[]).unwrap().system.name(), "fsdp");
    for (part, system) in history.parts.iter().zip(["ddp", "fsdp"]) {
        assert_eq!(Deck::parse(&part.deck, &PathBuf::from("deck.toml"), &[]).unwrap().system.name(), system);
    }
}
