//! What a recommendation tries: systems with their options, micro-batches, recomputation, groups.

use crate::cluster::{Description, Groups};
use crate::model::Recompute;
use crate::plan::systems::{SYSTEMS, SystemOptions};
use crate::plan::{Batch, Job};

/// Options worth trying beside every system's defaults, as in the deck. What a build does not know is left out.
const OPTIONS: &[&str] = &[
    "name = 'ddp'\nzero1 = true",
    "name = 'fsdp'\nsync = 'round'",
    "name = 'fsdp'\nsync = 'iteration'",
    "name = 'fsdp'\nsync = 'iteration'\nreshard_after_forward = false",
    "name = 'tawpipe'\nstagger = 'slots'",
    "name = 'tawpipe'\nblocks_per_shard = 2",
    "name = 'tawpipe'\npreset = 'paper'",
    "name = 'tawpipe'\nstripe = true",
    "name = 'tawpipe'\nhop = 'direct'",
    "name = 'tawpipe'\nhop = 'direct'\nweight_cache = 'none'\ngrad_sync = 'round'",
    "name = 'tawpipe'\nweight_cache = 'none'",
    "name = 'tawpipe'\ngrad_sync = 'round'",
];

/// A system with options, written as in the deck's `[system]`; `None` if there is no such system or option.
pub fn named(text: &str) -> Option<SystemOptions> {
    let options: SystemOptions = toml::from_str(text).ok()?;
    let asked: toml::Table = toml::from_str(text).ok()?;
    // An option that nothing reads would be dropped in silence.
    let known = toml::Table::try_from(&options).ok()?;
    asked.iter().all(|(key, value)| known.get(key) == Some(value)).then_some(options)
}

/// Every system with its defaults and with other options, without repetition.
pub fn systems() -> Vec<SystemOptions> {
    let defaults = SYSTEMS.iter().filter_map(|entry| named(&format!("name = '{}'", entry.name)));
    let mut list: Vec<SystemOptions> = Vec::new();
    for options in defaults.chain(OPTIONS.iter().filter_map(|text| named(text))) {
        if !list.contains(&options) {
            list.push(options);
        }
    }
    list
}

/// All jobs to try: the template's sequences an iteration, in micro-batches of powers of two.
pub fn jobs(template: &Job, machine: &Description) -> Vec<Job> {
    let sequences = template.batch.micro * template.batch.micros;
    let micros = (0..).map(|power| 1 << power).take_while(|micro| *micro <= sequences);
    let micros: Vec<usize> = micros.filter(|micro| sequences.is_multiple_of(*micro)).collect();
    let ranks = template.groups.ranks();
    let nodes = machine.first(ranks).unwrap_or_else(|| template.groups.clone());
    let mut jobs = Vec::new();
    for system in systems() {
        let mut groups = vec![nodes.clone()];
        // Systems that broadcast and reduce inside groups may do so in other groups than nodes.
        if matches!(system.name(), "tawpipe" | "hsdp") {
            let halves = nodes.sizes().into_iter().flat_map(|size| [size / 2, size - size / 2]);
            let halves: Vec<usize> = halves.filter(|&size| size > 0).collect();
            for other in [Groups::new(&halves), Groups::new(&[ranks])] {
                if !groups.contains(&other) {
                    groups.push(other);
                }
            }
        }
        for groups in &groups {
            for &micro in &micros {
                for recompute in [Recompute::None, Recompute::Selective, Recompute::Block] {
                    let batch = Batch { micro, micros: sequences / micro, ..template.batch };
                    let (groups, system) = (groups.clone(), system.clone());
                    jobs.push(Job { groups, batch, recompute, system, ..template.clone() });
                }
            }
        }
    }
    jobs
}
