//! `tawpipe inspect`: what is in any file that this program reads or writes.
//!
//! Files of a run and of a model are described by `metrics`; here are those that people write, which are text. Everything
//! binary that carries no mark is shown as token ids.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::cluster::Description;
use crate::data::{Tokenizer, TokenizerChoice};
use crate::deck::{Deck, SECTIONS};
use crate::exit::Exit;
use crate::experiment::Experiment;
use crate::output::out;
use crate::results;

use super::launch::Unusable;

/// Bytes by which a text is recognised.
const START: u64 = 4096;

/// Most bytes of a text that is looked into: no deck, cluster or result is larger, tokenizers are below.
const MOST: u64 = 1 << 28;

/// Prints what it is, and what is in it.
pub fn run(path: &Path) -> anyhow::Result<Exit> {
    match text(path) {
        Some(text) => out!("{}: {}\n", path.display(), describe(path, &text)?),
        None => out!("{}", crate::metrics::inspect(path)?),
    }
    Ok(Exit::Done)
}

/// The contents of a text file that is no journal.
fn text(path: &Path) -> Option<String> {
    let about = path.metadata().ok().filter(|about| about.is_file() && (1..MOST).contains(&about.len()))?;
    let mut start = Vec::new();
    File::open(path).ok()?.take(START).read_to_end(&mut start).ok()?;
    // A character may be cut at the end of what was read.
    let sound = std::str::from_utf8(&start)
        .map_or_else(|error| error.error_len().is_none() && (start.len() as u64) < about.len(), |_| true);
    let plain = |byte: &u8| *byte >= b' ' || b"\t\r\n\x0c".contains(byte);
    if !sound || !start.iter().all(plain) || crate::metrics::is_journal(&start) {
        return None;
    }
    std::fs::read_to_string(path).ok()
}

fn describe(path: &Path, text: &str) -> anyhow::Result<String> {
    if let Ok(Value::Object(map)) = serde_json::from_str(text) {
        let has = |key: &str| map.contains_key(key);
        return if has("format") && has("cell") {
            result(path)
        } else if has("model") && (has("pre_tokenizer") || has("added_tokens")) {
            let tokenizer = Tokenizer::load(&TokenizerChoice::File(path.to_path_buf()))?;
            Ok(format!("Hugging Face tokenizer of {} ids", tokenizer.vocab()))
        } else if has("model_type") {
            let shape = crate::checkpoint::hf::read_config(path)?;
            let shape_text = serde_json::to_string(&shape).expect("plain values");
            Ok(format!("configuration of a Hugging Face model of {} parameters\n{shape_text}", shape.params()))
        } else {
            Err(none(path, "a JSON file, but no result of an experiment, tokenizer.json or config.json"))
        };
    }
    // Results in lines: several JSON objects, each a line.
    if let Some(Ok(Value::Object(first))) = text.lines().next().map(serde_json::from_str)
        && first.contains_key("format")
        && first.contains_key("cell")
    {
        let records = results::read_lines(path).map_err(|error| Unusable(error.to_string()))?;
        return Ok(format!("{} results of experiment {}", records.len(), records[0].cell.experiment));
    }
    let Ok(table) = toml::from_str::<toml::Table>(text) else {
        return Err(none(
            path,
            "a text, but no TOML or JSON file (deck, cluster, experiment, result, tokenizer.json), nor a checkpoint, \
             metrics, model or token file; `tawpipe tokenize` makes token files of texts",
        ));
    };
    let has = |key: &str| table.contains_key(key);
    if has("cells") || has("where") {
        let experiment = Experiment::read(path)?;
        let cells = experiment.cells(None)?.len();
        Ok(format!("experiment of {cells} cells: {}", experiment.keys.title))
    } else if has("nodes") || has("links") {
        let machine = Description::read(path)?;
        let (ranks, groups) = (machine.ranks(), machine.groups().sizes());
        Ok(format!("cluster \"{}\": {ranks} ranks in groups of {groups:?}\n{}", machine.name, machine.to_toml()))
    } else if SECTIONS.iter().any(|section| has(section)) {
        let deck = Deck::read(path, &[])?;
        Ok(format!("deck; with all defaults filled in it is\n{}", deck.to_toml()))
    } else {
        Err(none(path, "a TOML file, but no deck ([model], [data], …), cluster ([[nodes]]) or experiment ([[cells]])"))
    }
}

fn result(path: &Path) -> anyhow::Result<String> {
    let record = results::read(path).map_err(|error| Unusable(error.to_string()))?;
    let what = match &record.outcome {
        results::Outcome::Measured(_) => format!("measured in {} rounds", record.rounds().len()),
        results::Outcome::Failed { reason, .. } => format!("failed: {reason}"),
        results::Outcome::Predicted => "predicted only".into(),
    };
    let rate = record.tokens_per_s().map_or_else(String::new, |rate| format!(", {rate:.0} tokens/s"));
    Ok(format!("result of cell {} of experiment {}, {what}{rate}", record.cell.id, record.cell.experiment))
}

fn none(path: &Path, words: &str) -> anyhow::Error {
    Unusable(format!("{}: is {words}", path.display())).into()
}
