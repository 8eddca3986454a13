//! Types a key of a deck can have.

use std::path::PathBuf;

use toml::Value as Toml;

use crate::cluster::{Costs, MOST_RANKS};
use crate::data::{Order, TokenType, TokenizerChoice, Valid};
use crate::model::{Dtype, Recompute};

use super::section::Origin;

/// A type that a key of a deck can have.
pub trait Value: Sized {
    /// What is accepted, for messages and documentation.
    fn accepts() -> String;
    /// From TOML; `None` if the value is of another kind or out of range.
    fn read(value: &Toml, origin: &Origin) -> Option<Self>;
    /// From the text behind `--set key=`, where it reads as TOML of another kind; for values that are texts themselves.
    fn read_text(_: &str, _: &Origin) -> Option<Self> {
        None
    }
    /// What is accepted instead of a value that was refused, where that is more than [`Value::accepts`].
    fn problem(_: &Toml, _: &Origin) -> Option<String> {
        None
    }
    /// To TOML; `None` if there is nothing to write.
    fn write(&self) -> Option<Toml>;
}

impl<T: Value> Value for Option<T> {
    fn accepts() -> String {
        T::accepts()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        T::read(value, origin).map(Some)
    }
    fn read_text(text: &str, origin: &Origin) -> Option<Self> {
        T::read_text(text, origin).map(Some)
    }
    fn problem(value: &Toml, origin: &Origin) -> Option<String> {
        T::problem(value, origin)
    }
    fn write(&self) -> Option<Toml> {
        self.as_ref().and_then(T::write)
    }
}

impl Value for bool {
    fn accepts() -> String {
        "true or false".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::Boolean(*self))
    }
}

impl Value for usize {
    fn accepts() -> String {
        "a whole number".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        value.as_integer().and_then(|n| n.try_into().ok())
    }
    fn write(&self) -> Option<Toml> {
        i64::try_from(*self).ok().map(Toml::Integer)
    }
}

impl Value for u64 {
    fn accepts() -> String {
        "a whole number".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        value.as_integer().and_then(|n| n.try_into().ok())
    }
    fn write(&self) -> Option<Toml> {
        i64::try_from(*self).ok().map(Toml::Integer)
    }
}

impl Value for f64 {
    fn accepts() -> String {
        "a number".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        value.as_float().or_else(|| value.as_integer().map(|n| n as f64)).filter(|x| x.is_finite())
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::Float(*self))
    }
}

impl Value for [f64; 2] {
    fn accepts() -> String {
        "two numbers, such as [0.9, 0.95]".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        match value.as_array()?.as_slice() {
            [a, b] => Some([f64::read(a, origin)?, f64::read(b, origin)?]),
            _ => None,
        }
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::Array(self.iter().map(|x| Toml::Float(*x)).collect()))
    }
}

impl Value for PathBuf {
    fn accepts() -> String {
        "a path, relative to the deck".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        PathBuf::read_text(value.as_str()?, origin)
    }
    fn read_text(text: &str, origin: &Origin) -> Option<Self> {
        Some(text).filter(|path| !path.is_empty()).and_then(|path| origin.path(path).ok())
    }
    fn problem(value: &Toml, origin: &Origin) -> Option<String> {
        let problem = origin.path(value.as_str()?).err()?;
        Some(format!("a path, {problem}"))
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::String(self.to_string_lossy().into_owned()))
    }
}

/// A span of time in seconds; a deck may also write it as `hh:mm:ss`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub f64);

/// Longest time that is accepted, some thirty years in seconds.
const MOST_SECONDS: f64 = 1e9;

impl Value for Seconds {
    fn accepts() -> String {
        "seconds above 0, at most 1e9, or hh:mm:ss".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        // Unquoted, TOML reads a clock time.
        let clock = value.as_str().map(str::to_string).or_else(|| value.as_datetime().map(ToString::to_string));
        let seconds = match clock {
            None => f64::read(value, origin)?,
            Some(clock) => {
                let parts: Vec<u32> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
                let [hours, minutes, seconds] = parts[..] else { return None };
                f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + f64::from(seconds)
            }
        };
        (seconds > 0.0 && seconds <= MOST_SECONDS).then_some(Seconds(seconds))
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::Float(self.0))
    }
}

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub usize);

const UNITS: [(&str, f64); 4] = [("GiB", 1073741824.0), ("MiB", 1048576.0), ("GB", 1e9), ("MB", 1e6)];

impl Value for Memory {
    fn accepts() -> String {
        "bytes, or a number with a unit such as \"80 GB\" or \"24 GiB\"".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        let Some(text) = value.as_str() else { return usize::read(value, origin).filter(|&b| b > 0).map(Memory) };
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        // More than that is no amount of bytes, and would not be written back.
        (number > 0.0 && number * factor < i64::MAX as f64).then_some(Memory((number * factor) as usize))
    }
    fn write(&self) -> Option<Toml> {
        Some(Toml::Integer(self.0 as i64))
    }
}

/// Where the costs of a plan come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CostSource {
    /// Floating point operations.
    Flops,
    /// Times on rank 0 at the start of a run.
    Measure,
    /// The deck, or an earlier measurement.
    Given(Costs),
}

impl Value for CostSource {
    fn accepts() -> String {
        "flops | measure, or a table of times".into()
    }
    fn read(value: &Toml, _: &Origin) -> Option<Self> {
        match value {
            Toml::String(word) if word == "flops" => Some(CostSource::Flops),
            Toml::String(word) if word == "measure" => Some(CostSource::Measure),
            Toml::Table(table) => {
                let costs: Costs = table.clone().try_into().ok()?;
                costs.valid().then_some(CostSource::Given(costs))
            }
            _ => None,
        }
    }
    fn write(&self) -> Option<Toml> {
        match self {
            CostSource::Flops => Some("flops".into()),
            CostSource::Measure => Some("measure".into()),
            CostSource::Given(costs) => Toml::try_from(costs).ok(),
        }
    }
}

impl Value for Valid {
    fn accepts() -> String {
        "a fraction from 0 to below 1, or a path".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        match f64::read(value, origin) {
            Some(fraction) => (0.0..1.0).contains(&fraction).then_some(Valid::Fraction(fraction)),
            None => PathBuf::read(value, origin).map(Valid::File),
        }
    }
    fn read_text(text: &str, origin: &Origin) -> Option<Self> {
        // A number that is no fraction is more likely a mistake than a file.
        if text.parse::<f64>().is_ok() { None } else { PathBuf::read_text(text, origin).map(Valid::File) }
    }
    fn problem(value: &Toml, origin: &Origin) -> Option<String> {
        PathBuf::problem(value, origin)
    }
    fn write(&self) -> Option<Toml> {
        match self {
            Valid::Fraction(fraction) => fraction.write(),
            Valid::File(path) => path.write(),
        }
    }
}

impl Value for TokenizerChoice {
    fn accepts() -> String {
        "\"bytes\", or the path of a tokenizer.json".into()
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        match value.as_str()? {
            "bytes" => Some(TokenizerChoice::Bytes),
            _ => PathBuf::read(value, origin).map(TokenizerChoice::File),
        }
    }
    fn read_text(text: &str, origin: &Origin) -> Option<Self> {
        PathBuf::read_text(text, origin).map(TokenizerChoice::File)
    }
    fn problem(value: &Toml, origin: &Origin) -> Option<String> {
        PathBuf::problem(value, origin)
    }
    fn write(&self) -> Option<Toml> {
        match self {
            TokenizerChoice::Bytes => Some(Toml::String("bytes".into())),
            TokenizerChoice::File(path) => path.write(),
        }
    }
}

/// Sizes of groups of ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RanksPerGroup {
    /// All groups alike; the last may be smaller.
    Each(usize),
    /// One size a group.
    List(Vec<usize>),
}

impl Value for RanksPerGroup {
    fn accepts() -> String {
        format!("a whole number from 1 to {MOST_RANKS}, or a list of them such as [1, 2, 3] that is no more together")
    }
    fn read(value: &Toml, origin: &Origin) -> Option<Self> {
        let size = |value: &Toml| usize::read(value, origin).filter(|size| (1..=MOST_RANKS).contains(size));
        let Some(list) = value.as_array() else { return size(value).map(RanksPerGroup::Each) };
        let sizes: Vec<usize> = list.iter().map(size).collect::<Option<_>>()?;
        // At most 2^16 times a number of ranks: no overflow.
        let fine = !sizes.is_empty() && sizes.len() <= MOST_RANKS && sizes.iter().sum::<usize>() <= MOST_RANKS;
        fine.then_some(RanksPerGroup::List(sizes))
    }
    fn write(&self) -> Option<Toml> {
        match self {
            RanksPerGroup::Each(size) => size.write(),
            RanksPerGroup::List(sizes) => sizes.iter().map(usize::write).collect::<Option<_>>().map(Toml::Array),
        }
    }
}

/// Declares the words a key accepts.
macro_rules! words {
    ($type:ty { $($word:literal => $value:path),+ $(,)? }) => {
        impl Value for $type {
            fn accepts() -> String {
                [$(concat!("\"", $word, "\"")),+].join(" or ")
            }
            fn read(value: &Toml, _: &Origin) -> Option<Self> {
                match value.as_str()? {
                    $($word => Some($value),)+
                    _ => None,
                }
            }
            fn write(&self) -> Option<Toml> {
                let words = [$(($word, $value)),+];
                words.iter().find(|(_, value)| value == self).map(|(word, _)| Toml::String((*word).into()))
            }
        }
    };
}

/// How the learning rate goes on after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Straight down to `min_lr` at the last step.
    Linear,
    /// Half a cosine down to `min_lr` at the last step.
    Cosine,
    /// Warm-up, stable, decay: stays for four fifths of the run, then straight down to `min_lr`.
    Wsd,
}

/// How a communication thread waits for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Naps of some 50 µs between looks: right when threads share cores.
    Nap,
    /// Looks without pause: right when the thread has a core of its own.
    Spin,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// GPUs where every rank has one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// What carries messages between GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricKind {
    /// NCCL where it can be had, else MPI.
    Auto,
    /// From GPU to GPU.
    Nccl,
    /// Through the hosts' memory.
    Mpi,
}

words!(Schedule {
    "constant" => Schedule::Constant,
    "linear" => Schedule::Linear,
    "cosine" => Schedule::Cosine,
    "wsd" => Schedule::Wsd,
});
words!(Poll { "nap" => Poll::Nap, "spin" => Poll::Spin });
words!(DeviceKind { "auto" => DeviceKind::Auto, "cpu" => DeviceKind::Cpu, "cuda" => DeviceKind::Cuda });
words!(FabricKind { "auto" => FabricKind::Auto, "nccl" => FabricKind::Nccl, "mpi" => FabricKind::Mpi });
words!(Dtype { "f32" => Dtype::F32, "bf16" => Dtype::Bf16 });
words!(Recompute {
    "none" => Recompute::None,
    "selective" => Recompute::Selective,
    "block" => Recompute::Block,
});
words!(Order { "sequential" => Order::Sequential, "random" => Order::Random });
words!(TokenType { "u8" => TokenType::U8, "u16" => TokenType::U16, "u32" => TokenType::U32, "i32" => TokenType::I32 });
