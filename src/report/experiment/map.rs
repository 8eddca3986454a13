//! The map: which system is fastest at which sequence length and link speed, and by how much.

use crate::report::figure::{Curve, Fill, Item, Map, Tile, of_system};

use super::view::{Entry, View};

/// A grid of settings.
pub struct Grid {
    /// Tokens of a sequence, ascending.
    pub seqs: Vec<usize>,
    /// Bits a second of a node's link, ascending.
    pub rates: Vec<f64>,
    /// `settings[rate][seq]`.
    pub settings: Vec<Vec<Option<usize>>>,
}

/// The winner of a point.
#[derive(Clone, Copy, Debug)]
pub struct Winner<'v, 'a> {
    pub entry: &'v Entry<'a>,
    /// Its speed over that of the fastest of another system; `None` if only one system runs.
    pub over: Option<(f64, &'v Entry<'a>)>,
}

/// The grid of an experiment that has one: at least three sequence lengths by three links.
pub fn grid(view: &View) -> Option<Grid> {
    let mut seqs: Vec<usize> = view.settings.iter().map(|setting| setting.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let mut rates: Vec<f64> = view.settings.iter().filter_map(|setting| setting.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let find = |rate: f64, seq: usize| view.settings.iter().position(|s| s.seq == seq && s.rate == Some(rate));
    let settings: Vec<Vec<Option<usize>>> =
        rates.iter().map(|&rate| seqs.iter().map(|&seq| find(rate, seq)).collect()).collect();
    let full = settings.iter().flatten().flatten().count() * 2 > seqs.len() * rates.len();
    (seqs.len() >= 3 && rates.len() >= 3 && full).then_some(Grid { seqs, rates, settings })
}

/// The fastest series of a setting, against the fastest of other systems.
pub fn winner<'v, 'a>(view: &'v View<'a>, setting: usize) -> Option<Winner<'v, 'a>> {
    let speed = |entry: &&Entry| entry.speed().unwrap_or(0.0);
    let runs = || view.at(setting).filter(|entry| entry.speed().is_some());
    let entry = runs().max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
    let others = runs().filter(|other| family(other) != family(entry));
    let over = others.max_by(|a, b| speed(a).total_cmp(&speed(b)));
    Some(Winner { entry, over: over.map(|other| (speed(&entry) / speed(&other), other)) })
}

/// What counts as one system: all options of one, all pipelines.
pub fn family(entry: &Entry) -> &'static str {
    of_system(&entry.record.cell.system)
}

/// The drawing.
pub fn map(view: &View) -> Option<String> {
    let grid = grid(view)?;
    let tile = |setting: &Option<usize>| {
        let winner = winner(view, (*setting)?)?;
        let by = lead(view, (*setting)?, &winner);
        let colour = family(winner.entry);
        Some(Tile { colour, winner: winner.entry.record.cell.series.clone(), by })
    };
    let mut legend: Vec<Item> = Vec::new();
    let winners = grid.settings.iter().flatten().flatten().filter_map(|&setting| winner(view, setting));
    for entry in winners.map(|winner| winner.entry) {
        let words = system_words(&entry.record.cell.system);
        let item = Item::Fill(Fill::Solid(family(entry)), words.into());
        if !legend.contains(&item) {
            legend.push(item);
        }
    }
    let rate = |rate: f64| format!("{} Gbit/s", crate::report::figure::tick(rate / 1e9));
    let length = |seq: usize| if seq >= 1024 { format!("{}k", seq / 1024) } else { seq.to_string() };
    let cell = &view.entries.first()?.record.cell;
    let cluster = cell.cluster.as_ref().map_or_else(String::new, |name| format!(" of \"{name}\""));
    let figure = Map {
        title: "The fastest system, and its lead in tokens/s over the fastest of any other kind".into(),
        under: format!(
            "{}: {} blocks of width {} on {} ranks ({}){cluster}; \"= X; lead\": X is level (less than 1 % slower), lead \
             over the next",
            if view.measured() { "measured" } else { "predicted" },
            cell.shape.layers,
            cell.shape.dim,
            cell.ranks(),
            super::view::nodes(&cell.ranks_per_node),
        ),
        x: "tokens in a sequence".into(),
        y: "link of a node".into(),
        columns: grid.seqs.iter().map(|&seq| (seq as f64, length(seq))).collect(),
        rows: grid.rates.iter().map(|&bits| (bits, rate(bits))).collect(),
        tiles: grid.settings.iter().map(|row| row.iter().map(tile).collect()).collect(),
        legend,
        curves: curves(view, &grid),
    };
    Some(figure.svg())
}

/// How far the winner of a setting leads. Of a kind that is level with it the name, and the lead over the fastest that is not.
fn lead(view: &View, setting: usize, winner: &Winner) -> String {
    let Some((ratio, next)) = winner.over else { return by(f64::INFINITY) };
    if by(ratio) != "level" {
        return by(ratio);
    }
    let fastest = winner.entry.speed().unwrap_or(0.0);
    let behind = view.at(setting).filter(|other| family(other) != family(winner.entry));
    let ratios =
        behind.filter_map(|other| other.speed()).map(|speed| fastest / speed).filter(|&ratio| by(ratio) != "level");
    let least = ratios.fold(f64::INFINITY, f64::min);
    let rest = if least.is_finite() { format!("; {}", by(least)) } else { String::new() };
    format!("= {}{rest}", system_words(&next.record.cell.system))
}

/// A lead: `+12 %`, `2.3 x`, that it is too small to count, or that there is nothing to lead over.
pub fn by(ratio: f64) -> String {
    match 100.0 * (ratio - 1.0) {
        f64::INFINITY => "no other runs".into(),
        lead if lead < 1.0 => "level".into(),
        lead if lead < 100.0 => format!("+{lead:.0} %"),
        _ => format!("{ratio:.1} x"),
    }
}

fn system_words(system: &str) -> &str {
    match system {
        s if s.starts_with("zb") => "zero bubble",
        "1f1b" | "1f1b-interleaved" | "gpipe" => "1F1B",
        "tawpipe" => "TawPipe",
        "fsdp" => "FSDP",
        "hsdp" => "HSDP",
        "ddp" => "DDP",
        s if s.starts_with("weipipe") => "WeiPipe",
        other => other,
    }
}

/// The line above which computation can hide what TawPipe without a weight cache sends.
fn curves(view: &View, grid: &Grid) -> Vec<Curve> {
    let name = "above: computing takes longer than the transfers of TawPipe without a cache".to_string();
    hidden(view, grid).map(|points| Curve { name, dash: "9 4", points }).into_iter().collect()
}

/// For each sequence length the slowest link over which sending takes no longer than computing. What is sent are the
/// bytes that leave a node in a step of TawPipe without a weight cache: every weight twice and every gradient once a
/// round. What is computed takes as long as the simulator says that a rank is busy.
fn hidden(view: &View, grid: &Grid) -> Option<Vec<(f64, f64)>> {
    let mut points = Vec::new();
    for (column, &seq) in grid.seqs.iter().enumerate() {
        let settings = grid.settings.iter().filter_map(|row| row[column]);
        let plain = |setting: usize| {
            view.at(setting).find(|entry| {
                let cell = &entry.record.cell;
                let given = |key: &str| cell.options.get(key).and_then(|value| value.as_str());
                cell.system == "tawpipe" && given("weight_cache") == Some("none") && given("grad_sync") == Some("round")
            })
        };
        let Some(entry) = settings.filter_map(plain).find(|entry| entry.record.prediction.is_some()) else { continue };
        let busy = entry.record.prediction.as_ref()?.busy_s;
        points.push((seq as f64, 8.0 * entry.leaving()? / busy));
    }
    (points.len() > 1).then_some(points)
}
