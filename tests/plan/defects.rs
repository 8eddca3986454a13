//! Faults that real code had (those of the released TawPipe code, and their like), put into right plans: the checker
//! must name each of them.

use tawpipe::cluster::Rank;
use tawpipe::model::{Dtype, Unit};
use tawpipe::plan::check::{Defect, Rule, check};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::{Embed, Schedule, Stagger, SystemOptions, schedule};
use tawpipe::plan::{Action, Call, Job, Lane, Op, Payload, RankPlan, Segment};

use super::jobs::{tawpipe, with};
use super::mutants::drop_op;

/// Two groups of two ranks, four blocks, two rounds. Shards: embedding 0, blocks 1 to 4, head 5.
fn plans() -> (Schedule, Vec<RankPlan>) {
    of(&tawpipe(4, &[2, 2], 8))
}

fn of(job: &Job) -> (Schedule, Vec<RankPlan>) {
    let schedule = schedule(job).unwrap();
    let plans = schedule.ranks();
    check(&schedule, &plans).unwrap_or_else(|defects| panic!("a right plan is refused: {}", defects[0]));
    (schedule, plans)
}

/// The checker must refuse, by this rule, in a sentence with all these words.
fn named(schedule: &Schedule, plans: &[RankPlan], rule: Rule, words: &[&str]) {
    let defects = check(schedule, plans).expect_err("a broken plan passes");
    let fits = |d: &&Defect| d.rule == rule && words.iter().all(|word| d.text.contains(word));
    if defects.iter().find(fits).is_none() {
        let all: Vec<String> = defects.iter().take(10).map(|d| format!("{:?}: {d}", d.rule)).collect();
        panic!("no {rule:?} defect with {words:?} among\n{}", all.join("\n"));
    }
}

/// Ops of a list for which something holds.
fn find(list: &[Op], what: impl Fn(&Action) -> bool) -> Vec<usize> {
    (0..list.len()).filter(|&id| what(&list[id].action)).collect()
}

/// Whether an action is a collective of some kind.
fn calls(action: &Action, kind: impl Fn(Collective) -> bool) -> bool {
    matches!(action, Action::Collective(call) if kind(call.what))
}

fn broadcasts(what: Collective) -> bool {
    matches!(what, Collective::Broadcast(_))
}

fn reduces(what: Collective) -> bool {
    matches!(what, Collective::Reduce(_))
}

fn gradient_of(payload: &Payload, shard: usize) -> bool {
    matches!(payload, Payload::Gradient(s, _) if *s == shard)
}

/// §4.1: the forward of block i uses the buffer into which block i+1 is coming.
#[test]
fn weights_off_by_one() {
    let (schedule, mut plans) = plans();
    // Rank 3 owns neither block 1 nor block 2, so both pass through its ring.
    let rank = 3;
    let rings: Vec<usize> =
        (0..plans[rank].slots.len()).filter(|&s| plans[rank].slots[s].segment == Segment::Ring).collect();
    let mut changed = 0;
    for op in &mut plans[rank].train {
        if let Action::Forward { unit: Unit::Block(_), weights, .. } = &mut op.action
            && let Some(index) = rings.iter().position(|&s| s == weights.slot)
        {
            weights.slot = rings[1 - index];
            changed += 1;
        }
    }
    assert!(changed > 0);
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["rank 3", "forward of block", "should hold weights of shard", "found weights of shard"],
    );
}

/// §4.2: the broadcast does not wait for the receive that fills its source.
#[test]
fn receive_not_awaited() {
    let (schedule, mut plans) = plans();
    let gate = |op: &Op| calls(&op.action, |what| what == Collective::Broadcast(2)) && !op.waits.is_empty();
    let id = plans[2].train.iter().position(gate).expect("rank 2 stages a shard");
    plans[2].train[id].waits.clear();
    named(&schedule, &plans, Rule::Race, &["rank 2", "broadcast weights", "without waiting for", "receive weights"]);
}

/// §4.2: computation never waits for communication.
#[test]
fn computation_does_not_wait() {
    let (schedule, mut plans) = plans();
    for op in plans[1].train.iter_mut().filter(|op| op.lane == Lane::Compute) {
        op.waits.clear();
    }
    named(
        &schedule,
        &plans,
        Rule::Race,
        &["forward of block", "reads \"ring", "without waiting for", "broadcast weights"],
    );
}

/// §4.2: the send of a reduced gradient is not ordered after the reduce.
#[test]
fn send_before_reduce() {
    let (schedule, mut plans) = plans();
    let id = find(
        &plans[2].train,
        |a| matches!(a, Action::Exchange { sends, .. } if sends.iter().any(|m| matches!(m.payload, Payload::Gradient(..)))),
    )[0];
    plans[2].train[id].waits.clear();
    named(&schedule, &plans, Rule::Race, &["send gradient", "without waiting for", "reduce gradient"]);
}

/// §4.2: a gradient is added before it has arrived.
#[test]
fn added_before_arrival() {
    let (schedule, mut plans) = plans();
    // On the lane of reductions nothing orders the sum behind the hop.
    let list = &mut plans[0].train;
    let arrival = find(
        list,
        |a| matches!(a, Action::Exchange { recvs, .. } if recvs.iter().any(|m| matches!(m.payload, Payload::Gradient(..)))),
    )[0];
    let sum = (arrival + 1..list.len()).find(|&id| list[id].lane == list[arrival].lane).expect("a sum follows");
    list[sum].lane = Lane::Comm(2);
    named(&schedule, &plans, Rule::Race, &["rank 0", "reads \"arrival", "without waiting for", "receive gradient"]);
}

/// §4.2: a gradient buffer is cleared while it may still be in flight.
#[test]
fn cleared_in_flight() {
    let (schedule, mut plans) = plans();
    let list = &mut plans[1].train;
    let reduce = find(list, |a| calls(a, reduces))[0];
    let Action::Collective(Call { region, .. }) = list[reduce].action else { unreachable!() };
    list.insert(reduce + 1, Op { lane: Lane::Compute, waits: vec![], action: Action::Clear { dst: region } });
    for op in &mut list[reduce + 2..] {
        op.waits.iter_mut().for_each(|wait| *wait += usize::from(*wait > reduce));
    }
    named(&schedule, &plans, Rule::Race, &["clear", "without waiting for", "reduce gradient"]);
}

/// §4.3: the first block's gradient never leaves the ranks that computed it.
#[test]
fn gradient_of_first_block_lost() {
    let (schedule, mut plans) = plans();
    for (rank, plan) in plans.iter_mut().enumerate() {
        let lost = find(&plan.train, |action| match action {
            Action::Collective(Call { payload, .. }) => gradient_of(payload, 1),
            Action::Exchange { sends, recvs, .. } => sends.iter().chain(recvs).any(|m| gradient_of(&m.payload, 1)),
            Action::Cast { dst, .. } | Action::Accumulate { dst, .. } => {
                let slot = &schedule.rank(rank).slots[dst.slot];
                slot.segment == Segment::Accumulator && slot.holds.as_ref().is_some_and(|h| h.shard == 1)
            }
            _ => false,
        });
        lost.into_iter().rev().for_each(|id| drop_op(&mut plan.train, id));
    }
    named(&schedule, &plans, Rule::Replay, &["shard 1 accumulator", "should hold a gradient", "found nothing"]);
}

/// §4.3: the first block's gradient is lost in one of two rounds.
#[test]
fn gradient_of_first_block_lost_in_one_round() {
    let (schedule, mut plans) = plans();
    let owner = schedule.owners()[1].unwrap();
    let accumulator = plans[owner]
        .slots
        .iter()
        .position(|slot| slot.segment == Segment::Accumulator && slot.holds.as_ref().unwrap().shard == 1)
        .unwrap();
    let list = &mut plans[owner].train;
    let last = *find(list, |a| matches!(a, Action::Accumulate { dst, .. } if dst.slot == accumulator)).last().unwrap();
    drop_op(list, last);
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["shard 1", "contributions instead of 8", "missing: (block 0, micro-batch"],
    );
}

/// §4.3: with K > 1 what is left of the first block's gradient is added to the last block's of the next round.
#[test]
fn contamination_of_the_next_round() {
    let (schedule, mut plans) = plans();
    let list = &mut plans[0].train;
    let backwards = find(list, |a| matches!(a, Action::Backward { unit: Unit::Block(3), .. }));
    let Action::Backward { accumulate, .. } = &mut list[backwards[1]].action else { unreachable!() };
    *accumulate = true;
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["backward of block 3, micro-batch 4", "adds gradient of shard 4", "which holds"],
    );
}

/// A gradient that is summed twice.
#[test]
fn gradient_counted_twice() {
    let (schedule, mut plans) = plans();
    let owner = schedule.owners()[2].unwrap();
    let list = &mut plans[owner].train;
    let slot = schedule.rank(owner).slots;
    let sums = find(list, |a| match a {
        Action::Accumulate { dst, .. } => slot[dst.slot].holds.as_ref().is_some_and(|h| h.shard == 2),
        _ => false,
    });
    let again = list[sums[0]].clone();
    let id = sums[0] + 1;
    list.insert(id, Op { waits: vec![sums[0]], ..again });
    for op in &mut list[id + 1..] {
        op.waits.iter_mut().for_each(|wait| *wait += usize::from(*wait >= id));
    }
    named(&schedule, &plans, Rule::Replay, &["shard 2", "too often or out of place: (block 1, micro-batch"]);
}

/// §4.4: five groups, and one rank sends to a group that expects nothing.
#[test]
fn unmatched_send_with_five_groups() {
    let (schedule, mut plans) = of(&with(tawpipe(5, &[2; 5], 10), Embed::Sharded, Stagger::Slots, 1));
    let (rank, id) = (0..plans.len())
        .find_map(|rank| {
            find(&plans[rank].train, |a| matches!(a, Action::Exchange { recvs, .. } if !recvs.is_empty()))
                .first()
                .map(|&id| (rank, id))
        })
        .unwrap();
    let Action::Exchange { recvs, .. } = &mut plans[rank].train[id].action else { unreachable!() };
    recvs.pop();
    named(&schedule, &plans, Rule::Matching, &["sends weights of shard", &format!("to rank {rank}, which")]);
}

/// §4.4: sender and receiver use different communicators.
#[test]
fn different_communicators() {
    let (schedule, mut plans) = of(&tawpipe(3, &[1, 1, 1], 3));
    let list = &mut plans[1].evaluate;
    let id = *find(list, |a| matches!(a, Action::Exchange { recvs, .. } if !recvs.is_empty())).last().unwrap();
    let Action::Exchange { comm, .. } = &mut list[id].action else { unreachable!() };
    *comm = 3;
    named(&schedule, &plans, Rule::Matching, &["to rank 1, which never receives it", "\"weight hop\""]);
    named(&schedule, &plans, Rule::Matching, &["which never sends it", "\"gradient hop\""]);
}

/// §4.5: only the last micro-batch's gradient reaches the embedding.
#[test]
fn embedding_gradient_of_last_micro_batch_only() {
    let (schedule, mut plans) = of(&Job { system: SystemOptions::Single, ..tawpipe(3, &[1], 4) });
    let list = &mut plans[0].train;
    let backwards = find(list, |a| matches!(a, Action::Backward { unit: Unit::Embed, .. }));
    for &id in backwards[..3].iter().rev() {
        drop_op(list, id);
    }
    let last = find(list, |a| matches!(a, Action::Backward { unit: Unit::Embed, .. }))[0];
    let Action::Backward { accumulate, .. } = &mut list[last].action else { unreachable!() };
    *accumulate = false;
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["shard 0", "1 contributions instead of 4", "3 missing: (embedding, micro-batch 0)"],
    );
}

/// §4.6: every rank works on the same micro-batch.
#[test]
fn same_data_everywhere() {
    let (schedule, mut plans) = plans();
    for plan in &mut plans {
        for op in &mut plan.train {
            match &mut op.action {
                Action::Load { work, .. } | Action::Forward { work, .. } | Action::HeadLoss { work, .. } => {
                    work.micro &= 4
                }
                Action::Recompute { work, .. } | Action::Backward { work, .. } => work.micro &= 4,
                _ => {}
            }
        }
    }
    named(&schedule, &plans, Rule::Replay, &["block 2 of micro-batch 0 runs 4 times forward and 4 times backward"]);
    named(&schedule, &plans, Rule::Replay, &["missing", "out of place: (block 2, micro-batch 0)"]);
}

/// §4.8: the loss is that of one rank's micro-batches.
#[test]
fn loss_of_one_rank() {
    let (schedule, mut plans) = plans();
    for plan in &mut plans {
        let id = find(&plan.evaluate, |a| calls(a, |what| what == Collective::AllReduce))[0];
        drop_op(&mut plan.evaluate, id);
    }
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["at the end of evaluate", "loss of 8 micro-batches", "2 contributions instead of 8"],
    );
}

/// §4.8: gradients are summed in half precision.
#[test]
fn half_precision_accumulator() {
    let (schedule, mut plans) = plans();
    let slot = plans[0].slots.iter_mut().find(|slot| slot.segment == Segment::Accumulator).unwrap();
    slot.dtype = Dtype::Bf16;
    named(&schedule, &plans, Rule::Structure, &["update of shard 0", "must have 384 f32 elements"]);
}

/// §4.9: one rank broadcasts once more than the others.
#[test]
fn stray_broadcast() {
    let (schedule, mut plans) = plans();
    let id = *find(&plans[1].train, |a| calls(a, broadcasts)).last().unwrap();
    let again = plans[1].train[id].clone();
    plans[1].train.push(again);
    named(&schedule, &plans, Rule::Matching, &["\"broadcast\"", "never takes part in broadcast"]);
}

/// §2.3 and §4.10: two kinds of traffic share a communicator.
#[test]
fn shared_communicator() {
    let (schedule, mut plans) = plans();
    for op in plans.iter_mut().flat_map(|plan| &mut plan.train) {
        if let Action::Collective(Call { what: Collective::Reduce(_), comm, .. }) = &mut op.action {
            *comm = 1;
        }
    }
    named(&schedule, &plans, Rule::Matching, &["one communicator belongs to one lane"]);
}

/// Groups that exchange shards send first and receive afterwards: with sends that last until they are received, both
/// wait for ever.
#[test]
fn send_before_receive() {
    let (schedule, mut plans) = of(&with(tawpipe(6, &[1, 1, 1], 3), Embed::Sharded, Stagger::Slots, 1));
    for plan in &mut plans {
        let both =
            |a: &Action| matches!(a, Action::Exchange { sends, recvs, .. } if !sends.is_empty() && !recvs.is_empty());
        for id in find(&plan.train, both).into_iter().rev() {
            let Op { lane, action: Action::Exchange { comm, recvs, .. }, .. } = &mut plan.train[id] else {
                unreachable!()
            };
            let action = Action::Exchange { comm: *comm, sends: vec![], recvs: std::mem::take(recvs) };
            let receive = Op { lane: *lane, waits: vec![id], action };
            plan.train.insert(id + 1, receive);
            for op in &mut plan.train[id + 2..] {
                // What waited for both waits for the later one.
                op.waits.iter_mut().for_each(|wait| *wait += usize::from(*wait >= id));
            }
        }
    }
    named(&schedule, &plans, Rule::Deadlock, &["wait for each other in a circle", "send weights", "receive weights"]);
}

/// Two collectives on different lanes, issued in opposite orders: right with all lanes at once, not one at a time.
#[test]
fn opposite_issue_orders() {
    let (schedule, mut plans) = plans();
    let list = &mut plans[1].train;
    // A broadcast under a computation, and the reduce of that computation's gradient: neither needs the other.
    let pair = find(list, |a| calls(a, reduces)).into_iter().find_map(|reduce| {
        let broadcast = (0..reduce).rev().find(|&id| calls(&list[id].action, broadcasts))?;
        list[broadcast..=reduce].iter().all(|op| !op.waits.contains(&broadcast)).then_some((broadcast, reduce))
    });
    let (broadcast, reduce) = pair.unwrap();
    let op = list.remove(broadcast);
    list.insert(reduce, op);
    let moved = |wait: usize| match wait {
        w if w == broadcast => reduce,
        w if w > broadcast && w <= reduce => w - 1,
        w => w,
    };
    for op in list.iter_mut() {
        op.waits.iter_mut().for_each(|wait| *wait = moved(*wait));
    }
    named(
        &schedule,
        &plans,
        Rule::Deadlock,
        &["with one communication at a time", "broadcast weights", "reduce gradient"],
    );
}

/// The update does not wait until the last send of the weights that it overwrites.
#[test]
fn update_under_a_send() {
    let (schedule, mut plans) = of(&with(tawpipe(3, &[1, 2], 5), Embed::Replicated, Stagger::Slots, 1));
    for plan in &mut plans {
        let sends = find(&plan.train, |a| matches!(a, Action::Exchange { .. }) || calls(a, broadcasts));
        for op in plan.train.iter_mut().filter(|op| matches!(op.action, Action::Update { .. })) {
            op.waits.retain(|wait| !sends.contains(wait));
        }
    }
    named(&schedule, &plans, Rule::Race, &["update of shard", "without waiting for", "send weights"]);
}

/// The copy in the compute dtype is not renewed: the next iteration would train on old weights.
#[test]
fn stale_home() {
    let mut job = tawpipe(3, &[2, 2], 4);
    job.dtype = Dtype::Bf16;
    let (schedule, mut plans) = of(&job);
    let owner: Rank = schedule.owners()[2].unwrap();
    for op in &mut plans[owner].train {
        if let Action::Update { shard: 2, home, .. } = &mut op.action {
            *home = None;
        }
    }
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["at the end of train", "should hold rounded weights of shard 2 version 1", "version 0"],
    );
}

/// The global norm misses a shard.
#[test]
fn norm_without_a_shard() {
    let (schedule, mut plans) = plans();
    let id = find(&plans[3].train, |a| matches!(a, Action::NormPartial { .. }))[0];
    drop_op(&mut plans[3].train, id);
    named(&schedule, &plans, Rule::Replay, &["update of shard", "statistics", "should hold squares of"]);
}

/// The replicated embedding's gradients are not summed: every rank would train its own.
#[test]
fn replicas_drift() {
    let (schedule, mut plans) = of(&with(tawpipe(3, &[2, 1], 3), Embed::Replicated, Stagger::None, 1));
    for plan in &mut plans {
        let id =
            find(&plan.train, |a| matches!(a, Action::Collective(Call { payload, .. }) if gradient_of(payload, 0)))[0];
        drop_op(&mut plan.train, id);
    }
    named(
        &schedule,
        &plans,
        Rule::Replay,
        &["update of shard 0", "1 contributions instead of 3", "missing: (embedding"],
    );
}
