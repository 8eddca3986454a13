//! Drawings: they show every box, and schedules of the literature have the literature's order.

use tawpipe::model::Unit;
use tawpipe::plan::Action;
use tawpipe::plan::systems::{SystemOptions, find};

use super::systems::{Drawn, options_of, small};

/// Micro-batches of a rank's blocks in order: F, B (whole or its first half) and W (its second half).
fn order(drawn: &Drawn, rank: usize) -> Vec<(char, usize)> {
    let ops = drawn.plans[rank].train.iter();
    ops.filter_map(|op| match &op.action {
        Action::Forward { unit: Unit::Block(_), work, .. } => Some(('F', work.micro)),
        Action::Backward { unit: Unit::Block(_), work, .. } => Some(('B', work.micro)),
        Action::BackwardInput { unit: Unit::Block(_), work, .. } => Some(('B', work.micro)),
        Action::BackwardWeight { unit: Unit::Block(_), work, .. } => Some(('W', work.micro)),
        _ => None,
    })
    .collect()
}

/// Four stages of one block, eight micro-batches: the figures of 1F1B and Zero Bubble.
fn pipeline(name: &str) -> Option<Drawn> {
    find(name)?;
    Some(Drawn::new(&small(options_of(name, &[]), &[2, 2], 4, 8)).unwrap())
}

/// 1F1B (PipeDream-flush, Megatron): stage i begins with p-1-i forwards, then one forward and one backward in turns, then
/// the rest. It ends after (M + p - 1)(F + B) = 33 units.
#[test]
fn one_f_one_b_is_the_papers_figure() {
    let Some(drawn) = pipeline("1f1b") else { return };
    for stage in 0..4 {
        let warm = 3 - stage;
        let mut expected: Vec<(char, usize)> = (0..warm).map(|m| ('F', m)).collect();
        expected.extend((warm..8).flat_map(|m| [('F', m), ('B', m - warm)]));
        expected.extend((8 - warm..8).map(|m| ('B', m)));
        assert_eq!(order(&drawn, stage), expected, "stage {stage}");
    }
    assert_eq!(drawn.simulation.step_s, 33.0);
}

/// ZB-H1 (Zero Bubble, figure 3): the same, but the backward of weights of stage i stays i micro-batches behind, so that no
/// stage keeps more than 1F1B's first. The bubble is (p-1)(F + B - W) = 3 units.
#[test]
fn zb_h1_is_the_papers_figure() {
    let Some(drawn) = pipeline("zb-h1") else { return };
    for stage in 0..4 {
        let warm = 3 - stage;
        let mut expected: Vec<(char, usize)> = (0..warm).map(|m| ('F', m)).collect();
        for m in 0..8 {
            if m + warm < 8 {
                expected.push(('F', m + warm));
            }
            expected.push(('B', m));
            expected.extend(m.checked_sub(stage).map(|m| ('W', m)));
        }
        expected.extend((8 - stage..8).map(|m| ('W', m)));
        assert_eq!(order(&drawn, stage), expected, "stage {stage}");
    }
    assert_eq!(drawn.simulation.step_s, 8.0 * 3.0 + 3.0);
}

/// Every op that takes time has a box with its words and length, its label where it fits, and every kind its legend.
#[test]
fn drawings_show_every_box() {
    let job = small(SystemOptions::paper(), &[2, 2, 2], 6, 6);
    let drawn = Drawn::new(&job).unwrap();
    let svg = drawn.svg(true);
    let boxes = drawn.simulation.timeline.ranks.iter().flatten().filter(|span| span.seconds() > 0.0).count();
    assert_eq!(svg.matches("<title>").count(), boxes);
    // Ten forwards or backwards of 6 blocks on 6 ranks each.
    assert_eq!(svg.matches("<title>forward of block 3, micro-batch 2: 1 units</title>").count(), 1);
    assert_eq!(svg.matches(">3/2</text>").count(), 2, "forward and backward of block 3 on rank 2");
    for words in ["tawpipe on 6 ranks", "20 units from first to last", "idle 10.0 %", "group 2", "weight hop"] {
        assert!(svg.contains(words), "no {words:?}");
    }
    for kind in ["forward", "backward", "hop", "broadcast, all-gather", "reduce, reduce-scatter, all-reduce", "update"]
    {
        assert!(svg.contains(&format!(">{kind}</text>")), "no {kind} in the legend");
    }
    assert!(!drawn.svg(false).contains("weight hop"));
}
