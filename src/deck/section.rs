//! What a section of a deck is: a struct whose fields are keys with a type, a default and a documentation.
//!
//! The macro [`section!`] writes the struct, its default, its reader and its documentation from one text, so that
//! what `docs/deck.md` says, what the reader accepts and what the program uses cannot drift apart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value as Toml};

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

    /// An error about the deck as a whole.
    pub fn invalid(&self, message: impl Into<String>) -> DeckError {
        DeckError::Invalid { file: self.file.clone(), message: message.into() }
    }

    /// An absolute path from one that may be relative to the deck.
    pub fn path(&self, path: &str) -> PathBuf {
        // The folder is canonical, so leading `..` can be folded by name.
        let (mut folder, mut rest) = (self.folder.as_path(), Path::new(path));
        while let (Ok(tail), Some(parent)) = (rest.strip_prefix(".."), folder.parent()) {
            (folder, rest) = (parent, tail);
        }
        if rest.as_os_str().is_empty() { folder.to_path_buf() } else { folder.join(rest) }
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

    /// A key's value, if it is there.
    pub fn take<T: Value>(&mut self, key: &str) -> Result<Option<T>, DeckError> {
        let Some(found) = self.table.remove(key) else { return Ok(None) };
        T::read(&found, self.origin).map(Some).ok_or_else(|| {
            let key = format!("{}.{key}", self.section);
            DeckError::Value { origin: self.origin.of(&key), key, found: found.to_string(), accepts: T::accepts() }
        })
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

/// Declares a section: `section! { /// about  "name": Type { /// doc  key: Type = default, … } }`.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $title:literal: $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, )+
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
                    accepts: <$type as Value>::accepts(),
                    default: default.$key.write(),
                }, )+ ]
            }

            fn read(mut fields: $crate::deck::section::Fields<'_>) -> Result<Self, $crate::deck::DeckError> {
                Ok($name { $( $key: fields.take(stringify!($key))?.unwrap_or_else(|| $default), )+ })
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
pub(super) use section;
