//! How an examination runs: alone, or on the ranks that a launcher has started; it must end also where MPI does not start.

use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::mpi::{Started, broken, fine};
use super::{Finding, Found, join, look};
use crate::cluster::Groups;
use crate::fabric::Control;

/// Examines this process alone. MPI is started in a process of its own, `probe`, which may hang or be ended by the library.
pub fn alone(probe: Option<&mut Command>, wait: Duration) -> Vec<Finding> {
    let world = match probe {
        None => fine(&Started { library: None, groups: vec![1] }, false),
        Some(probe) => match output_of(probe, wait) {
            Ok(output) => match serde_json::from_str(output.trim()) {
                Ok(started) => fine(&started, false),
                Err(_) => broken(&format!("the attempt has printed {:?}", output.trim())),
            },
            Err(why) => broken(&why),
        },
    };
    join(&[look(0, true)], world)
}

/// What the attempt to start MPI prints, for [`alone`].
///
/// # Errors
/// If MPI says why it does not start.
pub fn probe() -> anyhow::Result<String> {
    in_world(|_, started| Ok(serde_json::to_string(started)?))
}

/// Examines the ranks that a launcher has started; rank 0 gets the findings and the number of ranks. `first` is whether the
/// launcher calls this rank 0. If MPI has not started after `wait`, `late` is called instead, on another thread.
///
/// # Errors
/// If MPI says why it does not start.
pub fn inside(
    first: bool,
    wait: Duration,
    late: impl FnOnce(Vec<Finding>) + Send + 'static,
) -> anyhow::Result<Option<(Vec<Finding>, usize)>> {
    let started = watch(wait, move || {
        let why = format!("MPI_Init_thread has not returned within {} s", wait.as_secs_f64());
        late(if first { join(&[look(0, true)], broken(&why)) } else { Vec::new() });
    });
    in_world(|control, world| {
        drop(started);
        let local = Groups::new(&world.groups).locate(control.rank()).1;
        let found = serde_json::to_vec(&look(local, control.rank() == 0))?;
        let Some(all) = control.gather(&found) else { return Ok(None) };
        let all: Vec<Found> = all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>()?;
        Ok(Some((join(&all, fine(world, true)), all.len())))
    })
}

/// What an examination says where MPI has refused to start with an error of its own.
pub fn refused(why: &str) -> Vec<Finding> {
    join(&[look(0, true)], broken(why))
}

/// Starts MPI, if this program has it, and ends it.
fn in_world<T>(body: impl FnOnce(&dyn Control, &Started) -> anyhow::Result<T>) -> anyhow::Result<T> {
    #[cfg(feature = "mpi")]
    {
        let world = crate::fabric::mpi::World::start()?;
        let started = Started { library: crate::fabric::mpi_library(), groups: world.groups().sizes() };
        let result = body(&world, &started);
        if result.is_ok() {
            world.finish();
        }
        result
    }
    #[cfg(not(feature = "mpi"))]
    body(&crate::fabric::Solo, &Started { library: None, groups: vec![1] })
}

/// Calls `late` on another thread unless the sender is dropped within `wait`.
fn watch(wait: Duration, late: impl FnOnce() + Send + 'static) -> Sender<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if receiver.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            late();
        }
    });
    sender
}

/// Standard output of a command that ends well within `wait`; else why not, in one line.
pub fn output_of(command: &mut Command, wait: Duration) -> Result<String, String> {
    // Files instead of pipes, so that no reader is needed while the command runs.
    let temporary = || tempfile::tempfile().map_err(|error| error.to_string());
    let (mut out, mut err) = (temporary()?, temporary()?);
    let to = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(|error| error.to_string());
    command.stdin(Stdio::null()).stdout(to(&out)?).stderr(to(&err)?);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < wait => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end within {} s", wait.as_secs_f64()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let read = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (out, err) = (read(&mut out), read(&mut err));
    if status.success() { Ok(out) } else { Err(format!("{status}: {}", reason(&err))) }
}

/// The line that says most of what a program printed before it failed: ours, else the first one with words that is no record
/// of a library's log, else the first one with words.
fn reason(text: &str) -> String {
    let ours = text.lines().find_map(|line| line.strip_prefix("tawpipe: "));
    let words = || text.lines().map(str::trim).filter(|line| line.contains(char::is_alphabetic));
    let plain = || words().find(|line| !line.starts_with('['));
    ours.or_else(plain).or_else(|| words().next()).unwrap_or("it has printed nothing").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Result<String, String> {
        output_of(Command::new("sh").args(["-c", line]), Duration::from_millis(500))
    }

    /// A command that hangs is ended; one that fails gives its own words, or the library's first ones.
    #[test]
    fn commands_that_fail_or_hang() {
        assert_eq!(shell("echo well"), Ok("well\n".into()));
        assert_eq!(shell("exec sleep 100"), Err("no end within 0.5 s".into()));
        let banner = "echo '-----' >&2; echo '[vm:1] error log' >&2; echo 'No pml could be found' >&2; exit 3";
        assert_eq!(shell(banner), Err("exit status: 3: No pml could be found".into()));
        let ours = "echo noise >&2; echo 'tawpipe: too few threads' >&2; exit 2";
        assert_eq!(shell(ours), Err("exit status: 2: too few threads".into()));
        assert!(output_of(&mut Command::new("/no/such/program"), Duration::from_secs(1)).is_err());
    }

    /// Only who is late is reported.
    #[test]
    fn the_watch_ends_with_its_sender() {
        let (tell, told) = channel();
        let late = |name| {
            let tell = tell.clone();
            move || tell.send(name).expect("the test waits")
        };
        drop(watch(Duration::from_secs(60), late("in time")));
        let _kept = watch(Duration::from_millis(10), late("late"));
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok("late"));
    }
}
