//! A map: who wins at each point of two logarithmic axes, and by how much.

use super::super::svg::{Anchor, Rect, Svg};
use super::legend::{self, Item};
use super::palette::{Fill, ink_on};
use super::{FONTS, INK, LABEL, MARGIN, NAME, PALE, head, wide};

/// Tiles in columns and rows.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// In bold.
    pub title: String,
    /// What else the reader must know, in one line.
    pub under: String,
    /// Name of the horizontal axis.
    pub x: String,
    /// Name of the vertical axis.
    pub y: String,
    /// Columns: values, ascending, with what is written under them.
    pub columns: Vec<(f64, String)>,
    /// Rows: values, ascending upwards, with what is written beside them.
    pub rows: Vec<(f64, String)>,
    /// `tiles[row][column]`, the lowest row first.
    pub tiles: Vec<Vec<Option<Tile>>>,
    /// What colours say.
    pub legend: Vec<Item>,
    /// Curves over the map.
    pub curves: Vec<Curve>,
}

/// A curve over the map.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// As SVG wants it.
    pub dash: &'static str,
    /// In values of both axes.
    pub points: Vec<(f64, f64)>,
}

/// A point of the map.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Colour of the winner.
    pub colour: &'static str,
    /// In bold.
    pub winner: String,
    /// Under it.
    pub by: String,
}

const WIDTH: f64 = 104.0;
const HEIGHT: f64 = 44.0;

impl Map {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let left = MARGIN + 96.0;
        let across = WIDTH * self.columns.len() as f64;
        let mut full = left + across + 2.0 * MARGIN;
        full = full.max(2.0 * MARGIN + wide(&self.title, 17.0)).max(2.0 * MARGIN + wide(&self.under, 11.5));
        let top = head(&mut svg, &self.title, &self.under);
        let curves = self.curves.iter().map(|curve| Item::Line(INK, curve.dash, None, curve.name.clone()));
        let items: Vec<Item> = self.legend.iter().cloned().chain(curves).collect();
        let top = legend::draw(&mut svg, &items, (MARGIN, top), full - 2.0 * MARGIN) + 6.0;
        let bottom = top + HEIGHT * self.rows.len() as f64;
        for (row, tiles) in self.tiles.iter().enumerate() {
            for (column, tile) in tiles.iter().enumerate() {
                let (x, y) = (left + WIDTH * column as f64, bottom - HEIGHT * (row + 1) as f64);
                fill(&mut svg, tile.as_ref(), Rect { x, y, width: WIDTH, height: HEIGHT });
            }
        }
        for (column, (_, words)) in self.columns.iter().enumerate() {
            let x = left + WIDTH * (column as f64 + 0.5);
            svg.text((x, bottom + 18.0), Anchor::Middle, LABEL, PALE, words);
        }
        for (row, (_, words)) in self.rows.iter().enumerate() {
            let y = bottom - HEIGHT * (row as f64 + 0.5);
            svg.text((left - 8.0, y + 4.5), Anchor::End, LABEL, PALE, words);
        }
        svg.text((left + across / 2.0, bottom + 40.0), Anchor::Middle, NAME, INK, &self.x);
        svg.upwards((MARGIN + 10.0, (top + bottom) / 2.0), NAME, INK, &self.y);
        let frame = Rect { x: left, y: top, width: across, height: bottom - top };
        for Curve { dash, points, .. } in &self.curves {
            let at = |&(x, y): &(f64, f64)| {
                let (column, row) = (place(&self.columns, x)?, place(&self.rows, y)?);
                Some((left + WIDTH * (column + 0.5), bottom - HEIGHT * (row + 0.5)))
            };
            let inside = |&(x, y): &(f64, f64)| {
                (frame.x..=frame.x + frame.width).contains(&x) && (frame.y..=frame.y + frame.height).contains(&y)
            };
            let points: Vec<(f64, f64)> = points.iter().filter_map(at).filter(inside).collect();
            // A light border keeps the curve apart from the tiles.
            svg.path(&points, "#ffffff", 5.5, "");
            svg.path(&points, INK, 2.6, dash);
        }
        for (row, tiles) in self.tiles.iter().enumerate() {
            for (column, tile) in tiles.iter().enumerate() {
                let (x, y) = (left + WIDTH * (column as f64 + 0.5), bottom - HEIGHT * (row as f64 + 0.5));
                words(&mut svg, tile.as_ref(), (x, y));
            }
        }
        svg.finish(full, bottom + 58.0, FONTS)
    }
}

fn fill(svg: &mut Svg, tile: Option<&Tile>, rect: Rect) {
    let inner = Rect { x: rect.x + 1.0, y: rect.y + 1.0, width: rect.width - 2.0, height: rect.height - 2.0 };
    match tile {
        None => svg.rect(inner, "#f2f2f2", None),
        Some(tile) => {
            Fill::Solid(tile.colour).draw(svg, inner, Some(&format!("{} {}", tile.winner, tile.by)));
        }
    }
}

/// Name and lead, over whatever curve passes; a long name takes two lines, and is written smaller if that is not enough.
fn words(svg: &mut Svg, tile: Option<&Tile>, (x, y): (f64, f64)) {
    let Some(tile) = tile else { return svg.text((x, y + 4.0), Anchor::Middle, 11.0, PALE, "none fits") };
    let ink = ink_on(tile.colour);
    let fits = |line: &str| (WIDTH - 8.0) / wide(line, 13.0);
    let lines = if fits(&tile.winner) < 0.8 { halves(&tile.winner) } else { vec![tile.winner.as_str()] };
    let size = 11.5 * lines.iter().map(|line| fits(line)).fold(1.0, f64::min);
    let down = if lines.len() > 1 { 5.0 } else { 0.0 };
    // What is written covers a curve that passes.
    let mut clear = |(x, y): (f64, f64), line: &str, size: f64| {
        let width = (wide(line, size) + 4.0).min(WIDTH - 4.0);
        svg.rect(Rect { x: x - width / 2.0, y: y - size + 1.0, width, height: size + 2.0 }, tile.colour, None);
    };
    for (above, line) in lines.iter().rev().enumerate() {
        clear((x, y - 3.0 + down - 12.0 * above as f64), line, size);
    }
    clear((x, y + 13.0 + 0.8 * down), &tile.by, 11.0);
    for (above, line) in lines.iter().rev().enumerate() {
        svg.bold((x, y - 3.0 + down - 12.0 * above as f64), Anchor::Middle, size, ink, line);
    }
    let size = 11.0 * ((WIDTH - 6.0) / wide(&tile.by, 11.0)).min(1.0);
    svg.text((x, y + 13.0 + 0.8 * down), Anchor::Middle, size, ink, &tile.by);
}

/// A name cut at the space nearest to its middle, if it has one.
fn halves(name: &str) -> Vec<&str> {
    let from_middle = |at: &usize| at.abs_diff(name.len() / 2);
    match name.match_indices(' ').map(|(at, _)| at).min_by_key(from_middle) {
        Some(at) => vec![&name[..at], &name[at + 1..]],
        None => vec![name],
    }
}

/// Where a value lies among an axis's values, in steps from the first one, evenly on logarithmic scales; up to half a
/// step outside.
fn place(axis: &[(f64, String)], value: f64) -> Option<f64> {
    let (first, second) = (axis.first()?.0, axis.get(1)?.0);
    let (before, last) = (axis[axis.len() - 2].0, axis[axis.len() - 1].0);
    let step = |a: f64, b: f64| (value / a).ln() / (b / a).ln();
    let place = if value <= first {
        step(first, second)
    } else if value >= last {
        (axis.len() - 1) as f64 + step(before, last) - 1.0
    } else {
        let above = axis.iter().position(|(at, _)| *at > value)?;
        (above - 1) as f64 + step(axis[above - 1].0, axis[above].0)
    };
    (-0.5..=axis.len() as f64 - 0.5).contains(&place).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long names break where their halves are most alike.
    #[test]
    fn names_break_in_the_middle() {
        assert_eq!(halves("TawPipe cache+once collective"), ["TawPipe cache+once", "collective"]);
        assert_eq!(halves("HSDP"), ["HSDP"]);
    }

    /// Values lie between those of an axis by their logarithms, and at most half a step outside.
    #[test]
    fn values_lie_between_columns() {
        let axis: Vec<(f64, String)> = [1.0, 4.0, 16.0].map(|value| (value, String::new())).into();
        let close = |value, expected: f64| place(&axis, value).is_some_and(|found| (found - expected).abs() < 1e-9);
        assert!(close(1.0, 0.0) && close(2.0, 0.5) && close(16.0, 2.0) && close(32.0, 2.5) && close(0.5, -0.5));
        assert_eq!(place(&axis, 40.0), None);
    }
}
