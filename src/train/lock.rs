//! One writer a run folder: a lock file that names the process on rank 0.
//!
//! A process on this machine is known by its number and the time it started, so a lock that a dead one has left is told at
//! once. Of a process on another machine only the file's time is known: a lock holder writes its file again and again, and
//! counts as dead when it has not done so for twice `run.timeout`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// The file's name in a run folder.
pub const LOCK: &str = "lock";

/// Bounds of the time between two writes of a holder.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(15);

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// Name of the machine, for people.
    host: String,
    /// Which machine and which space of process numbers: those of two containers must not be mixed up.
    machine: String,
    process: u32,
    /// When the process started, in the machine's clock ticks.
    started: u64,
    /// When the lock was taken.
    since: String,
}

impl Holder {
    fn this() -> Self {
        let process = std::process::id();
        Holder {
            host: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string(),
            machine: machine(),
            process,
            started: started(process).unwrap_or(0),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The boot of this machine, and the space of process numbers.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), space.display())
}

/// When a process started; `None` if there is none of this number, or only its remains.
fn started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in brackets may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// A run folder's lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    text: String,
    lost: Arc<AtomicBool>,
    /// Dropped first, to end the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lock {
    /// Takes the lock of a folder that exists.
    ///
    /// # Errors
    /// If another process holds it, or the folder cannot be written to.
    pub fn take(folder: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let path = folder.join(LOCK);
        let text = serde_json::to_string(&Holder::this()).expect("plain data") + "\n";
        loop {
            match File::options().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())?;
                    return Ok(Lock::held(path, text, (timeout / 4).clamp(SHORTEST, LONGEST)));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => give_way(folder, &path, timeout)?,
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
    }

    fn held(path: PathBuf, text: String, interval: Duration) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let (alive, ended) = channel();
        let thread = {
            let (path, text, lost) = (path.clone(), text.clone(), lost.clone());
            std::thread::Builder::new().name("lock".into()).spawn(move || {
                while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    match fs::read_to_string(&path) {
                        Ok(found) if found == text => {
                            // The same bytes again: the file's time is what changes, by the clock of whoever keeps the file.
                            let file = File::options().write(true).open(&path);
                            let _ = file.and_then(|file| file.write_all_at(text.as_bytes(), 0));
                        }
                        // A network file system may fail for a while; the next look tells.
                        Err(error) if error.kind() != ErrorKind::NotFound => {}
                        _ => return lost.store(true, Ordering::Relaxed),
                    }
                }
            })
        };
        Lock { path, text, lost, alive: Some(alive), thread: thread.ok() }
    }

    /// Fails once another process has taken the lock, or somebody has removed it.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            let path = self.path.display();
            bail!("{path} is gone or another process's: this run stops, so that two do not write into one folder");
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if fs::read_to_string(&self.path).is_ok_and(|found| found == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a lock whose holder is dead, or says who holds it.
fn give_way(folder: &Path, path: &Path, timeout: Duration) -> anyhow::Result<()> {
    let found = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| path.display().to_string())?,
    };
    let holder: Option<Holder> = serde_json::from_str(&found).ok();
    let who = holder.as_ref().map_or("another process that is just starting".into(), |h| {
        format!("process {} on {} (since {})", h.process, h.host, h.since)
    });
    let shown = folder.display();
    let held = format!(
        "run folder {shown} is in use: {who} writes into it; wait until it has ended, or choose another run.folder"
    );
    match holder.filter(|holder| holder.machine == machine()) {
        Some(holder) if started(holder.process) == Some(holder.started) => bail!(held),
        Some(_) => {}
        None if age(folder, path)? < timeout.saturating_mul(2) => bail!(held),
        None => {}
    }
    // Moved away before it is removed: if another process has been quicker, this is its lock, and goes back.
    let aside = folder.join(format!("{LOCK}.{}", std::process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.with_context(|| path.display().to_string())?,
    }
    let moved = fs::read_to_string(&aside).unwrap_or_default();
    if moved != found {
        let _ = fs::hard_link(&aside, path);
    }
    fs::remove_file(&aside).with_context(|| aside.display().to_string())?;
    if moved != found {
        bail!("run folder {shown} is in use: another process has just begun to write into it");
    }
    log::warn!("run folder {shown}: {who} has died without giving up the folder; going on from what it left");
    Ok(())
}

/// How long ago a lock was written, by the clock of the file system, which need not be this machine's.
fn age(folder: &Path, path: &Path) -> anyhow::Result<Duration> {
    let probe = folder.join(format!("{LOCK}.{}.now", std::process::id()));
    let now = File::create(&probe).and_then(|file| file.metadata()?.modified());
    let _ = fs::remove_file(&probe);
    let now = now.with_context(|| probe.display().to_string())?;
    match fs::metadata(path).and_then(|found| found.modified()) {
        Ok(then) => Ok(now.duration_since(then).unwrap_or_default()),
        // Given up in the meantime.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Duration::MAX),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn refused(folder: &Path) -> String {
        Lock::take(folder, TIMEOUT).unwrap_err().to_string()
    }

    fn write(folder: &Path, holder: &Holder) {
        fs::write(folder.join(LOCK), serde_json::to_string(holder).unwrap()).unwrap();
    }

    /// One holder at a time, named to the others; nothing is left when it has ended.
    #[test]
    fn a_second_writer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path(), TIMEOUT).unwrap();
        let text = refused(folder.path());
        assert!(text.contains(&format!("process {} on ", std::process::id())), "{text}");
        lock.check().unwrap();
        drop(lock);
        drop(Lock::take(folder.path(), TIMEOUT).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// On this machine a process that has ended, or whose number another one has now, is known to be dead at once.
    #[test]
    fn a_dead_holder_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = child.id();
        child.wait().unwrap();
        write(folder.path(), &Holder { process, ..Holder::this() });
        drop(Lock::take(folder.path(), TIMEOUT).unwrap());
        let this = Holder::this();
        write(folder.path(), &Holder { started: this.started + 1, ..this });
        drop(Lock::take(folder.path(), TIMEOUT).unwrap());
    }

    /// A holder on another machine, or one whose file makes no sense, is dead when it has not written for twice the timeout.
    #[test]
    fn another_machine_is_judged_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let other = Holder { machine: "another".into(), host: "node7".into(), ..Holder::this() };
        for text in [serde_json::to_string(&other).unwrap(), String::new()] {
            fs::write(&path, &text).unwrap();
            let said = refused(folder.path());
            assert!(said.contains(if text.is_empty() { "just starting" } else { "on node7" }), "{said}");
            let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(&path).unwrap().set_modified(ago(110)).unwrap();
            refused(folder.path());
            File::options().write(true).open(&path).unwrap().set_modified(ago(130)).unwrap();
            drop(Lock::take(folder.path(), TIMEOUT).unwrap());
        }
    }

    /// A holder renews its file, and notices when it is no longer its own.
    #[test]
    fn a_holder_renews_and_notices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let lock = Lock::take(folder.path(), Duration::from_millis(40)).unwrap();
        let old = SystemTime::now() - Duration::from_secs(1000);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let until = |fine: &dyn Fn() -> bool| {
            let start = std::time::Instant::now();
            while !fine() {
                assert!(start.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|| fs::metadata(&path).unwrap().modified().unwrap() > old + Duration::from_secs(500));
        lock.check().unwrap();
        fs::write(&path, "another's").unwrap();
        until(&|| lock.check().is_err());
        drop(lock);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
    }
}
