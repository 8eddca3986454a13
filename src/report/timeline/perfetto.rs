//! A timeline as a trace in Chrome's JSON format, for ui.perfetto.dev: a process is a rank, a thread one of its lanes,
//! an arrow a message.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::model::Unit;
use crate::plan::{Action, Call, Lane, Message, Payload, RankPlan, Span, Work};

use super::kind::Kind;
use super::{Picture, TimeUnit};

/// Writes a picture as one JSON array of events. Times are microseconds; a forward of the papers counts as 1 ms.
pub fn perfetto(picture: &Picture) -> String {
    let scale = match picture.unit {
        TimeUnit::Seconds => 1e6,
        TimeUnit::Forwards => 1e3,
    };
    let first = picture.limits().0;
    let micros = |time: f64| ((time - first) * scale * 1e3).round() / 1e3;
    let mut events = Vec::new();
    let mut arrows = Arrows::default();
    for (plan, spans) in picture.plans.iter().zip(&picture.timeline.ranks) {
        name_lanes(picture, plan, spans, &mut events);
        let mut order: Vec<&Span> = spans.iter().collect();
        // Messages of two ranks match in issue order.
        order.sort_by_key(|span| span.op);
        for span in order {
            let action = &plan.train[span.op].action;
            let (start, end) = (micros(span.start), micros(span.end));
            let place = (plan.rank, span.lane.index());
            events.push(json!({
                "ph": "X", "name": action.to_string(), "cat": Kind::of(action).words(), "pid": place.0, "tid": place.1,
                "ts": start, "dur": ((end - start) * 1e3).round() / 1e3, "args": args(plan, span.op),
            }));
            if let Action::Exchange { comm, sends, recvs } = action {
                for message in sends {
                    let id = arrows.next((*comm, plan.rank, message.peer, true));
                    events.push(arrow("s", &id, message, place, start));
                }
                for message in recvs {
                    let id = arrows.next((*comm, message.peer, plan.rank, false));
                    events.push(arrow("f", &id, message, place, end));
                }
            }
        }
    }
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    format!("[{}]\n", lines.join(",\n"))
}

/// Names of a rank and its lanes, and their order on the screen.
fn name_lanes(picture: &Picture, plan: &RankPlan, spans: &[Span], events: &mut Vec<Value>) {
    let rank = plan.rank;
    let group = picture.schedule.job.groups.group_of(rank);
    let name = if picture.schedule.job.groups.count() > 1 {
        format!("rank {rank}, group {group}")
    } else {
        format!("rank {rank}")
    };
    let mut meta = |what: &str, lane: usize, key: &str, value: Value| {
        events.push(json!({"ph": "M", "name": what, "pid": rank, "tid": lane, "args": {key: value}}));
    };
    meta("process_name", 0, "name", name.into());
    meta("process_sort_index", 0, "sort_index", rank.into());
    let lanes: BTreeSet<Lane> = spans.iter().map(|span| span.lane).collect();
    for lane in lanes {
        meta("thread_name", lane.index(), "name", picture.lane_name(rank, lane).into());
        meta("thread_sort_index", lane.index(), "sort_index", lane.index().into());
    }
}

/// What a click on an op shows.
fn args(plan: &RankPlan, id: usize) -> Value {
    let op = &plan.train[id];
    let bytes = |region: &crate::plan::Region| region.len * plan.slots[region.slot].dtype.bytes();
    let mut args = json!({"op": id, "waits": op.waits});
    let mut add = |key: &str, value: Value| args[key] = value;
    let mut work = |unit: Unit, work: &Work| {
        add("unit", unit.to_string().into());
        add("micro_batch", work.micro.into());
    };
    match &op.action {
        Action::Forward { unit, work: on, .. }
        | Action::Recompute { unit, work: on, .. }
        | Action::Backward { unit, work: on, .. }
        | Action::BackwardInput { unit, work: on, .. }
        | Action::BackwardWeight { unit, work: on, .. } => work(*unit, on),
        Action::HeadLoss { work: on, .. } => work(Unit::Head, on),
        Action::Load { work, .. } => add("micro_batch", work.micro.into()),
        Action::Update { shard, .. } => add("shard", (*shard).into()),
        Action::Exchange { sends, recvs, .. } => {
            add("bytes_sent", sends.iter().map(|m| bytes(&m.region)).sum::<usize>().into());
            add("bytes_received", recvs.iter().map(|m| bytes(&m.region)).sum::<usize>().into());
        }
        Action::Collective(Call { algorithm, region, payload, .. }) => {
            add("bytes", bytes(region).into());
            add("algorithm", format!("{algorithm:?}").to_lowercase().into());
            if let Payload::Weights(shard, _) | Payload::Gradient(shard, _) = payload {
                add("shard", (*shard).into());
            }
        }
        Action::Clear { dst } | Action::Cast { dst, .. } | Action::Accumulate { dst, .. } => {
            add("bytes", bytes(dst).into());
            add("slot", plan.slots[dst.slot].name.clone().into());
        }
        Action::NormPartial { gradient, .. } => add("bytes", bytes(gradient).into()),
    }
    args
}

/// One end of an arrow; Perfetto joins ends of equal id.
fn arrow(phase: &str, id: &str, message: &Message, place: (usize, usize), at: f64) -> Value {
    let mut event = json!({
        "ph": phase, "id": id, "name": message.payload.to_string(), "cat": "message",
        "pid": place.0, "tid": place.1, "ts": at,
    });
    if phase == "f" {
        // The end belongs to the op that encloses it, not to the next one.
        event["bp"] = "e".into();
    }
    event
}

/// Numbers the messages of each communicator, sender and receiver, as matching does.
#[derive(Default)]
struct Arrows {
    counts: HashMap<(usize, usize, usize, bool), usize>,
}

impl Arrows {
    fn next(&mut self, key: (usize, usize, usize, bool)) -> String {
        let count = self.counts.entry(key).or_default();
        *count += 1;
        format!("{}.{}.{}.{count}", key.0, key.1, key.2)
    }
}
