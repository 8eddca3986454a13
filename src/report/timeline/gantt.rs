//! A timeline as a chart of boxes: a row for each rank's arithmetic and, on request, one for each of its lanes of
//! communication. What is grey in a row is idle time.

use crate::plan::{Lane, Span};

use super::super::svg::{Anchor, PLAIN, Rect, Svg, text_width};
use super::kind::Kind;
use super::label::Labels;
use super::moving::Moving;
use super::{Picture, TimeUnit};

/// Most ranks with a row; the others are left out, and the drawing says so.
const MOST_RANKS: usize = 64;
/// Least and greatest width of the chart itself, in pixels.
const WIDTHS: (f64, f64) = (860.0, 2600.0);
/// Width that a typical box should have, so that its label fits.
const BOX: f64 = 30.0;
/// Outer margin.
const MARGIN: f64 = 16.0;
const LEGEND_HEIGHT: f64 = 20.0;
/// Width of a legend's coloured square with the space behind it, and of the note at its end.
const SWATCH: f64 = 18.0;
const NOTE: f64 = 180.0;
const LANE_HEIGHT: f64 = 15.0;
/// Font sizes of a box's label, the best first.
const SIZES: [f64; 4] = [11.0, 10.0, 9.0, 8.0];
const INK: &str = "#222222";
const PALE: &str = "#666666";
const IDLE: &str = "#eeeeee";
const GRID: &str = "#d4d4d4";
/// Inside of a box whose transfer waits for its other side, and what the legend says of it.
const WAITING: &str = "#ffffff";
const WAITS: &str = "waits for the other side";

/// Draws a picture as SVG; `lanes` adds a row for every communication lane.
pub fn gantt(picture: &Picture, lanes: bool) -> String {
    Chart::new(picture, lanes).draw()
}

/// A row of boxes.
#[derive(Clone, Copy)]
struct Row {
    rank: usize,
    lane: Lane,
    y: f64,
    height: f64,
}

/// What an item of the legend explains.
#[derive(Clone, Copy)]
enum Entry {
    /// A colour.
    Kind(Kind),
    /// An empty box.
    Waiting,
    /// The numbers in boxes.
    Numbers,
}

/// An item of the legend.
struct Item {
    entry: Entry,
    x: f64,
    line: usize,
}

struct Chart<'a> {
    picture: &'a Picture<'a>,
    labels: Labels,
    moving: Moving,
    legend: Vec<Item>,
    rows: Vec<Row>,
    /// First and last moment.
    limits: (f64, f64),
    /// Where the chart itself begins and how wide it is.
    left: f64,
    width: f64,
    top: f64,
    bottom: f64,
    svg: Svg,
}

impl<'a> Chart<'a> {
    fn new(picture: &'a Picture, lanes: bool) -> Self {
        let groups = &picture.schedule.job.groups;
        let shown = picture.plans.len().min(MOST_RANKS);
        let several = groups.count() > 1;
        let left = MARGIN + if several { 24.0 } else { 0.0 } + if lanes { 150.0 } else { 52.0 };
        let limits = picture.limits();
        let width = width(picture, limits.1 - limits.0);
        let mut entries: Vec<Entry> = kinds(picture, lanes).into_iter().map(Entry::Kind).collect();
        if lanes {
            entries.push(Entry::Waiting);
        }
        entries.push(Entry::Numbers);
        let legend = place(entries, left + width);
        let lines = 1 + legend.last().map_or(0, |item| item.line);
        let top = MARGIN + 44.0 + LEGEND_HEIGHT * lines as f64 + 10.0;
        let height = if shown <= 12 { 26.0 } else { 20.0 };
        let (mut y, mut rows) = (top, Vec::new());
        for rank in 0..shown {
            if rank > 0 {
                y += if groups.group_of(rank) != groups.group_of(rank - 1) { 14.0 } else { 4.0 };
            }
            rows.push(Row { rank, lane: Lane::Compute, y, height });
            y += height;
            let comm_lanes = if lanes { picture.plans[rank].comm_lanes } else { 0 };
            for lane in 0..comm_lanes {
                rows.push(Row { rank, lane: Lane::Comm(lane), y: y + 1.0, height: LANE_HEIGHT });
                y += LANE_HEIGHT + 1.0;
            }
        }
        let labels = Labels::new(picture);
        let moving = Moving::new(picture.plans, &picture.schedule.splits, picture.timeline);
        Chart { picture, labels, moving, legend, rows, limits, left, width, top, bottom: y, svg: Svg::default() }
    }

    fn draw(mut self) -> String {
        let full = self.left + self.width + 54.0 + MARGIN;
        self.head();
        for row in self.rows.clone() {
            self.background(&row);
            self.boxes(&row);
            self.names(&row);
        }
        self.groups();
        self.axis();
        let mut bottom = self.bottom + 46.0;
        let hidden = self.picture.plans.len().saturating_sub(MOST_RANKS);
        if hidden > 0 {
            let note = format!("{hidden} more ranks are not drawn");
            self.svg.text((self.left, bottom + 4.0), Anchor::Start, 11.0, PALE, &note);
            bottom += 18.0;
        }
        self.svg.finish(full, bottom + 4.0, PLAIN)
    }

    fn x(&self, time: f64) -> f64 {
        self.left + (time - self.limits.0) / (self.limits.1 - self.limits.0) * self.width
    }

    /// Title, a line of numbers, legend.
    fn head(&mut self) {
        let job = &self.picture.schedule.job;
        let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
        let inside = if sizes.len() > 1 { format!(" in groups of {}", short(&sizes)) } else { String::new() };
        let ranks = job.groups.ranks();
        let title = format!("{} on {ranks} rank{}{inside}", job.system.name(), if ranks == 1 { "" } else { "s" });
        self.svg.text((MARGIN, MARGIN + 14.0), Anchor::Start, 17.0, INK, &title);
        let idle: f64 = (0..ranks).map(|rank| self.picture.idle(rank)).sum::<f64>() / ranks as f64;
        let line = format!(
            "{} blocks, {} micro-batches; {} from first to last; idle {:.1} % on average",
            job.shape.layers,
            job.batch.micros,
            self.scale().words(self.limits.1 - self.limits.0),
            100.0 * idle
        );
        self.svg.text((MARGIN, MARGIN + 34.0), Anchor::Start, 12.0, PALE, &line);
        for item in std::mem::take(&mut self.legend) {
            let (x, y) = (item.x, MARGIN + 44.0 + LEGEND_HEIGHT * item.line as f64);
            let swatch = Rect { x, y: y + 4.0, width: 13.0, height: 13.0 };
            match item.entry {
                Entry::Kind(kind) => {
                    self.svg.rect(swatch, kind.colour(), None);
                    self.svg.text((x + SWATCH, y + 15.0), Anchor::Start, 12.0, INK, kind.words());
                }
                Entry::Waiting => {
                    self.svg.outlined(swatch, WAITING, PALE);
                    self.svg.text((x + SWATCH, y + 15.0), Anchor::Start, 12.0, INK, WAITS);
                }
                Entry::Numbers => {
                    let note = format!("in boxes: {}", self.labels.words());
                    self.svg.text((x, y + 15.0), Anchor::Start, 12.0, PALE, &note);
                }
            }
        }
    }

    fn background(&mut self, row: &Row) {
        let rect = Rect { x: self.left, y: row.y, width: self.width, height: row.height };
        self.svg.rect(rect, if row.lane == Lane::Compute { IDLE } else { "#f7f7f7" }, None);
        for tick in self.ticks() {
            let x = self.x(tick);
            self.svg.line((x, row.y), (x, row.y + row.height), GRID, 0.5);
        }
    }

    fn boxes(&mut self, row: &Row) {
        let mut spans: Vec<&Span> =
            self.picture.timeline.ranks[row.rank].iter().filter(|span| span.lane == row.lane).collect();
        spans.sort_by(|a, b| a.start.total_cmp(&b.start));
        let mut thin: Option<(Kind, f64, f64)> = None;
        for span in spans {
            let action = &self.picture.plans[row.rank].train[span.op].action;
            let kind = Kind::of(action);
            let (start, end) = (self.x(span.start), self.x(span.end));
            if end - start < 1.0 {
                // Boxes too thin to see grow together, so that many of them are seen, and do not swell the file.
                match &mut thin {
                    Some((same, _, until)) if *same == kind && start - *until < 0.5 => *until = until.max(end),
                    _ => {
                        self.thin(row, thin.replace((kind, start, end)));
                    }
                }
                continue;
            }
            self.thin(row, thin.take());
            let gap = if end - start > 4.0 { 0.4 } else { 0.0 };
            let since = self.moving.since(row.rank, span.op, span.start, span.end).unwrap_or(span.start);
            let moves = self.x(since);
            let when = self.scale().words(span.end - since);
            if moves - start >= 1.0 {
                // Posted, but the other side is not there: an empty box.
                let rect =
                    Rect { x: start + gap, y: row.y + 1.0, width: moves - start - gap, height: row.height - 2.0 };
                self.svg.outlined(rect, WAITING, kind.colour());
            }
            let start = if moves - start >= 1.0 { moves } else { start };
            let rect = Rect { x: start + gap, y: row.y, width: (end - start - 2.0 * gap).max(0.5), height: row.height };
            self.svg.rect(rect, kind.colour(), Some(&format!("{action}: {when}")));
            self.label(&rect, kind, &self.labels.of(self.picture, action));
        }
        self.thin(row, thin);
    }

    /// Boxes of one kind that are too thin each. The update and communication are worth a line even if they cost
    /// nothing.
    fn thin(&mut self, row: &Row, run: Option<(Kind, f64, f64)>) {
        let Some((kind, start, end)) = run else { return };
        let least = match kind {
            Kind::Update => 2.0,
            Kind::Hop | Kind::Gather | Kind::Reduce => 1.2,
            _ => 0.0,
        };
        let width = (end - start).max(least);
        if width >= 0.15 {
            // A line at the very end must stay inside.
            let x = start.min(self.left + self.width - width);
            self.svg.rect(Rect { x, y: row.y, width, height: row.height }, kind.colour(), None);
        }
    }

    /// In the largest font in which it fits; else not at all.
    fn label(&mut self, rect: &Rect, kind: Kind, text: &str) {
        let fits = |size: &f64| text_width(text, *size) + 3.0 <= rect.width && *size <= rect.height - 2.0;
        let Some(size) = SIZES.into_iter().find(fits).filter(|_| !text.is_empty()) else { return };
        let at = (rect.x + rect.width / 2.0, rect.y + rect.height / 2.0 + 0.36 * size);
        self.svg.text(at, Anchor::Middle, size, kind.ink(), text);
    }

    /// The row's name on the left; on the right, how long the rank is idle.
    fn names(&mut self, row: &Row) {
        let middle = row.y + row.height / 2.0 + 4.0;
        if row.lane == Lane::Compute {
            self.svg.text((self.left - 8.0, middle), Anchor::End, 12.0, INK, &format!("rank {}", row.rank));
            let idle = format!("{:.1} %", 100.0 * self.picture.idle(row.rank));
            self.svg.text((self.left + self.width + 48.0, middle), Anchor::End, 11.0, PALE, &idle);
        } else {
            let name = self.picture.lane_name(row.rank, row.lane);
            self.svg.text((self.left - 8.0, middle - 0.5), Anchor::End, 10.0, PALE, &name);
        }
        if row.y == self.top {
            self.svg.text((self.left + self.width + 48.0, row.y - 6.0), Anchor::End, 11.0, PALE, "idle");
        }
    }

    /// A bracket for each group, and a line between groups.
    fn groups(&mut self) {
        let groups = &self.picture.schedule.job.groups;
        if groups.count() == 1 {
            return;
        }
        for group in 0..groups.count() {
            let members = groups.members(group);
            let mut mine = self.rows.iter().filter(|row| members.contains(&row.rank));
            let Some(first) = mine.next() else { break };
            let last = mine.next_back().unwrap_or(first);
            let (top, bottom) = (first.y, last.y + last.height);
            let x = MARGIN + 18.0;
            self.svg.line((x, top), (x, bottom), PALE, 1.5);
            let text = format!("group {group}");
            let text = if text_width(&text, 11.0) < bottom - top { text } else { group.to_string() };
            self.svg.upwards((x - 6.0, (top + bottom) / 2.0), 11.0, PALE, &text);
            if group > 0 {
                self.svg.line((MARGIN, top - 7.0), (self.left + self.width, top - 7.0), GRID, 1.0);
            }
        }
    }

    fn axis(&mut self) {
        let y = self.bottom + 6.0;
        self.svg.line((self.left, y), (self.left + self.width, y), PALE, 1.0);
        let scale = self.scale();
        for tick in self.ticks() {
            let x = self.x(tick);
            self.svg.line((x, y), (x, y + 4.0), PALE, 1.0);
            self.svg.text((x, y + 16.0), Anchor::Middle, 11.0, INK, &scale.number(tick - self.limits.0));
        }
        self.svg.text((self.left + self.width / 2.0, y + 34.0), Anchor::Middle, 12.0, INK, &scale.title());
    }

    /// Moments at round numbers, some 90 pixels apart (closer where single units can be told apart).
    fn ticks(&self) -> Vec<f64> {
        let total = self.limits.1 - self.limits.0;
        let wide = if self.picture.unit == TimeUnit::Forwards { 45.0 } else { 90.0 };
        let least = total / (self.width / wide).max(2.0);
        let power = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least * 0.999);
        let mut step = step.unwrap_or(10.0 * power);
        if self.picture.unit == TimeUnit::Forwards {
            step = step.max(1.0);
        }
        (0..=(total / step * 1.000_001) as usize).map(|i| self.limits.0 + i as f64 * step).collect()
    }

    fn scale(&self) -> Scale {
        Scale::new(self.picture.unit, self.limits.1 - self.limits.0)
    }
}

/// How times are written.
#[derive(Clone, Copy)]
struct Scale {
    factor: f64,
    unit: &'static str,
}

impl Scale {
    fn new(unit: TimeUnit, total: f64) -> Self {
        let (factor, unit) = match unit {
            TimeUnit::Forwards => (1.0, ""),
            TimeUnit::Seconds if total >= 2.0 => (1.0, "s"),
            TimeUnit::Seconds if total >= 2e-3 => (1e3, "ms"),
            TimeUnit::Seconds => (1e6, "µs"),
        };
        Scale { factor, unit }
    }

    fn number(self, time: f64) -> String {
        let text = format!("{:.2}", time * self.factor);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    }

    fn words(self, time: f64) -> String {
        format!("{} {}", self.number(time), if self.unit.is_empty() { "units" } else { self.unit })
    }

    fn title(self) -> String {
        if self.unit.is_empty() { "time, forwards of a block".into() } else { format!("time, {}", self.unit) }
    }
}

/// Wide enough for the labels of typical boxes, within limits.
fn width(picture: &Picture, total: f64) -> f64 {
    let mut lengths: Vec<f64> = Vec::new();
    for (plan, spans) in picture.plans.iter().zip(&picture.timeline.ranks) {
        let kinds = spans.iter().map(|span| (Kind::of(&plan.train[span.op].action), span.seconds()));
        lengths.extend(kinds.filter(|(kind, _)| *kind == Kind::Forward).map(|(_, length)| length));
    }
    lengths.retain(|length| *length > 0.0);
    lengths.sort_by(f64::total_cmp);
    let typical = lengths.get(lengths.len() / 2).copied().unwrap_or(total);
    (total / typical * BOX).clamp(WIDTHS.0, WIDTHS.1)
}

/// Kinds that appear on the lanes drawn; copies only if they take time worth a box.
fn kinds(picture: &Picture, lanes: bool) -> Vec<Kind> {
    let (first, last) = picture.limits();
    let mut found = std::collections::BTreeMap::<Kind, f64>::new();
    for (plan, spans) in picture.plans.iter().zip(&picture.timeline.ranks).take(MOST_RANKS) {
        for span in spans.iter().filter(|span| lanes || span.lane == Lane::Compute) {
            let longest = found.entry(Kind::of(&plan.train[span.op].action)).or_default();
            *longest = longest.max(span.seconds());
        }
    }
    let shown = |kind: &Kind| {
        let least = if *kind == Kind::Other { (last - first) / WIDTHS.0 } else { 0.0 };
        // What costs nothing has no box, but for the lines of update and communication.
        let lines = matches!(kind, Kind::Update | Kind::Hop | Kind::Gather | Kind::Reduce);
        found.get(kind).is_some_and(|longest| *longest > least || lines)
    };
    Kind::ALL.into_iter().filter(shown).collect()
}

/// Places the legend's items, line after line.
fn place(entries: Vec<Entry>, width: f64) -> Vec<Item> {
    let (mut line, mut x) = (0, MARGIN);
    entries
        .into_iter()
        .map(|entry| {
            let wide = match entry {
                Entry::Kind(kind) => SWATCH + text_width(kind.words(), 12.0) + SWATCH,
                Entry::Waiting => SWATCH + text_width(WAITS, 12.0) + SWATCH,
                Entry::Numbers => NOTE,
            };
            if x + wide > width && x > MARGIN {
                (line, x) = (line + 1, MARGIN);
            }
            x += wide;
            Item { entry, x: x - wide, line }
        })
        .collect()
}

/// Sizes of groups in words; equal ones as `3 x 8`.
fn short(sizes: &[String]) -> String {
    if sizes.len() > 2 && sizes.iter().all(|size| *size == sizes[0]) {
        format!("{} ({} groups)", sizes[0], sizes.len())
    } else {
        sizes.join(" + ")
    }
}
