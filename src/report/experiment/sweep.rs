//! Figures of lines: scaling over ranks, growth with sequence, depth and link, and predictions against measurements.

use crate::report::figure::{Axis, Line, Lines, Mark, Panel, Scale};
use crate::results::Program;

use super::bars::under;
use super::view::{Entry, Setting, View};

/// What may grow while all else stays the same.
struct Dimension {
    /// For file names.
    name: &'static str,
    /// Of the figure.
    title: &'static str,
    axis: &'static str,
    value: fn(&Setting) -> f64,
    /// What must be equal within a family of settings.
    fixed: fn(&Setting) -> String,
    /// Least number of values worth a figure.
    least: usize,
}

fn place(s: &Setting) -> String {
    s.cluster.clone().unwrap_or_default()
}

const DIMENSIONS: [Dimension; 5] = [
    Dimension {
        name: "weak-scaling",
        title: "Weak scaling: the same work for each rank",
        axis: "ranks",
        value: |s| s.ranks() as f64,
        fixed: |s| format!("{} {} {} {} {}", place(s), s.model, s.seq, s.link, s.global as f64 / s.ranks() as f64),
        least: 2,
    },
    Dimension {
        name: "strong-scaling",
        title: "Strong scaling: the same work for all ranks together",
        axis: "ranks",
        value: |s| s.ranks() as f64,
        fixed: |s| format!("{} {} {} {} {}", place(s), s.model, s.seq, s.link, s.global),
        least: 2,
    },
    Dimension {
        name: "sequence",
        title: "Longer sequences: speed, traffic and memory",
        axis: "tokens in a sequence",
        value: |s| s.seq as f64,
        fixed: |s| format!("{} {} {:?} {}", place(s), s.model, s.ranks_per_node, s.link),
        least: 3,
    },
    Dimension {
        name: "depth",
        title: "Deeper models: speed, traffic and memory",
        axis: "blocks of the model",
        value: |s| s.layers as f64,
        fixed: |s| format!("{} {} {:?} {} {}", place(s), s.seq, s.ranks_per_node, s.link, s.global),
        least: 3,
    },
    Dimension {
        name: "link",
        title: "Faster links: speed, traffic and memory",
        axis: "link of a node, Gbit/s",
        value: |s| s.rate.map_or(f64::NAN, |rate| rate / 1e9),
        fixed: |s| format!("{} {} {} {:?} {}", place(s), s.model, s.seq, s.ranks_per_node, s.global),
        least: 3,
    },
];

/// Most families of a figure: an experiment with more is drawn as a map.
const FAMILIES: usize = 4;

/// A figure for everything that grows.
pub fn sweeps(view: &View) -> Vec<(String, String)> {
    DIMENSIONS.iter().filter_map(|dimension| Some((dimension.name.to_string(), sweep(view, dimension)?))).collect()
}

fn sweep(view: &View, dimension: &Dimension) -> Option<String> {
    let families = families(view, dimension);
    if families.is_empty() || families.len() > FAMILIES {
        return None;
    }
    let mut panels = Vec::new();
    for family in &families {
        let scaling = dimension.name.ends_with("scaling");
        let title = if families.len() > 1 { family_words(view, family) } else { String::new() };
        let ticks: Vec<f64> = family.iter().map(|&setting| (dimension.value)(&view.settings[setting])).collect();
        let panel = |what: &str, name: &str, scale: Scale, number: &dyn Fn(&Entry) -> Option<f64>, ideal: bool| {
            let mut lines = lines(view, dimension, family, number);
            if ideal {
                lines.insert(0, self::ideal(&lines));
            }
            let separator = if title.is_empty() { "" } else { ": " };
            Panel {
                title: format!("{title}{separator}{what}"),
                x: Axis {
                    name: dimension.axis.into(),
                    scale: Scale::Log,
                    ticks: spread_out(&ticks),
                    binary: dimension.name == "sequence",
                },
                y: Axis::new(name, scale),
                lines,
            }
        };
        if scaling {
            panels.push(panel("speed", "tokens/s, all ranks", Scale::Log, &|entry: &Entry| entry.speed(), true));
            panels.push(efficiency(view, dimension, family, &title));
        } else {
            let each = |entry: &Entry| Some(entry.speed()? / entry.ranks());
            panels.push(panel("speed", "tokens/s per rank", Scale::Log, &each, false));
            let bytes = |entry: &Entry| {
                let counted = entry.record.counted.as_ref()?;
                Some(counted.bytes_inter as f64 / entry.record.cell.tokens() as f64 / 1e3)
            };
            panels.push(panel("traffic", "kB between nodes per token", Scale::Log, &bytes, false));
            let memory = |entry: &Entry| entry.peak().map(|bytes| bytes / 1e9);
            panels.push(panel("memory", "GB per rank", Scale::Linear, &memory, false));
        }
    }
    Some(Lines { title: dimension.title.into(), under: under(view), panels }.svg())
}

/// Settings that differ in one dimension alone, in its order; those of many sequences a step (`fixed` says which count as
/// the same).
pub(super) fn families_of(view: &View, name: &str) -> Vec<Vec<usize>> {
    DIMENSIONS.iter().find(|dimension| dimension.name == name).map_or_else(Vec::new, |d| families(view, d))
}

fn families(view: &View, dimension: &Dimension) -> Vec<Vec<usize>> {
    let mut families: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, setting) in view.settings.iter().enumerate() {
        if !(dimension.value)(setting).is_finite() {
            continue;
        }
        let key = (dimension.fixed)(setting);
        match families.iter_mut().find(|(other, _)| *other == key) {
            Some((_, family)) => family.push(index),
            None => families.push((key, vec![index])),
        }
    }
    let mut found: Vec<Vec<usize>> = families.into_iter().map(|(_, family)| family).collect();
    for family in &mut found {
        family.sort_by(|a, b| (dimension.value)(&view.settings[*a]).total_cmp(&(dimension.value)(&view.settings[*b])));
    }
    let several = |family: &Vec<usize>| {
        let mut values: Vec<f64> = family.iter().map(|&setting| (dimension.value)(&view.settings[setting])).collect();
        values.dedup();
        values.len() >= dimension.least && values.len() == family.len()
    };
    found.retain(several);
    found
}

/// What tells a family from the others.
fn family_words(view: &View, family: &[usize]) -> String {
    let setting = &view.settings[family[0]];
    let differ = |of: fn(&Setting) -> String| view.settings.iter().any(|other| of(other) != of(setting));
    let mut words = Vec::new();
    if differ(place) {
        words.push(place(setting));
    }
    if differ(|s| s.model.clone()) && family.iter().all(|&other| view.settings[other].model == setting.model) {
        words.push(setting.model.clone());
    }
    if differ(|s| s.link.clone())
        && !differ(place)
        && family.iter().all(|&other| view.settings[other].link == setting.link)
    {
        words.push(setting.link.clone());
    }
    let names: [fn(&Setting) -> String; 2] = [
        |s| format!("{} tokens", s.seq),
        |s| format!("{} ranks ({})", s.ranks(), super::view::nodes(&s.ranks_per_node)),
    ];
    for name in names {
        if differ(name) && family.iter().all(|&other| name(&view.settings[other]) == name(setting)) {
            words.push(name(setting));
        }
    }
    words.join(", ")
}

/// A line for every series; those of one system differ in marks and dashes.
fn lines(view: &View, dimension: &Dimension, family: &[usize], number: &dyn Fn(&Entry) -> Option<f64>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, name) in view.series.iter().enumerate() {
        let found: Vec<&Entry> = family.iter().filter_map(|&setting| view.find(setting, name)).collect();
        let Some(first) = found.first() else { continue };
        let points: Vec<(f64, f64)> = found
            .iter()
            .filter_map(|entry| Some(((dimension.value)(&view.settings[entry.setting]), number(entry)?)))
            .collect();
        if points.is_empty() {
            continue;
        }
        let (colour, mark) = looks(view, index);
        let dash = if first.record.cell.program == Program::Torch { "7 4" } else { "" };
        lines.push(Line { name: name.to_string(), colour, dash, mark: Some(mark), points });
    }
    lines
}

/// Colour and mark of a series: systems differ in colours, series of one colour in marks.
fn looks(view: &View, series: usize) -> (&'static str, Mark) {
    let colour = |index: usize| {
        let entry = view.entries.iter().find(|entry| entry.record.cell.series == view.series[index]);
        entry.map_or("#9A9A9A", |entry| match entry.fill() {
            crate::report::figure::Fill::Solid(colour) | crate::report::figure::Fill::Pale(colour) => colour,
        })
    };
    let own = colour(series);
    let before = (0..series).filter(|&other| colour(other) == own).count();
    (own, Mark::number(before))
}

/// In proportion to ranks, from the best of the smallest.
fn ideal(lines: &[Line]) -> Line {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (least, most) = all().fold((f64::INFINITY, 0.0f64), |(least, most), (x, _)| (least.min(x), most.max(x)));
    let best = all().filter(|(x, _)| *x == least).map(|(_, y)| y).fold(0.0, f64::max);
    let points = vec![(least, best), (most, best * most / least)];
    Line { name: "ideal".into(), colour: "#808080", dash: "2 4", mark: None, points }
}

/// Tokens a second and rank, in percent of what the same series does on the fewest ranks.
fn efficiency(view: &View, dimension: &Dimension, family: &[usize], title: &str) -> Panel {
    let each = |entry: &Entry| Some(entry.speed()? / entry.ranks());
    let mut lines = lines(view, dimension, family, &each);
    let ticks: Vec<f64> = family.iter().map(|&setting| (dimension.value)(&view.settings[setting])).collect();
    for line in &mut lines {
        let first = line.points[0].1;
        line.points.iter_mut().for_each(|point| point.1 *= 100.0 / first);
    }
    let ends = [ticks[0], ticks[ticks.len() - 1]].map(|x| (x, 100.0)).to_vec();
    lines.insert(0, Line { name: "ideal".into(), colour: "#808080", dash: "2 4", mark: None, points: ends });
    Panel {
        title: format!("{title}{}efficiency", if title.is_empty() { "" } else { ": " }),
        x: Axis {
            name: dimension.axis.into(),
            scale: Scale::Log,
            ticks: spread_out(&ticks),
            binary: dimension.name == "sequence",
        },
        y: Axis::new("efficiency, %", Scale::Linear),
        lines,
    }
}

/// The values themselves as ticks, without those that would touch the one before.
fn spread_out(values: &[f64]) -> Vec<f64> {
    let (first, last) = (values[0], values[values.len() - 1]);
    let step = (last / first).ln() / 9.0;
    let mut kept: Vec<f64> = Vec::new();
    for &value in values {
        if kept.last().is_none_or(|before| (value / before).ln() >= step) {
            kept.push(value);
        }
    }
    kept
}

/// Predicted over measured speed, a point a cell.
pub fn prediction(view: &View) -> Option<String> {
    let both = |entry: &Entry| Some((entry.spread().and(entry.speed())?, entry.predicted()?));
    let mut lines: Vec<Line> = Vec::new();
    for (index, name) in view.series.iter().enumerate() {
        let of = view.entries.iter().filter(|entry| entry.record.cell.series == *name);
        let points: Vec<(f64, f64)> = of.filter_map(both).collect();
        if !points.is_empty() {
            let (colour, mark) = looks(view, index);
            lines.push(Line { name: name.to_string(), colour, dash: "none", mark: Some(mark), points });
        }
    }
    let all = || lines.iter().flat_map(|line| &line.points).flat_map(|(x, y)| [*x, *y]);
    let (least, most) = all().fold((f64::INFINITY, 0.0f64), |(least, most), x| (least.min(x), most.max(x)));
    if lines.is_empty() {
        return None;
    }
    let guide = |name: &str, dash, factor: f64| {
        let points = vec![(least / 1.1, factor * least / 1.1), (most * 1.1, factor * most * 1.1)];
        Line { name: name.into(), colour: "#808080", dash, mark: None, points }
    };
    let tenth = "10 % higher or lower";
    let guides = [guide("equal", "", 1.0), guide(tenth, "4 4", 1.1), guide(tenth, "4 4", 0.9)];
    let lines = guides.into_iter().chain(lines).collect();
    let panel = Panel {
        title: String::new(),
        x: Axis::new("measured, tokens/s", Scale::Log),
        y: Axis::new("predicted, tokens/s", Scale::Log),
        lines,
    };
    Some(Lines { title: "Measured and predicted speed".into(), under: String::new(), panels: vec![panel] }.svg())
}
