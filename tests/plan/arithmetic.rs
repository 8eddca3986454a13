//! What each op of a plan touches, needs and computes, on integers: the interpreter's own reading of the vocabulary.

use tawpipe::model::{Dtype, Unit};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::{Action, Call, Message, Region, step};

use super::interpret::{Machine, Wrong};
use super::truth::{
    backward_seed, forward_seed, head_seed, mix, points, purpose, spread, square, terms, tokens, update,
};

fn is_word(dtype: Dtype, wanted: &[Dtype]) -> Result<(), Wrong> {
    if wanted.contains(&dtype) { Ok(()) } else { Err(format!("{} where {wanted:?} belongs", dtype.name())) }
}

/// Regions that an op reads, that it changes, and that it writes without looking.
pub fn touches(action: &Action, rank: usize) -> (Vec<Region>, Vec<Region>, Vec<Region>) {
    let some = |list: &[Option<Region>]| list.iter().flatten().copied().collect::<Vec<_>>();
    let all = |list: &[Message]| list.iter().map(|m| m.region).collect::<Vec<_>>();
    match action {
        Action::Load { tokens, .. } => (vec![], vec![], vec![*tokens]),
        Action::Forward { weights, input, output, saved, workspace, .. } => {
            (vec![*weights, *input], vec![], some(&[Some(*output), *saved, *workspace]))
        }
        Action::Recompute { weights, input, saved, workspace, .. } => {
            (vec![*weights, *input], vec![], some(&[Some(*saved), *workspace]))
        }
        Action::HeadLoss { weights, input, targets, gradient, loss, workspace, .. } => {
            let reads = vec![*weights, *input, *targets];
            match gradient {
                None => (reads, vec![*loss], some(&[*workspace])),
                Some(g) if g.accumulate => (reads, vec![*loss, g.weights], some(&[Some(g.dx), *workspace])),
                Some(g) => (reads, vec![*loss], some(&[Some(g.dx), Some(g.weights), *workspace])),
            }
        }
        Action::Backward { weights, input, saved, dx, gradient, accumulate, workspace, unit, .. } => {
            let mut reads = some(&[*weights, Some(*input), *saved]);
            let (mut changes, mut fresh) = (vec![], vec![]);
            if *unit == Unit::Embed {
                reads.push(*dx)
            } else {
                changes.push(*dx)
            }
            if *accumulate {
                changes.push(*gradient)
            } else {
                fresh.push(*gradient)
            }
            fresh.extend(workspace);
            (reads, changes, fresh)
        }
        Action::BackwardInput { weights, input, saved, dx, pending, workspace, .. } => {
            (vec![*weights, *input, *saved], vec![*dx], some(&[Some(*pending), *workspace]))
        }
        Action::BackwardWeight { pending, gradient, accumulate: true, .. } => (vec![*pending], vec![*gradient], vec![]),
        Action::BackwardWeight { pending, gradient, .. } => (vec![*pending], vec![], vec![*gradient]),
        Action::Clear { dst } => (vec![], vec![], vec![*dst]),
        Action::Cast { src, dst } => (vec![*src], vec![], vec![*dst]),
        Action::Accumulate { src, dst } => (vec![*src], vec![*dst], vec![]),
        Action::NormPartial { gradient, stats } => (vec![*gradient], vec![*stats], vec![]),
        Action::Update { gradient, step, stats, master, moment1, moment2, home, .. } => {
            // Of the statistics only the squares matter.
            let squares = Region { start: stats.start + 1, len: 1, ..*stats };
            (vec![*gradient, *step, squares], vec![*master, *moment1, *moment2], some(&[*home]))
        }
        Action::Exchange { sends, recvs, .. } => (all(sends), vec![], all(recvs)),
        Action::Collective(Call { what: Collective::Broadcast(root), region, .. }) if *root == rank => {
            (vec![*region], vec![], vec![])
        }
        Action::Collective(Call { what: Collective::Broadcast(_), region, .. }) => (vec![], vec![], vec![*region]),
        Action::Collective(Call { region, scratch, .. }) => (vec![], vec![*region], some(&[*scratch])),
    }
}

/// What an op leaves in the regions that it changes and writes, in that order (`None`: poison).
pub fn compute(
    machine: &Machine,
    rank: usize,
    action: &Action,
    read: &[Vec<u64>],
) -> Result<Vec<Option<Vec<u64>>>, Wrong> {
    let job = &machine.schedule.job;
    let n = |region: &Region| Ok::<usize, Wrong>(machine.range(rank, *region)?.len());
    let typed = |region: &Region, wanted: &[Dtype]| is_word(machine.dtype(rank, *region), wanted);
    let wide = job.batch.micro_tokens() * job.shape.dim;
    let sized = |region: &Region, len: usize| {
        if region.len == len { Ok(()) } else { Err(format!("{} elements where {len} belong", region.len)) }
    };
    let parameters = |region: &Region, unit: Unit, dtype: Dtype| {
        typed(region, &[dtype])?;
        sized(region, machine.truth.shards.place(unit).range.len())
    };
    let activation = |region: &Region| {
        typed(region, &[job.dtype])?;
        sized(region, wide)
    };
    let ids = |region: &Region| {
        typed(region, &[Dtype::I32])?;
        sized(region, job.batch.micro_tokens())
    };
    let keep = |region: &Region| {
        typed(region, &[Dtype::Byte])?;
        Ok::<(), Wrong>(())
    };
    let foot =
        |unit| tawpipe::model::footprint(&job.shape, unit, job.dtype, job.recompute, job.batch.micro, job.batch.seq);
    let workspace_fits = |unit: Unit, workspace: &Option<Region>| match workspace {
        Some(region) if region.len >= foot(unit).workspace => typed(region, &[Dtype::Byte]),
        None if foot(unit).workspace == 0 => Ok(()),
        _ => Err("the workspace is too small".into()),
    };
    let statistic = |region: &Region, element: usize| {
        let name = &machine.plans[rank].slots[region.slot].name;
        sized(region, 1)?;
        if name == "stats" && region.start == element { Ok(()) } else { Err(format!("adds to {name}")) }
    };
    // A block saves exactly its footprint, however large the slot is.
    let saved_words = |unit: Unit, seed: u64, region: &Region| -> Result<Vec<u64>, Wrong> {
        keep(region)?;
        let bytes = foot(unit).saved;
        if region.len < bytes {
            return Err("the region to save in is too small".into());
        }
        let mut words = spread(seed, purpose::SAVED, points(bytes, 0..bytes).len());
        words.resize(n(region)?, 0);
        Ok(words)
    };
    Ok(match action {
        Action::Load { work, tokens: region } => {
            typed(region, &[Dtype::I32])?;
            sized(region, 2 * job.batch.micro_tokens())?;
            vec![Some(tokens(machine.iteration, work.micro, n(region)?))]
        }
        Action::Forward { unit, weights, input, output, saved, workspace, .. } => {
            parameters(weights, *unit, job.dtype)?;
            if *unit == Unit::Embed {
                ids(input)?
            } else {
                activation(input)?
            }
            activation(output)?;
            workspace_fits(*unit, workspace)?;
            let seed = forward_seed(*unit, &read[0], &read[1]);
            let mut out = vec![Some(spread(seed, purpose::OUTPUT, n(output)?))];
            if let Some(region) = saved {
                out.push(Some(saved_words(*unit, seed, region)?));
            }
            out.push(None);
            out
        }
        Action::Recompute { unit, weights, input, saved, workspace, .. } => {
            parameters(weights, *unit, job.dtype)?;
            activation(input)?;
            workspace_fits(*unit, workspace)?;
            vec![Some(saved_words(*unit, forward_seed(*unit, &read[0], &read[1]), saved)?), None]
        }
        Action::HeadLoss { weights, input, targets, gradient, loss, workspace, .. } => {
            parameters(weights, Unit::Head, job.dtype)?;
            activation(input)?;
            ids(targets)?;
            statistic(loss, 0)?;
            workspace_fits(Unit::Head, workspace)?;
            let seed = head_seed(&read[0], &read[1], &read[2]);
            let loss = vec![read[3][0].wrapping_add(mix(seed, purpose::LOSS))];
            let mut out = vec![Some(loss)];
            if let Some(g) = gradient {
                parameters(&g.weights, Unit::Head, Dtype::F32)?;
                activation(&g.dx)?;
                let terms = terms(&machine.truth.shards, Unit::Head, seed);
                let dx = spread(seed, purpose::DX, n(&g.dx)?);
                if g.accumulate {
                    out.extend([Some(added(&read[4], &terms)), Some(dx)]);
                } else {
                    out.extend([Some(dx), Some(terms)]);
                }
            }
            out.push(None);
            out
        }
        Action::Backward { unit, weights, input, saved, dx, gradient, accumulate, workspace, .. } => {
            parameters(gradient, *unit, Dtype::F32)?;
            activation(dx)?;
            workspace_fits(*unit, workspace)?;
            let terms = |seed| terms(&machine.truth.shards, *unit, seed);
            let sum = |terms: Vec<u64>| if *accumulate { added(&read[read.len() - 1], &terms) } else { terms };
            if *unit == Unit::Embed {
                ids(input)?;
                let seed = backward_seed(*unit, &[], &read[0], &[], &read[1]);
                return Ok(vec![Some(sum(terms(seed))), None]);
            }
            parameters(weights.as_ref().ok_or("no weights")?, *unit, job.dtype)?;
            activation(input)?;
            let bytes = foot(*unit).saved;
            let kept = match saved {
                Some(region) => {
                    keep(region)?;
                    let words = points(bytes, 0..bytes).len();
                    if region.len < bytes {
                        return Err("less saved than needed".into());
                    }
                    &read[2][..words]
                }
                None if bytes == 0 => &[],
                None => return Err("nothing saved".into()),
            };
            let incoming = &read[if saved.is_some() { 3 } else { 2 }];
            let seed = backward_seed(*unit, &read[0], &read[1], kept, incoming);
            vec![Some(spread(seed, purpose::DX, n(dx)?)), Some(sum(terms(seed))), None]
        }
        Action::BackwardInput { unit, weights, input, saved, dx, pending, workspace, .. } => {
            parameters(weights, *unit, job.dtype)?;
            activation(input)?;
            activation(dx)?;
            workspace_fits(*unit, workspace)?;
            keep(saved)?;
            keep(pending)?;
            let (need, pending_need) = (foot(*unit).saved, foot(*unit).pending);
            if saved.len < need || pending.len < pending_need {
                return Err("less kept than needed".into());
            }
            let kept = &read[2][..points(need, 0..need).len()];
            let seed = backward_seed(*unit, &read[0], &read[1], kept, &read[3]);
            vec![Some(spread(seed, purpose::DX, n(dx)?)), Some(postponed(seed, n(pending)?)), None]
        }
        Action::BackwardWeight { unit, pending, gradient, accumulate, .. } => {
            parameters(gradient, *unit, Dtype::F32)?;
            keep(pending)?;
            let words = &read[0];
            // What was kept tells its seed, if it is whole.
            let whole = !words.is_empty() && *words == postponed(words[0], words.len());
            let terms = terms(&machine.truth.shards, *unit, if whole { words[0] } else { super::truth::digest(words) });
            vec![Some(if *accumulate { added(&read[1], &terms) } else { terms })]
        }
        Action::Clear { dst } => vec![Some(vec![0; n(dst)?])],
        Action::Cast { src, dst } => {
            typed(src, &[Dtype::F32, Dtype::Bf16])?;
            typed(dst, &[Dtype::F32, Dtype::Bf16])?;
            sized(src, dst.len)?;
            vec![Some(read[0].clone())]
        }
        Action::Accumulate { src, dst } => {
            typed(dst, &[Dtype::F32])?;
            sized(src, dst.len)?;
            vec![Some(added(&read[1], &read[0]))]
        }
        Action::NormPartial { gradient, stats } => {
            typed(gradient, &[Dtype::F32])?;
            statistic(stats, 1)?;
            let sum = read[0].iter().fold(read[1][0], |sum, &g| sum.wrapping_add(square(g)));
            vec![Some(vec![sum])]
        }
        Action::Update { shard, range, gradient, step: scalars, stats, master, moment1, moment2, home } => {
            for region in [gradient, master, moment1, moment2] {
                typed(region, &[Dtype::F32])?;
                sized(region, range.len())?;
            }
            if let Some(home) = home {
                typed(home, &[job.dtype])?;
                sized(home, range.len())?;
            }
            for (region, name, len) in [(scalars, "step", step::LEN), (stats, "stats", tawpipe::plan::stats::LEN)] {
                sized(region, len)?;
                if machine.plans[rank].slots[region.slot].name != name {
                    return Err(format!("no {name}"));
                }
            }
            if range.end > machine.truth.shards.shards[*shard].len {
                return Err("outside of the shard".into());
            }
            let step = super::truth::digest(&read[1]);
            let mut new = [Vec::new(), Vec::new(), Vec::new()];
            for point in 0..read[0].len() {
                let state = update([read[3][point], read[4][point], read[5][point]], read[0][point], step, read[2][0]);
                new.iter_mut().zip(state).for_each(|(list, word)| list.push(word));
            }
            let [master, first, second] = new;
            vec![Some(master.clone()), Some(first), Some(second), Some(master)]
        }
        Action::Exchange { .. } | Action::Collective(_) => {
            unreachable!("communication")
        }
    })
}

/// What a split backward keeps: its seed, and what follows from it.
fn postponed(seed: u64, n: usize) -> Vec<u64> {
    let mut words = spread(seed, purpose::PENDING, n);
    words.iter_mut().take(1).for_each(|word| *word = seed);
    words
}

fn added(a: &[u64], b: &[u64]) -> Vec<u64> {
    a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
}
