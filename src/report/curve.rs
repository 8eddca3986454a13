//! The loss curve of a run as SVG.

use std::path::PathBuf;

use plotters::prelude::*;

use super::{Baseline, ReportError, Run};

/// Width and height in pixels.
pub(super) const SIZE: (u32, u32) = (960, 560);
/// Most points of a line; more are averaged in pairs, threes, …
const POINTS: usize = 800;
/// Largest step or loss that is drawn.
const MOST: f64 = 1e12;
/// Colours that are told apart with any colour vision (Okabe and Ito).
pub(super) const TRAIN: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const VALID: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const BASELINE: RGBColor = RGBColor(0x55, 0x55, 0x55);

/// Draws `loss.svg` into the run folder and returns its path.
///
/// # Errors
/// If the file cannot be written.
pub fn draw(run: &Run) -> Result<PathBuf, ReportError> {
    let path = run.folder.join("loss.svg");
    let mut svg = String::new();
    let failed = |reason| ReportError { path: path.clone(), reason };
    plot(&mut svg, run).map_err(|error| failed(error.to_string()))?;
    std::fs::write(&path, svg).map_err(|error| failed(error.to_string()))?;
    Ok(path)
}

fn plot(svg: &mut String, run: &Run) -> Result<(), Box<dyn std::error::Error>> {
    let (bits, unit) = run.bits();
    // A damaged journal may say anything; axes want numbers that they can divide.
    let drawn = |point: &(f64, f64)| point.0 <= MOST && point.1.abs() <= MOST;
    let train = run.history.steps.iter().map(|step| (step.step as f64, step.loss * bits));
    let train = thin(train.filter(drawn).collect());
    let valid = run.history.validations.iter().map(|valid| (valid.step as f64, valid.valid_loss * bits));
    let valid: Vec<(f64, f64)> = valid.filter(drawn).collect();
    let last = train.iter().chain(&valid).map(|point| point.0).fold(1.0, f64::max);
    let (low, high) = limits(&train, &valid, &run.baselines);
    let shown = |points: Vec<(f64, f64)>| points.into_iter().filter(move |point| point.1 <= high);

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{}: loss", run.name()), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, low..high)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(format!("loss, {unit}"))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|bits| format!("{bits:.1}"))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.08))
        .draw()?;
    chart
        .draw_series(LineSeries::new(shown(train), TRAIN.stroke_width(2)))?
        .label("training")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], TRAIN.stroke_width(3)));
    if !valid.is_empty() {
        chart.draw_series(shown(valid.clone()).map(|point| Circle::new(point, 4, VALID.filled())))?;
        chart
            .draw_series(LineSeries::new(shown(valid), VALID.stroke_width(2)))?
            .label("validation")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], VALID.stroke_width(3)));
    }
    for baseline in &run.baselines {
        let ends = [(0.0, baseline.bits), (last, baseline.bits)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, BASELINE.stroke_width(1)))?;
        let text = format!("{}: {:.2}", baseline.name, baseline.bits);
        let style = ("sans-serif", 13).into_font().color(&BASELINE);
        chart.draw_series([Text::new(text, (last * 0.02, baseline.bits + 0.03 * (high - low)), style)])?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// The range of loss shown: all of it, but of the steep start only what lies at most a fifth above the first sixteenth's end, or
/// three tenths above the baselines.
fn limits(train: &[(f64, f64)], valid: &[(f64, f64)], baselines: &[Baseline]) -> (f64, f64) {
    let values = || train.iter().chain(valid).map(|point| point.1).chain(baselines.iter().map(|line| line.bits));
    let (least, most) = values().fold((f64::INFINITY, 0.0f64), |(low, high), y| (low.min(y), high.max(y)));
    let settled = train.get(train.len() / 16).map_or(most, |point| point.1);
    let ceiling = baselines.iter().map(|line| 1.3 * line.bits).fold(1.2 * settled, f64::max);
    let (low, high) = (if least.is_finite() { 0.95 * least } else { 0.0 }, most.min(ceiling));
    if high > low { (low, 1.02 * high) } else { (low, low + 1.0) }
}

/// At most [`POINTS`] points, each the mean of its neighbours.
pub(super) fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(every).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A long line is drawn with few points, each the mean of its neighbours; a short one as it is.
    #[test]
    fn long_lines_are_thinned() {
        let line = |len: usize| (0..len).map(|i| (i as f64, 2.0 * i as f64)).collect::<Vec<_>>();
        assert_eq!(thin(line(3)), line(3));
        let thinned = thin(line(4 * POINTS));
        assert_eq!((thinned.len(), thinned[0], thinned[1]), (POINTS, (1.5, 3.0), (5.5, 11.0)));
    }

    /// The steep start of a training does not take up the drawing: what is above 1.2 times the loss after a sixteenth of the
    /// steps and above 1.3 times every baseline is cut off. A training without one is drawn whole.
    #[test]
    fn the_start_is_cut_off() {
        let steep: Vec<(f64, f64)> = (0..160).map(|i| (i as f64, if i < 5 { 50.0 } else { 2.0 })).collect();
        let near = |(low, high): (f64, f64), wanted: (f64, f64)| {
            assert!((low - wanted.0).abs() < 1e-9 && (high - wanted.1).abs() < 1e-9, "{low} to {high}");
        };
        near(limits(&steep, &[], &[]), (0.95 * 2.0, 1.02 * 2.4));
        near(limits(&steep, &[], &[Baseline { name: "bytes".into(), bits: 4.0 }]), (0.95 * 2.0, 1.02 * 5.2));
        near(limits(&[(0.0, 2.1), (1.0, 2.0)], &[], &[]), (0.95 * 2.0, 1.02 * 2.1));
    }
}
