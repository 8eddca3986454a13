//! Updates that would ruin a run are left out, by every system and on every rank alike.

use tawpipe::device::Memory;
use tawpipe::exit::Exit;
use tawpipe::model::Dtype;
use tawpipe::plan::systems::{SYSTEMS, schedule};
use tawpipe::plan::{RankPlan, Segment, SlotId};
use tawpipe::train::{Agreed, Session, StepInput};

use super::world::{deck, groups, journal, outcomes, sessions};

const TEXT: &str = r#"
    model = { dim = 16, layers = 6, heads = 2, kv_heads = 1, ffn = 24, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 8 }
    batch = { global = 8, micro = 1 }
    optim = { lr = 3e-3, schedule = "constant" }
    run = { steps = 20, seed = 5 }
"#;

/// Calls `body` for every system that can run on these groups, and asserts that all can.
fn every_system(body: impl Fn(&str, &[usize])) {
    for groups_of in [&[1, 1][..], &[2, 2]] {
        let mut ran = 0;
        for entry in SYSTEMS.iter().filter(|entry| entry.name != "single") {
            let name = format!("system.name={}", entry.name);
            let deck = deck(TEXT, groups_of, &[&name]);
            if let Err(refusal) = schedule(&deck.job(deck.model.shape().unwrap(), groups(&deck)).unwrap()) {
                println!("{}, {groups_of:?}: {refusal}", entry.name);
                continue;
            }
            body(&name, groups_of);
            ran += 1;
        }
        assert_eq!(ran + 1, SYSTEMS.len(), "on {groups_of:?}");
    }
}

/// Slots that weights stay in from step to step.
fn weights(plan: &RankPlan) -> Vec<SlotId> {
    let kept = |slot: &tawpipe::plan::Slot| {
        matches!(slot.segment, Segment::Master | Segment::Home | Segment::Cache) && slot.dtype == Dtype::F32
    };
    plan.slots.iter().enumerate().filter(|(_, slot)| kept(slot)).map(|(id, _)| id).collect()
}

fn copy(memory: &Memory, slots: &[SlotId]) -> Vec<Vec<f32>> {
    slots.iter().map(|slot| memory.floats(*slot).unwrap().into_owned()).collect()
}

fn fill(memory: &Memory, slots: &[SlotId], values: &[Vec<f32>]) {
    slots.iter().zip(values).for_each(|(slot, values)| memory.upload(memory.slot(*slot), values).unwrap());
}

/// Loss bits of the steps and bits of the masters at the end, for steps that read these batches; before the batches in
/// `poisoned` all weights become `poison`, and are what they were behind them.
fn bits(session: &mut Session, batches: &[u64], poisoned: &[u64], poison: f32) -> (Vec<u64>, Vec<Vec<u32>>) {
    let slots = weights(&session.plan);
    let (mut losses, mut update) = (Vec::new(), 1);
    for &batch in batches {
        let before = copy(session.memory(), &slots);
        if poisoned.contains(&batch) {
            let all: Vec<Vec<f32>> = before.iter().map(|values| vec![poison; values.len()]).collect();
            fill(session.memory(), &slots, &all);
        }
        let result = session.step(&StepInput { first: 8 * batch, update, lr: 3e-3, bound: f64::INFINITY }).unwrap();
        assert_eq!(result.applied, !poisoned.contains(&batch), "loss {}, norm {}", result.loss, result.grad_norm);
        if result.applied {
            losses.push(result.loss.to_bits());
            update += 1;
        } else {
            assert!(!result.is_finite());
            let (tensors, bad) = session.nonfinite_gradients().unwrap();
            assert_eq!(tensors, bad.len(), "NaN weights make all gradients NaN");
            fill(session.memory(), &slots, &before);
        }
    }
    let memory = session.memory();
    let masters = slots.iter().map(|slot| memory.floats(*slot).unwrap().iter().map(|x| x.to_bits()).collect());
    (losses, masters.collect())
}

/// A step whose loss is NaN leaves no trace: with it or without it the weights of all ranks and all later losses are the same
/// bits. Every system, on two and four ranks.
#[test]
fn a_skipped_step_leaves_no_trace() {
    every_system(|name, groups| {
        let deck = deck(TEXT, groups, &[name]);
        let with = sessions(&deck, |_| {}, |session| bits(session, &[0, 1, 2, 3, 4], &[2], f32::NAN));
        let without = sessions(&deck, |_| {}, |session| bits(session, &[0, 1, 3, 4], &[], 0.0));
        assert!(with == without, "{name}, {groups:?}");
        assert!(with.iter().all(|(losses, _)| *losses == with[0].0), "{name}, {groups:?}: ranks differ");
    });
}

/// A learning rate that ruins the model in its first update: `stop` ends the run at the second step, on all ranks with the
/// same words; `skip` leaves out ten updates and then ends it too. Weights stay finite, and no checkpoint is written.
#[test]
fn a_ruined_run_ends() {
    every_system(|name, groups| {
        for (policy, last) in [("stop", 2), ("skip", 12)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("run");
            let sets = [
                format!("run.on_nonfinite={policy}"),
                format!("run.folder={path:?}"),
                "optim.lr=1e12".into(),
                name.into(),
            ];
            let deck = deck(TEXT, groups, &sets.each_ref().map(|set: &String| set.as_str()));
            let ends = outcomes(&deck, false);
            for end in &ends {
                let agreed = end.as_ref().unwrap_err().downcast_ref::<Agreed>().expect("all ranks know");
                assert_eq!(agreed.exit, Exit::Failure);
            }
            let text = ends[0].as_ref().unwrap_err().to_string();
            for words in [&format!("step {last}: the ")[..], "NaN", "not applied", "there is no checkpoint"] {
                assert!(text.contains(words), "{name}, {groups:?}, {policy}: no {words:?} in {text}");
            }
            let steps = journal(&deck).steps;
            let skipped: Vec<bool> = steps.iter().map(|record| record.skipped).collect();
            let wanted: Vec<bool> = (1..=last).map(|step| step > 1).collect();
            assert_eq!(skipped, wanted, "{name}, {groups:?}, {policy}");
            assert_eq!(std::fs::read_dir(path.join("checkpoints")).unwrap().count(), 0);
        }
    });
}

/// Skipping advances step, data, tokens and learning rate, and says so in its row only.
#[test]
fn rows_say_what_was_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let sets = [format!("run.folder={path:?}"), "run.spike={ window = 2, z = 1e-9 }".into(), "run.steps=6".into()];
    let deck = deck(TEXT, &[1, 1], &sets.each_ref().map(|set: &String| set.as_str()));
    for end in outcomes(&deck, false) {
        assert_eq!(end.unwrap(), Exit::Done);
    }
    let steps = journal(&deck).steps;
    assert!(steps.iter().any(|record| record.skipped) && steps.iter().any(|record| !record.skipped));
    for (at, record) in steps.iter().enumerate() {
        assert_eq!((record.step, record.tokens), (at as u64 + 1, 64 * (at as u64 + 1)));
        let norms: Vec<f64> = steps[at.saturating_sub(2)..at].iter().map(|record| record.grad_norm).collect();
        let outlier =
            norms.len() == 2 && record.grad_norm > (norms[0] + norms[1]) / 2.0 + (norms[0] - norms[1]).abs() / 2e9;
        assert_eq!(record.skipped, outlier, "step {}", record.step);
    }
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    for (line, record) in text.lines().filter(|line| line.contains("\"loss\"")).zip(&steps) {
        assert_eq!(line.contains("\"skipped\":true"), record.skipped, "{line}");
        assert_eq!(line.contains("skipped"), record.skipped, "{line}");
    }
}
