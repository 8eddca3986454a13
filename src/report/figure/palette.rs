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
pub struct Mark {
    shape: Shape,
    /// Only its outline.
    hollow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Circle,
    Square,
    /// A triangle that stands.
    Triangle,
    /// A square that stands on a corner.
    Diamond,
    /// A triangle that hangs.
    Drop,
    /// Five corners.
    Pentagon,
    /// Four points.
    Star,
    /// Two triangles that touch.
    Bow,
    /// Two strokes.
    Cross,
}

impl Mark {
    /// A filled diamond.
    pub const DIAMOND: Mark = Mark { shape: Shape::Diamond, hollow: false };

    /// The mark of a figure's line or point number `index`: after seventeen they repeat.
    pub fn number(index: usize) -> Mark {
        use Shape::{Bow, Circle, Cross, Diamond, Drop, Pentagon, Square, Star, Triangle};
        const FILLED: [Shape; 9] = [Circle, Square, Triangle, Diamond, Drop, Cross, Pentagon, Star, Bow];
        const HOLLOW: [Shape; 8] = [Circle, Square, Triangle, Diamond, Drop, Pentagon, Star, Bow];
        let index = index % (FILLED.len() + HOLLOW.len());
        match index.checked_sub(FILLED.len()) {
            None => Mark { shape: FILLED[index], hollow: false },
            Some(index) => Mark { shape: HOLLOW[index], hollow: true },
        }
    }

    /// Draws the mark, about `size` pixels from its centre to its edge.
    pub fn draw(self, svg: &mut Svg, (x, y): (f64, f64), size: f64, colour: &str) {
        let (fill, border) = if self.hollow { ("#ffffff", colour) } else { (colour, "#ffffff") };
        let corners: &[(f64, f64)] = match self.shape {
            Shape::Circle => return svg.circle((x, y), size, fill, border),
            Shape::Cross => {
                svg.line((x - size, y - size), (x + size, y + size), colour, 2.2);
                return svg.line((x - size, y + size), (x + size, y - size), colour, 2.2);
            }
            Shape::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            Shape::Triangle => &[(0.0, -1.15), (1.15, 0.92), (-1.15, 0.92)],
            Shape::Diamond => &[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
            Shape::Drop => &[(0.0, 1.15), (1.15, -0.92), (-1.15, -0.92)],
            Shape::Pentagon => &[(0.0, -1.15), (1.1, -0.35), (0.68, 0.93), (-0.68, 0.93), (-1.1, -0.35)],
            Shape::Star => {
                &[(0.0, -1.5), (0.4, -0.4), (1.5, 0.0), (0.4, 0.4), (0.0, 1.5), (-0.4, 0.4), (-1.5, 0.0), (-0.4, -0.4)]
            }
            Shape::Bow => &[(-1.15, -0.95), (0.0, 0.0), (1.15, -0.95), (1.15, 0.95), (0.0, 0.0), (-1.15, 0.95)],
        };
        let corners: Vec<(f64, f64)> = corners.iter().map(|(dx, dy)| (x + dx * size, y + dy * size)).collect();
        svg.polygon(&corners, fill, border);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two of the lines that a figure has for one system share a mark.
    #[test]
    fn marks_differ() {
        let marks: Vec<Mark> = (0..17).map(Mark::number).collect();
        assert!(marks.iter().enumerate().all(|(index, mark)| !marks[..index].contains(mark)), "{marks:?}");
    }
}
