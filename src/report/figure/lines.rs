//! Lines and points over two axes, in panels side by side.

use super::super::svg::{Anchor, Rect, Svg};
use super::axis::{Ruler, Scale, tick};
use super::legend::{self, Item};
use super::palette::Mark;
use super::{FONTS, GRID, INK, LABEL, MARGIN, NAME, PALE, head};

/// Panels of lines with one legend.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// In bold.
    pub title: String,
    /// What else the reader must know, in one line.
    pub under: String,
    /// Side by side, three in a line.
    pub panels: Vec<Panel>,
}

/// Lines over one pair of axes.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What is shown.
    pub title: String,
    /// Horizontal.
    pub x: Axis,
    /// Vertical.
    pub y: Axis,
    /// Lines of the same name have one entry in the legend.
    pub lines: Vec<Line>,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it measures, and in which unit.
    pub name: String,
    /// How.
    pub scale: Scale,
    /// Values to write beside it; none: round ones.
    pub ticks: Vec<f64>,
    /// Multiples of 1,024 are written as `1k`, `2k`, …
    pub binary: bool,
}

impl Axis {
    /// An axis with round ticks.
    pub fn new(name: impl Into<String>, scale: Scale) -> Axis {
        Axis { name: name.into(), scale, ticks: Vec::new(), binary: false }
    }
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub name: String,
    /// Its colour.
    pub colour: &'static str,
    /// As SVG wants it; `none` draws points alone.
    pub dash: &'static str,
    /// At every point.
    pub mark: Option<Mark>,
    /// From left to right; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 1020.0;
const HEIGHT: f64 = 300.0;
/// Space for the numbers and the name of the vertical axis.
const LEFT: f64 = 66.0;
const GAP: f64 = 22.0;

impl Lines {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let lines = self.panels.len().max(1).div_ceil(3);
        let columns = self.panels.len().max(1).div_ceil(lines);
        let width = ((WIDTH - 2.0 * MARGIN + GAP) / columns as f64 - GAP - LEFT).min(430.0);
        let full = (2.0 * MARGIN + columns as f64 * (LEFT + width + GAP) - GAP).max(560.0);
        let top = head(&mut svg, &self.title, &self.under);
        let mut y = legend::draw(&mut svg, &self.items(), (MARGIN, top), full - 2.0 * MARGIN);
        for line in self.panels.chunks(columns) {
            for (column, panel) in line.iter().enumerate() {
                let x = MARGIN + LEFT + column as f64 * (LEFT + width + GAP);
                panel.draw(&mut svg, Rect { x, y: y + 24.0, width, height: HEIGHT });
            }
            y += HEIGHT + 84.0;
        }
        svg.finish(full, y, FONTS)
    }

    fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for line in self.panels.iter().flat_map(|panel| &panel.lines) {
            let item = match (line.dash, line.mark) {
                ("none", Some(mark)) => Item::Mark(mark, line.colour, line.name.clone()),
                (dash, mark) => Item::Line(line.colour, dash, mark, line.name.clone()),
            };
            if !line.name.is_empty() && !items.contains(&item) {
                items.push(item);
            }
        }
        items
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, frame: Rect) {
        let all = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let x = Ruler::new(self.x.scale, all().map(|point| point.0), frame.x, frame.width);
        let y = Ruler::new(self.y.scale, all().map(|point| point.1), frame.y + frame.height, -(frame.height - 8.0));
        let (right, bottom) = (frame.x + frame.width, frame.y + frame.height);
        svg.bold((frame.x, frame.y - 10.0), Anchor::Start, LABEL, INK, &self.title);
        let ticks = |axis: &Axis, ruler: &Ruler, most| {
            if axis.ticks.is_empty() { ruler.ticks(most) } else { axis.ticks.clone() }
        };
        for value in ticks(&self.x, &x, (frame.width / 52.0) as usize) {
            svg.line((x.at(value), frame.y), (x.at(value), bottom), GRID, 1.0);
            let words =
                if self.x.binary && value % 1024.0 == 0.0 { format!("{}k", value / 1024.0) } else { tick(value) };
            svg.text((x.at(value), bottom + 17.0), Anchor::Middle, 11.0, PALE, &words);
        }
        for value in ticks(&self.y, &y, 8) {
            svg.line((frame.x, y.at(value)), (right, y.at(value)), GRID, 1.0);
            svg.text((frame.x - 7.0, y.at(value) + 4.0), Anchor::End, 11.0, PALE, &tick(value));
        }
        svg.line((frame.x, frame.y), (frame.x, bottom), INK, 1.2);
        svg.line((frame.x, bottom), (right, bottom), INK, 1.2);
        svg.text(((frame.x + right) / 2.0, bottom + 38.0), Anchor::Middle, NAME, INK, &self.x.name);
        svg.upwards((frame.x - 50.0, (frame.y + bottom) / 2.0), NAME, INK, &self.y.name);
        for line in &self.lines {
            let good = |value: f64, scale| value.is_finite() && (scale == Scale::Linear || value > 0.0);
            let points: Vec<(f64, f64)> = line
                .points
                .iter()
                .filter(|point| good(point.0, self.x.scale) && good(point.1, self.y.scale))
                .map(|point| (x.at(point.0), y.at(point.1)))
                .collect();
            if line.dash != "none" && points.len() > 1 {
                svg.path(&points, line.colour, 2.2, line.dash);
            }
            if let Some(mark) = line.mark {
                points.iter().for_each(|&point| mark.draw(svg, point, 4.5, line.colour));
            }
        }
    }
}
