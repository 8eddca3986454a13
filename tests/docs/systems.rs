//! `docs/systems.md`: what the table of systems, the checker and the simulator say is written by the program; formulas,
//! advice and differences from papers by people.

use std::fmt::Write;

use tawpipe::cluster::{Costs, Groups};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::check::{Summary, check};
use tawpipe::plan::systems::{Entry, SYSTEMS, Schedule, SystemOptions, schedule};
use tawpipe::plan::{Batch, Job, RankPlan, Refusal};
use tawpipe::report::{Picture, Table, TimeUnit, gantt};
use tawpipe::simulate::{Prices, Simulation, simulate};

use super::{compare, options, parts, read};

const DOCUMENT: &str = "docs/systems.md";

/// A job of the size that fits a drawing.
pub fn small(system: SystemOptions, groups: &[usize], layers: usize, micros: usize) -> Job {
    Job {
        shape: ModelShape {
            dim: 1024,
            layers,
            heads: 16,
            kv_heads: 16,
            head_dim: 64,
            ffn: 2816,
            vocab: 32000,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        },
        groups: Groups::new(groups),
        batch: Batch { seq: 4096, micro: 1, micros },
        dtype: Dtype::Bf16,
        grad_dtype: Dtype::F32,
        recompute: Recompute::Selective,
        costs: Costs::unit(),
        memory: None,
        system,
    }
}

/// The options of a system as a deck would give them.
pub fn options_of(name: &str, keys: &[(&str, &str)]) -> SystemOptions {
    let keys = keys.iter().map(|(key, value)| (key.to_string(), serde_json::Value::from(*value)));
    let table = keys.chain([("name".to_string(), serde_json::Value::from(name))]).collect();
    serde_json::from_value(serde_json::Value::Object(table)).expect("a system of the table and its options")
}

/// The job that a system's drawing shows.
fn drawn(name: &str) -> Job {
    match name {
        "single" => small(options_of(name, &[]), &[1], 4, 4),
        // The paper's figure.
        "tawpipe" => small(SystemOptions::paper(), &[2, 2, 2], 6, 6),
        // Two chunks a rank.
        "1f1b-interleaved" | "zb-v" => small(options_of(name, &[]), &[2, 2], 8, 8),
        _ => small(options_of(name, &[]), &[2, 2], 4, 8),
    }
}

/// A plan with its numbers in the units of papers.
pub struct Drawn {
    pub schedule: Schedule,
    pub plans: Vec<RankPlan>,
    pub summary: Summary,
    pub simulation: Simulation,
}

impl Drawn {
    pub fn new(job: &Job) -> Result<Drawn, Refusal> {
        let schedule = schedule(job)?;
        let plans = schedule.ranks();
        let summary = check(&schedule, &plans).unwrap_or_else(|defects| panic!("{:?}", defects[0]));
        let simulation = simulate(&schedule, &plans, &Prices::unit()).unwrap();
        Ok(Drawn { schedule, plans, summary, simulation })
    }

    pub fn svg(&self, lanes: bool) -> String {
        let Drawn { schedule, plans, simulation, .. } = self;
        gantt(&Picture { schedule, plans, timeline: &simulation.timeline, unit: TimeUnit::Forwards }, lanes)
    }
}

/// The generated part of a system's section.
fn section(entry: &Entry) -> (String, String) {
    let job = drawn(entry.name);
    let found = Drawn::new(&job).unwrap_or_else(|refusal| panic!("{}: {refusal}", entry.name));
    let mut text = format!(
        "## `{}`\n\n{}.\n\nRuns: {}. Embedding and head: {}.\n\n",
        entry.name,
        sentence(entry.summary),
        entry.domain,
        entry.ends
    );
    let table = serde_json::to_value(options_of(entry.name, &[])).unwrap();
    let table = table.as_object().unwrap();
    let meanings = options::of(entry.name);
    if table.len() > 1 {
        text += "| option | default | |\n|---|---|---|\n";
        for (key, default) in table.iter().filter(|(key, _)| *key != "name") {
            let meaning = meanings.iter().find(|meaning| meaning.key == *key);
            let words = meaning.map(|meaning| meaning.words.as_str()).filter(|words| !words.is_empty());
            let words = words.unwrap_or_else(|| panic!("{}: option {key} is not documented", entry.name));
            let _ = writeln!(text, "| `{key}` | `{default}` | {} |", words.replace('|', "\\|"));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "![{} drawn in unit times](systems/{}.svg)\n", entry.name, entry.name);
    let traffic = found.summary.traffic();
    let _ = writeln!(
        text,
        "Drawn: {}. It takes {} forwards of a block, {:.1} % of them bubble, and sends {} MB between groups and {} MB \
         inside; the largest rank needs {} MiB.",
        situation(&job),
        found.simulation.step_s,
        100.0 * found.simulation.bubble(),
        mega(traffic.inter),
        mega(traffic.intra),
        found.summary.peak() >> 20,
    );
    (text, found.svg(entry.name == "tawpipe"))
}

fn situation(job: &Job) -> String {
    let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
    let options: Vec<String> = job.system.changed().iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
    let options = if options.is_empty() { String::new() } else { format!(", {}", options.join(", ")) };
    format!("groups of {}, {} blocks, {} micro-batches{options}", sizes.join(" + "), job.shape.layers, job.batch.micros)
}

fn mega(bytes: usize) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// All systems on one job.
fn comparison() -> String {
    let head = ["system", "bubble %", "between groups MB", "inside MB", "largest rank MiB"];
    let mut table = Table::new(head.map(String::from).to_vec());
    let all = SYSTEMS.iter().filter(|entry| entry.name != "single").flat_map(|entry| {
        let paper = (entry.name == "tawpipe").then(|| (entry, SystemOptions::paper()));
        std::iter::once((entry, options_of(entry.name, &[]))).chain(paper)
    });
    for (entry, system) in all {
        let words = if system == SystemOptions::paper() { ", preset = \"paper\"" } else { "" };
        let job = Job { recompute: Recompute::Block, ..small(system, &[4, 4], 24, 32) };
        let found = Drawn::new(&job).unwrap_or_else(|refusal| panic!("{}: {refusal}", entry.name));
        let traffic = found.summary.traffic();
        table.row(vec![
            format!("[`{}`](#{}){words}", entry.name, entry.name),
            format!("{:.1}", 100.0 * found.simulation.bubble()),
            mega(traffic.inter),
            mega(traffic.intra),
            (found.summary.peak() >> 20).to_string(),
        ]);
    }
    format!("{table}")
}

/// Every system has a section whose numbers and drawing are those of its plan, and a part that a person has written.
#[test]
fn systems_reference() {
    let mut text = read(DOCUMENT);
    for entry in SYSTEMS.iter() {
        if !text.contains(&format!("<!-- system {} -->", entry.name)) {
            let _ = write!(text, "\n<!-- system {} -->\n<!-- end system -->\n", entry.name);
        }
        let (section, svg) = section(entry);
        text = parts::replace(&text, "system", |name| (name == entry.name).then(|| section.clone()));
        compare(&format!("docs/systems/{}.svg", entry.name), &svg);
    }
    text = parts::replace(&text, "table", |_| Some(comparison()));
    compare(DOCUMENT, &text);

    for entry in SYSTEMS.iter() {
        let written = text.split(&format!("<!-- system {} -->", entry.name)).nth(1).unwrap();
        let written = written.split("<!-- end system -->").nth(1).unwrap().split("<!-- system").next().unwrap();
        for words in ["**Formulas.**", "**Use it**", "**Differs**"] {
            assert!(written.contains(words), "{DOCUMENT}: {} has no {words}", entry.name);
        }
    }
}
