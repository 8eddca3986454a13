//! One price for one job: what `--recommend` ranks, what an experiment predicts and what `plan` simulates.

use tawpipe::cluster::Groups;
use tawpipe::experiment::predict;
use tawpipe::model::{Recompute, Unit};
use tawpipe::plan::systems::{SystemOptions, schedule};
use tawpipe::plan::{Action, Batch, Job};
use tawpipe::simulate::{ERROR, Prices, costs, named, recommend, simulate};

use super::model::{job, machine};

/// Seconds of a step as `tawpipe plan` simulates it: the whole iteration.
fn planned(job: &Job, machine: &tawpipe::cluster::Description) -> f64 {
    let job = Job { costs: costs(machine, job), ..job.clone() };
    let schedule = schedule(&job).unwrap();
    simulate(&schedule, &schedule.ranks(), &Prices::of(machine, &job).unwrap()).unwrap().step_s
}

/// Iterations whose last round is full, and ones in which it is not, short and long, cost the same in all three: up to the
/// number of rounds that is simulated whole exactly, beyond it to a tenth of the simulator's own error. WeiPipe's rounds do
/// not all add the same time, for a reason that is not known yet (2.2 % was seen): there it is that error.
#[test]
fn one_price() {
    let machine = machine("lab-ethernet.toml");
    let ranks = machine.ranks();
    let limit = machine.device().memory as usize;
    let mut tried = 0;
    for micros in [ranks + 1, 3 * ranks, 5 * ranks + 1, 7 * ranks - 1, 9 * ranks + ranks / 2, 12 * ranks + ranks / 2] {
        let template = Job { batch: Batch { seq: 1024, micro: 1, micros }, ..job(&machine, 6, 1) };
        let found = recommend(&template, &machine, limit).unwrap();
        for system in ["tawpipe", "tawpipe'\npreset='paper", "fsdp", "hsdp", "ddp", "1f1b", "zb-1p", "weipipe"] {
            let asked = named(&format!("name = '{system}'")).unwrap();
            let mine = Job { system: asked.clone(), memory: Some(limit), ..template.clone() };
            if schedule(&mine).is_err() {
                continue;
            }
            tried += 1;
            let plan = planned(&mine, &machine);
            let predicted = predict(&mine, &machine).unwrap().prediction.step_s;
            let most = match system {
                _ if micros <= 10 * ranks => 1e-9,
                "weipipe" => ERROR,
                _ => ERROR / 10.0,
            };
            let same = |a: f64| (a / plan - 1.0).abs() < most;
            assert!(same(predicted), "{system}, {micros} micro-batches: {predicted} s predicted, {plan} s planned");
            let ranked = found.ranked.iter().find(|candidate| {
                let job = &candidate.job;
                (&candidate.asked, job.batch, job.recompute, &job.groups)
                    == (&asked, mine.batch, mine.recompute, &mine.groups)
            });
            let ranked = ranked.unwrap_or_else(|| panic!("{system} is not among what was tried")).step_s;
            assert!(same(ranked), "{system}, {micros} micro-batches: {ranked} s recommended, {plan} s planned");
        }
    }
    assert!(tried >= 6 * 6, "{tried} prices compared");
}

/// The parts of a model cost what their operations take at the machine's rates: two passes of a block's products in backward
/// and two and a half of its attention; an embedding's backward reads a gradient, and reads and adds to as many rows.
#[test]
fn parts_cost_their_operations() {
    let machine = machine("lab-ethernet.toml");
    let job = Job { recompute: Recompute::Selective, ..job(&machine, 2, 1) };
    let rates = machine.device().at(1024, job.dtype);
    let found = costs(&machine, &job);
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-12, "{found} instead of {wanted}");
    // Query, key, value and output, and three projections of the feed-forward part; sequences of 4096 tokens.
    let products = 2.0 * f64::from(4 * 1024 * 1024 + 3 * 1024 * 2816) * 4096.0;
    let attention = 2.0 * 1024.0 * 4096.0 * 4096.0;
    near(found.block.forward, products / rates.forward + attention / rates.attention);
    near(found.block.backward_input, products / rates.backward + 2.5 * attention / rates.attention_backward);
    near(found.block.backward_weight, products / rates.backward);
    near(found.head.total(), 3.0 * 2.0 * 32000.0 * 1024.0 * 4096.0 / rates.head);
    // bf16.
    let rows = 2.0 * 1024.0 * 4096.0;
    near(found.embed.backward_weight, 3.0 * rows / machine.device().memory_rate);

    // In a plan the first backward also clears the table's gradient, 32000 rows of f32, and later ones do not.
    let system = SystemOptions::Single;
    let groups = Groups::new(&[1]);
    let one = Job { groups, batch: Batch { micros: 2, ..job.batch }, costs: found, system, ..job };
    let plan = schedule(&one).unwrap();
    let plans = plan.ranks();
    let times = simulate(&plan, &plans, &Prices::of(&machine, &one).unwrap()).unwrap().timeline;
    let is_last = |op: usize| matches!(plans[0].train[op].action, Action::Backward { unit: Unit::Embed, .. });
    let spans = times.ranks[0].iter().filter(|span| is_last(span.op));
    let took: Vec<f64> = spans.map(|span| span.end - span.start).collect();
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-6, "{found} instead of {wanted}");
    let start = machine.overhead.op;
    near(took[1], start + 3.0 * rows / machine.device().memory_rate);
    near(took[0], start + (3.0 * rows + 4.0 * 32000.0 * 1024.0) / machine.device().memory_rate);
}
