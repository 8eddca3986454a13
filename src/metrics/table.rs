//! The one table of metrics: name, type, unit, meaning.

use serde_json::{Map, Value as Json};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole number.
    U64,
    /// Real number; NaN where it is unknown.
    F64,
    /// Something that holds or does not. In JSON `true`, or left out; in HDF5 1 or 0.
    Bool,
}

impl Kind {
    /// Name, as in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::U64 => "u64",
            Kind::F64 => "f64",
            Kind::Bool => "bool",
        }
    }
}

/// A metric's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a [`Kind::U64`].
    U64(u64),
    /// Of a [`Kind::F64`].
    F64(f64),
    /// Of a [`Kind::Bool`].
    Bool(bool),
}

impl Value {
    /// As a real number, for plots.
    pub fn real(self) -> f64 {
        match self {
            Value::U64(n) => n as f64,
            Value::F64(x) => x,
            Value::Bool(holds) => f64::from(u8::from(holds)),
        }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Key in JSON, name of the dataset in HDF5.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Unit; `1` for a plain number.
    pub unit: &'static str,
    /// What it counts, and over what.
    pub doc: &'static str,
}

/// A line of the journal.
pub trait Row: Sized {
    /// Group in HDF5 that holds one dataset a metric.
    const GROUP: &'static str;
    /// What its numbers are, in order.
    const METRICS: &'static [Metric];
    /// Its numbers, in that order.
    fn values(&self) -> Vec<Value>;
    /// From numbers in that order, of those types.
    fn from_values(values: &[Value]) -> Self;
    /// Steps taken.
    fn step(&self) -> u64;

    /// As a JSON object on one line, in full precision; NaN and infinity are `null`.
    fn json(&self) -> String {
        let pairs = Self::METRICS.iter().zip(self.values()).filter_map(|(metric, value)| {
            let value = match value {
                Value::U64(n) => Json::from(n),
                Value::F64(x) => Json::from(x),
                Value::Bool(holds) => holds.then_some(Json::Bool(true))?,
            };
            Some((metric.name.to_string(), value))
        });
        Json::Object(pairs.collect()).to_string()
    }

    /// From a JSON object; the error names the key.
    fn from_json(map: &Map<String, Json>) -> Result<Self, String> {
        let values = Self::METRICS.iter().map(|metric| {
            let value = map.get(metric.name).unwrap_or(&Json::Null);
            match (metric.kind, value) {
                (Kind::U64, value) => value.as_u64().map(Value::U64),
                (Kind::F64, Json::Null) => Some(Value::F64(f64::NAN)),
                (Kind::F64, value) => value.as_f64().map(Value::F64),
                (Kind::Bool, Json::Null) => Some(Value::Bool(false)),
                (Kind::Bool, value) => value.as_bool().map(Value::Bool),
            }
            .ok_or_else(|| format!("{} = {value}; expected {}", metric.name, metric.kind.name()))
        });
        Ok(Self::from_values(&values.collect::<Result<Vec<_>, _>>()?))
    }
}

/// A type that a metric can have.
trait Number: Copy {
    const KIND: Kind;
    fn value(self) -> Value;
    fn of(value: Value) -> Self;
}

impl Number for u64 {
    const KIND: Kind = Kind::U64;
    fn value(self) -> Value {
        Value::U64(self)
    }
    fn of(value: Value) -> Self {
        match value {
            Value::U64(n) => n,
            other => other.real() as u64,
        }
    }
}

impl Number for f64 {
    const KIND: Kind = Kind::F64;
    fn value(self) -> Value {
        Value::F64(self)
    }
    fn of(value: Value) -> Self {
        value.real()
    }
}

impl Number for bool {
    const KIND: Kind = Kind::Bool;
    fn value(self) -> Value {
        Value::Bool(self)
    }
    fn of(value: Value) -> Self {
        value.real() != 0.0
    }
}

/// Makes a struct and its table from one list.
macro_rules! table {
    ($(#[$about:meta])* $name:ident in $group:literal { $($field:ident: $kind:ty, $unit:literal, $doc:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(#[doc = concat!($doc, " Unit: ", $unit, ".")] pub $field: $kind,)*
        }

        impl Row for $name {
            const GROUP: &'static str = $group;
            const METRICS: &'static [Metric] = &[
                $(Metric { name: stringify!($field), kind: <$kind as Number>::KIND, unit: $unit, doc: $doc },)*
            ];
            fn values(&self) -> Vec<Value> {
                vec![$(self.$field.value(),)*]
            }
            fn from_values(values: &[Value]) -> Self {
                let mut values = values.iter().copied();
                // Every table has as many values as metrics; a missing one would be zero.
                let mut next = || values.next().unwrap_or(Value::U64(0));
                $name { $($field: Number::of(next()),)* }
            }
            fn step(&self) -> u64 {
                self.step
            }
        }
    };
}

table! {
    /// What a training step reports.
    Record in "train" {
        step: u64, "1", "Number of the step, from 1.";
        loss: f64, "nat/token", "Mean cross-entropy over the target tokens of the global batch, before the update.";
        grad_norm: f64, "1", "L2 norm of the gradient of all parameters, before clipping.";
        lr: f64, "1", "Learning rate of this step.";
        tokens: u64, "token", "Tokens trained on so far, over all ranks, this step included.";
        step_s: f64, "s", "Wall time of the step on rank 0.";
        tokens_per_s: f64, "token/s", "Tokens of this step per second, all ranks together.";
        tokens_per_s_rank: f64, "token/s", "Tokens of this step per second and rank.";
        mfu: f64, "1", "Model FLOP utilisation: model FLOP/s divided by the peak FLOP/s of all ranks. Model FLOPs are 6 a parameter and token plus causal attention, without recomputation. The peak of processor cores is measured; that of GPUs is what their maker states for bf16.";
        mfu_full: f64, "1", "Model FLOP utilisation with attention counted in full instead of causally, as some publications do.";
        exposed_s: f64, "s", "Time in the step in which rank 0 computed nothing because it waited for communication.";
        bytes_intra: u64, "byte", "Bytes sent inside groups in this step, over all ranks.";
        bytes_inter: u64, "byte", "Bytes sent between groups in this step, over all ranks.";
        bytes_control: u64, "byte", "Bytes of scalars and barriers sent in this step, over all ranks.";
        memory_peak: u64, "byte", "The most memory of any rank so far: on processors its resident set, on GPUs the bytes of its plan and of what the device keeps beside it.";
        skipped: bool, "1", "The update was left out, because the loss or the gradient norm was not finite or the norm was an outlier.";
    }
}

table! {
    /// What a validation reports.
    Validation in "valid" {
        step: u64, "1", "Steps taken before the validation.";
        valid_loss: f64, "nat/token", "Mean cross-entropy over the validation tokens.";
        bits_per_byte: f64, "bit/byte", "The validation loss in bits per byte of text; unknown (NaN, null) unless the bytes of the text are known.";
        valid_s: f64, "s", "Wall time of the validation on rank 0.";
    }
}

/// The table as Markdown, for the documentation.
pub fn markdown<R: Row>() -> String {
    let mut text = String::from("| name | type | unit | meaning |\n|---|---|---|---|\n");
    for Metric { name, kind, unit, doc } in R::METRICS {
        text += &format!("| `{name}` | {} | {unit} | {doc} |\n", kind.name());
    }
    text
}
