//! The two calls to a machine that is lent for a quarter of an hour: all of their steps have their turn, whatever one of them does.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::{Machine, bundle, emulated, result, said, script, verdict};

/// Name, minutes, steps of a plan, and steps that are taken where time is left.
type Plan = (String, f64, Vec<String>, Vec<String>);

/// The plans, and seconds for which the machine is lent and that a start takes.
fn plans() -> (Vec<Plan>, f64, f64) {
    let code = "import sys, json; sys.path.insert(0, sys.argv[1]); import plans
print(json.dumps([[[name, *plan] for name, plan in plans.PLANS.items()], plans.LENT, plans.START]))";
    let output = Command::new("python3").args(["-c", code]).arg(script().parent().unwrap()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

/// Seconds on the script's clock when it ended, from its last line.
fn clock(text: &str) -> f64 {
    let (_, after) = text.rsplit_once(" MiB after ").unwrap_or_else(|| panic!("{text}"));
    after.split(' ').next().unwrap().parse().unwrap()
}

/// Processes of a group that still run.
fn alive(group: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    // NUMBER (NAME) STATE PARENT GROUP …
    stats
        .filter(|stat| {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| {
                let mut fields = rest.split(' ');
                fields.next() != Some("Z") && fields.nth(1) == Some(group)
            })
        })
        .collect()
}

/// The two calls fit into the time that the machine is lent for, starts included. If every step takes what is expected of it,
/// and also if every step hangs until it is ended, each has its turn and the call is over in its time: neither call takes
/// anything from the other, and no step from a later one.
#[test]
fn no_step_takes_the_time_of_another() {
    let (plans, lent, start) = plans();
    assert_eq!(plans.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(lent, 900.0);
    assert!(start + 60.0 * plans[0].1 <= 480.0, "the first call has 8 minutes");
    assert!(plans.iter().map(|(_, minutes, ..)| start + 60.0 * minutes).sum::<f64>() <= lent);
    for factor in ["0.3", "1", "10"] {
        for (name, minutes, steps, extra) in &plans {
            let machine = Machine::new();
            let output = machine.check(&["--plan", name, "--pretend", factor]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(0), "{text}");
            for step in steps {
                assert_eq!(verdict(&machine.out(), step).0, "good", "{step}, {factor} times what is expected: {text}");
            }
            assert!(clock(&text) <= 60.0 * minutes, "{factor}: {text}");
            let taken = extra.iter().filter(|step| result(&machine.out(), step).is_some()).count();
            assert_eq!(taken, if factor == "0.3" { extra.len() } else { 0 }, "{factor}: {text}");
        }
    }
}

/// Both plans as they are, on the emulated driver: this program trains, all steps end well but for those that need a real GPU
/// or PyTorch, and the second call goes on in the folder of the first.
#[test]
fn both_plans_run_on_the_emulated_driver() {
    let folder = tempfile::tempdir().unwrap();
    let (bundle, out) = (bundle(folder.path()), folder.path().join("out"));
    for (name, minutes, steps, _) in plans().0 {
        let archive = folder.path().join(format!("{name}.tar.gz"));
        let mut command = emulated(&bundle, &out);
        let output = command.args(["--plan", &name, "--pretend", "1", "--archive"]).arg(&archive).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(clock(&text) <= 60.0 * minutes && text.contains("0 steps are left"), "{text}");
        for step in steps {
            let lacks =
                step.ends_with("torch") || ["torch-", "memcheck", "profile"].iter().any(|what| step.contains(what));
            assert_eq!(verdict(&out, &step).0, if lacks { "not run" } else { "good" }, "{step}: {text}");
        }
        let listed = Command::new("tar").arg("-tzf").arg(&archive).output().unwrap();
        let listed = said(&listed);
        assert!(listed.contains("summary.md") && listed.contains("machine.json"), "{listed}");
        assert!(!listed.contains("runs/"), "data and runs stay behind: {listed}");
    }
    let summary = std::fs::read_to_string(out.join("summary.md")).unwrap();
    for line in ["| (b) 20 steps against PyTorch's losses | 4 good |", "| (e) Whole models | 2 good, 2 not run |"] {
        assert!(summary.contains(line), "{summary}");
    }
    // A checkpoint of a large model takes longer than its steps.
    let run = result(&out, "e-1.5b-1024-tawpipe").unwrap();
    assert!(run["command"].as_str().unwrap().contains("run.checkpoint=false"), "{run}");
    assert!(!run["err"].as_str().unwrap().contains("checkpoint "), "{run}");
}

/// A step that does not fit leaves its turn to the next that does.
#[test]
fn a_step_that_does_not_fit_drops_no_other() {
    let machine = Machine::new();
    let output = machine.check(&["--only", "a-kernels,b", "--minutes", "1.2", "--pretend", "1"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(result(&machine.out(), "a-kernels").is_none() && text.contains("1 steps are left (a-kernels)"), "{text}");
    for step in ["b-a_mha4-f32", "b-a_mha4-bf16", "b-b_gqa2-f32", "b-b_gqa2-bf16"] {
        assert_eq!(verdict(&machine.out(), step).0, "good", "{text}");
    }
}

/// A step that hangs is ended when its time is over, with everything that it started, and is told; --minutes is kept.
#[test]
fn a_step_that_hangs_is_ended() {
    let machine = Machine::new();
    machine.program("tawpipe", "echo begun; echo $$ > group; sleep 1000 & sleep 1000");
    machine.check(&["--only", "machine"]);
    let start = Instant::now();
    // The step is expected to take 10 s: it begins, and after these minutes its time is up.
    let output = machine.check(&["--only", "b-a_mha4-f32", "--minutes", "0.21"]);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}: {}", start.elapsed(), said(&output));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let (verdict, why) = verdict(&machine.out(), "b-a_mha4-f32");
    assert!(verdict == "FAILED" && why.contains("exit 124") && why.contains("ended after 1"), "{why}");
    let group = std::fs::read_to_string(machine.path().join("bundle/group")).unwrap();
    assert_eq!(alive(group.trim()), Vec::<String>::new(), "left behind");
    assert!(machine.path().join("out.tar.gz").exists() && machine.out().join("summary.md").exists());
}

/// A script that is told to end ends what it runs and keeps its results.
#[test]
fn a_script_that_is_stopped_keeps_its_results() {
    let machine = Machine::new();
    machine.program("kernels-tests", "echo $$ > group; sleep 1000");
    let begun = machine.path().join("bundle/group");
    std::thread::scope(|scope| {
        let check = scope.spawn(|| machine.check(&["--plan", "first"]));
        let since = Instant::now();
        while !std::fs::read_to_string(&begun).is_ok_and(|text| text.ends_with('\n')) {
            assert!(since.elapsed() < Duration::from_secs(60), "the step does not begin");
            std::thread::sleep(Duration::from_millis(50));
        }
        // The script is the parent of the group's first process.
        let group = std::fs::read_to_string(&begun).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", group.trim())).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
        // The shell's own `kill`: a minimal machine has no program of this name.
        assert!(Command::new("sh").args(["-c", "kill $0", parent]).status().unwrap().success());
        let output = check.join().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("7 steps are left"), "{}", said(&output));
        assert_eq!(alive(group.trim()), Vec::<String>::new(), "left behind");
    });
    assert_eq!(verdict(&machine.out(), "a-kernels"), ("FAILED".into(), "stopped".into()));
    assert!(machine.path().join("out.tar.gz").exists() && machine.out().join("summary.md").exists());
}

/// A loss that is no number is none of PyTorch's, wherever it stands.
#[test]
fn a_loss_that_is_no_number_is_said() {
    let machine = Machine::new();
    for loss in ["NaN", "null"] {
        let step = |loss: &str| format!("echo '{{\"loss\": {loss}, \"step_s\": 1.0, \"tokens_per_s\": 1.0}}'\n");
        machine.program("tawpipe", &(step("1.0").repeat(19) + &step(loss)));
        let output = machine.check(&["--only", "b-a_mha4-f32"]);
        assert_eq!(output.status.code(), Some(1), "{loss}: {}", said(&output));
    }
}

/// A program that does not say which systems there are is a step that failed, with its reason in the summary.
#[test]
fn a_program_that_lists_no_systems_is_said() {
    let machine = Machine::new();
    machine.program("tawpipe", "echo 'no systems today' >&2; exit 1");
    let output = machine.check(&["--only", "c"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let (verdict, why) = verdict(&machine.out(), "c-mpi-2-systems");
    assert!(verdict == "FAILED" && why.contains("no systems today"), "{why}");
    let summary = std::fs::read_to_string(machine.out().join("summary.md")).unwrap();
    assert!(summary.contains("| c-mpi-2-systems | FAILED |") && summary.contains("no systems today"), "{summary}");
}

/// Results that are too much to be given back are told.
#[test]
fn too_large_an_archive_is_said() {
    let machine = Machine::new();
    std::fs::create_dir(machine.out()).unwrap();
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    });
    std::fs::write(machine.out().join("noise"), noise.take((17 << 20) / 8).flatten().collect::<Vec<_>>()).unwrap();
    let output = machine.check(&["--only", "machine"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("has more than 16 MiB"), "{}", said(&output));
}

/// Results from several GPUs are told apart in the summary that is made of all of them.
#[test]
fn results_of_two_gpus_are_told_apart() {
    let machine = Machine::new();
    machine.check(&["--only", "b-a_mha4-f32"]);
    let path = machine.out().join("b-a_mha4-f32.json");
    let mut step: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    step["gpu"] = "h200".into();
    std::fs::write(path, step.to_string()).unwrap();
    let summary = script().with_file_name("summary.py");
    let output = Command::new("python3").arg(summary).arg(machine.out()).output().unwrap();
    assert!(output.status.success() && said(&output).contains("2 good"), "{}", said(&output));
    let text = std::fs::read_to_string(machine.out().join("summary.md")).unwrap();
    assert!(text.contains("- h200 580: b-a_mha4-f32") && text.contains("their times do not compare"), "{text}");
}

/// A copy of the repository leaves 40 of the 60 MiB to the bundle.
#[test]
fn the_repository_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    if !list.status.success() {
        return crate::common::skip("this is no git repository, whose files are counted", "clone it");
    }
    let files = list.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let bytes = |name: &[u8]| {
        std::fs::symlink_metadata(root.join(std::str::from_utf8(name).unwrap())).map_or(0, |file| file.len())
    };
    let all: u64 = files.map(bytes).sum();
    assert!(all > 0 && all <= 20 << 20, "{:.1} MiB", all as f64 / f64::from(1 << 20));
}
