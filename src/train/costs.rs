//! Times of the parts of the model on this machine, for systems that plan by them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::cluster::{Costs, UnitCost};
use crate::deck::{CostSource, Deck, RunSection};
use crate::device::{AdamW, Chosen, Device, DeviceError, View, on_device};
use crate::fabric::Control;
use crate::model::{Dtype, ModelShape, Shards, Unit, footprint, init, unit_params};
use crate::nn::{HeadOut, Network, Span};
use crate::plan::{Batch, Segment, Slot};

use super::agree;

/// Runs of each op; the fastest counts, after one that only warms up.
const RUNS: usize = 3;

/// Collective. Gives a deck that asks for measured costs the costs themselves, the same on every rank: those of the run
/// in `earlier`, if there is one, else what rank 0 measures now. So a plan never differs between the parts of a run.
pub fn settle(
    deck: &mut Deck,
    shape: &ModelShape,
    device: &Chosen,
    control: &dyn Control,
    earlier: Option<&Path>,
) -> anyhow::Result<()> {
    if deck.cluster.costs != CostSource::Measure {
        return Ok(());
    }
    let found = match (control.rank(), earlier) {
        (0, Some(folder)) => remembered(folder),
        _ => Ok(None),
    };
    let found = agree(control, crate::exit::Exit::BadInput, found)?;
    let mut again = vec![u8::from(found.is_none())];
    control.broadcast(0, &mut again);
    let mut costs = found.unwrap_or_default();
    if again == [1] {
        if control.rank() == 0 {
            let batch = Batch { seq: deck.data.seq, micro: deck.batch.micro, micros: 1 };
            costs = on_device!(device, device => measure(shape, batch, &deck.run, device))?;
        }
        let activation = deck.batch.micro * deck.data.seq * shape.dim * deck.run.dtype.bytes();
        costs.hop = hop(control, activation);
    }
    let list = |c: &UnitCost| [c.forward, c.backward_input, c.backward_weight];
    let mut words: Vec<f64> = [costs.embed, costs.block, costs.head].iter().flat_map(list).chain([costs.hop]).collect();
    let mut bytes = bytemuck::cast_slice(&words).to_vec();
    control.broadcast(0, &mut bytes);
    words = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
    let unit = |i: usize| UnitCost { forward: words[i], backward_input: words[i + 1], backward_weight: words[i + 2] };
    deck.cluster.costs = CostSource::Given(Costs { embed: unit(0), block: unit(3), head: unit(6), hop: words[9] });
    Ok(())
}

/// The costs that an earlier part of the run has planned by.
fn remembered(folder: &Path) -> anyhow::Result<Option<Costs>> {
    let path = folder.join("deck.toml");
    let deck = Deck::read(&path, &[]).with_context(|| format!("costs of the run in {}", folder.display()))?;
    match deck.cluster.costs {
        CostSource::Given(costs) => Ok(Some(costs)),
        _ => bail!(
            "{}: the run was planned without measured costs; resume it with its own cluster.costs",
            path.display()
        ),
    }
}

/// Seconds of each part of the model on one micro-batch, in a run's type and with what it keeps.
fn measure(shape: &ModelShape, batch: Batch, run: &RunSection, device: impl Device) -> Result<Costs, DeviceError> {
    let dtype = run.dtype;
    let shards = Shards::new(shape, 1);
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    let net = Network::new(shape, &shards, batch, dtype, run.recompute, adamw, device)?;
    let device = net.device();
    let span = Span { micro: batch.micro, seq: batch.seq };
    let (tokens, wide) = (span.tokens(), span.tokens() * shape.dim);
    let need = footprint(shape, Unit::Block(0), dtype, run.recompute, batch.micro, batch.seq);
    let len = |unit| unit_params(shape, unit).1;
    let most = [Unit::Embed, Unit::Block(0), Unit::Head].into_iter().map(len).max().unwrap_or(0);
    let slots = [
        ("weights", most, dtype),
        ("gradient", most, Dtype::F32),
        ("input", wide, dtype),
        ("output", wide, dtype),
        ("saved", need.saved, Dtype::Byte),
        ("pending", need.pending, Dtype::Byte),
        ("workspace", net.workspace(span), Dtype::Byte),
        ("tokens", tokens, Dtype::I32),
        ("loss", 1, Dtype::F64),
    ]
    .map(|(name, elems, dtype)| Slot { name: name.into(), elems, dtype, segment: Segment::Workspace, holds: None });
    let memory = device.memory(&slots)?;
    let [weights, gradient, input, output, saved, pending, workspace, ids, loss] =
        std::array::from_fn(|slot| memory.slot(slot));
    let fill = |unit: Unit| -> Result<(), DeviceError> {
        memory.upload(gradient, &vec![0.0f32; most])?;
        for param in unit_params(shape, unit).0 {
            let mut values = vec![0.0; param.len()];
            init(0, &param, 0, &mut values);
            memory.upload(gradient.sub(param.offset..param.offset + param.len()), &values)?;
        }
        device.cast(gradient, weights);
        Ok(())
    };
    let part = |view: View, unit| view.sub(0..len(unit));
    let work = Some(workspace);

    memory.upload(ids, &(0..tokens).map(|i| (i % shape.vocab) as i32).collect::<Vec<_>>())?;
    fill(Unit::Embed)?;
    let table = part(weights, Unit::Embed);
    let embed = UnitCost {
        forward: best(device, || net.forward(Unit::Embed, span, table, ids, input, None, None)),
        backward_input: 0.0,
        backward_weight: best(device, || {
            net.backward(Unit::Embed, span, None, ids, None, input, part(gradient, Unit::Embed), true, None);
        }),
    };

    let unit = Unit::Block(0);
    fill(unit)?;
    let (w, g) = (part(weights, unit), part(gradient, unit));
    let block = UnitCost {
        forward: best(device, || net.forward(unit, span, w, input, output, Some(saved), work)),
        backward_input: best(device, || net.backward_input(span, [w, input, saved, output, pending], work)),
        backward_weight: best(device, || net.backward_weight(span, pending, g, true)),
    };

    fill(Unit::Head)?;
    let (w, g) = (part(weights, Unit::Head), part(gradient, Unit::Head));
    let scale = 1.0 / tokens as f64;
    let out = HeadOut { dx: output, gradient: g, accumulate: true };
    let forward = best(device, || net.head_loss(w, input, ids, scale, None, loss, work));
    let both = best(device, || net.head_loss(w, input, ids, scale, Some(out), loss, work));
    // One op: how its backward divides does not matter to anyone.
    let half = (both - forward).max(0.0) / 2.0;
    let head = UnitCost { forward, backward_input: half, backward_weight: half };
    device.finish()?;
    Ok(Costs { embed, block, head, hop: 0.0 })
}

/// Seconds of the fastest of a few runs, after one that only warms up.
fn best(device: &impl Device, mut run: impl FnMut()) -> f64 {
    // A device that fails says so at the end.
    let mut timed = || {
        let start = Instant::now();
        run();
        let _ = device.finish();
        start.elapsed().as_secs_f64()
    };
    timed();
    // A clock that does not move would make a part cost nothing.
    (0..RUNS).map(|_| timed()).fold(f64::INFINITY, f64::min).max(1e-9)
}

/// Seconds that so many bytes take from rank 0 to rank 1, on rank 0.
fn hop(control: &dyn Control, bytes: usize) -> f64 {
    if control.size() < 2 || control.rank() > 1 {
        return 0.0;
    }
    let data = vec![0u8; bytes];
    let round = || {
        let start = Instant::now();
        if control.rank() == 0 {
            control.send(1, &data);
            control.receive(1);
        } else {
            control.receive(0);
            control.send(0, &data);
        }
        start.elapsed().as_secs_f64() / 2.0
    };
    (0..=RUNS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
