//! Legends: a line of colours and marks above a figure.

use super::super::svg::{Anchor, Rect, Svg};
use super::palette::{Fill, Mark};
use super::{INK, LABEL, wide};

/// An item of a legend.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A coloured box.
    Fill(Fill, String),
    /// A mark.
    Mark(Mark, &'static str, String),
    /// A line, dashed as SVG wants it, with or without a mark.
    Line(&'static str, &'static str, Option<Mark>, String),
    /// From the least to the greatest value.
    Spread(String),
}

const HEIGHT: f64 = 20.0;
/// Width of what stands before the words.
const SIGN: f64 = 26.0;

/// Draws the items from left to right, in as many lines as they need; returns where the figure goes on.
pub fn draw(svg: &mut Svg, items: &[Item], (left, top): (f64, f64), width: f64) -> f64 {
    let (mut x, mut y) = (left, top);
    for item in items {
        let (Item::Fill(_, words) | Item::Mark(_, _, words) | Item::Line(_, _, _, words) | Item::Spread(words)) = item;
        let length = SIGN + wide(words, LABEL) + 18.0;
        if x > left && x + length > left + width {
            (x, y) = (left, y + HEIGHT);
        }
        let middle = (x + 9.0, y + 10.0);
        match item {
            Item::Fill(fill, _) => fill.draw(svg, Rect { x: x + 2.0, y: y + 4.0, width: 14.0, height: 12.0 }, None),
            Item::Mark(mark, colour, _) => mark.draw(svg, middle, 4.5, colour),
            Item::Line(colour, dash, mark, _) => {
                svg.path(&[(x - 1.0, middle.1), (x + 20.0, middle.1)], colour, 2.2, dash);
                if let Some(mark) = mark {
                    mark.draw(svg, middle, 4.5, colour);
                }
            }
            Item::Spread(_) => spread(svg, (x, x + 18.0), middle.1),
        }
        svg.text((x + SIGN, y + 14.5), Anchor::Start, LABEL, INK, words);
        x += length;
    }
    if items.is_empty() { top } else { y + HEIGHT + 6.0 }
}

/// A line from the least to the greatest value, with ends.
pub fn spread(svg: &mut Svg, (from, to): (f64, f64), y: f64) {
    svg.line((from, y), (to, y), INK, 1.2);
    for x in [from, to] {
        svg.line((x, y - 3.5), (x, y + 3.5), INK, 1.2);
    }
}
