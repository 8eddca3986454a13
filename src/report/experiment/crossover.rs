//! Where passing weights and passing activations between nodes costs the same: by arithmetic, and by the plans' bytes.

use super::sweep::families_of;
use super::view::{Entry, View};

/// Sentences on an experiment in which nothing but sequences and micro-batches grow; `None` for others.
pub fn crossover(view: &View) -> Option<String> {
    match &families_of(view, "sequence")[..] {
        [family] => sentence(view, family),
        _ => None,
    }
}

fn sentence(view: &View, family: &[usize]) -> Option<String> {
    let first = view.settings.get(*family.first()?)?;
    let cells = || family.iter().flat_map(|&setting| view.at(setting)).map(|entry| &entry.record.cell);
    // Micro-batches must grow with their sequences, or there is nothing to cross.
    let tokens: Vec<usize> = cells().map(|cell| cell.seq * cell.micro).collect();
    let (least, most) = (*tokens.iter().min()?, *tokens.iter().max()?);
    if most < 8 * least {
        return None;
    }
    let option =
        |entry: &&Entry, key: &str| entry.record.cell.options.get(key).and_then(|v| v.as_str()) == Some("none");
    let curve = |wanted: &dyn Fn(&&Entry) -> bool, number: &dyn Fn(&Entry) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |&setting: &usize| {
            let entry = view.at(setting).find(|entry| wanted(entry))?;
            Some(((entry.record.cell.seq * entry.record.cell.micro) as f64, number(entry)?))
        };
        family.iter().filter_map(point).collect()
    };
    let pipeline = |entry: &&Entry| entry.record.cell.series == "1F1B";
    let plain = |entry: &&Entry| entry.record.cell.system == "tawpipe" && option(entry, "weight_cache");
    let kept = |entry: &&Entry| entry.record.cell.system == "tawpipe" && !option(entry, "weight_cache");
    let bytes = |entry: &Entry| Some(entry.record.counted.as_ref()?.bytes_inter as f64);
    let time = |entry: &Entry| entry.speed().map(|speed| 1.0 / speed);
    let bytes_cross = crossing(&curve(&plain, &bytes), &curve(&pipeline, &bytes));
    let time_cross = crossing(&curve(&plain, &time), &curve(&pipeline, &time));
    let (dim, layers) = cells().next().map(|cell| (cell.shape.dim, cell.shape.layers))?;
    let share = layers as f64 / first.ranks() as f64;
    let words = |cross: Option<f64>| match cross {
        Some(tokens) => format!("at {tokens:.0} tokens in a micro-batch"),
        None => format!("at no length from {least} to {most} tokens in a micro-batch"),
    };
    let kept_curve = curve(&kept, &bytes);
    let ratio = kept_curve.iter().zip(curve(&pipeline, &bytes)).map(|(a, b)| b.1 / a.1).fold(f64::INFINITY, f64::min);
    let mut text = format!(
        "From which length of its micro-batches on is it cheaper to send weights between nodes than activations? G \
         is the number of nodes, N the number of ranks, L the number of blocks, H the width of the model (a block \
         has about 12 H² weights), B the number of sequences in a micro-batch and S the number of tokens in a \
         sequence. Every number is sent in 16 bits. A round is one micro-batch for each rank.\n\n\
         - *Weights:* in each round TawPipe without a weight cache sends every weight twice between nodes and every \
         gradient once: 6 (G - 1) · 12 L H² bytes.\n\
         - *Activations:* for the N micro-batches of a round 1F1B sends an activation and its gradient over each of \
         the G - 1 boundaries between nodes: 4 (G - 1) N · B S H bytes.\n\
         - *By this arithmetic* both are equal at B S = 18 (L/N) H = {:.0} tokens in a micro-batch (H = {dim}, L/N = \
         {share}). With more tokens TawPipe sends less.\n\
         - *By the plans*, whose bytes are counted, both are equal {}.\n\
         - *By the time of a step*, {}, both are equal {}.\n",
        18.0 * share * dim as f64,
        words(bytes_cross),
        if view.measured() { "which was measured" } else { "which the simulator predicts" },
        words(time_cross),
    );
    if ratio.is_finite() {
        text += &format!(
            "- *With a weight cache*, and gradients that are sent once a step, TawPipe sends 4 (G - 1) · 12 L H² \
             bytes in a whole step. A pipeline sends as much at 12 (L/N) H = {:.0} tokens per rank and *step*. At \
             every length here 1F1B sends at least {ratio:.1} times as many bytes.\n",
            12.0 * share * dim as f64,
        );
    }
    Some(text)
}

/// Where two curves over the same points cross, on logarithmic scales.
fn crossing(a: &[(f64, f64)], b: &[(f64, f64)]) -> Option<f64> {
    let ratio: Vec<(f64, f64)> =
        a.iter().zip(b).filter(|(a, b)| a.0 == b.0).map(|(a, b)| (a.0, (a.1 / b.1).ln())).collect();
    let step = ratio.windows(2).find(|pair| (pair[0].1 > 0.0) != (pair[1].1 > 0.0))?;
    let part = step[0].1 / (step[0].1 - step[1].1);
    Some((step[0].0.ln() + part * (step[1].0 / step[0].0).ln()).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve that halves with every doubling crosses a constant one where they are equal.
    #[test]
    fn curves_cross() {
        let falling = [(1.0, 8.0), (2.0, 4.0), (4.0, 2.0), (8.0, 1.0)];
        let found = crossing(&falling, &falling.map(|(x, _)| (x, 3.0))).unwrap();
        assert!((found - 8.0 / 3.0).abs() < 1e-9, "{found}");
        assert_eq!(crossing(&falling, &falling.map(|(x, _)| (x, 9.0))), None);
    }
}
