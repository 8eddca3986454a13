//! Records in order: under which setting, of which series, with which numbers.

use crate::report::figure::{Fill, of_system};
use crate::results::{Cell, Outcome, Program, Record};

/// What is the same for all series that are compared with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub cluster: Option<String>,
    pub model: String,
    pub parameters: usize,
    pub layers: usize,
    pub seq: usize,
    pub global: usize,
    pub ranks_per_node: Vec<usize>,
    pub link: String,
    pub rate: Option<f64>,
}

impl Setting {
    fn of(cell: &Cell) -> Setting {
        Setting {
            cluster: cell.cluster.clone(),
            model: cell.model.clone(),
            parameters: cell.parameters,
            layers: cell.shape.layers,
            seq: cell.seq,
            global: cell.global,
            ranks_per_node: cell.ranks_per_node.clone(),
            link: cell.link.name.clone(),
            rate: cell.link.rate,
        }
    }

    pub fn ranks(&self) -> usize {
        self.ranks_per_node.iter().sum()
    }

    /// By size; what has no limit last.
    fn order(&self, other: &Setting) -> std::cmp::Ordering {
        let rate = |setting: &Setting| setting.rate.unwrap_or(f64::INFINITY);
        (&self.cluster, self.parameters, &self.model, self.seq, self.ranks(), &self.ranks_per_node, self.global)
            .cmp(&(
                &other.cluster,
                other.parameters,
                &other.model,
                other.seq,
                other.ranks(),
                &other.ranks_per_node,
                other.global,
            ))
            .then(rate(self).total_cmp(&rate(other)))
            .then(self.link.cmp(&other.link))
    }
}

/// A record with its place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub record: &'a Record,
    /// Index in [`View::settings`].
    pub setting: usize,
}

/// All records of an experiment.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub settings: Vec<Setting>,
    /// Labels of the series, the fastest first.
    pub series: Vec<&'a str>,
    /// Settings in order, in each the series in order.
    pub entries: Vec<Entry<'a>>,
    /// Series that others are compared with.
    pub references: Vec<&'a str>,
}

impl<'a> View<'a> {
    pub fn new(records: &'a [Record], references: &[String]) -> View<'a> {
        let mut settings: Vec<Setting> = Vec::new();
        for record in records {
            let setting = Setting::of(&record.cell);
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        settings.sort_by(Setting::order);
        let place = |record: &Record| settings.iter().position(|s| *s == Setting::of(&record.cell)).unwrap_or(0);
        let mut entries: Vec<Entry> = records.iter().map(|record| Entry { record, setting: place(record) }).collect();
        let mut series: Vec<&str> = Vec::new();
        for record in records {
            if !series.contains(&record.cell.series.as_str()) {
                series.push(&record.cell.series);
            }
        }
        // The mean, over settings, of a series' speed over the best one's there.
        let best: Vec<f64> = (0..settings.len())
            .map(|s| entries.iter().filter(|e| e.setting == s).filter_map(Entry::speed).fold(0.0, f64::max))
            .collect();
        let rank = |name: &str| {
            let of = entries.iter().filter(|e| e.record.cell.series == name);
            let parts: Vec<f64> = of.map(|e| e.speed().unwrap_or(0.0) / best[e.setting].max(1e-300)).collect();
            parts.iter().sum::<f64>() / parts.len().max(1) as f64
        };
        let mut ranked: Vec<(f64, &str)> = series.into_iter().map(|name| (rank(name), name)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let series: Vec<&str> = ranked.into_iter().map(|(_, name)| name).collect();
        let index = |entry: &Entry| series.iter().position(|name| *name == entry.record.cell.series);
        entries.sort_by_key(|entry| (entry.setting, index(entry), entry.record.cell.micro));
        let references = references_of(&entries, references);
        View { settings, series, entries, references }
    }

    /// The records of a setting.
    pub fn at(&self, setting: usize) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| entry.setting == setting)
    }

    /// A series under a setting; of several micro-batches the fastest.
    pub fn find(&self, setting: usize, series: &str) -> Option<&Entry<'a>> {
        let all = || self.at(setting).filter(|entry| entry.record.cell.series == series);
        let speed = |entry: &&Entry| entry.speed().unwrap_or(0.0);
        all().max_by(|a, b| speed(a).total_cmp(&speed(b)).then(b.record.cell.micro.cmp(&a.record.cell.micro)))
    }

    /// A setting in the words that tell it from the others.
    pub fn words(&self, setting: usize) -> String {
        let differ = |of: fn(&Setting) -> String| {
            let first = of(&self.settings[0]);
            self.settings.iter().any(|other| of(other) != first)
        };
        let here = &self.settings[setting];
        let mut words = Vec::new();
        let names: [fn(&Setting) -> String; 5] = [
            |s| s.cluster.clone().unwrap_or_default(),
            |s| s.model.clone(),
            |s| format!("{} tokens", s.seq),
            |s| format!("{} ranks ({})", s.ranks(), nodes(&s.ranks_per_node)),
            |s| s.link.clone(),
        ];
        for name in names {
            if differ(name) {
                words.push(name(here));
            }
        }
        if words.is_empty() || differ(|s| s.global.to_string()) && !differ(|s| s.ranks().to_string()) {
            words.push(if words.is_empty() { here.link.clone() } else { format!("{} sequences", here.global) });
        }
        words.retain(|word| !word.is_empty());
        let sequences = format!("{} sequences", here.global);
        // Weak and strong scaling meet settings that differ in nothing else.
        let alike = |other: &Setting| names.iter().all(|name| name(other) == name(here)) && other.global != here.global;
        if !words.contains(&sequences) && self.settings.iter().any(alike) {
            words.push(sequences);
        }
        words.join(", ")
    }

    /// Whether anything was measured.
    pub fn measured(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.record.outcome, Outcome::Measured(_)))
    }
}

/// `2 x 8`, or sizes one by one.
pub fn nodes(ranks_per_node: &[usize]) -> String {
    match ranks_per_node {
        [first, rest @ ..] if rest.iter().all(|size| size == first) => format!("{} x {first}", ranks_per_node.len()),
        sizes => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" + "),
    }
}

impl<'a> Entry<'a> {
    /// Median of tokens a second, all ranks together: measured, or else predicted.
    pub fn speed(&self) -> Option<f64> {
        self.record.tokens_per_s().or_else(|| self.predicted())
    }

    /// What the simulator says, whether or not it was measured too.
    pub fn predicted(&self) -> Option<f64> {
        self.record.prediction.as_ref().map(|prediction| prediction.tokens_per_s)
    }

    /// Least and greatest of the measured steps.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let samples = self.record.samples(|step| Some(step.tokens_per_s));
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        (!samples.is_empty()).then(|| (least, samples.iter().copied().fold(0.0, f64::max)))
    }

    pub fn ranks(&self) -> f64 {
        self.record.cell.ranks() as f64
    }

    /// The part of a step in which communication is exposed: measured, or else predicted.
    pub fn exposed(&self) -> Option<f64> {
        let measured = self.record.median(|step| step.exposed_s.map(|exposed| exposed / step.step_s));
        measured.or_else(|| self.record.prediction.as_ref().map(|p| p.exposed_s / p.step_s))
    }

    /// Bytes a step that leave a node, mean over nodes, as the plan counts them.
    pub fn leaving(&self) -> Option<f64> {
        let counted = self.record.counted.as_ref()?;
        Some(counted.bytes_leaving.iter().sum::<u64>() as f64 / counted.bytes_leaving.len().max(1) as f64)
    }

    /// Peak memory of a rank in bytes: of its buffers, or, where no plan counts them, the largest resident set.
    pub fn peak(&self) -> Option<f64> {
        let resident = || self.record.rounds().iter().filter_map(|round| round.memory_peak).max();
        self.record.counted.as_ref().map(|counted| counted.peak()).or_else(resident).map(|bytes| bytes as f64)
    }

    /// Why there is no number.
    pub fn failure(&self) -> Option<&'a str> {
        match &self.record.outcome {
            Outcome::Failed { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// A failure in two words, for figures.
    pub fn verdict(&self) -> &'static str {
        match self.failure() {
            Some(reason) if reason.contains("memory") => "out of memory",
            Some(_) => "does not run",
            None => "",
        }
    }

    /// The colour of its system; PyTorch's are pale.
    pub fn fill(&self) -> Fill {
        let colour = of_system(&self.record.cell.system);
        match self.record.cell.program {
            Program::Tawpipe => Fill::Solid(colour),
            Program::Torch => Fill::Pale(colour),
        }
    }
}

/// What was asked for, as far as it is there; else PyTorch's FSDP and DDP, else `fsdp` and `1f1b`.
fn references_of<'a>(entries: &[Entry<'a>], asked: &[String]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    let mut add = |wanted: &dyn Fn(&Cell) -> bool| {
        let mut cells = entries.iter().map(|entry| &entry.record.cell);
        if let Some(cell) = cells.find(|cell| wanted(cell))
            && !found.contains(&cell.series.as_str())
        {
            found.push(&cell.series);
        }
    };
    if !asked.is_empty() {
        asked.iter().for_each(|name| add(&|cell| cell.series == *name));
        return found;
    }
    for system in ["fsdp", "ddp"] {
        add(&|cell| cell.program == Program::Torch && cell.system == system);
    }
    for system in ["fsdp", "1f1b"] {
        let torch = entries.iter().any(|entry| entry.record.cell.program == Program::Torch);
        add(&|cell| !torch && cell.system == system);
    }
    found
}
