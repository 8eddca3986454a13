//! Colours and marks: one for each system in every figure.

use super::super::svg::{Rect, Svg};

/// How something is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// In this colour.
    Solid(&'static str),
    /// In a light tint of this colour, with a border: the same system by another program.
    Pale(&'static str),
}

/// Okabe and Ito's colours, without black.
const ORANGE: &str = "#E69F00";
const SKY: &str = "#56B4E9";
const GREEN: &str = "#009E73";
const YELLOW: &str = "#F0E442";
const BLUE: &str = "#0072B2";
const RED: &str = "#D55E00";
const PURPLE: &str = "#CC79A7";
const GREY: &str = "#9A9A9A";

/// Shades for parts of one thing (segments of memory), in an order in which neighbours differ in lightness too.
pub const SHADES: [&str; 8] = [BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PURPLE, GREY];

/// The colour of a system, whatever its options: `tawpipe` is red everywhere.
pub fn of_system(system: &str) -> &'static str {
    match system {
        "tawpipe" => RED,
        s if s.starts_with("weipipe") => ORANGE,
        s if s.starts_with("fsdp") => BLUE,
        "hsdp" => SKY,
        s if s.starts_with("ddp") => GREEN,
        s if s.starts_with("zb") => YELLOW,
        "1f1b" | "1f1b-interleaved" | "gpipe" => PURPLE,
        _ => GREY,
    }
}

/// Black or white, whichever is read more easily on a colour (`#rrggbb`).
pub fn ink_on(colour: &str) -> &'static str {
    let part = |at: usize| u32::from_str_radix(colour.get(at..at + 2).unwrap_or("ff"), 16).unwrap_or(255) as f64;
    let light = 0.299 * part(1) + 0.587 * part(3) + 0.114 * part(5);
    if light > 125.0 { "#111111" } else { "#ffffff" }
}

impl Fill {
    /// Draws a box.
    pub fn draw(self, svg: &mut Svg, rect: Rect, title: Option<&str>) {
        match self {
            Fill::Solid(colour) => svg.rect(rect, colour, title),
            Fill::Pale(colour) => svg.outlined(rect, &tint(colour), colour),
        }
    }
}

/// The colour mixed with four parts of white to one.
fn tint(colour: &str) -> String {
    let part = |at: usize| {
        let value = u32::from_str_radix(colour.get(at..at + 2).unwrap_or("ff"), 16).unwrap_or(255);
        (value + 4 * 255) / 5
    };
    format!("#{:02x}{:02x}{:02x}", part(1), part(3), part(5))
}

/// A mark at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A triangle that stands.
    Triangle,
    /// A square that stands on a corner.
    Diamond,
    /// A triangle that hangs.
    Drop,
    /// Two strokes.
    Cross,
}

impl Mark {
    /// In the order in which lines of a figure get them.
    pub const ALL: [Mark; 6] = [Mark::Circle, Mark::Square, Mark::Triangle, Mark::Diamond, Mark::Drop, Mark::Cross];

    /// Draws the mark, about `size` pixels from its centre to its edge.
    pub fn draw(self, svg: &mut Svg, (x, y): (f64, f64), size: f64, colour: &str) {
        let border = "#ffffff";
        match self {
            Mark::Circle => svg.circle((x, y), size, colour, border),
            Mark::Square => {
                let s = 0.9 * size;
                svg.polygon(&[(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)], colour, border);
            }
            Mark::Triangle => {
                let s = 1.15 * size;
                svg.polygon(&[(x, y - s), (x + s, y + 0.8 * s), (x - s, y + 0.8 * s)], colour, border);
            }
            Mark::Diamond => {
                let s = 1.25 * size;
                svg.polygon(&[(x, y - s), (x + s, y), (x, y + s), (x - s, y)], colour, border);
            }
            Mark::Drop => {
                let s = 1.15 * size;
                svg.polygon(&[(x, y + s), (x + s, y - 0.8 * s), (x - s, y - 0.8 * s)], colour, border);
            }
            Mark::Cross => {
                svg.line((x - size, y - size), (x + size, y + size), colour, 2.2);
                svg.line((x - size, y + size), (x + size, y - size), colour, 2.2);
            }
        }
    }
}
