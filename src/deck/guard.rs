//! Types of the keys that guard a run against updates that would ruin it.

use toml::{Table, Value as Toml};

use super::section::Origin;
use super::value::Value;

/// What happens at a step whose loss or gradient norm is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNonfinite {
    /// The run ends with exit code 1.
    Stop,
    /// The step's update is left out.
    Skip,
}

const WORDS: [(&str, OnNonfinite); 2] = [("stop", OnNonfinite::Stop), ("skip", OnNonfinite::Skip)];

impl Value for OnNonfinite {
    fn accepts() -> String {
        "\"stop\" or \"skip\"".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        let word = value.as_str()?;
        WORDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
    }
    fn write(&self) -> Option<Toml> {
        WORDS.iter().find(|(_, kind)| kind == self).map(|(name, _)| Toml::String((*name).into()))
    }
}

/// Which gradient norms are outliers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// How many of the last finite norms a norm is compared with.
    pub window: usize,
    /// How many standard deviations above their mean it may lie.
    pub z: f64,
}

/// Longest window: it is written into every checkpoint.
const LONGEST: usize = 1000;

impl Value for Spike {
    fn accepts() -> String {
        format!("a table {{ window = 2 to {LONGEST}, z = a number above 0 }}")
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        let table = value.as_table().filter(|table| table.len() == 2)?;
        let window = usize::read(table.get("window")?, origin).filter(|window| (2..=LONGEST).contains(window))?;
        let z = f64::read(table.get("z")?, origin).filter(|z| *z > 0.0)?;
        Some(Spike { window, z })
    }
    fn write(&self) -> Option<Toml> {
        let window = Toml::Integer(i64::try_from(self.window).ok()?);
        Some(Toml::Table(Table::from_iter([("window".into(), window), ("z".into(), Toml::Float(self.z))])))
    }
}
