//! Horizontal bars, side by side for several conditions: the labels of bars may have any length.

use super::super::svg::{Anchor, Rect, Svg};
use super::axis::{Ruler, Scale, amount, tick};
use super::legend::{self, Item, spread};
use super::palette::{Fill, Mark};
use super::{FONTS, GRID, INK, LABEL, MARGIN, NAME, PALE, head, wide};

/// Bars in one or more facets.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    /// In bold.
    pub title: String,
    /// What else the reader must know, in one line.
    pub under: String,
    /// What is measured, and in which unit.
    pub axis: String,
    /// What colours and marks say.
    pub legend: Vec<Item>,
    /// Side by side, in several lines if there are many; all have bars of the same names in the same order.
    pub facets: Vec<Facet>,
    /// All facets have the same axis.
    pub same: bool,
    /// A value to compare with: a vertical line.
    pub rule: Option<f64>,
}

/// Bars under one condition.
#[derive(Clone, Debug, Default)]
pub struct Facet {
    /// The condition.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// Stacked from left to right.
    pub parts: Vec<Part>,
    /// Least and greatest value.
    pub spread: Option<(f64, f64)>,
    /// Other values for the same thing.
    pub marks: Vec<(Mark, f64)>,
    /// Written at its end; without parts, instead of a bar.
    pub note: String,
}

/// A part of a bar.
#[derive(Clone, Debug)]
pub struct Part {
    /// How long.
    pub value: f64,
    /// Its colour.
    pub fill: Fill,
    /// What a browser shows when the pointer rests on it.
    pub title: String,
}

impl Bar {
    /// Sum of the parts.
    pub fn value(&self) -> f64 {
        self.parts.iter().map(|part| part.value).sum()
    }

    fn reach(&self) -> f64 {
        let marks = self.marks.iter().map(|(_, value)| *value);
        marks.chain(self.spread.map(|(_, high)| high)).fold(self.value(), f64::max)
    }

    /// What is written at its end: the value, if nothing else.
    fn words(&self) -> String {
        if self.note.is_empty() { amount(self.value()) } else { self.note.clone() }
    }
}

const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
/// Least width of a facet without its words, and the width of a whole figure.
const LEAST: f64 = 190.0;
const WIDTH: f64 = 1020.0;
const GAP: f64 = 26.0;

impl Bars {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let rows = || self.facets.iter().flat_map(|facet| &facet.bars);
        let names = rows().map(|bar| wide(&bar.label, LABEL)).fold(40.0, f64::max);
        let notes = rows().map(|bar| wide(&bar.words(), LABEL)).fold(30.0, f64::max).min(150.0) + 10.0;
        let left = MARGIN + names + 10.0;
        let columns = (((WIDTH - left + GAP) / (LEAST + GAP)) as usize).clamp(1, self.facets.len().max(1));
        // Lines of facets that are as full as each other.
        let lines = self.facets.len().max(1).div_ceil(columns);
        let columns = self.facets.len().max(1).div_ceil(lines);
        let width = ((WIDTH - left + GAP) / columns as f64 - GAP).min(620.0);
        let full = left + columns as f64 * (width + GAP) - GAP + MARGIN;
        let top = head(&mut svg, &self.title, &self.under);
        let mut y = legend::draw(&mut svg, &self.legend, (MARGIN, top), full - 2.0 * MARGIN);
        let most = rows().map(Bar::reach).fold(0.0, f64::max);
        for line in self.facets.chunks(columns) {
            let count = line.iter().map(|facet| facet.bars.len()).max().unwrap_or(0);
            let bottom = y + 24.0 + ROW * count as f64;
            for (column, facet) in line.iter().enumerate() {
                let x = left + column as f64 * (width + GAP);
                let reach = if self.same { most } else { facet.bars.iter().map(Bar::reach).fold(0.0, f64::max) };
                let ruler = Ruler::new(Scale::Linear, [reach, self.rule.unwrap_or(0.0)].into_iter(), x, width - notes);
                self.facet(&mut svg, facet, &ruler, (x, y, width, bottom), column == 0);
            }
            y = bottom + 58.0;
        }
        svg.finish(full.max(MARGIN * 2.0 + wide(&self.title, 17.0)), y, FONTS)
    }

    fn facet(&self, svg: &mut Svg, facet: &Facet, ruler: &Ruler, frame: (f64, f64, f64, f64), first: bool) {
        let (x, y, width, bottom) = frame;
        svg.bold((x, y + 13.0), Anchor::Start, LABEL, INK, &facet.title);
        let top = y + 22.0;
        for value in ruler.ticks(((width / 60.0) as usize).clamp(2, 5)) {
            let at = ruler.at(value);
            svg.line((at, top), (at, bottom), GRID, 1.0);
            svg.text((at, bottom + 16.0), Anchor::Middle, 11.0, PALE, &tick(value));
        }
        if let Some(rule) = self.rule {
            svg.path(&[(ruler.at(rule), top), (ruler.at(rule), bottom)], INK, 1.2, "5 3");
        }
        for (row, bar) in facet.bars.iter().enumerate() {
            let middle = top + 2.0 + ROW * (row as f64 + 0.5);
            if first {
                svg.text((x - 10.0, middle + 4.5), Anchor::End, LABEL, INK, &bar.label);
            }
            if bar.parts.is_empty() && bar.marks.is_empty() {
                svg.text((x + 5.0, middle + 4.5), Anchor::Start, 11.0, PALE, &bar.note);
                continue;
            }
            let mut sum = 0.0;
            for part in bar.parts.iter().filter(|part| part.value > 0.0) {
                let (from, to) = (ruler.at(sum), ruler.at(sum + part.value));
                let rect = Rect { x: from, y: middle - BAR / 2.0, width: to - from, height: BAR };
                part.fill.draw(svg, rect, Some(&part.title));
                sum += part.value;
            }
            if let Some((low, high)) = bar.spread {
                spread(svg, (ruler.at(low), ruler.at(high)), middle);
            }
            for (mark, value) in &bar.marks {
                mark.draw(svg, (ruler.at(*value), middle), 4.5, INK);
            }
            // In a column of their own: beside a mark a number would be taken for the mark's.
            svg.text((x + width, middle + 4.5), Anchor::End, 11.5, INK, &bar.words());
        }
        svg.line((x, top), (x, bottom), INK, 1.2);
        let middle = (ruler.at(0.0) + ruler.end()) / 2.0;
        svg.text((middle, bottom + 36.0), Anchor::Middle, NAME, INK, &self.axis);
    }
}
