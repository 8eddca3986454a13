//! One run of a cell: its lines, the counters at each of them, its time limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::results::{Step, Wire};

/// Lines of standard error that are kept in the result.
const KEPT: usize = 20;
/// Bytes of standard error that go into a file.
const LOGGED: usize = 1 << 20;
/// Between two looks at a child.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// With all its steps.
    Done(Ran),
    /// Otherwise: the reason, and the last lines of standard error; whether it had to be killed.
    Failed { reason: String, log: Vec<String>, killed: bool },
    /// Because the experiment was asked to stop.
    Stopped,
}

/// What a run says.
#[derive(Debug, Default)]
pub struct Ran {
    /// All steps.
    pub steps: Vec<Step>,
    /// What crossed the links, a step.
    pub wire: Vec<Wire>,
    /// Bytes.
    pub memory_peak: Option<u64>,
    /// PyTorch's version.
    pub torch: Option<String>,
}

/// Bytes sent and received by each node.
type Counters = Vec<(u64, u64)>;

/// What standard output gave.
#[derive(Default)]
struct Heard {
    steps: Vec<Step>,
    counters: Vec<Counters>,
    memory_peak: Option<u64>,
    torch: Option<String>,
}

/// Runs a command that prints one JSON object a step: `warmup` steps and `steps` more, within `limit`. Its standard error
/// goes into the file `log`, which stays if the run fails.
pub fn run(
    command: Command,
    [warmup, steps]: [usize; 2],
    nodes: &[(String, PathBuf)],
    limit: Duration,
    stop: &dyn Fn() -> bool,
    log: &Path,
) -> End {
    let end = watch(command, [warmup, steps], nodes, limit, stop, log);
    if !matches!(end, End::Failed { .. }) {
        let _ = std::fs::remove_file(log);
    }
    end
}

fn watch(
    mut command: Command,
    [warmup, steps]: [usize; 2],
    nodes: &[(String, PathBuf)],
    limit: Duration,
    stop: &dyn Fn() -> bool,
    log: &Path,
) -> End {
    // A group of its own: Ctrl-C reaches it through us, and what it leaves can be ended.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let start = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.get_program().to_string_lossy().into_owned();
            return End::Failed { reason: format!("{program}: {error}"), log: Vec::new(), killed: false };
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let files: Vec<PathBuf> = nodes.iter().map(|(_, file)| file.clone()).collect();
    let heard = std::thread::spawn(move || stdout.map(|out| listen(BufReader::new(out), &files)).unwrap_or_default());
    // Without the file, for which the disk may be full, the last lines are still kept.
    let file =
        log.parent().and_then(|folder| std::fs::create_dir_all(folder).ok()).and_then(|()| File::create(log).ok());
    let log = std::thread::spawn(move || stderr.map(|err| last_lines(BufReader::new(err), file)).unwrap_or_default());

    let mut asked: Option<(Instant, bool)> = None;
    let mut killed = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) => {}
            Err(error) => break Err(error.to_string()),
        }
        match asked {
            None if stop() || start.elapsed() > limit => {
                signal(&child, "TERM");
                asked = Some((Instant::now(), stop()));
            }
            Some((since, _)) if !killed && since.elapsed() > GRACE => {
                signal(&child, "KILL");
                killed = true;
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    };
    // Whatever of its group is left.
    if asked.is_some() || !matches!(&status, Ok(status) if status.success()) {
        signal(&child, "KILL");
    }
    let heard = heard.join().unwrap_or_default();
    let log = log.join().unwrap_or_default();
    let failed = |reason: String| End::Failed { reason, log: log.clone(), killed: asked.is_some() };
    match (asked, status) {
        (Some((_, true)), _) => return End::Stopped,
        (Some((_, false)), _) => return failed(format!("not done within {:.0} s", limit.as_secs_f64())),
        (None, Err(error)) => return failed(error),
        (None, Ok(status)) if !status.success() => {
            return failed(match last_words(&log) {
                Some(words) => format!("{status}: {words}"),
                None => format!("ended with {status}"),
            });
        }
        _ => {}
    }
    if heard.steps.len() != warmup + steps {
        return failed(format!("{} steps came, {} were asked for", heard.steps.len(), warmup + steps));
    }
    if let Some(step) = heard.steps.iter().position(|step| !step.loss.is_finite()) {
        return failed(format!("the loss of step {} is not a number", step + 1));
    }
    let wire = wire(nodes, &heard.counters, warmup, steps);
    End::Done(Ran { steps: heard.steps, wire, memory_peak: heard.memory_peak, torch: heard.torch })
}

/// Signals all processes of a child's group.
fn signal(child: &Child, name: &str) {
    // The shell's own kill, which every system has.
    let text = format!("kill -{name} -{} 2>/dev/null", child.id());
    let _ = Command::new("sh").args(["-c", &text]).status();
}

/// Reads lines as they come, and the counters at once with each step's.
fn listen(lines: impl BufRead, files: &[PathBuf]) -> Heard {
    let mut heard = Heard::default();
    for line in lines.lines().map_while(Result::ok) {
        let Ok(Value::Object(row)) = serde_json::from_str(&line) else { continue };
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let count = |key: &str| row.get(key).and_then(Value::as_u64);
        let (Some(step_s), Some(tokens_per_s)) = (number("step_s"), number("tokens_per_s")) else { continue };
        heard.counters.push(files.iter().map(|file| counters(file)).collect());
        heard.steps.push(Step {
            step_s,
            tokens_per_s,
            loss: number("loss").unwrap_or(f64::NAN),
            exposed_s: number("exposed_s"),
            bytes_inter: count("bytes_inter"),
            bytes_intra: count("bytes_intra"),
        });
        heard.memory_peak = count("memory_peak").or(count("peak_bytes")).or(heard.memory_peak);
        heard.torch = row.get("torch").and_then(Value::as_str).map(str::to_string).or(heard.torch);
    }
    heard
}

/// Bytes sent and received through `eth0`, from a file in the form of /proc/net/dev.
fn counters(file: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers.get(8).copied().unwrap_or(0), numbers.first().copied().unwrap_or(0))
}

/// Bytes a step between the end of the warm-up and that of the last step.
fn wire(nodes: &[(String, PathBuf)], counters: &[Counters], warmup: usize, steps: usize) -> Vec<Wire> {
    // Without a warm-up there is no step at whose end to begin.
    let (Some(first), Some(last)) = (warmup.checked_sub(1).and_then(|at| counters.get(at)), counters.last()) else {
        return Vec::new();
    };
    let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / steps as f64;
    let rows = nodes.iter().zip(first.iter().zip(last));
    rows.map(|((node, _), (then, now))| Wire {
        node: node.clone(),
        sent: each(now.0, then.0),
        received: each(now.1, then.1),
    })
    .collect()
}

/// What a program said of its end: its own line, which the launcher buries under several of its own; else the last line before
/// those of the launcher, which it puts between rules.
fn last_words(log: &[String]) -> Option<&str> {
    let own = log.iter().rev().find_map(|line| Some(line.split_once("tawpipe: ")?.1));
    let rule = |line: &&String| line.len() > 20 && line.chars().all(|c| c == '-');
    own.or_else(|| log.iter().take_while(|line| !rule(line)).last().or(log.last()).map(String::as_str))
}

fn last_lines(lines: impl BufRead, mut file: Option<File>) -> Vec<String> {
    let (mut kept, mut logged) = (VecDeque::new(), 0);
    // Text, but not everything that programs say is UTF-8.
    for line in lines.split(b'\n').map_while(Result::ok) {
        logged += line.len() + 1;
        if let Some(file) = file.as_mut().filter(|_| logged <= LOGGED) {
            let _ = file.write_all(&[&line[..], b"\n"].concat());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        if !line.trim().is_empty() {
            kept.push_back(line);
        }
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, steps: usize, limit: f64, stop: bool) -> End {
        let folder = tempfile::tempdir().unwrap();
        logged(text, steps, limit, stop, &folder.path().join("logs/run.log"))
    }

    fn logged(text: &str, steps: usize, limit: f64, stop: bool, log: &Path) -> End {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        run(command, [1, steps], &[], Duration::from_secs_f64(limit), &|| stop, log)
    }

    /// What a run that fails has said stays in a file, and its last words are the reason, also where the program did not say
    /// it in a line of its own and the launcher speaks after it; of a run that is done no file stays.
    #[test]
    fn a_failure_keeps_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/cell.log");
        let rule = "-".repeat(74);
        let text = format!(
            "for i in $(seq 30); do echo step $i >&2; done; echo memory allocation failed >&2; echo {rule} >&2; \
             echo mpirun noticed >&2; exit 134"
        );
        let End::Failed { reason, log: kept, .. } = logged(&text, 1, 20.0, false, &log) else { panic!("failed") };
        assert!(reason.contains("134") && reason.ends_with(": memory allocation failed"), "{reason}");
        assert_eq!(kept.len(), KEPT);
        let whole = std::fs::read_to_string(&log).unwrap();
        assert!(whole.starts_with("step 1\n") && whole.ends_with("mpirun noticed\n"), "{whole}");
        assert!(matches!(logged(&format!("{LINE} {LINE} echo fine >&2"), 1, 20.0, false, &log), End::Done(_)));
        assert!(!log.exists());
    }

    const LINE: &str = "echo '{\"step\":1,\"loss\":2.5,\"step_s\":0.5,\"tokens_per_s\":8,\"bytes_inter\":3}';";

    /// Steps are read among other lines; everything else that can happen has a reason that says what.
    #[test]
    fn every_end_has_its_reason() {
        let End::Done(ran) = shell(&format!("{LINE} echo hello; {LINE}"), 1, 20.0, false) else { panic!("done") };
        assert_eq!((ran.steps.len(), ran.steps[1].bytes_inter, ran.steps[1].exposed_s), (2, Some(3), None));
        let reason = |end: End| match end {
            End::Failed { reason, log, .. } => format!("{reason}: {}", log.join("|")),
            other => panic!("{other:?}"),
        };
        let text = reason(shell("echo first >&2; echo last >&2; exit 7", 1, 20.0, false));
        assert!(text.contains("7") && text.ends_with(": first|last"), "{text}");
        assert!(reason(shell(LINE, 1, 20.0, false)).contains("1 steps came, 2 were asked for"));
        assert!(reason(shell("sleep 60", 1, 0.1, false)).contains("not done within"));
        assert!(matches!(shell("sleep 60", 1, 20.0, true), End::Stopped));
    }

    /// Counters are those of eth0, and a step's bytes those between the ends of the warm-up and of the last step.
    #[test]
    fn counters_are_differences() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dev");
        std::fs::write(&file, "Inter-| x\n  lo: 9 9\n  eth0: 11 1 0 0 0 0 0 0 22 1 0 0 0 0 0 0\n").unwrap();
        assert_eq!(counters(&file), (22, 11));
        let seen = [vec![(50, 5)], vec![(100, 10)], vec![(160, 30)], vec![(200, 50)]];
        let rows = wire(&[("n1".into(), file)], &seen, 2, 2);
        assert_eq!(rows, [Wire { node: "n1".into(), sent: 50.0, received: 20.0 }]);
    }
}
