//! Hugging Face folders: what is read, what is written, what is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tawpipe::checkpoint::hf::{ExportOptions, HfFolder, TensorFile, Width, export, read_config};
use tawpipe::checkpoint::{CheckpointError, Source, open, tensors};
use tawpipe::model::ModelShape;
use tempfile::TempDir;

/// The committed folder of a parity reference.
pub fn parity(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}

/// A copy that may be spoiled.
fn copy(folder: &TempDir) -> PathBuf {
    let to = folder.path().join("model");
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::write(to.join(file), fs::read(parity("b_gqa2/init").join(file)).unwrap()).unwrap();
    }
    to
}

/// All weights of a model, in model order.
fn weights(source: &dyn Source) -> Vec<Vec<f32>> {
    let read = |param: &tawpipe::model::Param| {
        let mut out = vec![0.0; param.len()];
        source.read(&param.name, 0, &mut out).unwrap();
        out
    };
    tensors(source.shape()).iter().map(read).collect()
}

/// Norms of the weights are those PyTorch wrote down, and a part of a tensor is that part.
#[test]
fn weights_are_those_of_pytorch() {
    for name in ["a_mha4", "b_gqa2"] {
        let folder = HfFolder::open(&parity(name).join("init")).unwrap();
        let reference: Value =
            serde_json::from_str(&fs::read_to_string(parity(name).join("reference.json")).unwrap()).unwrap();
        for (param, values) in tensors(folder.shape()).iter().zip(weights(&folder)) {
            let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let wanted = reference["float32"]["initial_param_l2"][&param.name].as_f64().unwrap();
            // Both sums are in f64 over f32 values; only their order differs.
            assert!((norm - wanted).abs() < 1e-12 * wanted, "{}: {norm} != {wanted}", param.name);
            let mut part = [0.0; 5];
            folder.read(&param.name, 11, &mut part).unwrap();
            assert_eq!(part, values[11..16]);
        }
    }
}

/// A config as transformers 4 writes it, with everything optional left out.
fn config4() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "bfloat16",
        "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_hidden_layers": 6,
        "rms_norm_eps": 1e-5, "rope_scaling": null, "vocab_size": 256, "pretraining_tp": 1
    })
}

/// Configs of transformers 4 and 5, with defaults where keys are absent.
#[test]
fn both_kinds_of_config_are_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.json");
    let read = |value: &Value| {
        fs::write(&path, value.to_string()).unwrap();
        read_config(&path).unwrap()
    };
    let shape = read(&config4());
    assert_eq!((shape.head_dim, shape.kv_heads, shape.tied, shape.rope_theta), (16, 4, false, 10_000.0));
    assert_eq!(shape.norm_eps, 1e-5);
    let mut value = config4();
    value.as_object_mut().unwrap().remove("rms_norm_eps");
    assert_eq!(read(&value).norm_eps, 1e-6);
    let mut value = config4();
    value["rope_theta"] = json!(500_000);
    value["num_key_value_heads"] = json!(1);
    value["tie_word_embeddings"] = json!(true);
    value["head_dim"] = json!(32);
    let shape = read(&value);
    assert_eq!((shape.head_dim, shape.kv_heads, shape.tied, shape.rope_theta), (32, 1, true, 500_000.0));
    let mut value = config4();
    value["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 7000.0});
    assert_eq!(read(&value).rope_theta, 7000.0);
    // As transformers 5 saves a model that had these keys elsewhere.
    value["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 7000.0, "partial_rotary_factor": 1.0});
    assert_eq!(read(&value).rope_theta, 7000.0);
    // What the default kind does not read changes nothing.
    let mut value = config4();
    value["rope_scaling"] = json!({"rope_type": "default", "factor": 4.0, "original_max_position_embeddings": 8192});
    assert_eq!(read(&value), read(&config4()));
    value["rope_scaling"] = json!({"type": "default", "factor": 1.0, "low_freq_factor": null, "mscale": 0.7});
    assert_eq!(read(&value), read(&config4()));
}

/// Whatever would change the maths is one line that names the file, the key and what is accepted.
#[test]
fn settings_that_change_the_maths_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.json");
    for (key, value, said) in [
        ("model_type", json!("mistral"), "accepted: \"llama\""),
        ("architectures", json!(["LlamaForSequenceClassification"]), "accepted: [\"LlamaForCausalLM\"]"),
        ("hidden_act", json!("gelu"), "accepted: \"silu\""),
        ("attention_bias", json!(true), "accepted: false"),
        ("mlp_bias", json!(true), "accepted: false"),
        ("sliding_window", json!(4096), "accepted: null"),
        ("attention_dropout", json!(0.1), "accepted: 0.0"),
        ("quantization_config", json!({"bits": 4}), "accepted: null"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling.type = \"linear\""),
        ("rope_scaling", json!("yarn"), "expected a table or null"),
        ("rope_parameters", json!({"rope_type": "llama3"}), "rope_parameters.rope_type = \"llama3\""),
        ("rope_parameters", json!({"rope_theta": 1e4, "factor": 8.0}), "rope_parameters.factor"),
        ("rope_scaling", json!({"factor": 8.0}), "rope_scaling.factor is not supported"),
        ("rope_parameters", json!({"rope_type": "default", "spin": 2}), "rope_parameters.spin is not supported"),
        (
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
            "rope_parameters.partial_rotary_factor = 0.5 is not supported; accepted: 1.0",
        ),
        ("partial_rotary_factor", json!(0.5), "accepted: 1.0"),
        ("rope_theta", json!(-1.0), "expected a number above 0"),
        ("hidden_size", json!("64"), "expected a whole number"),
        ("hidden_size", Value::Null, "is missing"),
        ("hidden_size", json!(65), "does not divide hidden_size = 65"),
        ("num_hidden_layers", json!(0), "expected a whole number"),
        ("num_hidden_layers", json!(1u64 << 40), "expected a whole number"),
        ("num_key_value_heads", json!(3), "= 3 does not divide num_attention_heads = 4"),
        ("head_dim", json!(15), "= 15 is odd"),
        ("tie_word_embeddings", json!("yes"), "expected true or false"),
    ] {
        let mut config = config4();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = read_config(&path).unwrap_err();
        let text = error.to_string();
        assert!(error.is_bad_input());
        assert!(text.starts_with(path.to_str().unwrap()) && !text.contains('\n'), "{text}");
        assert!(text.contains(key) || said.contains(key) || text.contains("num_attention_heads"), "{text}");
        assert!(text.contains(said), "{text}\ndoes not say\n{said}");
    }
    fs::write(&path, "{").unwrap();
    assert!(read_config(&path).unwrap_err().to_string().contains("is no JSON"));
}

/// Rewrites the header of a safetensors file.
fn edit_header(path: &Path, edit: impl Fn(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.extend(&bytes[8 + size..]);
    fs::write(path, out).unwrap();
}

/// Missing, extra and misshapen tensors, foreign types, truncation and damage are one line each.
#[test]
fn damaged_folders_are_refused() {
    const DOWN: &str = "model.layers.2.mlp.down_proj.weight";
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 10] = [
        ("is truncated", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("is too long", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes.push(0);
            fs::write(path, bytes).unwrap();
        }),
        ("no safetensors file", |path| fs::write(path, b"abc").unwrap()),
        ("no sound safetensors file", |path| fs::write(path, [0xff; 64]).unwrap()),
        ("no sound safetensors file", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[9] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("tensor model.layers.2.mlp.down_proj.weight is missing", |path| {
            edit_header(path, |h| {
                let map = h.as_object_mut().unwrap();
                let info = map.remove(DOWN).unwrap();
                map.insert("lost".into(), info);
            });
        }),
        ("config.json makes it [64, 176]", |path| edit_header(path, |h| h[DOWN]["shape"] = json!([176, 64]))),
        ("has type I32; accepted: F32, BF16, F16", |path| edit_header(path, |h| h[DOWN]["dtype"] = json!("I32"))),
        ("InvalidOffset", |path| edit_header(path, |h| h[DOWN]["data_offsets"] = json!([0, 45056]))),
        ("is not of the model in config.json", |path| {
            edit_header(path, |h| {
                let end = h.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64()).max().unwrap();
                h["zzz.bias"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [end, end]});
            });
        }),
    ];
    for (said, spoil) in cases {
        let folder = TempDir::new().unwrap();
        let model = copy(&folder);
        spoil(&model.join("model.safetensors"));
        let error = HfFolder::open(&model).expect_err(said);
        let text = error.to_string();
        assert!(error.is_bad_input() && text.contains("model.safetensors") && !text.contains('\n'), "{text}");
        // The safetensors crate words some of these itself.
        assert!(text.contains(said) || (said == "InvalidOffset" && text.contains("offset")), "{text}\nnot\n{said}");
    }
    let folder = TempDir::new().unwrap();
    let model = copy(&folder);
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let source = HfFolder::open(&model).unwrap();
    let params = tensors(source.shape());
    let errors: Vec<String> = params
        .iter()
        .filter_map(|p| source.read(&p.name, 0, &mut vec![0.0; p.len()]).err().map(|e| e.to_string()))
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("is damaged: element") && errors[0].contains("NaN"), "{}", errors[0]);
    fs::remove_file(&file).unwrap();
    assert!(HfFolder::open(&model).unwrap_err().to_string().contains("neither model.safetensors nor"));
    assert!(open(&model.join("nowhere")).err().unwrap().to_string().contains("does not exist"));
    assert!(open(folder.path()).err().unwrap().to_string().contains("neither a Hugging Face folder"));
}

/// Any flipped bit of a safetensors header is refused, or leaves every tensor what it was; none makes us panic.
#[test]
fn flipped_headers_are_refused_or_harmless() {
    let folder = TempDir::new().unwrap();
    let model = copy(&folder);
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let size = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let wanted = weights(&HfFolder::open(&model).unwrap());
    let file = fs::File::options().write(true).open(&path).unwrap();
    let mut harmless = Vec::new();
    for at in 0..size {
        let flipped = bytes[at] ^ (1 << (at % 8));
        file.write_all_at(&[flipped], at as u64).unwrap();
        match HfFolder::open(&model) {
            Ok(read) if weights(&read) == wanted => harmless.push(at),
            Ok(_) => panic!("byte {at} of the header changed the model unnoticed"),
            Err(error) => assert!(error.is_bad_input() && !error.to_string().contains('\n'), "{error}"),
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    println!("{} of {size} flips are harmless", harmless.len());
    assert!(harmless.len() < size / 20, "spaces and metadata only: {harmless:?}");
}

/// Splits a folder's only file in two with an index; an index that promises too much, or points elsewhere, is refused.
#[test]
fn sharded_folders_are_read() {
    let folder = TempDir::new().unwrap();
    let model = copy(&folder);
    let single = HfFolder::open(&model).unwrap();
    let wanted = weights(&single);
    let mut map = serde_json::Map::new();
    let params = tensors(single.shape());
    for (number, half) in params.chunks(params.len() / 2 + 1).enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", number + 1);
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = half
            .iter()
            .map(|p| {
                let mut values = vec![0.0; p.len()];
                single.read(&p.name, 0, &mut values).unwrap();
                map.insert(p.name.clone(), json!(name));
                (p.name.clone(), p.dims(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let views = data.iter().map(|(name, dims, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        safetensors::serialize_to_file(views, None, &model.join(&name)).unwrap();
    }
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let index = model.join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, Value>| {
        fs::write(&index, json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()).unwrap();
    };
    write(&map);
    assert_eq!(weights(&HfFolder::open(&model).unwrap()), wanted);
    let refused = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut map = map.clone();
        change(&mut map);
        write(&map);
        HfFolder::open(&model).unwrap_err().to_string()
    };
    let text = refused(&|map| drop(map.remove("lm_head.weight")));
    assert!(text.contains("index.json: tensor lm_head.weight is missing"), "{text}");
    let text = refused(&|map| drop(map.insert("lm_head.weight".into(), json!("../x.safetensors"))));
    assert!(text.contains("expected the name of a file in the same folder"), "{text}");
    let text = refused(&|map| drop(map.insert("lm_head.weight".into(), json!("model-00009-of-00002.safetensors"))));
    assert!(text.contains("No such file"), "{text}");
    let text = refused(&|map| drop(map.insert("lm_head.weight".into(), json!("model-00001-of-00002.safetensors"))));
    assert!(text.contains("promises it"), "{text}");
}

/// Export of an f32 folder is the same model bit by bit; bf16 and f16 are the nearest values; a folder in use is left
/// alone.
#[test]
fn export_round_trips() {
    let folder = TempDir::new().unwrap();
    let source = HfFolder::open(&parity("b_gqa2/final")).unwrap();
    let wanted = weights(&source);
    for width in [Width::F32, Width::Bf16, Width::F16] {
        let to = folder.path().join(width.torch_name());
        let tokenizer = folder.path().join("tokenizer.json");
        fs::write(&tokenizer, "{}").unwrap();
        let options = ExportOptions { width, positions: 64, tokenizer: Some(&tokenizer) };
        export(&source, &to, &options).unwrap();
        let read = HfFolder::open(&to).unwrap();
        assert_eq!(read.shape(), source.shape());
        let rounded = |x: f32| match width {
            Width::F32 => x,
            Width::Bf16 => half::bf16::from_f32(x).to_f32(),
            Width::F16 => half::f16::from_f32(x).to_f32(),
        };
        let expected: Vec<Vec<f32>> = wanted.iter().map(|t| t.iter().map(|&x| rounded(x)).collect()).collect();
        assert_eq!(weights(&read), expected);
        assert_eq!(fs::read_to_string(to.join("tokenizer.json")).unwrap(), "{}");
        // A flipped bit that leaves every value plausible is found by the checksums that exports carry.
        read.check(0, 2).and(read.check(1, 2)).expect("sound");
        let file = to.join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - width.bytes();
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let shares = [0, 1].map(|part| HfFolder::open(&to).unwrap().check(part, 2));
        let errors: Vec<_> = shares.into_iter().filter_map(Result::err).collect();
        assert!(errors.len() == 1 && errors[0].to_string().contains("does not match its checksum"), "{errors:?}");
        let error = export(&source, &to, &options).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }
}

/// A model in memory, with one element of its choice.
struct Spoilt {
    shape: ModelShape,
    tensor: &'static str,
    at: usize,
    value: f32,
}

impl Source for Spoilt {
    fn path(&self) -> &Path {
        Path::new("spoilt")
    }

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        out.fill(0.25);
        if name == self.tensor && (start..start + out.len()).contains(&self.at) {
            out[self.at - start] = self.value;
        }
        Ok(())
    }
}

/// What could not be read back is not exported: numbers that are none, that are no weights, or that the stored type makes
/// infinite. The tensor is named and nothing is written.
#[test]
fn weights_that_cannot_be_stored_are_refused() {
    const TENSOR: &str = "model.layers.1.mlp.down_proj.weight";
    let folder = TempDir::new().unwrap();
    let shape = HfFolder::open(&parity("a_mha4/final")).unwrap().shape().clone();
    let try_to = |width: Width, value: f32| {
        let to = folder.path().join("out");
        let source = Spoilt { shape: shape.clone(), tensor: TENSOR, at: 77, value };
        let outcome = export(&source, &to, &ExportOptions { width, positions: 8, tokenizer: None });
        if outcome.is_ok() {
            let read = HfFolder::open(&to).unwrap();
            let mut values = vec![0.0; 78];
            read.read(TENSOR, 0, &mut values).unwrap();
            fs::remove_dir_all(&to).unwrap();
            return Ok(values[77]);
        }
        assert!(!to.exists());
        outcome.map(|()| 0.0)
    };
    assert_eq!(try_to(Width::F16, 65504.0), Ok(65504.0));
    // Rounds down to the largest.
    assert_eq!(try_to(Width::F16, 65519.0), Ok(65504.0));
    assert_eq!(try_to(Width::F32, 1e6), Ok(1e6));
    assert_eq!(try_to(Width::Bf16, -1e9), Ok(half::bf16::from_f32(-1e9).to_f32()));
    for (width, value, said) in [
        (Width::F16, 1e6, "element 77 is 1000000, and float16 ends at 65504"),
        (Width::F16, -65520.0, "element 77 is -65520, and float16 ends at 65504"),
        (Width::F16, f32::NAN, "element 77 is NaN"),
        (Width::Bf16, f32::MAX, "element 77 is 340"),
        (Width::F32, f32::NEG_INFINITY, "element 77 is -inf"),
        (Width::F32, f32::NAN, "element 77 is NaN"),
        (Width::F32, 3e10, "element 77 is 30000000000, which is no weight"),
    ] {
        let error = try_to(width, value).unwrap_err();
        let text = error.to_string();
        assert!(error.is_bad_input() && text.contains(TENSOR) && text.contains(said), "{text}\nnot\n{said}");
    }
}

/// config.json ties head and embedding, and the file holds both: where they are alike the model is tied, where they differ
/// it has a head of its own, as in transformers 5.
#[test]
fn a_head_of_its_own_unties() {
    let folder = TempDir::new().unwrap();
    let model = copy(&folder);
    let own = weights(&HfFolder::open(&model).unwrap());
    let config = model.join("config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    assert_eq!(value["tie_word_embeddings"], json!(false));
    value["tie_word_embeddings"] = json!(true);
    fs::write(&config, value.to_string()).unwrap();
    let read = HfFolder::open(&model).unwrap();
    assert!(!read.shape().tied);
    assert_eq!(weights(&read), own);
    // Its last element alone tells them apart.
    let file = model.join("model.safetensors");
    let embedding = TensorFile::open(&file).unwrap();
    let len = read.shape().vocab * read.shape().dim;
    let mut values = vec![0.0; len];
    embedding.read("model.embed_tokens.weight", 0, &mut values).unwrap();
    for (last, tied) in [(values[len - 1] + 1.0, false), (values[len - 1], true)] {
        values[len - 1] = last;
        put(&file, "lm_head.weight", &values);
        assert_eq!(HfFolder::open(&model).unwrap().shape().tied, tied);
    }
}

/// Overwrites an f32 tensor of a safetensors file.
fn put(file: &Path, name: &str, values: &[f32]) {
    let bytes = fs::read(file).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let header: Value = serde_json::from_slice(&bytes[8..8 + size as usize]).unwrap();
    let start = 8 + size + header[name]["data_offsets"][0].as_u64().unwrap();
    let out = fs::File::options().write(true).open(file).unwrap();
    out.write_all_at(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(), start).unwrap();
}
