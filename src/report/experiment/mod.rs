//! Tables and figures of an experiment, from its records alone.
//!
//! Records are put in order once ([`view`]); every table and every figure is a function of that order. A figure is left
//! out where its numbers are: no map without a grid, no scaling without several numbers of ranks.

mod bars;
mod captions;
mod claim;
mod columns;
mod crossover;
mod map;
mod numbers;
mod paper;
mod sweep;
mod tables;
mod view;

use std::fmt::Write;
use std::path::Path;

use crate::results::Record;

use super::{ReportError, figure};
use view::View;

/// What is written about an experiment.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// `README.md`.
    pub markdown: String,
    /// Name without extension, and drawing.
    pub figures: Vec<(String, String)>,
}

impl Findings {
    /// Writes `README.md` and every figure as SVG, if asked for also as PNG.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path, png: bool) -> Result<(), ReportError> {
        let failed = |path: &Path, error: std::io::Error| ReportError { path: path.into(), reason: error.to_string() };
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        for (name, svg) in &self.figures {
            figure::save(folder, name, svg, png)?;
        }
        let file = folder.join("README.md");
        std::fs::write(&file, &self.markdown).map_err(|error| failed(&file, error))
    }
}

/// Tables and figures of one experiment. `references` are the series that others are compared with; none: PyTorch's FSDP
/// and DDP, or else `fsdp` and `1f1b`. `beside` are results of the paper's cases elsewhere, such as simulated ones, for the
/// table of its ratios. `raw` is where the records are, relative to the report.
pub fn findings(name: &str, records: &[Record], references: &[String], beside: &[Record], raw: &str) -> Findings {
    let view = View::new(records, references);
    let mut markdown = format!("# {name}\n\n{}\n", tables::heading(&view, raw));
    let mut figures: Vec<(String, String)> = Vec::new();
    let mut show = |markdown: &mut String, name: &str, svg: Option<String>| {
        if let Some(svg) = svg {
            let (title, caption) = captions::caption(name, view.measured());
            // Writing to a string cannot fail.
            let _ = write!(markdown, "![{title}]({name}.svg)\n\n{caption}\n\n");
            figures.push((name.into(), svg));
        }
    };
    if let Some(text) = claim::claim(&view) {
        let _ = writeln!(markdown, "{text}");
    }
    if let Some(text) = crossover::crossover(&view) {
        let _ = writeln!(markdown, "{text}");
    }
    show(&mut markdown, "map", map::map(&view));
    show(&mut markdown, "throughput", bars::throughput(&view));
    for (name, svg) in sweep::sweeps(&view) {
        show(&mut markdown, &name, Some(svg));
    }
    show(&mut markdown, "time", bars::time(&view));
    show(&mut markdown, "bytes", bars::bytes(&view));
    show(&mut markdown, "memory", bars::memory(&view));
    show(&mut markdown, "ablation", bars::ablation(&view));
    show(&mut markdown, "prediction", sweep::prediction(&view));
    let paper = Some(name).filter(|name| name.contains("paper"));
    let paper = paper.and_then(|_| paper::paper(&view, &View::new(beside, &[])));
    let paper = paper.map(|table| ("TawPipe against other systems, published and here".to_string(), table));
    for (title, table) in paper.into_iter().chain(tables::all(&view)) {
        let _ = write!(markdown, "## {title}\n\n{table}\n");
    }
    Findings { markdown: markdown.trim_end().to_string() + "\n", figures }
}
