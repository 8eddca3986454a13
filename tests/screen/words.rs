//! Commands and words of the command line.

use std::path::Path;
use std::process::Command;

fn tawpipe(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tawpipe")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An option that takes one of some words names them, in its help and where another one is refused.
#[test]
fn words_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str, &[&str]); 4] = [
        (&["tokenize", "text", "--tokenizer", "bytes", "--out", "ids"], "--token-type", &["u8", "u16", "u32", "i32"]),
        (&["export", "run", "--out", "hf"], "--dtype", &["f32", "bf16", "f16"]),
        (&["experiment", "file.toml"], "--on", &["machine", "virtual-cluster", "allocation"]),
        (&["calibrate", "file.toml"], "--device", &["auto", "cpu", "cuda"]),
    ];
    for (args, option, words) in cases {
        let (code, out, err) = tawpipe(folder.path(), &[args, &[option, "other"]].concat());
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(&format!("[possible values: {}]", words.join(", "))), "{err}");
        let (_, help, _) = tawpipe(folder.path(), &[args[0], "--help"]);
        assert!(words.iter().all(|word| help.contains(word)), "{option}: {help}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// `calibrate FILE` is what `bench --calibrate FILE` was.
#[test]
fn calibrate_has_two_names() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["calibrate", "new.toml"][..], &["bench", "--calibrate", "old.toml"]] {
        let (code, _, err) = tawpipe(folder.path(), &[args, &["--groups", "2,2"]].concat());
        assert_eq!(code, Some(2));
        assert!(err.contains("--groups [2, 2] must add up to the 1 ranks"), "{err}");
    }
    let options =
        |command| tawpipe(folder.path(), &[command, "--help"]).1.split_once("Options:").unwrap().1.to_string();
    let without =
        |text: String| text.lines().filter(|line| line.contains("--")).map(str::to_string).collect::<Vec<_>>();
    let (new, mut old) = (without(options("calibrate")), without(options("bench")));
    old.retain(|line| !line.contains("--calibrate"));
    assert_eq!(new.len(), old.len(), "{new:?} {old:?}");
}
