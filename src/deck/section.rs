//! What a section of a deck is: a struct whose fields are keys with a type, a default and a documentation.
//!
//! The macro [`section!`] writes the struct, its default, its reader and its documentation from one text, so that
//! what `docs/deck.md` says, what the reader accepts and what the program uses cannot drift apart.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::{Table, Value as Toml};

use crate::paths::expand;

use super::error::{DeckError, nearest};
use super::value::Value;

/// One key, as the documentation shows it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Name inside its section.
    pub name: &'static str,
    /// What it does; units included.
    pub doc: &'static str,
    /// What it accepts, such as `a whole number` or `f32 | bf16`.
    pub accepts: String,
    /// Its default as TOML; `None` if it has none and may be left out.
    pub default: Option<Toml>,
}

/// A section of a deck.
pub trait Section: Default {
    /// Its name: `[name]`.
    const NAME: &'static str;
    /// What it is about.
    const ABOUT: &'static str;
    /// Its keys in the order of the documentation.
    fn keys() -> Vec<Key>;
    /// Reads it; keys left out take their defaults.
    fn read(fields: Fields<'_>) -> Result<Self, DeckError>;
    /// Every key that has a value.
    fn write(&self) -> Table;
}

/// Where the deck was read and which keys `--set` replaced.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The deck file, as given.
    pub file: PathBuf,
    /// Its folder, absolute: relative paths start here.
    pub folder: PathBuf,
    /// `section.key` to the `--set` argument that gave it.
    pub sets: HashMap<String, String>,
}

impl Origin {
    /// Who is to blame for a key.
    pub fn of(&self, key: &str) -> String {
        match self.sets.get(key) {
            Some(set) => format!("--set {set}"),
            None => self.file.display().to_string(),
        }
    }

    /// The value of a key as it was typed behind `--set`.
    pub fn typed(&self, key: &str) -> Option<&str> {
        Some(self.sets.get(key)?.split_once('=')?.1.trim())
    }

    /// An error about the deck as a whole.
    pub fn invalid(&self, message: impl Into<String>) -> DeckError {
        DeckError::Invalid { file: self.file.clone(), message: message.into() }
    }

    /// An absolute path from one that may be relative to the deck, or start with `~`.
    ///
    /// # Errors
    /// What is accepted, where the path is none.
    pub fn path(&self, path: &str) -> Result<PathBuf, String> {
        let path = expand(Path::new(path), &self.folder)?;
        // The folder is canonical, so leading `..` can be folded by name.
        let (mut folder, mut rest) = (self.folder.as_path(), path.as_path());
        while let (Ok(tail), Some(parent)) = (rest.strip_prefix(".."), folder.parent()) {
            (folder, rest) = (parent, tail);
        }
        Ok(if rest.as_os_str().is_empty() { folder.to_path_buf() } else { folder.join(rest) })
    }
}

/// The TOML of one section, taken key by key.
#[derive(Debug)]
pub struct Fields<'a> {
    section: &'static str,
    table: Table,
    origin: &'a Origin,
}

impl<'a> Fields<'a> {
    /// Checks that every key of the table is a key of the section.
    pub fn new(section: &'static str, table: Table, origin: &'a Origin, keys: &[Key]) -> Result<Self, DeckError> {
        let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        check_names(section, &table, origin, &names)?;
        Ok(Fields { section, table, origin })
    }

    /// A key's value, if it is there; a number must lie in the range, if there is one.
    pub fn take<T: Value>(&mut self, key: &str, range: Option<RangeInclusive<u64>>) -> Result<Option<T>, DeckError> {
        let Some(found) = self.table.remove(key) else { return Ok(None) };
        let key = format!("{}.{key}", self.section);
        let inside =
            |number: i64| range.as_ref().is_none_or(|range| u64::try_from(number).is_ok_and(|n| range.contains(&n)));
        let value = if found.as_integer().is_none_or(inside) { T::read(&found, self.origin) } else { None };
        // A folder may be called 17 or 2026-11-28, which TOML reads as something else.
        let typed = || self.origin.typed(&key).and_then(|text| T::read_text(text, self.origin));
        value.or_else(typed).map(Some).ok_or_else(|| {
            let accepts = T::problem(&found, self.origin).unwrap_or_else(|| accepts(T::accepts(), range.as_ref()));
            DeckError::Value { origin: self.origin.of(&key), key, found: found.to_string(), accepts }
        })
    }
}

/// What a key accepts: its type's words, and the range.
pub fn accepts(words: String, range: Option<&RangeInclusive<u64>>) -> String {
    match range {
        Some(range) => format!("{words} from {} to {}", range.start(), range.end()),
        None => words,
    }
}

/// Refuses the first key that is no name of the section.
pub fn check_names(section: &str, table: &Table, origin: &Origin, names: &[&str]) -> Result<(), DeckError> {
    match table.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let name = format!("{section}.{key}");
            let hint = nearest(key, &format!("{section}."), names);
            Err(DeckError::Unknown { origin: origin.of(&name), what: "key", name, hint })
        }
    }
}

/// Declares a section: `section! { /// about  "name": Type { /// doc  key: Type = default => range, … } }`; keys that are
/// whole numbers have a range.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $title:literal: $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr $(=> $range:expr)?, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $key: $default, )+ }
            }
        }

        impl $crate::deck::section::Section for $name {
            const NAME: &'static str = $title;
            const ABOUT: &'static str = concat!($($about),+);

            fn keys() -> Vec<$crate::deck::section::Key> {
                use $crate::deck::value::Value;
                let default = Self::default();
                vec![ $( $crate::deck::section::Key {
                    name: stringify!($key),
                    doc: concat!($($doc),+),
                    accepts: $crate::deck::section::accepts(
                        <$type as Value>::accepts(),
                        $crate::deck::section::range!($($range)?).as_ref(),
                    ),
                    default: default.$key.write(),
                }, )+ ]
            }

            fn read(mut fields: $crate::deck::section::Fields<'_>) -> Result<Self, $crate::deck::DeckError> {
                Ok($name { $(
                    $key: fields
                        .take(stringify!($key), $crate::deck::section::range!($($range)?))?
                        .unwrap_or_else(|| $default),
                )+ })
            }

            fn write(&self) -> toml::Table {
                use $crate::deck::value::Value;
                let mut table = toml::Table::new();
                $( if let Some(value) = self.$key.write() {
                    table.insert(stringify!($key).into(), value);
                } )+
                table
            }
        }
    };
}

/// The range of a key, if it has one.
macro_rules! range {
    () => {
        None::<std::ops::RangeInclusive<u64>>
    };
    ($range:expr) => {
        Some($range)
    };
}
pub(super) use {range, section};
