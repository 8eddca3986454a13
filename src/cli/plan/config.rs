//! The shape of a model from elsewhere by its `config.json` alone, also of one that cannot be trained yet: a plan needs only
//! what is computed and how many bytes it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::model::{Extra, ModelShape};

use super::super::launch::Unusable;

/// Kinds of models whose blocks are LLaMA's, but for what [`Extra`] has.
const KINDS: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// A model's shape, and what its plan does not tell.
pub struct Config {
    pub shape: ModelShape,
    pub remarks: Vec<String>,
}

/// The `config.json` that a path names: itself, or the one in the folder.
pub fn find(path: &Path) -> Option<PathBuf> {
    let inside = path.join("config.json");
    if path.is_file() && path.extension().is_some_and(|extension| extension == "json") {
        return Some(path.to_path_buf());
    }
    inside.is_file().then_some(inside)
}

/// Reads a `config.json`.
///
/// # Errors
/// If it is none, or of a model with other blocks.
pub fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let text = text.map_err(|error| Unusable(format!("{error:#}")))?;
    let parsed: Result<Value, _> = serde_json::from_str(&text);
    let config = match parsed {
        Ok(map @ Value::Object(_)) => Table { path, map },
        Ok(_) => bail!(Unusable(format!("{}: is no JSON object", path.display()))),
        Err(error) => bail!(Unusable(format!("{}: is no JSON: {error}", path.display()))),
    };
    let kind = config.map["model_type"].as_str().unwrap_or_default();
    if !KINDS.contains(&kind) {
        return config.bad("model_type", &format!("one of {}", KINDS.join(", ")));
    }
    if config.get("hidden_act").is_some_and(|act| act != "silu") {
        return config.bad("hidden_act", "\"silu\"");
    }
    if config.get("quantization_config").is_some() {
        return config.bad("quantization_config", "null");
    }
    let (dim, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let head_dim = match config.get("head_dim") {
        Some(_) => config.size("head_dim")?,
        None if dim.is_multiple_of(heads) => dim / heads,
        None => return config.bad("num_attention_heads", "a divisor of hidden_size"),
    };
    let flag = |key: &str| config.map[key] == true;
    let shape = ModelShape {
        dim,
        layers: config.size("num_hidden_layers")?,
        heads,
        kv_heads: if config.get("num_key_value_heads").is_some() { config.size("num_key_value_heads")? } else { heads },
        head_dim,
        ffn: config.size("intermediate_size")?,
        vocab: config.size("vocab_size")?,
        tied: flag("tie_word_embeddings"),
        rope_theta: config.real(&["rope_theta", "rope_parameters.rope_theta"], 10_000.0)?,
        norm_eps: config.real(&["rms_norm_eps"], 1e-6)?,
        extra: Extra {
            qkv_bias: flag("attention_bias") || kind == "qwen2",
            out_bias: flag("attention_bias"),
            mlp_bias: flag("mlp_bias"),
            qk_norm: kind == "qwen3",
        },
    };
    if let Err(error) = shape.validate() {
        bail!(Unusable(format!("{}: {}", path.display(), error.to_string().replace("model.", ""))));
    }
    Ok(Config { remarks: remarks(&config, &shape), shape })
}

/// What the model has that cannot be trained yet.
fn remarks(config: &Table, shape: &ModelShape) -> Vec<String> {
    let mut list = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let kind = config.map[key]["rope_type"].as_str().or(config.map[key]["type"].as_str());
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            list.push(format!("RoPE of kind \"{kind}\" cannot be trained yet; it changes no number of a plan"));
            break;
        }
    }
    let window = config.map["sliding_window"].as_u64().filter(|_| config.map["use_sliding_window"] != false);
    if let Some(window) = window {
        list.push(format!("a window of {window} tokens cannot be trained yet; attention is counted without it"));
    }
    let Extra { qkv_bias, out_bias, mlp_bias, qk_norm } = shape.extra;
    let biases = [(qkv_bias, "queries, keys and values"), (out_bias, "attention's result"), (mlp_bias, "SwiGLU")];
    let biases: Vec<&str> = biases.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
    if !biases.is_empty() {
        list.push(format!("biases of {} are counted, but cannot be trained yet", biases.join(", of ")));
    }
    if qk_norm {
        list.push("norms of queries and keys are counted, but cannot be trained yet".into());
    }
    list
}

struct Table<'a> {
    path: &'a Path,
    map: Value,
}

impl Table<'_> {
    /// A key's value; null counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        let found = key.split('.').try_fold(&self.map, |value, part| value.get(part))?;
        (!found.is_null()).then_some(found)
    }

    fn bad<T>(&self, key: &str, accepted: &str) -> anyhow::Result<T> {
        let found = self.get(key).map_or("is missing".to_string(), |value| format!("= {value}"));
        bail!(Unusable(format!("{}: {key} {found}; accepted: {accepted}", self.path.display())))
    }

    fn size(&self, key: &str) -> anyhow::Result<usize> {
        match self.get(key).and_then(Value::as_u64) {
            Some(size @ 1..=0xffff_ffff) => Ok(size as usize),
            _ => self.bad(key, "a whole number from 1 to 4294967295"),
        }
    }

    /// The first of the keys that is there.
    fn real(&self, keys: &[&str], default: f64) -> anyhow::Result<f64> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.get(key)?))) else { return Ok(default) };
        match value.as_f64().filter(|number| *number > 0.0) {
            Some(number) => Ok(number),
            None => self.bad(key, "a number above 0"),
        }
    }
}

/// The deck's keys of a shape, as `--set` gives them.
pub fn sets(shape: &ModelShape) -> Vec<String> {
    let ModelShape { dim, layers, heads, kv_heads, head_dim, ffn, vocab, tied, rope_theta, norm_eps, extra: _ } = shape;
    vec![
        format!("model.dim={dim}"),
        format!("model.layers={layers}"),
        format!("model.heads={heads}"),
        format!("model.kv_heads={kv_heads}"),
        format!("model.head_dim={head_dim}"),
        format!("model.ffn={ffn}"),
        format!("model.vocab={vocab}"),
        format!("model.tied={tied}"),
        format!("model.rope_theta={rope_theta:e}"),
        format!("model.norm_eps={norm_eps:e}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.json");
        std::fs::write(&path, text)?;
        read(&find(folder.path()).unwrap())
    }

    const SMALL: &str = r#""hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100"#;

    /// Biases and norms are counted, kinds of RoPE and windows remarked on; other models are refused by key and value.
    #[test]
    fn configs() {
        let plain = written(&format!("{{\"model_type\": \"llama\", {SMALL}}}")).unwrap();
        assert!(plain.remarks.is_empty() && plain.shape.extra.is_none());
        let norms = written(&format!("{{\"model_type\": \"qwen3\", \"sliding_window\": null, {SMALL}}}")).unwrap();
        assert_eq!(norms.shape.params(), plain.shape.params() + 2 * 2 * 16);
        assert!(norms.remarks[0].contains("norms of queries and keys"), "{:?}", norms.remarks);
        let biases = written(&format!("{{\"model_type\": \"qwen2\", {SMALL}}}")).unwrap();
        assert_eq!(biases.shape.params(), plain.shape.params() + 2 * (64 + 2 * 32));
        let text = format!(
            "{{\"model_type\": \"mistral\", \"sliding_window\": 4096, \"rope_scaling\": {{\"rope_type\": \"llama3\"}}, {SMALL}}}"
        );
        let remarks = written(&text).unwrap().remarks;
        assert!(remarks[0].contains("\"llama3\"") && remarks[1].contains("4096"), "{remarks:?}");
        let refused = |text: String| written(&text).map(|_| ()).unwrap_err().to_string();
        let other = refused(format!("{{\"model_type\": \"mixtral\", {SMALL}}}"));
        assert!(other.contains("model_type = \"mixtral\"; accepted: one of llama"), "{other}");
        let missing = refused("{\"model_type\": \"llama\", \"hidden_size\": 64}".into());
        assert!(missing.contains("num_attention_heads is missing"), "{missing}");
        assert!(refused("[]".into()).contains("is no JSON object"));
    }
}
