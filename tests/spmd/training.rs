//! The engine on real models: results, bytes, and independence of timing.

use std::time::Duration;

use tawpipe::cluster::Groups;
use tawpipe::engine::{Delays, EngineError, Options, Phase, Poll};
use tawpipe::plan::systems::{Embed, GradSync, Hops, Settled, Stagger, WeightCache, schedule};
use tawpipe::plan::{Job, Lane, tables};

use super::Context;
use super::model::{Trainer, alone, bf16, job, options};

/// Options, layers, rounds of micro-batches (in quarters) and tied head of the models trained here.
const SHAPES: [(usize, Embed, Stagger, usize, usize, bool); 4] = [
    (1, Embed::Sharded, Stagger::None, 5, 8, false),
    (2, Embed::Sharded, Stagger::Slots, 5, 5, true),
    (1, Embed::Replicated, Stagger::Slots, 3, 6, false),
    (3, Embed::Replicated, Stagger::None, 4, 3, true),
];

/// In f32, and in bf16 with the accuracy that leaves.
fn jobs(groups: &Groups) -> impl Iterator<Item = (Job, f64)> + '_ {
    let jobs = SHAPES.into_iter().map(|(blocks, embed, stagger, layers, quarters, tied)| {
        let micros = (groups.ranks() * quarters).div_ceil(4);
        job(groups, layers, micros, tied, options(blocks, embed, stagger))
    });
    jobs.flat_map(|job| [(job.clone(), 2e-6), (bf16(job), 2e-2)])
}

fn trainer(context: &Context, job: &Job, options: Options) -> Trainer {
    Trainer::new(job, context.rank, |splits| Some((context.wire)(splits)), options)
}

/// Losses, squared gradient norms and evaluation are those of one rank that does everything, to the accuracy of sums in
/// another order (f32) and of gradients rounded at every hop (bf16); and what every rank sent to every other in each phase is what the plan's tables say.
pub fn like_single(context: &Context) {
    compare(context, jobs(&context.groups));
}

/// The same of one system of each other family, in f32, where its domain has these groups.
pub fn families(context: &Context) {
    let groups = &context.groups;
    let systems = ["ddp", "fsdp", "hsdp", "1f1b", "zb-h1"];
    let jobs = systems.into_iter().map(|name| {
        let system = toml::from_str(&format!("name = '{name}'")).unwrap();
        Job { system, ..job(groups, 5, 2 * groups.ranks() - 1, true, Settled::default()) }
    });
    compare(context, jobs.filter(|job| schedule(job).is_ok()).map(|job| (job, 2e-6)));
}

/// The same of hops by broadcast and reduction, between groups of two (on two and three ranks: of one), of which some
/// have no micro-batch in the last round.
pub fn collective_hops(context: &Context) {
    let ranks = context.ranks();
    let size = if ranks > 3 { 2 } else { 1 };
    let groups = Groups::new(&vec![size; ranks / size]);
    let together = |change: fn(&mut Settled)| {
        let mut options = Settled { hop: Hops::Collective, ..Default::default() };
        change(&mut options);
        options
    };
    let keeps = |options: &mut Settled| {
        (options.weight_cache, options.grad_sync) = (WeightCache::Group, GradSync::Iteration);
    };
    let variants = [
        (together(|_| ()), 2 * ranks, false),
        (together(keeps), ranks + 1, true),
        (together(|options| (options.stripe, options.embed) = (true, Embed::Replicated)), 2 * ranks - 1, false),
        (Settled { stripe: true, overlap: false, ..together(keeps) }, ranks + 1, true),
    ];
    let jobs = variants.into_iter().map(|(options, micros, tied)| job(&groups, 4, micros, tied, options));
    let jobs = jobs.flat_map(|job| [(job.clone(), 2e-6), (bf16(job), 2e-2)]);
    compare(
        &Context { rank: context.rank, groups: groups.clone(), control: context.control, wire: context.wire },
        jobs,
    );
}

fn compare(context: &Context, jobs: impl Iterator<Item = (Job, f64)>) {
    for (job, tolerance) in jobs {
        let mut ours = trainer(context, &job, Options { trace: true, ..Options::default() });
        let mut expected = Vec::new();
        if context.rank == 0 {
            let mut single = Trainer::new(&alone(&job), 0, |_| None, Options::default());
            expected = single.train(3);
            expected.push(single.run(Phase::Evaluate, 4).unwrap().0);
        }
        let mut got = Vec::new();
        for (phase, number) in
            [(Phase::Prepare, 0), (Phase::Train, 1), (Phase::Train, 2), (Phase::Train, 3), (Phase::Evaluate, 4)]
        {
            let (stats, measured) = ours.run(phase, number).unwrap();
            got.push(stats);
            let ops = phase.ops(&ours.plan);
            assert_eq!(measured.sent.table(), tables::sent(&ours.schedule.splits, &ours.plan, ops), "{phase:?}");
            let planned = tables::traffic(&context.groups, &ours.schedule.splits, &ours.plan, ops);
            assert_eq!(measured.sent.traffic(context.rank, &context.groups), planned);

            // Every op has run once, after what it waits for, and lanes did one thing at a time.
            let mut spans = vec![None; ops.len()];
            for span in &measured.spans {
                assert!(spans[span.op].replace(*span).is_none(), "op {} ran twice", span.op);
                assert!(span.start <= span.end && span.end <= measured.seconds);
            }
            let mut last = std::collections::HashMap::<Lane, f64>::new();
            for (id, op) in ops.iter().enumerate() {
                let span = spans[id].expect("every op has run");
                let before = op.waits.iter().map(|&wait| spans[wait].unwrap().end);
                let before = before.fold(last.get(&op.lane).copied().unwrap_or(0.0), f64::max);
                assert!(before <= span.start, "op {id} started at {} before {before}", span.start);
                last.insert(op.lane, span.end);
            }
        }
        for (ours, single) in got[1..].iter().zip(&expected) {
            for (a, b) in ours.iter().zip(single) {
                assert!((a - b).abs() <= tolerance * b.abs(), "{ours:?} is not {single:?}: {job:?}");
            }
        }
    }
}

/// Random pauses before ops of both threads change no bit of losses or norms.
pub fn delays(context: &Context) {
    let groups = &context.groups;
    let job = job(groups, 3, 2 * groups.ranks() - 1, false, Settled::default());
    let plain = trainer(context, &job, Options::default()).train(2);
    for seed in 1..4 {
        let delays = Some(Delays { max: Duration::from_millis(2), seed: seed + 100 * context.rank as u64 });
        let poll = if seed % 2 == 0 { Poll::Nap } else { Poll::Spin };
        let delayed = trainer(context, &job, Options { delays, poll, ..Options::default() }).train(2);
        let bits = |list: &[[f64; 2]]| list.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&delayed), bits(&plain), "pauses of seed {seed} change the results");
    }
}

/// The last rank stops: within the time limit every other rank fails with a sentence that names what is pending.
pub fn watchdog(context: &Context) -> Option<EngineError> {
    let groups = &context.groups;
    let job = job(groups, 3, groups.ranks(), false, Settled::default());
    let mut trainer = trainer(context, &job, Options { timeout: Duration::from_secs(1), ..Options::default() });
    trainer.run(Phase::Prepare, 0).unwrap();
    if context.rank == groups.ranks() - 1 {
        return None;
    }
    let start = std::time::Instant::now();
    let error = trainer.run(Phase::Train, 1).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(8), "noticed after {:?}", start.elapsed());
    assert_eq!(trainer.run(Phase::Train, 1).unwrap_err(), error, "a broken engine refuses to run");
    Some(error)
}

/// Rank 1 panics inside an op of the compute lane, and all others wait for it.
pub fn panic(context: &Context) -> Result<(), EngineError> {
    let groups = &context.groups;
    let job = job(groups, 3, groups.ranks(), false, Settled::default());
    let wire = |splits: &[tawpipe::plan::Split]| Some((context.wire)(splits));
    let forwards = if context.rank == 1 { 3 } else { usize::MAX };
    let mut trainer = Trainer::fragile(&job, context.rank, wire, Options::default(), forwards);
    trainer.run(Phase::Train, 1).map(|_| ())
}

/// Trains and evaluates; gives all bytes sent to every other rank.
pub fn bytes(context: &Context) -> std::collections::BTreeMap<usize, usize> {
    let groups = &context.groups;
    let job = job(groups, 5, 2 * groups.ranks(), false, Settled::default());
    let mut trainer = trainer(context, &job, Options::default());
    let mut sent = std::collections::BTreeMap::new();
    for (phase, number) in [(Phase::Prepare, 0), (Phase::Train, 1), (Phase::Train, 2), (Phase::Evaluate, 3)] {
        for (to, bytes) in trainer.run(phase, number).unwrap().1.sent.table() {
            *sent.entry(to).or_default() += bytes.data + bytes.control;
        }
    }
    sent
}
