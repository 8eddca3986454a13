//! Damaged input: every kind of file that the program reads is changed at random and given to the commands that read it. They end
//! with code 0, 1 or 2, soon, and never with a panic, an abort or a signal.
//!
//! `FUZZ_CASES` says how many (2000 in CI, else 200), `FUZZ_SEED` where they start (1; `clock` for others every time). A case that
//! fails is kept under the target folder, and its number with the seed gives the same again: `FUZZ_ONLY=number`.
#![cfg(all(feature = "hdf5", target_os = "linux"))]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Seconds of processor time that a command may use: a busy machine does not make it fail.
const PROCESSOR: u64 = 10;

/// By the clock, for commands that wait for something.
const CLOCK: Duration = Duration::from_secs(60);

/// KiB of address space, so that a file that asks for more memory than there is takes nothing from its neighbours.
const SPACE: u64 = 8_000_000;

const DECK: &str = r#"
[model]
dim = 16
layers = 2
heads = 2
kv_heads = 1
ffn = 32
vocab = 256
rope_theta = 10000.0

[data]
text = "text.txt"
tokenizer = "bytes"
seq = 8
order = "random"
valid = 0.25

[batch]
global = 8
micro = 2

[optim]
lr = 1e-3
betas = [0.9, 0.95]
warmup = 2
clip = 1.0
schedule = "wsd"

[run]
steps = 2
seed = 1
dtype = "f32"
device = "cpu"
threads = 1
folder = "run"
timeout = "00:00:20"

[cluster]
ranks_per_group = [1]
memory = "1 GiB"
costs = "flops"

[system]
name = "tawpipe"
blocks_per_shard = 1
"#;

const EXPERIMENT: &str = r#"
title = "Two systems, simulated"
deck = "point.toml"
steps = 1
warmup = 0
rounds = 1
limit = 60.0

[where]
kind = "simulated"
cluster = "cluster.toml"

[links]
"200 Mbit/s" = { rate = "200mbit", latency = "50us" }

[systems]
"TawPipe" = { name = "tawpipe", weight_cache = "group" }
"1F1B" = { name = "1f1b" }

[[cells]]
nodes = [1, 2]
ranks = [2]
seq = [8, 16]
micros_per_rank = 2
set = { run = { grad_dtype = "bf16" } }
"#;

/// A kind of file, and the commands that read it; they run in a folder in which everything else is sound.
struct Kind {
    name: &'static str,
    /// The file that is changed.
    file: &'static str,
    commands: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "deck",
        file: "deck.toml",
        commands: &[
            "plan deck.toml",
            "plan deck.toml --all --json",
            "plan deck.toml --cluster cluster.toml --ranks 2 --draw a.svg --trace a.json",
            "train deck.toml --dry-run --set run.folder=new",
            "inspect deck.toml",
        ],
    },
    Kind {
        name: "deck of a run",
        file: "run/deck.toml",
        commands: &["report run", "generate run --tokens 3", "train deck.toml --resume --dry-run", "inspect run"],
    },
    Kind {
        name: "cluster",
        file: "cluster.toml",
        commands: &[
            "plan deck.toml --cluster cluster.toml",
            "plan deck.toml --cluster cluster.toml --all",
            "inspect cluster.toml",
            "experiment experiment.toml --dry-run",
        ],
    },
    Kind {
        name: "experiment",
        file: "experiment.toml",
        commands: &["experiment experiment.toml --dry-run", "inspect experiment.toml"],
    },
    Kind {
        name: "result",
        file: "results/cell.json",
        commands: &[
            "report results --out out",
            "inspect results/cell.json",
            "experiment experiment.toml --dry-run --results results",
        ],
    },
    Kind {
        name: "results in lines",
        file: "lines/simulated.jsonl",
        commands: &["report lines --out out", "inspect lines/simulated.jsonl"],
    },
    Kind {
        name: "config.json",
        file: "hf/config.json",
        commands: &[
            "inspect hf",
            "inspect hf/config.json",
            "generate hf --tokens 3",
            "import hf --out new",
            "plan from.toml",
            "train from.toml --dry-run",
        ],
    },
    Kind {
        name: "safetensors",
        file: "hf/model.safetensors",
        commands: &[
            "inspect hf",
            "inspect hf/model.safetensors",
            "generate hf --tokens 3",
            "import hf --out new",
            "train from.toml --dry-run",
        ],
    },
    Kind {
        name: "index of safetensors",
        file: "sharded/model.safetensors.index.json",
        commands: &["inspect sharded", "generate sharded --tokens 3", "import sharded --out new"],
    },
    Kind {
        name: "tokenizer.json",
        file: "tokenizer.json",
        commands: &[
            "tokenize text.txt --tokenizer tokenizer.json --out ids",
            "inspect tokenizer.json",
            "generate run --tokens 3 --tokenizer tokenizer.json",
            "train deck.toml --dry-run --set data.tokenizer=tokenizer.json --set run.folder=new",
        ],
    },
    Kind {
        name: "token ids",
        file: "ids.bin",
        commands: &[
            "inspect ids.bin",
            "train tokens.toml --dry-run",
            "train tokens.toml --dry-run --set data.token_type=i32",
            "train tokens.toml --set data.token_type=u8 --set run.steps=1 --set run.folder=new",
        ],
    },
    Kind {
        name: "text",
        file: "text.txt",
        commands: &[
            "inspect text.txt",
            "tokenize text.txt --tokenizer tokenizer.json --out ids",
            "train deck.toml --set run.steps=1 --set run.folder=new",
        ],
    },
    Kind {
        name: "journal",
        file: "run/metrics.jsonl",
        commands: &[
            "report run",
            "inspect run",
            "inspect run/metrics.jsonl",
            "train deck.toml --resume --set run.steps=3",
        ],
    },
    Kind {
        name: "checkpoint",
        file: "run/checkpoints/step_2.h5",
        commands: &[
            "inspect run/checkpoints/step_2.h5",
            "generate run --tokens 3",
            "export run --out new",
            "train deck.toml --resume --dry-run",
            "train deck.toml --resume --set run.steps=3",
        ],
    },
    Kind {
        name: "metrics",
        file: "run/metrics.h5",
        commands: &["inspect run/metrics.h5", "train deck.toml --resume --set run.steps=3"],
    },
];

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// What stands in the place of a number or a word.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "255",
    "256",
    "65536",
    "1000000",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "-9223372036854775808",
    "0.0",
    "-0.0",
    "1e-320",
    "1e9",
    "1e20",
    "1e308",
    "1e309",
    "-1e308",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "null",
    "true",
    "false",
    "\"\"",
    "\"a\"",
    "\"/\"",
    "\"/dev/null\"",
    "\"~\"",
    "\"$HOME\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[[]]",
    "[0]",
    "[1, 2]",
    "07:32:00",
    "1979-05-27",
    "\"1 GB\"",
    "\"99:99:99\"",
    "0x10",
    "1_000",
];

/// Changes a file in one to three ways.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let text = std::str::from_utf8(bytes).is_ok();
    for _ in 0..=random.below(3) {
        match random.below(if text { 14 } else { 8 }) {
            0 => (0..=random.below(8)).for_each(|_| {
                let at = place(random, bytes);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }),
            1 => bytes.truncate(place(random, bytes)),
            2 => {
                let (at, len) = (place(random, bytes), 1 + random.below(16));
                let new: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            3 => {
                let at = place(random, bytes);
                let end = (at + 1 + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let (at, value) = (place(random, bytes), [0u8, 0xff, b'0', b' '][random.below(4)]);
                let end = (at + 1 + random.below(64)).min(bytes.len());
                bytes[at..end].fill(value);
            }
            5 => {
                let extremes = [0, 1, 8, u64::MAX, i64::MAX as u64, u64::from(u32::MAX), 1 << 40, 100_000_000, 1 << 63];
                let (at, value) = (place(random, bytes), extremes[random.below(extremes.len())]);
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            6 => {
                let at = place(random, bytes);
                let end = (at + 1 + random.below(200)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = place(random, bytes);
                bytes.splice(to..to, copy);
            }
            7 => {
                let zeros = vec![0; random.below(5000)];
                bytes.extend(zeros);
            }
            8..=10 => replace(random, bytes, |byte| byte.is_ascii_digit() || b".-+eE_".contains(byte)),
            11 => replace(random, bytes, |byte| byte.is_ascii_alphanumeric() || b"_\"".contains(byte)),
            12 => {
                // Nested beyond what a recursive reader has stack for.
                let deep = [10, 200, 20_000, 100_000][random.below(4)];
                let open = random.pick(&["[", "{\"a\":", "{a=[", "(", "a.", "\n[a."]);
                let at = place(random, bytes);
                bytes.splice(at..at, open.repeat(deep).into_bytes());
            }
            _ => swap_lines(random, bytes),
        }
    }
}

/// Somewhere in a file; every other time near its start, where formats say what follows.
fn place(random: &mut Random, bytes: &[u8]) -> usize {
    let end = if random.below(2) == 0 { bytes.len().min(600) } else { bytes.len() };
    random.below(end + 1)
}

/// Puts another word in the place of a run of such bytes.
fn replace(random: &mut Random, bytes: &mut Vec<u8>, belongs: impl Fn(&u8) -> bool) {
    let start = place(random, bytes);
    let Some(first) = bytes[start..].iter().position(&belongs).map(|at| start + at) else { return };
    let end = bytes[first..].iter().position(|byte| !belongs(byte)).map_or(bytes.len(), |len| first + len);
    let word = random.pick(WORDS);
    bytes.splice(first..end, word.bytes());
}

/// Exchanges two lines, or writes one twice.
fn swap_lines(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    if random.below(2) == 0 {
        lines.swap(a, b)
    } else {
        lines.insert(a, lines[b])
    }
    *bytes = lines.join(&b'\n');
}

/// Runs a command with bounds on time and memory; its exit code (or signal) and standard error.
fn tawpipe(folder: &Path, line: &str) -> Result<(Option<i32>, String), String> {
    let limits = format!("ulimit -c 0; ulimit -t {PROCESSOR}; ulimit -v {SPACE}; exec \"$0\" \"$@\"");
    let log = folder.join("stderr");
    let mut child = Command::new("sh")
        .args(["-c", &limits, env!("CARGO_BIN_EXE_tawpipe")])
        .args(line.split(' '))
        .current_dir(folder)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("TAWPIPE_CACHE", folder.join("cache"))
        .env("HOME", folder)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > CLOCK => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not over after {CLOCK:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(if start.elapsed().as_millis() < 100 { 1 } else { 10 })),
        }
    };
    let mut bytes = Vec::new();
    fs::File::open(&log).unwrap().take(1 << 20).read_to_end(&mut bytes).unwrap();
    Ok((status.code(), format!("{}{status}", String::from_utf8_lossy(&bytes))))
}

/// The exit code of a command, or what is wrong with how it ended.
fn ending(folder: &Path, line: &str) -> Result<i32, String> {
    match tawpipe(folder, line)? {
        (Some(code @ 0..=2), text) if !text.contains("panicked") => Ok(code),
        (code, text) => {
            let tail: String = text.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
            Err(format!("code {code:?}: {tail}"))
        }
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One sound file of every kind, made by the program itself where it can.
fn sound(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("text.txt", &"In the beginning was the Word, and the Word was with God.\n".repeat(6));
    write("deck.toml", DECK);
    write(
        "from.toml",
        "model = { from = \"hf\" }\ndata = { text = \"text.txt\", seq = 8 }\nrun = { device = \"cpu\", folder = \"new\" }\n",
    );
    write(
        "tokens.toml",
        &DECK
            .replace("text = \"text.txt\"\ntokenizer = \"bytes\"", "tokens = \"ids.bin\"")
            .replace("\"run\"", "\"new\""),
    );
    write("experiment.toml", EXPERIMENT);
    // Experiments choose the system themselves.
    write("point.toml", DECK.split("[system]").next().unwrap());
    fs::copy(root.join("inputs/clusters/laptop.toml"), folder.join("cluster.toml")).unwrap();
    let letters: BTreeMap<String, usize> =
        ('a'..='z').chain(['I', 'W', 'G', ',', '.', ' ', '\n']).map(String::from).zip(1..).collect();
    let mut vocab = serde_json::to_value(&letters).unwrap();
    (vocab["<unk>"], vocab["th"]) = (0.into(), (letters.len() + 1).into());
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [["t", "h"]]},
    });
    write("tokenizer.json", &tokenizer.to_string());
    for line in [
        "train deck.toml",
        "export run --out hf",
        "tokenize text.txt --tokenizer bytes --out ids.bin",
        "experiment experiment.toml --results lines",
    ] {
        let (code, text) = tawpipe(folder, line).unwrap();
        assert_eq!(code, Some(0), "{line}: {text}");
    }
    fs::create_dir(folder.join("sharded")).unwrap();
    for (from, to) in [("config.json", "config.json"), ("model.safetensors", "one.safetensors")] {
        fs::copy(folder.join("hf").join(from), folder.join("sharded").join(to)).unwrap();
    }
    let model = fs::read(folder.join("hf/model.safetensors")).unwrap();
    let header: serde_json::Value =
        serde_json::from_slice(&model[8..8 + u64::from_le_bytes(model[..8].try_into().unwrap()) as usize]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<String, serde_json::Value> =
        names.map(|name| (name.clone(), "one.safetensors".into())).collect();
    write("sharded/model.safetensors.index.json", &serde_json::json!({ "weight_map": map }).to_string());
    fs::create_dir(folder.join("results")).unwrap();
    let lines = fs::read_to_string(folder.join("lines/simulated.jsonl")).unwrap();
    write("results/cell.json", lines.lines().next().unwrap());
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The seed of one case: any case can be had again without those before it.
fn seed(seed: u64, case: usize) -> Random {
    Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ case as u64)
}

#[test]
fn damaged_files_are_refused() {
    let first = match std::env::var("FUZZ_SEED").as_deref() {
        Ok("clock") => std::time::UNIX_EPOCH.elapsed().unwrap().as_secs(),
        _ => number("FUZZ_SEED", 1),
    };
    let only = std::env::var("FUZZ_ONLY").ok().map(|text| text.parse::<usize>().unwrap());
    let cases = only
        .map_or(number("FUZZ_CASES", if std::env::var_os("CI").is_some() { 2000 } else { 200 }) as usize, |only| {
            only + 1
        });
    println!("FUZZ_SEED={first}, {cases} cases");
    let base = tempfile::tempdir().unwrap();
    sound(base.path());
    // A test that found every file unusable for another reason would prove nothing.
    for kind in KINDS {
        for line in kind.commands {
            let folder = tempfile::tempdir().unwrap();
            copy(base.path(), folder.path());
            let (code, text) = tawpipe(folder.path(), line).unwrap();
            let other = line.contains("i32") || line.contains("u8") || *line == "inspect text.txt";
            assert!(code == Some(0) || other && code == Some(2), "{line} on sound files: {code:?} {text}");
        }
    }
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let _ = fs::remove_dir_all(&kept);
    let (next, failures) = (AtomicUsize::new(only.unwrap_or(0)), Mutex::new(Vec::new()));
    let ended = Mutex::new(BTreeMap::<&str, [usize; 3]>::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    let kind = &KINDS[case % KINDS.len()];
                    let mut random = seed(first, case);
                    let folder = tempfile::tempdir().unwrap();
                    copy(base.path(), folder.path());
                    let path = folder.path().join(kind.file);
                    let mut bytes = fs::read(&path).unwrap();
                    mutate(&mut random, &mut bytes);
                    fs::write(&path, bytes).unwrap();
                    let line = random.pick(kind.commands);
                    match ending(folder.path(), line) {
                        Ok(code) => ended.lock().unwrap().entry(kind.name).or_default()[code as usize] += 1,
                        Err(problem) => {
                            copy(folder.path(), &kept.join(case.to_string()));
                            failures.lock().unwrap().push(format!("case {case}, {}: {line}: {problem}", kind.name));
                        }
                    }
                }
            });
        }
    });
    println!("codes 0, 1 and 2: {:?}", ended.into_inner().unwrap());
    let failures = failures.into_inner().unwrap();
    let shown: Vec<&String> = failures.iter().take(40).collect();
    assert!(
        failures.is_empty(),
        "FUZZ_SEED={first}: {} of {cases} cases failed; their files are in {}\n{shown:#?}",
        failures.len(),
        kept.display()
    );
}
