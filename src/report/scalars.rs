//! Gradient norm and learning rate of a run as SVG, beside its loss curve.

use std::path::PathBuf;

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::curve::{SIZE, TRAIN, thin};
use super::{ReportError, Run};

/// A number of every step, and how it is drawn.
struct Figure {
    file: &'static str,
    title: &'static str,
    axis: &'static str,
    /// Steps and values.
    points: Vec<(f64, f64)>,
    /// Values over several orders of magnitude, all above 0.
    logarithmic: bool,
}

/// Draws `grad_norm.svg` and `learning_rate.svg` into the run folder and returns their paths.
///
/// # Errors
/// If a file cannot be written.
pub fn draw(run: &Run) -> Result<[PathBuf; 2], ReportError> {
    let steps = &run.history.steps;
    let finite = |(step, value): (u64, f64)| value.is_finite().then_some((step as f64, value));
    let norms =
        steps.iter().map(|record| (record.step, record.grad_norm)).filter_map(finite).filter(|point| point.1 > 0.0);
    let rates = steps.iter().map(|record| (record.step, record.lr)).filter_map(finite);
    let figures = [
        Figure {
            file: "grad_norm.svg",
            title: "gradient norm",
            axis: "L2 norm before clipping",
            points: thin(norms.collect()),
            logarithmic: true,
        },
        Figure {
            file: "learning_rate.svg",
            title: "learning rate",
            axis: "learning rate",
            points: thin(rates.collect()),
            logarithmic: false,
        },
    ];
    let [norm, rate] = figures;
    Ok([save(&norm, run)?, save(&rate, run)?])
}

fn save(figure: &Figure, run: &Run) -> Result<PathBuf, ReportError> {
    let path = run.folder.join(figure.file);
    let mut svg = String::new();
    let failed = |reason| ReportError { path: path.clone(), reason };
    plot(&mut svg, figure, &run.name()).map_err(|error| failed(error.to_string()))?;
    std::fs::write(&path, svg).map_err(|error| failed(error.to_string()))?;
    Ok(path)
}

fn plot(svg: &mut String, figure: &Figure, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let last = figure.points.iter().map(|point| point.0).fold(1.0, f64::max);
    let values = || figure.points.iter().map(|point| point.1);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root);
    chart.caption(format!("{name}: {}", figure.title), ("sans-serif", 20));
    chart.margin(16).x_label_area_size(44).y_label_area_size(76);
    if figure.logarithmic {
        let (low, high) = if most > 0.0 { (least / 1.2, most * 1.2) } else { (0.1, 1.0) };
        line(chart.build_cartesian_2d(0.0..last, (low..high).log_scale())?, figure)?;
    } else {
        let high = if most > 0.0 { 1.05 * most } else { 1.0 };
        line(chart.build_cartesian_2d(0.0..last, 0.0..high)?, figure)?;
    }
    root.present()?;
    Ok(())
}

fn line<Y>(
    mut chart: ChartContext<SVGBackend, Cartesian2d<RangedCoordf64, Y>>,
    figure: &Figure,
) -> Result<(), Box<dyn std::error::Error>>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(figure.axis)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|value| label(*value))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 14))
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.08))
        .draw()?;
    chart.draw_series(LineSeries::new(figure.points.iter().copied(), TRAIN.stroke_width(2)))?;
    Ok(())
}

/// A number on an axis: 0.5, 20, 3e-4.
fn label(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        0.01..10_000.0 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').into()
        }
        _ => format!("{value:.1e}").replace(".0e", "e"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers on axes are short.
    #[test]
    fn labels_are_short() {
        assert_eq!([0.0, 0.5, 20.0, 3e-4, 1.3e-5, 2e6].map(label), ["0", "0.5", "20", "3e-4", "1.3e-5", "2e6"]);
    }
}
