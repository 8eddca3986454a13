//! The worked example of `docs/tawpipe.md`: two nodes of two ranks, four blocks.

use tawpipe::cluster::Groups;
use tawpipe::plan::{Action, Payload};

use super::compare;
use super::systems::{Drawn, options_of, small};

/// The published system without its stagger, so that both groups use the same block at the same time.
fn example() -> Drawn {
    let options = options_of("tawpipe", &[("preset", "paper"), ("stagger", "none")]);
    Drawn::new(&small(options, &[2, 2], 4, 4)).unwrap()
}

/// What rank `from` sends between the groups in one iteration, in order: `w` or `g` for weights or a gradient, the block, and
/// the rank it goes to.
fn hops(drawn: &Drawn, from: usize) -> Vec<(char, usize, usize)> {
    let groups = Groups::new(&[2, 2]);
    let mut found = Vec::new();
    for op in &drawn.plans[from].train {
        let Action::Exchange { sends, .. } = &op.action else { continue };
        for message in sends.iter().filter(|message| groups.group_of(message.peer) != groups.group_of(from)) {
            // Shard 0 is the embedding.
            match message.payload {
                Payload::Weights(shard, _) => found.push(('w', shard - 1, message.peer)),
                Payload::Gradient(shard, _) => found.push(('g', shard - 1, message.peer)),
                _ => {}
            }
        }
    }
    found
}

/// The table of the document: who owns which block, which hops it takes and where its gradient goes.
#[test]
fn the_worked_example_is_the_plan() {
    let drawn = example();
    assert_eq!(hops(&drawn, 0), [('w', 0, 2), ('w', 0, 2), ('g', 1, 2)]);
    assert_eq!(hops(&drawn, 1), [('w', 2, 3), ('g', 3, 3)]);
    assert_eq!(hops(&drawn, 2), [('w', 1, 0), ('w', 1, 0), ('g', 0, 0)]);
    assert_eq!(hops(&drawn, 3), [('w', 3, 1), ('g', 2, 1)]);
    compare("docs/tawpipe-2x2.svg", &drawn.svg(true));
}
