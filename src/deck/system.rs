//! The `[system]` section: read with serde from the options that the systems themselves define.

use toml::{Table, Value as Toml};

use crate::plan::systems::SystemOptions;

use super::error::DeckError;
use super::section::{Origin, check_names};

/// What a deck without the section gets.
pub const DEFAULT: &str = "single";

/// Largest whole number of an option: far more than there are blocks, so that one shard can take all of them.
const MOST: i64 = 1 << 20;

/// Reads the section.
pub fn read(mut table: Table, origin: &Origin) -> Result<SystemOptions, DeckError> {
    table.entry("name").or_insert_with(|| Toml::String(DEFAULT.into()));
    // Key by key, so that a refused value is blamed on its key: serde does not name it.
    let mut so_far = Table::new();
    let mut options = None;
    let name = table.remove_entry("name");
    for (key, value) in name.into_iter().chain(table.clone()) {
        if value.as_integer().is_some_and(|number| !(0..=MOST).contains(&number)) {
            return Err(DeckError::Value {
                origin: origin.of(&format!("system.{key}")),
                key: format!("system.{key}"),
                found: value.to_string(),
                accepts: format!("a whole number from 0 to {MOST}"),
            });
        }
        so_far.insert(key.clone(), value.clone());
        let read = Toml::Table(so_far.clone()).try_into::<SystemOptions>().map_err(|error| DeckError::Value {
            origin: origin.of(&format!("system.{key}")),
            key: format!("system.{key}"),
            found: value.to_string(),
            accepts: accepts(error.message()),
        })?;
        options = Some(read);
    }
    let options = options.expect("the table has a name");
    // Serde ignores what it does not know; what is not written back was not read.
    let known = write(&options);
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    check_names("system", &table, origin, &names)?;
    Ok(options)
}

/// Every option with its value.
pub fn write(options: &SystemOptions) -> Table {
    Table::try_from(options).expect("options are plain values")
}

/// What serde says it wanted, without what it found.
fn accepts(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default().replace('`', "");
    match message.split_once("expected ") {
        Some((_, expected)) => expected.trim_start_matches("one of ").to_string(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { file: "deck.toml".into(), folder: "/".into(), sets: Default::default() }
    }

    fn parse(text: &str) -> Result<SystemOptions, String> {
        read(toml::from_str(text).unwrap(), &origin()).map_err(|e| e.to_string())
    }

    /// Each mistake is blamed on its key, with what would be right.
    #[test]
    fn mistakes_name_their_key() {
        assert_eq!(parse("").unwrap(), SystemOptions::Single);
        let message = parse("name = 'tawpipe'\nblocks_per_shard = 2\nstagger = 'sometimes'").unwrap_err();
        assert!(message.contains("system.stagger = \"sometimes\"") && message.contains("slots"), "{message}");
        let message = parse("name = 'tawpip'").unwrap_err();
        assert!(message.contains("system.name") && message.contains("tawpipe"), "{message}");
        let message = parse("name = 'tawpipe'\nblocks_per_shad = 2").unwrap_err();
        assert!(message.ends_with("did you mean system.blocks_per_shard?"), "{message}");
        let message = parse("name = 'single'\nblocks_per_shard = 2").unwrap_err();
        assert!(message.contains("unknown key system.blocks_per_shard"), "{message}");
    }
}
