//! Fingerprints of plans: a change that should not change any plan changes none of them.
//!
//! Every rank's plan of some 300 jobs, over all systems, options and shapes, is written as a text of this file's own words,
//! which no renaming in the source touches, and the SHA-256 of that text is compared with the one in
//! `tests/data/plans.txt`. `UPDATE=1 cargo test --test plan fingerprint` writes that file anew, for a change that is meant;
//! `TAWPIPE_PLANS=FOLDER` keeps the texts, to compare them before and after.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tawpipe::cluster::{Costs, Groups};
use tawpipe::model::{Dtype, ModelShape, Recompute, Unit};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::{SYSTEMS, Schedule, schedule};
use tawpipe::plan::{
    Action, Algorithm, Batch, Call, HeadGradient, Job, Lane, Message, Op, Payload, RankPlan, Region, Segment, Slot,
    Work,
};
use tawpipe::simulate::named;

use super::jobs::shape;

/// `[system]` sections: every system, and every option of each with a value that is not its default.
const OPTIONS: &[&str] = &[
    "name='single'",
    "name='ddp'",
    "name='ddp'\nzero1=true",
    "name='ddp'\nzero1=true\nblocks_per_shard=2",
    "name='fsdp'",
    "name='fsdp'\nprefetch=0\nblocks_per_shard=2",
    "name='fsdp'\nprefetch=2\nsync='iteration'",
    "name='fsdp'\nreshard_after_forward=false",
    "name='hsdp'",
    "name='hsdp'\nprefetch=0\nsync='round'",
    "name='hsdp'\nreshard_after_forward=false\nblocks_per_shard=2",
    "name='tawpipe'",
    "name='tawpipe'\npreset='paper'",
    "name='tawpipe'\nauto=false",
    "name='tawpipe'\nauto=false\nembed='replicated'\nblocks_per_shard=2",
    "name='tawpipe'\nauto=false\nstagger='slots'\nweight_cache='group'",
    "name='tawpipe'\nauto=false\nweight_cache='group'\ngrad_sync='iteration'\nembed='replicated'",
    "name='tawpipe'\nauto=false\ngrad_sync='iteration'\nblocks_per_shard=3",
    "name='tawpipe'\nauto=false\nhop='collective'",
    "name='tawpipe'\nauto=false\nhop='collective'\nweight_cache='group'\ngrad_sync='iteration'",
    "name='tawpipe'\nauto=false\nstripe=true",
    "name='tawpipe'\nauto=false\nstripe=true\nhop='collective'\nweight_cache='group'",
    "name='tawpipe'\nauto=false\noverlap=false",
    "name='tawpipe'\npreset='paper'\ntopology='flat'",
    "name='weipipe'",
    "name='weipipe-naive'",
    "name='gpipe'",
    "name='gpipe'\nblocking=true",
    "name='1f1b'",
    "name='1f1b'\nblocking=true",
    "name='1f1b-interleaved'",
    "name='1f1b-interleaved'\nchunks=3\nblocking=true",
    "name='zb-h1'",
    "name='zb-h2'",
    "name='zb-1p'",
    "name='zb-2p'",
    "name='zb-v'",
];

/// Jobs but for their systems, each with a name: even and uneven groups, full and ragged last rounds, blocks that ranks do
/// not divide, tied heads, both types, every kind of recomputation, even and uneven costs.
fn worlds() -> Vec<(&'static str, Job)> {
    let job = |layers, tied, groups: &[usize], micros, dtype, grad_dtype, recompute| Job {
        shape: shape(layers, tied),
        groups: Groups::new(groups),
        batch: Batch { seq: 4, micro: 2, micros },
        dtype,
        grad_dtype,
        recompute,
        costs: Costs::unit(),
        memory: None,
        system: named("name='single'").unwrap(),
    };
    let (f32, bf16) = (Dtype::F32, Dtype::Bf16);
    let (none, selective, block) = (Recompute::None, Recompute::Selective, Recompute::Block);
    let mut worlds = vec![
        ("one rank", job(4, false, &[1], 3, f32, f32, selective)),
        ("2 + 2", job(4, false, &[2, 2], 4, f32, f32, block)),
        ("2 + 2 + 2, two rounds", job(6, false, &[2, 2, 2], 12, bf16, f32, block)),
        ("1 + 3", job(5, false, &[1, 3], 8, f32, f32, none)),
        ("4, ragged", job(3, true, &[4], 5, bf16, bf16, selective)),
        ("2 + 2, ragged, tied", job(8, true, &[2, 2], 10, bf16, f32, selective)),
        ("3 + 3, ragged", job(12, false, &[3, 3], 13, bf16, bf16, none)),
        ("2 + 1 + 2, ragged, tied", job(7, true, &[2, 1, 2], 9, f32, f32, selective)),
        ("4 + 4", job(16, false, &[4, 4], 16, bf16, f32, block)),
        ("4 ranks alone, few micro-batches", job(4, false, &[1, 1, 1, 1], 2, f32, f32, block)),
    ];
    // Measured costs are not units; here they follow from the sizes of a model whose head is large.
    let (_, uneven) = &worlds[8];
    let shape = ModelShape { vocab: 400, ..uneven.shape };
    let costs = Costs::flops(&shape, uneven.batch.micro, uneven.batch.seq);
    worlds.push(("4 + 4, large head", Job { shape, costs, ..uneven.clone() }));
    worlds
}

/// A plan in this file's words.
struct Text(String);

impl Text {
    fn line(&mut self, words: std::fmt::Arguments) {
        self.0.write_fmt(words).expect("a string takes everything");
        self.0.push('\n');
    }

    fn job(&mut self, schedule: &Schedule) {
        for shard in &schedule.shards.shards {
            self.line(format_args!("shard {} {}", shard.len, shard.params.len()));
        }
        for split in &schedule.splits {
            self.line(format_args!("split {:?}", split.sets));
        }
        for rank in schedule.ranks() {
            self.rank(&rank);
        }
    }

    fn rank(&mut self, plan: &RankPlan) {
        self.line(format_args!("rank {} lanes {}", plan.rank, plan.comm_lanes));
        for Slot { elems, dtype, segment, holds, name: _ } in &plan.slots {
            let held = holds.as_ref().map_or_else(String::new, |held| {
                format!(" of {} {} {}", held.shard, range(&held.range), if held.primary { "first" } else { "copy" })
            });
            self.line(format_args!("slot {elems} {} {}{held}", type_of(*dtype), use_of(*segment)));
        }
        for (list, ops) in [("before", &plan.prepare), ("step", &plan.train), ("valid", &plan.evaluate)] {
            self.line(format_args!("list {list}"));
            for Op { lane, waits, action } in ops {
                let lane = match lane {
                    Lane::Compute => "c".to_string(),
                    Lane::Comm(lane) => lane.to_string(),
                };
                let action = words(action);
                self.line(format_args!("{lane} {waits:?} {action}"));
            }
        }
    }
}

fn range(range: &Range<usize>) -> String {
    format!("{}-{}", range.start, range.end)
}

fn type_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f4",
        Dtype::Bf16 => "b2",
        Dtype::F64 => "f8",
        Dtype::I32 => "i4",
        Dtype::Byte => "u1",
    }
}

fn use_of(segment: Segment) -> &'static str {
    match segment {
        Segment::Master => "master",
        Segment::Moment1 => "m1",
        Segment::Moment2 => "m2",
        Segment::Home => "home",
        Segment::Ring => "ring",
        Segment::Cache => "cache",
        Segment::Gradient => "grad",
        Segment::GradientSum => "sum",
        Segment::Accumulator => "acc",
        Segment::Activation => "act",
        Segment::Saved => "saved",
        Segment::Pending => "pending",
        Segment::Workspace => "work",
        Segment::Tokens => "tokens",
        Segment::Scalars => "scalars",
    }
}

fn at(region: &Region) -> String {
    format!("{}:{}", region.slot, range(&region.range()))
}

fn maybe(region: &Option<Region>) -> String {
    region.as_ref().map_or_else(|| "-".into(), at)
}

fn unit_of(unit: Unit) -> String {
    match unit {
        Unit::Embed => "e".into(),
        Unit::Block(block) => block.to_string(),
        Unit::Head => "h".into(),
    }
}

fn work_of(work: Work) -> String {
    format!("{}.{}", work.micro, work.chunk)
}

fn payload_of(payload: &Payload) -> String {
    match payload {
        Payload::Weights(shard, part) => format!("w{shard} {}", range(part)),
        Payload::Gradient(shard, part) => format!("g{shard} {}", range(part)),
        Payload::Activation(work, block) => format!("x{block} {}", work_of(*work)),
        Payload::Dx(work, block) => format!("d{block} {}", work_of(*work)),
        Payload::Scalars => "s".into(),
    }
}

fn messages(list: &[Message]) -> String {
    let message = |m: &Message| format!("[{} {} {}]", m.peer, at(&m.region), payload_of(&m.payload));
    list.iter().map(message).collect()
}

fn words(action: &Action) -> String {
    let add = |accumulate: bool| if accumulate { "add" } else { "set" };
    match action {
        Action::Load { work, tokens } => format!("load {} {}", work_of(*work), at(tokens)),
        Action::Forward { unit, work, weights, input, output, saved, workspace } => format!(
            "fwd {} {} {} {} {} {} {}",
            unit_of(*unit),
            work_of(*work),
            at(weights),
            at(input),
            at(output),
            maybe(saved),
            maybe(workspace)
        ),
        Action::Recompute { unit, work, weights, input, saved, workspace } => format!(
            "again {} {} {} {} {} {}",
            unit_of(*unit),
            work_of(*work),
            at(weights),
            at(input),
            at(saved),
            maybe(workspace)
        ),
        Action::HeadLoss { work, weights, input, targets, gradient, loss, workspace } => {
            let gradient = gradient.as_ref().map_or_else(
                || "-".into(),
                |HeadGradient { dx, weights, accumulate }| format!("{} {} {}", at(dx), at(weights), add(*accumulate)),
            );
            format!(
                "head {} {} {} {} {gradient} {} {}",
                work_of(*work),
                at(weights),
                at(input),
                at(targets),
                at(loss),
                maybe(workspace)
            )
        }
        Action::Backward { unit, work, weights, input, saved, dx, gradient, accumulate, workspace } => format!(
            "bwd {} {} {} {} {} {} {} {} {}",
            unit_of(*unit),
            work_of(*work),
            maybe(weights),
            at(input),
            maybe(saved),
            at(dx),
            at(gradient),
            add(*accumulate),
            maybe(workspace)
        ),
        Action::BackwardInput { unit, work, weights, input, saved, dx, pending, workspace } => format!(
            "bwdx {} {} {} {} {} {} {} {}",
            unit_of(*unit),
            work_of(*work),
            at(weights),
            at(input),
            at(saved),
            at(dx),
            at(pending),
            maybe(workspace)
        ),
        Action::BackwardWeight { unit, work, pending, gradient, accumulate } => {
            format!("bwdw {} {} {} {} {}", unit_of(*unit), work_of(*work), at(pending), at(gradient), add(*accumulate))
        }
        Action::Clear { dst } => format!("zero {}", at(dst)),
        Action::Cast { src, dst } => format!("cast {} {}", at(src), at(dst)),
        Action::Accumulate { src, dst } => format!("add {} {}", at(src), at(dst)),
        Action::NormPartial { gradient, stats } => format!("norm {} {}", at(gradient), at(stats)),
        Action::Update { shard, range: part, gradient, step, stats, master, moment1, moment2, home } => format!(
            "adamw {shard} {} {} {} {} {} {} {} {}",
            range(part),
            at(gradient),
            at(step),
            at(stats),
            at(master),
            at(moment1),
            at(moment2),
            maybe(home)
        ),
        Action::Exchange { comm, sends, recvs } => {
            format!("p2p {comm} out {} in {}", messages(sends), messages(recvs))
        }
        Action::Collective(Call { comm, what, algorithm, region, scratch, payload }) => {
            let what = match what {
                Collective::Broadcast(root) => format!("bcast {root}"),
                Collective::Reduce(root) => format!("reduce {root}"),
                Collective::AllReduce => "allreduce".into(),
                Collective::AllGather => "gather".into(),
                Collective::ReduceScatter => "scatter".into(),
            };
            let algorithm = match algorithm {
                Algorithm::Chain => "chain",
                Algorithm::Tree => "tree",
                Algorithm::Flat => "flat",
                Algorithm::Ring => "ring",
            };
            format!("{what} {comm} {algorithm} {} {} {}", at(region), maybe(scratch), payload_of(payload))
        }
    }
}

/// The fingerprint of a job's plans, or that the system refuses it.
fn fingerprint(name: &str, job: &Job) -> String {
    let Ok(schedule) = schedule(job) else { return "refused".into() };
    let mut text = Text(String::new());
    text.job(&schedule);
    if let Some(folder) = std::env::var_os("TAWPIPE_PLANS") {
        std::fs::write(Path::new(&folder).join(name.replace(['\n', ' ', '\''], "_")), &text.0).expect("a folder");
    }
    Sha256::digest(text.0.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Every plan is what it was.
#[test]
fn fingerprints_of_plans() {
    let names: Vec<String> = OPTIONS.iter().map(|text| named(text).unwrap().name().to_string()).collect();
    for entry in SYSTEMS {
        assert!(names.iter().any(|name| name == entry.name), "no job of system {}", entry.name);
    }
    let worlds = worlds();
    let pairs: Vec<_> = OPTIONS.iter().flat_map(|options| worlds.iter().map(move |world| (options, world))).collect();
    let found: Vec<String> = pairs
        .into_par_iter()
        .map(|(options, (world, job))| {
            let name = format!("{} on {world}", options.replace('\n', " "));
            let job = Job { system: named(options).unwrap(), ..job.clone() };
            format!("{}  {name}", fingerprint(&name, &job))
        })
        .collect();
    let planned = found.iter().filter(|line| !line.starts_with("refused")).count();
    assert!(planned >= 280, "{planned} plans");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/plans.txt");
    let text = found.join("\n") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let changed: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .zip(kept.lines())
        .filter(|(new, old)| new != old)
        .map(|(new, _)| new)
        .collect();
    assert!(text == kept, "{} of {} plans have changed:\n{}", changed.len(), found.len(), changed.join("\n"));
}
