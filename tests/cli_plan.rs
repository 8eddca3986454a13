//! What `tawpipe plan` says to a user: what does not fit and what would, what is wasted, models from elsewhere.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const DECK: &str = r#"
[model]
dim = 64
layers = 4
heads = 4
vocab = 1000

[data]
text = "nowhere.txt"
seq = 128

[batch]
global = 32
micro = 4

[run]
recompute = "none"

[system]
name = "tawpipe"
"#;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deck.toml"), DECK).unwrap();
    folder
}

/// A file of the repository.
fn shipped(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Exit code, standard output and standard error of `tawpipe plan`.
fn plan(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("tawpipe").unwrap();
    command.current_dir(folder).arg("plan").args(args).timeout(std::time::Duration::from_secs(300));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(folder: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = plan(folder, &[args, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

/// A deck that does not fit is bad input, with the smallest change that makes it fit, its memory and its predicted time; with
/// that change it does fit, and takes that time.
#[test]
fn what_does_not_fit_says_what_would() {
    let folder = folder();
    let laptop = shipped("inputs/clusters/laptop.toml");
    let (_, whole) = json(folder.path(), &["deck.toml", "--cluster", &laptop]);
    let (_, block) = json(folder.path(), &["deck.toml", "--cluster", &laptop, "--set", "run.recompute=block"]);
    let of = |value: &Value| value["memory_peak"].as_u64().unwrap();
    assert!(of(&block) < of(&whole));
    let limit = format!("cluster.memory={}", of(&block));
    let args = ["deck.toml", "--cluster", &laptop, "--set", &limit];
    let (code, out, err) = plan(folder.path(), &args);
    assert_eq!(code, 2, "{out}{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    for words in ["deck.toml: a rank needs", "and may use", "smallest change that fits: run.recompute = \"", " a step"]
    {
        assert!(err.contains(words), "no {words:?} in {err}");
    }
    assert!(out.contains("| NO |") || out.contains(" NO |"), "{out}");
    assert!(out.contains("\nIt does not fit. What would:\n- run.recompute = "), "{out}");
    let (code, value) = json(folder.path(), &args);
    assert_eq!((code, &value["fits"]), (2, &Value::Bool(false)));
    let changes = value["changes"].as_array().unwrap();
    assert!(!changes.is_empty());
    for change in changes {
        assert!(change["memory_peak"].as_u64().unwrap() <= of(&block), "{change}");
        assert!(change["step"].as_f64().unwrap() > 0.0, "{change}");
        let words = change["change"].as_str().unwrap();
        if words.contains("ranks in") {
            continue;
        }
        // Every change is one that a deck can be given.
        let sets: Vec<String> = words.split(", ").map(|set| set.replace(" = ", "=")).collect();
        let mut args = args.to_vec();
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let (code, changed) = json(folder.path(), &args);
        assert_eq!((code, &changed["fits"]), (0, &Value::Bool(true)), "{words}");
        assert_eq!(changed["memory_peak"], change["memory_peak"], "{words}");
        assert_eq!(changed["step"], change["step"], "{words}");
    }
    // Of all systems those that do not fit are in the table, which is no failure.
    let (code, out, _) = plan(folder.path(), &[&args[..], &["--all"]].concat());
    assert!(code == 0 && out.contains(" NO |"), "{out}");
    // Where nothing that was tried helps, it says so.
    let (code, _, err) = plan(folder.path(), &["deck.toml", "--cluster", &laptop, "--set", "cluster.memory=1000"]);
    assert_eq!(code, 2);
    assert!(err.contains("no recomputation, micro-batch, system or number of ranks that was tried fits"), "{err}");
}

/// Idle ranks and rounds that are not full are remarked on, with values that end them; a deck without waste has no remark.
#[test]
fn waste_is_remarked_on() {
    let folder = folder();
    let (_, out, _) = plan(folder.path(), &["deck.toml", "--groups", "8,8"]);
    assert!(out.contains("Remark: 8 of 16 ranks have nothing to do"), "{out}");
    assert!(out.contains("batch.micro = 2, or batch.global = 64"), "{out}");
    let (_, out, _) = plan(folder.path(), &["deck.toml", "--groups", "3,3", "--all"]);
    assert!(out.contains("Remark: in the last of 2 rounds 4 of 6 ranks have no micro-batch"), "{out}");
    let (_, out, _) = plan(folder.path(), &["deck.toml", "--groups", "2,2"]);
    assert!(!out.contains("Remark"), "{out}");
    let (_, value) = json(folder.path(), &["deck.toml", "--groups", "8,8"]);
    assert_eq!(value["remarks"].as_array().unwrap().len(), 1);
}

/// Sizes have three digits and a unit; what no rank has is no row.
#[test]
fn sizes_are_readable() {
    let folder = folder();
    let (_, out, _) = plan(folder.path(), &["deck.toml", "--groups", "2,2"]);
    let sizes: Vec<&str> = out.split('|').map(str::trim).filter(|cell| cell.ends_with('B')).collect();
    assert!(sizes.len() > 10, "{out}");
    for size in sizes {
        let digits = size.chars().filter(char::is_ascii_digit).count();
        assert!(digits <= 4 && !size.starts_with("0 "), "{size} in\n{out}");
    }
    let (_, alone, _) = plan(folder.path(), &["deck.toml", "--set", "system.name=single"]);
    assert!(!alone.contains("between groups") && !alone.contains(" 0.00 ") && !alone.contains(" 0 B "), "{alone}");
}

/// What is left to `tawpipe` is chosen by the memory there is, and said; the published system is a preset.
#[test]
fn the_default_is_chosen_by_memory() {
    let folder = folder();
    let args = ["deck.toml", "--groups", "2,2"];
    let (_, value) = json(folder.path(), &args);
    let system = &value["system"];
    assert_eq!((&system["weight_cache"], &system["grad_sync"]), (&"group".into(), &"iteration".into()), "{system}");
    let less = format!("cluster.memory={}", value["memory_peak"].as_u64().unwrap() - 1);
    let (code, tight) = json(folder.path(), &[&args[..], &["--set", &less]].concat());
    assert_eq!((code, &tight["fits"]), (0, &Value::Bool(true)));
    assert_ne!(tight["system"], *system);
    let (_, out, _) = plan(folder.path(), &args);
    assert!(out.contains("weight_cache = \"group\"") && out.contains("chooses by the memory"), "{out}");
    let (_, paper) = json(folder.path(), &[&args[..], &["--set", "system.preset=paper"]].concat());
    let found =
        ["blocks_per_shard", "embed", "stagger", "hop", "weight_cache", "grad_sync"].map(|key| &paper["system"][key]);
    let wanted: [Value; 6] =
        [1.into(), "replicated".into(), "slots".into(), "direct".into(), "none".into(), "round".into()];
    assert!(found.into_iter().eq(wanted.iter()), "{}", paper["system"]);
}

/// The shapes that come with the program: each has as many parameters as its makers say, and fits the cluster of its deck.
#[test]
fn models_from_elsewhere() {
    let cases = [
        ("llama-3.2-1b", "paper-3x8-10gbe", 1_235_814_400u64, "RoPE of kind \"llama3\""),
        ("llama-3.1-8b", "paper-3x8-10gbe", 8_030_261_248, "RoPE of kind \"llama3\""),
        ("llama-3.1-70b", "h100-8x8-400g", 70_553_706_496, "RoPE of kind \"llama3\""),
        ("mistral-7b", "paper-3x8-10gbe", 7_241_732_096, "a window of 4096 tokens"),
        ("qwen3-8b", "h100-8x8-400g", 8_190_735_360, "norms of queries and keys"),
    ];
    let folder = folder();
    let mut decks = 0;
    for entry in std::fs::read_dir(shipped("inputs/models")).unwrap() {
        decks += usize::from(entry.unwrap().path().is_file());
    }
    assert_eq!(decks, cases.len(), "every deck of inputs/models has a case here");
    for (name, cluster, parameters, remark) in cases {
        let cluster = shipped(&format!("inputs/clusters/{cluster}.toml"));
        let (code, value) =
            json(folder.path(), &[&shipped(&format!("inputs/models/{name}.toml")), "--cluster", &cluster]);
        assert_eq!((code, &value["fits"]), (0, &Value::Bool(true)), "{name}");
        assert_eq!(value["parameters"].as_u64(), Some(parameters), "{name}");
        assert!(value["remarks"].as_array().unwrap().iter().any(|r| r.as_str().unwrap().contains(remark)), "{name}");
    }
    // In place of a deck's own model; single keys can still be set.
    let config = shipped("inputs/models/qwen3-8b/config.json");
    let (_, value) =
        json(folder.path(), &["deck.toml", "--groups", "2,2", "--model", &config, "--set", "model.layers=1"]);
    let block = 192_946_432;
    assert_eq!(value["parameters"].as_u64(), Some(8_190_735_360 - 35 * block));
    let (code, _, err) = plan(folder.path(), &["deck.toml", "--model", "deck.toml"]);
    assert!(code == 2 && err.contains("--model deck.toml: a config.json, or a folder with one"), "{err}");
}
