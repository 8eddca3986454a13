//! The reference of all keys, `docs/deck.md`, written from the sections themselves.

use std::fmt::Write;

use toml::{Table, Value as Toml};

use crate::plan::systems::{SYSTEMS, SystemOptions};

use super::{
    BatchSection, ClusterSection, DataSection, GpuSection, ModelSection, OptimSection, RunSection, Section, system,
};

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Deck reference\n\n\
         Written by `cargo test --test cli deck_reference` from `src/deck/sections.rs`; edit that file instead.\n\n\
         A deck is a TOML file. Paths are relative to it; a leading `~` is the home folder, variables such as `$HOME`\n\
         are refused (a shell expands them). `--set section.key=value` replaces a key. A key that nothing reads, or a\n\
         number out of its range, is an error. Each run saves its deck with all defaults filled in as `deck.toml`.\n",
    );
    section::<ModelSection>(&mut out);
    section::<DataSection>(&mut out);
    section::<BatchSection>(&mut out);
    section::<OptimSection>(&mut out);
    section::<RunSection>(&mut out);
    section::<GpuSection>(&mut out);
    section::<ClusterSection>(&mut out);
    systems(&mut out);
    out
}

fn section<S: Section>(out: &mut String) {
    let _ = writeln!(out, "\n## `[{}]`\n\n{}\n", S::NAME, S::ABOUT.trim());
    out.push_str("| key | accepts | default | |\n|---|---|---|---|\n");
    for key in S::keys() {
        let default = match key.default {
            Some(Toml::Float(small)) if small != 0.0 && small < 1e-4 => format!("`{small:e}`"),
            Some(value) => format!("`{value}`"),
            None => String::new(),
        };
        let _ =
            writeln!(out, "| `{}` | {} | {default} | {} |", key.name, key.accepts.replace('|', "\\|"), key.doc.trim());
    }
}

/// Every system with its options and their defaults; what they mean stands in `src/plan/systems/`.
fn systems(out: &mut String) {
    let _ = writeln!(
        out,
        "\n## `[system]`\n\nThe parallel system: `name`, and that system's options with their defaults (see \
         `src/plan/systems/`).\n"
    );
    for entry in SYSTEMS {
        let name = entry.name;
        let table = Table::from_iter([("name".to_string(), Toml::String(name.into()))]);
        let options: SystemOptions = table.try_into().expect("every option of a system has a default");
        let _ = write!(
            out,
            "`{name}`: {}. Runs on {}.\n\n```toml\n[system]\nname = \"{name}\"\n",
            entry.summary, entry.domain
        );
        for (key, value) in system::write(&options).into_iter().filter(|(key, _)| key != "name") {
            let _ = writeln!(out, "{key} = {value}");
        }
        out.push_str("```\n");
    }
}
