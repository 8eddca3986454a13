//! Figures of bars: speed, time, bytes, memory, ablation.

use std::collections::BTreeSet;

use crate::plan::Segment;
use crate::report::figure::{Bar, Bars, Facet, Fill, Item, Mark, Part, SHADES, amount, of_system};
use crate::results::Program;

use super::view::{Entry, View};

/// Most facets of a figure; an experiment with more settings is drawn as lines or as a map.
const FACETS: usize = 9;

/// Colours of the parts of a step: computing, communication that nothing hides, waiting for others.
const TIMES: [(&str, &str); 3] =
    [("computing", "#0072B2"), ("exposed communication", "#E69F00"), ("waiting for others", "#BBBBBB")];

/// A facet a setting, a bar a series.
fn facets(view: &View, settings: &[usize], bar: &dyn Fn(&Entry) -> Bar) -> Vec<Facet> {
    let facet = |&setting: &usize| {
        let bar = |name: &&str| match view.find(setting, name) {
            None => Bar { note: "not included".into(), ..Bar::default() },
            Some(entry) if entry.failure().is_some() => Bar { note: entry.verdict().into(), ..Bar::default() },
            Some(entry) => bar(entry),
        };
        let bars = view.series.iter().map(|name| Bar { label: name.to_string(), ..bar(name) }).collect();
        Facet { title: view.words(setting), bars }
    };
    settings.iter().map(facet).collect()
}

/// All settings, if they are few enough for bars.
fn few(view: &View) -> Option<Vec<usize>> {
    let some = view.entries.iter().any(|entry| entry.speed().is_some());
    (some && view.settings.len() <= FACETS).then(|| (0..view.settings.len()).collect())
}

fn part(entry: &Entry, value: f64, fill: Fill, what: &str) -> Part {
    Part { value, fill, title: format!("{}: {what} {}", entry.record.cell.series, amount(value)) }
}

/// The legend's first items: what colours are.
fn systems(view: &View) -> Vec<Item> {
    let torch = view.entries.iter().any(|entry| entry.record.cell.program == Program::Torch);
    let mut items = Vec::new();
    if torch {
        items.push(Item::Fill(Fill::Solid(of_system("tawpipe")), "tawpipe (this program)".into()));
        items.push(Item::Fill(Fill::Pale("#777777"), "PyTorch".into()));
    }
    items
}

/// Tokens a second, with spread and prediction.
pub fn throughput(view: &View) -> Option<String> {
    let settings = few(view)?;
    let mut legend = systems(view);
    let both = view.entries.iter().any(|entry| entry.spread().is_some() && entry.predicted().is_some());
    if view.measured() {
        legend.push(Item::Spread("slowest and fastest measured step; bar: median".into()));
    }
    if both {
        legend.push(Item::Mark(Mark::DIAMOND, "#1a1a1a", "predicted by the simulator".into()));
    }
    let bar = |entry: &Entry| Bar {
        parts: entry.speed().map(|speed| part(entry, speed, entry.fill(), "tokens/s")).into_iter().collect(),
        spread: entry.spread(),
        marks: entry.spread().and(entry.predicted()).map(|speed| (Mark::DIAMOND, speed)).into_iter().collect(),
        ..Bar::default()
    };
    let figure = Bars {
        title: "Throughput".into(),
        under: under(view),
        axis: "tokens/s, all ranks".into(),
        legend,
        facets: facets(view, &settings, &bar),
        ..Bars::default()
    };
    Some(figure.svg())
}

/// The line under the title of a figure whose speeds or times may be predictions.
pub(super) fn under(view: &View) -> String {
    if view.measured() { String::new() } else { "predicted by the simulator, not measured".into() }
}

/// What the time of a step goes to.
pub fn time(view: &View) -> Option<String> {
    let settings = few(view)?;
    let times = |entry: &Entry| -> Option<[f64; 3]> {
        let record = entry.record;
        if record.rounds().is_empty() {
            return record.prediction.as_ref().map(|p| [p.busy_s, p.exposed_s, p.idle_s]);
        }
        let (step, exposed) = (record.median(|step| Some(step.step_s))?, record.median(|step| step.exposed_s)?);
        Some([step - exposed, exposed, 0.0])
    };
    let bar = |entry: &Entry| match times(entry) {
        None => Bar { note: "not known".into(), ..Bar::default() },
        Some(times) => Bar {
            parts: times
                .iter()
                .zip(TIMES)
                .map(|(s, (name, colour))| part(entry, *s, Fill::Solid(colour), name))
                .collect(),
            note: match times.iter().sum::<f64>() {
                0.0 => String::new(),
                sum => format!("{} s, {:.0} % exposed", amount(sum), 100.0 * times[1] / sum),
            },
            ..Bar::default()
        },
    };
    let idle = view.entries.iter().filter_map(times).any(|times| times[2] > 0.0);
    let shown = TIMES.iter().take(if idle { 3 } else { 2 });
    let figure = Bars {
        title: "Where the time of a step goes".into(),
        under: if idle { under(view) } else { "of rank 0; exposed: it waits for communication".into() },
        axis: "seconds per step".into(),
        legend: shown.map(|(name, colour)| Item::Fill(Fill::Solid(colour), name.to_string())).collect(),
        facets: facets(view, &settings, &bar),
        ..Bars::default()
    };
    Some(figure.svg())
}

/// Bytes that leave a node in a step: plan and wire. Settings that differ in their links alone are one.
pub fn bytes(view: &View) -> Option<String> {
    few(view)?;
    let settings = unlike(view, |entry| entry.leaving().is_some() || entry.record.wire_sent().is_some());
    if settings.is_empty() {
        return None;
    }
    let wire = |entry: &Entry| entry.record.wire_sent().map(|bytes| bytes / 1e6);
    let bar = |entry: &Entry| {
        let counted = entry.leaving().map(|bytes| bytes / 1e6);
        Bar {
            parts: counted.map(|mb| part(entry, mb, entry.fill(), "MB")).into_iter().collect(),
            marks: wire(entry).map(|mb| (Mark::DIAMOND, mb)).into_iter().collect(),
            note: match (counted, wire(entry)) {
                (Some(plan), Some(wire)) if plan > 0.0 => {
                    format!("{} (wire {:+.1} %)", amount(plan), 100.0 * (wire / plan - 1.0))
                }
                (None, Some(wire)) => amount(wire),
                (Some(plan), _) => amount(plan),
                (None, None) => "not counted".into(),
            },
            ..Bar::default()
        }
    };
    let mut legend = systems(view);
    if view.entries.iter().any(|entry| wire(entry).is_some()) {
        legend.push(Item::Mark(Mark::DIAMOND, "#1a1a1a", "counted by the network interfaces".into()));
    }
    let figure = Bars {
        title: "Bytes that leave a node in a step".into(),
        under: "mean over nodes; bars and numbers: counted in the plan".into(),
        axis: "MB per step and node".into(),
        legend,
        facets: facets(view, &settings, &bar),
        ..Bars::default()
    };
    Some(figure.svg())
}

/// The first of all settings that differ in their links alone, if an entry there has what is asked for.
fn unlike(view: &View, has: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let key = |setting: usize| {
        let s = &view.settings[setting];
        (s.cluster.clone(), s.model.clone(), s.seq, s.ranks_per_node.clone(), s.global)
    };
    let mut found: Vec<usize> = Vec::new();
    for setting in 0..view.settings.len() {
        if view.at(setting).any(&has) && found.iter().all(|&other| key(other) != key(setting)) {
            found.push(setting);
        }
    }
    found
}

/// Memory of the rank that needs most, by what it is for.
pub fn memory(view: &View) -> Option<String> {
    few(view)?;
    let settings = unlike(view, |entry| entry.record.counted.is_some());
    let used = |entry: &Entry| entry.record.counted.iter().flat_map(|c| c.memory.clone()).collect::<Vec<_>>();
    let segments: BTreeSet<Kind> =
        view.entries.iter().flat_map(used).filter(|(_, bytes)| *bytes > 0).map(|(segment, _)| kind(segment)).collect();
    if settings.is_empty() || segments.is_empty() {
        return None;
    }
    let most = view.entries.iter().filter_map(Entry::peak).fold(0.0, f64::max);
    let (unit, factor) = if most >= 1e10 { ("GB", 1e9) } else { ("MB", 1e6) };
    let colour = |kind: Kind| Fill::Solid(SHADES[kind as usize]);
    let bar = |entry: &Entry| {
        let sum = |kind_: Kind| {
            let of = used(entry).into_iter().filter(|(segment, _)| kind(*segment) == kind_);
            of.map(|(_, bytes)| bytes as f64).sum::<f64>() / factor
        };
        let parts = segments.iter().map(|&kind| part(entry, sum(kind), colour(kind), kind.words()));
        match entry.record.counted {
            Some(_) => Bar { parts: parts.collect(), ..Bar::default() },
            None => Bar { note: "not counted".into(), ..Bar::default() },
        }
    };
    let figure = Bars {
        title: "Memory of a rank, by purpose".into(),
        under: "all buffers in the plan of the rank that needs most".into(),
        axis: format!("{unit} per rank"),
        legend: segments.iter().map(|&kind| Item::Fill(colour(kind), kind.words().into())).collect(),
        facets: facets(view, &settings, &bar),
        ..Bars::default()
    };
    Some(figure.svg())
}

/// Segments that one colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Master,
    Moments,
    Weights,
    Cache,
    Gradients,
    Activations,
    Saved,
    Scratch,
}

fn kind(segment: Segment) -> Kind {
    match segment {
        Segment::Master => Kind::Master,
        Segment::Moment1 | Segment::Moment2 => Kind::Moments,
        Segment::Home | Segment::Ring => Kind::Weights,
        Segment::Cache => Kind::Cache,
        Segment::Gradient | Segment::GradientSum | Segment::Accumulator => Kind::Gradients,
        Segment::Activation => Kind::Activations,
        Segment::Saved | Segment::Pending => Kind::Saved,
        Segment::Workspace | Segment::Tokens | Segment::Scalars => Kind::Scratch,
    }
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Master => "master weights",
            Kind::Moments => "optimizer moments",
            Kind::Weights => "weight shards, own and received",
            Kind::Cache => "weight cache",
            Kind::Gradients => "gradients",
            Kind::Activations => "activations",
            Kind::Saved => "saved for the backward pass",
            Kind::Scratch => "workspace",
        }
    }
}

/// TawPipe without and with each of its parts, against TawPipe as the deck names it.
pub fn ablation(view: &View) -> Option<String> {
    let settings = few(view)?;
    let variant = |name: &&&str| {
        let cells = view.entries.iter().map(|entry| &entry.record.cell);
        cells.into_iter().any(|cell| cell.series == **name && cell.system == "tawpipe")
    };
    let series: Vec<&str> = view.series.iter().filter(variant).copied().collect();
    // The published system, of which the others change a part; else the one whose name, the shortest, has no options in it.
    let published = series.iter().find(|name| **name == "TawPipe paper");
    let plain = *published.or(series.iter().min_by_key(|name| name.len()))?;
    if series.len() < 3 {
        return None;
    }
    let facet = |&setting: &usize| {
        let whole = view.find(setting, plain).and_then(Entry::speed);
        let bar = |name: &&str| {
            let entry = view.find(setting, name);
            let part_of = entry.and_then(Entry::speed).zip(whole).map(|(speed, whole)| 100.0 * speed / whole);
            let words = entry.map_or("not included", Entry::verdict).to_string();
            match entry.zip(part_of) {
                None => Bar { label: name.to_string(), note: words, ..Bar::default() },
                Some((entry, value)) => Bar {
                    label: name.to_string(),
                    parts: vec![part(entry, value, entry.fill(), "%")],
                    note: format!("{value:.0} %"),
                    ..Bar::default()
                },
            }
        };
        Facet { title: view.words(setting), bars: series.iter().map(bar).collect() }
    };
    let figure = Bars {
        title: format!("What each part contributes: speed relative to \"{plain}\""),
        under: under(view),
        axis: format!("tokens/s, % of \"{plain}\""),
        facets: settings.iter().map(facet).collect(),
        same: true,
        rule: Some(100.0),
        ..Bars::default()
    };
    Some(figure.svg())
}
