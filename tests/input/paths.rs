//! Paths as people write them.

use std::fs;
use std::path::Path;

use super::{folder, refused, run, tawpipe};

/// `~` is the home folder, in a deck and on the command line; nothing is called `~` afterwards.
#[test]
#[cfg(feature = "hdf5")]
fn the_home_folder_is_filled_in() {
    let folder = folder();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::copy(folder.path().join("text.txt"), home.join("text.txt")).unwrap();
    let sets = ["--set", "run.folder=~/runs/a", "--set", "data.text=~/text.txt", "--set", "run.steps=1"];
    let (code, _, err) = run(tawpipe(folder.path(), &["train", "deck.toml"]).args(sets).env("HOME", &home));
    assert_eq!(code, Some(0), "{err}");
    assert!(home.join("runs/a/DONE").exists() && !folder.path().join("~").exists());
    for args in [
        &["inspect", "~/runs/a"][..],
        &["report", "~/runs/a"],
        &["tokenize", "~/text.txt", "--tokenizer", "bytes", "--out=~/ids.bin"],
    ] {
        let (code, _, err) = run(tawpipe(folder.path(), args).env("HOME", &home));
        assert_eq!(code, Some(0), "{args:?}: {err}");
    }
    assert!(home.join("ids.bin").exists());
}

/// What only a shell can fill in is refused, in a deck and on the command line, and nothing is written.
#[test]
fn variables_are_refused() {
    let folder = folder();
    for path in ["$HOME/a", "${HOME}/a", "x/$USER/a"] {
        let set = format!("run.folder={path}");
        refused(&mut tawpipe(folder.path(), &["train", "deck.toml", "--set", &set]), &["run.folder", "not expanded"]);
        let (code, _, err) = run(&mut tawpipe(folder.path(), &["inspect", path]));
        assert!(code == Some(2) && err.contains("not expanded"), "{err}");
    }
    let nobody = ["train", "deck.toml", "--set", "data.text=~nobody/text.txt"];
    refused(&mut tawpipe(folder.path(), &nobody), &["data.text", "another user"]);
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["deck.toml", "text.txt"]);
}

/// Behind `--set` a path is what was typed, whatever TOML makes of it.
#[test]
#[cfg(feature = "hdf5")]
fn a_folder_may_be_called_as_a_date() {
    for name in ["2026-11-28", "17", "1e3", "true", "[x]"] {
        let folder = folder();
        let set = format!("run.folder={name}");
        let (code, _, err) =
            run(&mut tawpipe(folder.path(), &["train", "deck.toml", "--set", &set, "--set", "run.steps=1"]));
        assert_eq!(code, Some(0), "{name}: {err}");
        assert!(folder.path().join(name).join("DONE").exists(), "{name}");
    }
}

/// A folder, a pipe and a device are called so where a file is wanted.
#[test]
fn what_is_no_file_is_named() {
    let folder = folder();
    fs::create_dir(folder.path().join("texts")).unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for (path, word) in [("texts", "is a folder"), ("pipe", "is a pipe"), ("/dev/null", "is a device")] {
        let set = format!("data.text={path}");
        refused(&mut tawpipe(folder.path(), &["train", "deck.toml", "--set", &set]), &[path, word]);
        let set = format!("data={{tokens=\"{path}\",seq=8}}");
        let _ = set;
        let args = ["tokenize", path, "--tokenizer", "bytes", "--out", "ids.bin"];
        refused(&mut tawpipe(folder.path(), &args), &[path, word]);
    }
}

/// A token file never takes the place of what it is made of, under whatever name.
#[test]
fn tokenize_keeps_its_input() {
    let folder = folder();
    let text = fs::read(folder.path().join("text.txt")).unwrap();
    let here = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink(here("text.txt"), here("soft")).unwrap();
    fs::hard_link(here("text.txt"), here("hard")).unwrap();
    for out in ["text.txt", "./text.txt", "soft", "hard"] {
        let args = ["tokenize", "text.txt", "--tokenizer", "bytes", "--out", out];
        refused(&mut tawpipe(folder.path(), &args), &["--out", "nothing was written"]);
        assert_eq!(fs::read(here("text.txt")).unwrap(), text);
        assert!(here("soft").is_symlink());
    }
    fs::write(here("tokenizer.json"), "{}").unwrap();
    let args = ["tokenize", "text.txt", "--tokenizer", "tokenizer.json", "--out", "tokenizer.json"];
    refused(&mut tawpipe(folder.path(), &args), &["tokenizer.json", "nothing was written"]);
}

/// Every kind of text that people write is called what it is; what is none of ours is refused and not shown as token ids.
#[test]
fn inspect_knows_texts() {
    let folder = folder();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inputs = root.join("inputs");
    let known = [
        ("deck.toml".into(), "deck; with all defaults filled in", "warmup = 0"),
        (inputs.join("clusters/laptop.toml"), "cluster \"", "ranks in groups of"),
        (inputs.join("experiments/small.toml"), "experiment of", "cells"),
        (root.join("tests/data/parity/b_gqa2/init/config.json"), "configuration of a Hugging Face model", "\"dim\""),
    ];
    for (path, what, more) in known {
        let (code, out, err) = run(&mut tawpipe(folder.path(), &["inspect", path.to_str().unwrap()]));
        assert!(code == Some(0) && out.contains(what) && out.contains(more), "{path:?}: {out}{err}");
    }
    fs::write(folder.path().join("other.toml"), "[package]\nname = \"x\"\n").unwrap();
    fs::write(folder.path().join("other.json"), "{\"a\": 1}").unwrap();
    fs::write(folder.path().join("broken.toml"), "[model]\ndim = 32\nlayers = 2\nheads = 3\n").unwrap();
    let unknown = [
        ("other.toml", "is a TOML file, but no deck"),
        ("other.json", "is a JSON file, but no result"),
        ("text.txt", "is a text, but no TOML or JSON file"),
        ("broken.toml", "broken.toml"),
    ];
    for (path, words) in unknown {
        refused(&mut tawpipe(folder.path(), &["inspect", path]), &[path, words]);
    }
    fs::write(folder.path().join("ids.bin"), [7, 0, 1, 0]).unwrap();
    let (code, out, _) = run(&mut tawpipe(folder.path(), &["inspect", "ids.bin"]));
    assert!(code == Some(0) && out.contains("u16  2 tokens, ids 1 to 7"), "{out}");
}
