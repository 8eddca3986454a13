//! `tawpipe report`: figures beside the loss curve, and all numbers as CSV.

use std::path::Path;
use std::process::{Command, Output};

use tawpipe::metrics::{Cores, Metrics, Record, RunInfo, Validation};

/// A run folder of so many steps, with a validation after the last.
fn run(folder: &Path, steps: u64) {
    run_on(folder, steps, None);
}

/// The same, of threads that share cores.
fn run_on(folder: &Path, steps: u64, cores: Option<Cores>) {
    let deck =
        "[model]\ndim = 32\nlayers = 2\nheads = 4\n[data]\ntokens = \"t.bin\"\nseq = 8\n[system]\nname = \"single\"\n";
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("deck.toml"), deck).unwrap();
    let info = RunInfo { deck: deck.into(), system: "single".into(), groups: vec![1], cores, ..RunInfo::default() };
    let mut metrics = Metrics::create(folder, info).unwrap();
    for step in 1..=steps {
        let (loss, lr) = (6.0 / step as f64, 1e-4 * step as f64);
        let grad_norm = if step == 2 { f64::NAN } else { 0.25 };
        let record = Record {
            step,
            loss,
            grad_norm,
            lr,
            tokens: 32 * step,
            step_s: 0.5,
            tokens_per_s: 64.0,
            ..Record::default()
        };
        metrics.step(record).unwrap();
    }
    metrics.validation(Validation { step: steps, valid_loss: 2.5, bits_per_byte: f64::NAN, valid_s: 0.1 }).unwrap();
}

fn report(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tawpipe")).arg("report").args(args).current_dir(folder).output().unwrap()
}

/// A run whose threads share cores is remarked on beside its numbers; one with a core for each thread is not.
#[test]
fn shared_cores_are_remarked_on() {
    let folder = tempfile::tempdir().unwrap();
    run_on(&folder.path().join("crowded"), 2, Some(Cores { threads: 4, cores: 2 }));
    run_on(&folder.path().join("roomy"), 2, Some(Cores { threads: 2, cores: 2 }));
    let output = report(folder.path(), &["crowded", "roomy"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let remarks: Vec<&str> = text.lines().filter(|line| line.contains("waiting for communication")).collect();
    assert_eq!(remarks.len(), 1, "{text}");
    assert!(remarks[0].starts_with("crowded: 4 threads of a node shared 2 cores."), "{text}");
}

/// Gradient norm and learning rate are drawn beside the loss; numbers that are not finite leave a gap and no error.
#[test]
fn figures_beside_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("a"), 3);
    run(&folder.path().join("empty"), 0);
    let output = report(folder.path(), &["a", "empty"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for (file, title) in
        [("grad_norm.svg", "a: gradient norm"), ("learning_rate.svg", "a: learning rate"), ("loss.svg", "a: loss")]
    {
        let svg = std::fs::read_to_string(folder.path().join("a").join(file)).unwrap();
        assert!(svg.contains(title) && svg.contains("<polyline"), "{file}:\n{svg}");
        assert!(text.contains(&format!("a/{file}")), "{text}");
        assert!(folder.path().join("empty").join(file).exists());
    }
}

/// One table for all runs: a row a step, the validation beside the step that it follows, unknown numbers empty.
#[test]
fn csv_of_several_runs() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("a, b"), 2);
    run(&folder.path().join("c"), 3);
    let output = report(folder.path(), &["a, b", "c", "--csv", "out.csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(folder.path().join("out.csv")).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(head[..5], ["run", "step", "loss", "grad_norm", "lr"]);
    // Only the name of a run can have a comma in it, and has quotes then.
    let row = |line: &str| match line.strip_prefix("\"a, b\"") {
        Some(rest) => [vec!["a, b".to_string()], rest[1..].split(',').map(String::from).collect()].concat(),
        None => line.split(',').map(String::from).collect(),
    };
    let rows: Vec<Vec<String>> = lines.map(row).collect();
    assert!(rows.iter().all(|row| row.len() == head.len()), "{text}");
    let cell = |row: usize, name: &str| rows[row][head.iter().position(|head| *head == name).unwrap()].as_str();
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["a, b", "a, b", "c", "c", "c"]);
    assert_eq!((cell(0, "loss"), cell(0, "tokens"), cell(0, "valid_loss")), ("6", "32", ""));
    assert_eq!((cell(1, "grad_norm"), cell(1, "valid_loss"), cell(1, "bits_per_byte")), ("", "2.5", ""));
    assert_eq!((cell(4, "step"), cell(4, "loss"), cell(4, "valid_loss")), ("3", "2", "2.5"));

    let refused = report(folder.path(), &["c", "--csv", "/proc/none/out.csv"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("/proc/none/out.csv"), "{text}");
}
