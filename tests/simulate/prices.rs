//! One price for one job: what `--recommend` ranks, what an experiment predicts and what `plan` simulates.

use tawpipe::experiment::predict;
use tawpipe::plan::systems::schedule;
use tawpipe::plan::{Batch, Job};
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
