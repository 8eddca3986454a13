//! Figures of experiments: horizontal bars, lines and maps, as SVG and on request as PNG.
//!
//! What is drawn is a value ([`Bars`], [`Lines`], [`Map`]) that knows nothing of experiments; `super::results` builds it.
//! Colours are those of Okabe and Ito, which are told apart with any colour vision; lines also differ in their marks.

mod axis;
mod bars;
mod legend;
mod lines;
mod map;
mod palette;

use std::path::Path;

pub use axis::{Scale, amount, tick};
pub use bars::{Bar, Bars, Facet, Part};
pub use legend::Item;
pub use lines::{Axis, Line, Lines, Panel};
pub use map::{Curve, Map, Tile};
pub use palette::{Fill, Mark, SHADES, ink_on, of_system};

use super::ReportError;
use super::png::png;
use super::svg::{Anchor, Svg};

/// Fonts of figures: Verdana is as wide as DejaVu Sans.
const FONTS: &str = "DejaVu Sans, Verdana, sans-serif";
const MARGIN: f64 = 18.0;
const INK: &str = "#1a1a1a";
const PALE: &str = "#5c5c5c";
const GRID: &str = "#e2e2e2";
/// Font sizes: title, what stands beside axes, labels.
const TITLE: f64 = 16.0;
const NAME: f64 = 13.0;
const LABEL: f64 = 12.0;
/// Height of the title's line and of the line under it.
const HEAD: f64 = 24.0;

/// Writes a drawing as `NAME.svg`, and if asked for also as `NAME.png`.
///
/// # Errors
/// If a file cannot be written.
pub fn save(folder: &Path, name: &str, svg: &str, as_png: bool) -> Result<(), ReportError> {
    let write = |extension: &str, bytes: &[u8]| {
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, bytes).map_err(|error| ReportError { path, reason: error.to_string() })
    };
    let failed = |reason| ReportError { path: folder.join(format!("{name}.png")), reason };
    write("svg", svg.as_bytes())?;
    if as_png { write("png", &png(svg).map_err(failed)?) } else { Ok(()) }
}

/// Title and the line under it; returns where the figure goes on.
fn head(svg: &mut Svg, title: &str, under: &str) -> f64 {
    svg.bold((MARGIN, MARGIN + 14.0), Anchor::Start, TITLE, INK, title);
    if under.is_empty() {
        return MARGIN + HEAD;
    }
    svg.text((MARGIN, MARGIN + 34.0), Anchor::Start, LABEL, PALE, under);
    MARGIN + HEAD + 20.0
}

/// Width of a text in DejaVu Sans, on the safe side.
fn wide(text: &str, size: f64) -> f64 {
    let em: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | '.' | ',' | ':' | ' ' | '|' | '\'' => 0.33,
            'f' | 't' | 'r' | '-' | '(' | ')' | '/' | 'I' => 0.41,
            'm' | 'M' | 'W' | 'w' | '%' | '—' => 0.98,
            'A'..='Z' => 0.72,
            _ => 0.64,
        })
        .sum();
    em * size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of a figure becomes dark pixels with the fonts in the program, also where the machine has none.
    #[test]
    fn text_becomes_pixels() {
        let draw = |text: &str| {
            let mut svg = Svg::default();
            head(&mut svg, text, "");
            resvg::tiny_skia::Pixmap::decode_png(&png(&svg.finish(300.0, 60.0, FONTS)).unwrap()).unwrap()
        };
        let dark = |text: &str| draw(text).pixels().iter().filter(|pixel| pixel.red() < 128).count();
        assert_eq!((draw("").width(), draw("").height()), (600, 120));
        assert_eq!(dark(""), 0);
        assert!(dark("tokens/s – µ ≈ ×") > 500, "{} dark pixels", dark("tokens/s – µ ≈ ×"));
    }
}
