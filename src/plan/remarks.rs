//! What a user would change about a job if told: ranks that have nothing to do, and the value that gives them work.

use super::Job;
use super::systems::{SystemOptions, find};

/// Sentences about a job that runs, each with a better value; none where nothing is wasted.
pub fn remarks(job: &Job) -> Vec<String> {
    let (ranks, micros) = (job.groups.ranks(), job.batch.micros);
    if ranks == 1 || find(job.system.name()).is_none() {
        return Vec::new();
    }
    let text = match stages(&job.system) {
        true if micros < ranks => Some(format!(
            "{micros} micro-batches for a pipeline of {ranks} ranks leave most of them idle most of the time: {}",
            better(job, ranks)
        )),
        true => None,
        false if micros < ranks => Some(format!(
            "{} of {ranks} ranks have nothing to do, because there are {micros} micro-batches: {}",
            ranks - micros,
            better(job, ranks)
        )),
        false if !micros.is_multiple_of(ranks) => Some(format!(
            "in the last of {} rounds {} of {ranks} ranks have no micro-batch: {}",
            job.batch.rounds(ranks),
            ranks - micros % ranks,
            better(job, ranks)
        )),
        false => None,
    };
    text.into_iter().collect()
}

/// Whether ranks are stages, through which every micro-batch passes.
fn stages(system: &SystemOptions) -> bool {
    !matches!(
        system,
        SystemOptions::Single
            | SystemOptions::Ddp(_)
            | SystemOptions::Fsdp(_)
            | SystemOptions::Hsdp(_)
            | SystemOptions::Tawpipe(_)
            | SystemOptions::Weipipe
            | SystemOptions::WeipipeNaive
    )
}

/// Values with which every rank has a micro-batch in every round: smaller micro-batches of the same sequences, and the
/// nearest numbers of sequences.
fn better(job: &Job, ranks: usize) -> String {
    let micro = job.batch.micro;
    let sequences = micro * job.batch.micros;
    let even = |micro: &usize| sequences.is_multiple_of(*micro) && (sequences / micro).is_multiple_of(ranks);
    let mut ways = Vec::new();
    if let Some(smaller) = (1..micro).rev().find(even) {
        ways.push(format!("batch.micro = {smaller}"));
    }
    let round = ranks * micro;
    let (below, above) = (sequences / round * round, sequences.next_multiple_of(round));
    let globals: Vec<String> =
        [below, above].into_iter().filter(|&global| global > 0).map(|global| global.to_string()).collect();
    ways.push(format!("batch.global = {}", globals.join(" or ")));
    format!("{} would give all of them work", ways.join(", or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Costs, Groups};
    use crate::model::{Dtype, ModelShape, Recompute};
    use crate::plan::Batch;

    fn said(system: &str, ranks: usize, micro: usize, micros: usize) -> Vec<String> {
        let shape = ModelShape {
            dim: 64,
            layers: 4,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            ffn: 128,
            vocab: 256,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        };
        remarks(&Job {
            shape,
            groups: Groups::new(&[ranks]),
            batch: Batch { seq: 64, micro, micros },
            dtype: Dtype::F32,
            grad_dtype: Dtype::F32,
            recompute: Recompute::Block,
            costs: Costs::unit(),
            memory: None,
            system: SystemOptions::defaults(system),
        })
    }

    /// Idle ranks and rounds that are not full are named with values that end them; full rounds are not remarked on.
    #[test]
    fn waste_is_named_with_a_better_value() {
        let idle = said("tawpipe", 24, 4, 6);
        assert_eq!(idle.len(), 1);
        assert!(
            idle[0].starts_with("18 of 24 ranks have nothing to do, because there are 6 micro-batches"),
            "{idle:?}"
        );
        assert!(idle[0].contains("batch.micro = 1, or batch.global = 96 would"), "{idle:?}");
        let ragged = said("fsdp", 4, 1, 10);
        assert!(ragged[0].starts_with("in the last of 3 rounds 2 of 4 ranks have no micro-batch"), "{ragged:?}");
        assert!(ragged[0].contains("batch.global = 8 or 12"), "{ragged:?}");
        assert_eq!(said("fsdp", 4, 1, 12), Vec::<String>::new());
        assert!(said("1f1b", 4, 1, 3)[0].contains("a pipeline of 4 ranks"));
        assert_eq!(said("1f1b", 4, 1, 5), Vec::<String>::new());
        assert_eq!(said("single", 1, 1, 5), Vec::<String>::new());
    }
}
