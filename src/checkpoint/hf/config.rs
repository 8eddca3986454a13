//! `config.json` to a model's shape and back. What would change the maths is refused, never ignored.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::model::{ModelShape, ShapeError};

use super::super::{CheckpointError, Result};
use super::Width;

/// Settings that must be absent, null or have this value, because another one is another model.
const ONLY: &[(&str, &str)] = &[
    ("hidden_act", "\"silu\""),
    ("attention_bias", "false"),
    ("mlp_bias", "false"),
    ("sliding_window", "null"),
    ("use_sliding_window", "false"),
    ("attention_dropout", "0.0"),
    ("partial_rotary_factor", "1.0"),
    ("quantization_config", "null"),
    ("is_encoder_decoder", "false"),
    ("add_cross_attention", "false"),
];

/// What other kinds of rotary embedding read; rope_type "default" knows none of them, and transformers leaves them be.
const OF_OTHER_KINDS: [&str; 11] = [
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
];

/// A JSON object of a file, for errors that name both.
struct Table<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Table<'_> {
    /// A key's value; null counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn bad<T>(&self, key: &str, problem: String) -> Result<T> {
        Err(CheckpointError::setting(self.path, key, problem))
    }

    /// A key of one type; an error if it is there with another.
    fn typed<T>(&self, key: &str, wanted: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(value) => Ok(Some(value)),
            None => self.bad(key, format!("= {value}; expected {wanted}")),
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        // Sizes above 2^32 would overflow products; no model has them.
        let convert = |v: &Value| v.as_u64().filter(|&n| n > 0 && n <= u64::from(u32::MAX)).map(|n| n as usize);
        self.typed(key, "a whole number from 1 to 4294967295", convert)
    }

    fn need_size(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            Some(value) => Ok(value),
            None => self.bad(key, "is missing; expected a whole number".into()),
        }
    }

    fn real(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |v| v.as_f64().filter(|&x| x > 0.0 && x.is_finite()))
    }
}

/// Reads `config.json` of a Hugging Face LLaMA, as transformers 4 or 5 writes it.
pub fn read_config(path: &Path) -> Result<ModelShape> {
    let text = fs::read_to_string(path).map_err(CheckpointError::read(path))?;
    parse_config(&text, path)
}

/// `max_position_embeddings`, if it is there.
pub(super) fn read_positions(path: &Path) -> Result<Option<usize>> {
    let text = fs::read_to_string(path).map_err(CheckpointError::read(path))?;
    Table { path, map: &object(&text, path)? }.size("max_position_embeddings")
}

/// A file that holds one JSON object.
fn object(text: &str, path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(CheckpointError::damaged(path, "is no JSON object")),
        Err(error) => Err(CheckpointError::damaged(path, format!("is no JSON: {error}"))),
    }
}

/// The same from text; `path` names it in messages.
pub(super) fn parse_config(text: &str, path: &Path) -> Result<ModelShape> {
    let map = object(text, path)?;
    let config = Table { path, map: &map };
    match config.get("model_type") {
        Some(Value::String(kind)) if kind == "llama" => {}
        Some(other) => return config.bad("model_type", format!("= {other}; accepted: \"llama\"")),
        None => return config.bad("model_type", "is missing; accepted: \"llama\"".into()),
    }
    if let Some(list) = config.get("architectures")
        && !list.as_array().is_some_and(|names| names.iter().any(|name| name == "LlamaForCausalLM"))
    {
        return config.bad("architectures", format!("= {list}; accepted: [\"LlamaForCausalLM\"]"));
    }
    for (key, only) in ONLY {
        let only: Value = serde_json::from_str(only).expect("a constant");
        if let Some(value) = config.get(key)
            && *value != only
            && value.as_f64().is_none_or(|number| only.as_f64() != Some(number))
        {
            return config.bad(key, format!("= {value} is not supported; accepted: {only}"));
        }
    }
    let heads = config.need_size("num_attention_heads")?;
    let dim = config.need_size("hidden_size")?;
    let head_dim = match config.size("head_dim")? {
        Some(size) => size,
        None if dim % heads == 0 => dim / heads,
        None => return config.bad("num_attention_heads", format!("= {heads} does not divide hidden_size = {dim}")),
    };
    let shape = ModelShape {
        dim,
        layers: config.need_size("num_hidden_layers")?,
        heads,
        kv_heads: config.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: config.need_size("intermediate_size")?,
        vocab: config.need_size("vocab_size")?,
        tied: config.typed("tie_word_embeddings", "true or false", Value::as_bool)?.unwrap_or(false),
        rope_theta: rope_theta(&config)?,
        norm_eps: config.real("rms_norm_eps")?.unwrap_or(1e-6),
        extra: Default::default(),
    };
    shape.validate().map_err(|error| match &error {
        ShapeError::Groups { heads, kv_heads } => CheckpointError::setting(
            path,
            "num_key_value_heads",
            format!("= {kv_heads} does not divide num_attention_heads = {heads}"),
        ),
        ShapeError::OddHead(size) => {
            CheckpointError::setting(path, "head_dim", format!("= {size} is odd; rotary embedding needs an even one"))
        }
        _ => CheckpointError::damaged(path, error.to_string()),
    })?;
    Ok(shape)
}

/// Base of the rotary frequencies: transformers 4 writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`.
fn rope_theta(config: &Table) -> Result<f64> {
    let mut theta = config.real("rope_theta")?;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = config.get(key) else { continue };
        let Value::Object(map) = value else {
            return config.bad(key, format!("= {value}; expected a table or null"));
        };
        let rope = Table { path: config.path, map };
        for kind in ["rope_type", "type"] {
            if let Some(value) = rope.get(kind)
                && value != "default"
            {
                return config
                    .bad(&format!("{key}.{kind}"), format!("= {value} is not supported; accepted: \"default\""));
            }
        }
        let default = ["rope_type", "type"].iter().any(|kind| rope.get(kind).is_some());
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "rope_type" | "type" => {}
                "rope_theta" => theta = rope.real(name)?.or(theta),
                "partial_rotary_factor" if value.as_f64() == Some(1.0) => {}
                "partial_rotary_factor" => {
                    return config.bad(&format!("{key}.{name}"), format!("= {value} is not supported; accepted: 1.0"));
                }
                other if default && OF_OTHER_KINDS.contains(&other) => {}
                _ => {
                    let accepted = "accepted: rope_type, rope_theta, partial_rotary_factor";
                    return config.bad(&format!("{key}.{name}"), format!("is not supported; {accepted}"));
                }
            }
        }
    }
    Ok(theta.unwrap_or(10_000.0))
}

/// Text of a `config.json` for a shape, understood by transformers 4 and 5. `positions` is the longest sequence it was
/// trained on.
pub fn write_config(shape: &ModelShape, width: Width, positions: usize) -> String {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "dtype": width.torch_name(),
        "eos_token_id": null,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": positions,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": { "rope_theta": shape.rope_theta, "rope_type": "default" },
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": width.torch_name(),
        "vocab_size": shape.vocab,
    });
    serde_json::to_string_pretty(&config).expect("plain data") + "\n"
}
