//! A link whose transfer takes as large a part of a step as on another machine.

use crate::cluster::Description;
use crate::deck::Deck;
use crate::results::{Cell, Counted, Link, Record};

use super::file::Like;
use super::matrix::sets;
use super::predict::predict;
use super::{Experiment, ExperimentError};

/// What another machine's step is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// Transfer time over compute time.
    pub value: f64,
    /// The arithmetic, in sentences without the last full stop.
    pub words: String,
}

/// Transfer time over compute time of a step on another machine: bytes that leave the busiest node over the rate of its
/// links, and the simulator's mean compute time of a rank.
///
/// # Errors
/// If description or deck are refused, or the job cannot be run there.
pub fn ratio(experiment: &Experiment, like: &Like) -> Result<Ratio, ExperimentError> {
    let (cluster, deck) = (experiment.path(&like.cluster), experiment.path(&like.deck));
    let machine = Description::read(&cluster)?;
    let changes = sets(&like.set, "");
    let refused = |deck| ExperimentError::Deck {
        file: experiment.file.clone(),
        label: like.system.clone(),
        deck: Box::new(deck),
    };
    let read = Deck::read(&deck, &changes).map_err(refused)?;
    let wrong = |reason: String| experiment.invalid(format!("like: {}: {reason}", deck.display()));
    let shape = read.model.shape().ok_or_else(|| wrong("wants a shape in [model]".into()))?;
    let job = read.job(shape, machine.groups()).map_err(refused)?;
    let forecast = predict(&job, &machine).map_err(|unfit| wrong(unfit.to_string()))?;
    let bytes = forecast.counted.bytes_leaving.iter().copied().max().unwrap_or(0) as f64;
    let rate = machine.links.inter.rate * machine.links.inter.nics as f64;
    let busy = forecast.prediction.busy_s;
    let value = bytes / rate / busy;
    if !(value.is_finite() && value > 0.0) {
        return Err(wrong("sends nothing between nodes, so no rate of a link follows from it".into()));
    }
    let words = format!(
        "In a simulated step on the cluster \"{}\", {} with the deck {} ({}) sends {:.2} GB out of the busiest node, \
         which takes {:.2} s at {:.2} GB/s, and a rank computes for {busy:.2} s: the ratio of transfer to \
         computation is {value:.3}",
        machine.name,
        job.system.name(),
        deck.file_name().unwrap_or_default().to_string_lossy(),
        changes.join(", "),
        bytes / 1e9,
        bytes / rate,
        rate / 1e9,
    );
    Ok(Ratio { value, words })
}

/// The link here: `probe` is the measured cell at the same point whose links have no limit, `counted` its plan.
/// `None` if the probe was not measured.
pub fn link(cell: &Cell, ratio: &Ratio, probe: &Record, counted: &Counted) -> Option<Link> {
    let step = probe.median(|step| Some(step.step_s))?;
    let bytes = counted.bytes_leaving.iter().copied().max()? as f64;
    // Three digits: a rate is no better known than the step.
    let exact = 8.0 * bytes / (ratio.value * step);
    let digit = 10f64.powf(exact.log10().floor() - 2.0);
    let rate = (exact / digit).round() * digit;
    let derivation = format!(
        "{}. Here {} sends {:.2} MB out of the busiest node in a step. Over links without a limit a step takes \
         {step:.3} s, all of which counts as computation, because the ranks share the cores of this machine. The \
         rate with the same ratio is 8 bits x {:.2} MB / ({:.3} x {step:.3} s) = {:.2} Mbit/s",
        ratio.words,
        probe.cell.series,
        bytes / 1e6,
        bytes / 1e6,
        ratio.value,
        exact / 1e6,
    );
    Some(Link { rate: Some(rate), derivation: Some(derivation), ..cell.link.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::read_folder;

    /// At the derived rate a step's transfer takes as many times its computation as the ratio says.
    #[test]
    fn the_ratio_is_kept() {
        let measured = read_folder("docs/results/overlap".as_ref()).unwrap();
        let probe = measured.iter().find(|record| record.cell.id == "tawpipe.2x1.unshaped.tiny.s256.g32").unwrap();
        let counted = probe.counted.as_ref().unwrap();
        let ratio = Ratio { value: 0.25, words: "On the cluster it is 0.25".into() };
        let found = link(&probe.cell, &ratio, probe, counted).unwrap();
        // Of the busier node.
        let (bits, step) = (8.0 * 74_874_880.0, probe.median(|step| Some(step.step_s)).unwrap());
        let transfer = bits / found.rate.unwrap();
        assert!((transfer / step - 0.25).abs() < 0.25 * 0.006, "{transfer} s of {step} s");
        let words = found.derivation.unwrap();
        assert!(words.starts_with("On the cluster it is 0.25. Here TawPipe sends"), "{words}");
    }
}
