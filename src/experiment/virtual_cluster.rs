//! A virtual cluster of the experiment's own, by `jobs/virtual-cluster`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use crate::results::{Cell, Link};

use super::ExperimentError;
use super::launch::ours;

/// Started when the first cell needs it, kept while the next ones have the same nodes, gone when this is dropped. It is
/// tied to this process: however that ends, the cluster ends too.
pub struct VirtualCluster {
    script: PathBuf,
    name: String,
    running: Option<Running>,
}

struct Running {
    /// `jobs/virtual-cluster up --tied`: its standard input is the tie.
    tie: Child,
    ranks_per_node: Vec<usize>,
    link: Link,
    nodes: Vec<Node>,
}

/// What `status --json` says about a node.
#[derive(Clone, Debug, Deserialize)]
struct Node {
    name: String,
    /// A process that sees the node's network.
    pid: u32,
}

impl VirtualCluster {
    /// One that is not up yet.
    ///
    /// # Errors
    /// If the script is not found.
    pub fn new() -> Result<Self, ExperimentError> {
        let name = std::env::var("TAWPIPE_CLUSTER").unwrap_or_else(|_| format!("experiment-{}", std::process::id()));
        Ok(VirtualCluster { script: ours("jobs/virtual-cluster")?, name, running: None })
    }

    /// The script, about this cluster.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.script);
        command.args(["--name", &self.name]);
        command
    }

    /// Brings it into the form that a cell asks for.
    ///
    /// # Errors
    /// What the script says, such as that it needs root.
    pub fn ready(&mut self, cell: &Cell) -> Result<(), ExperimentError> {
        if self.running.as_ref().is_some_and(|running| running.ranks_per_node != cell.ranks_per_node) {
            self.down();
        }
        match &mut self.running {
            None => self.up(cell),
            Some(running) if running.link != cell.link => {
                running.link = cell.link.clone();
                let nodes: Vec<String> = running.nodes.iter().map(|node| node.name.clone()).collect();
                let (rate, latency) = words(&cell.link);
                nodes
                    .iter()
                    .try_for_each(|node| self.call(&["link", node, "--rate", &rate, "--latency", &latency]).map(|_| ()))
            }
            Some(_) => Ok(()),
        }
    }

    fn up(&mut self, cell: &Cell) -> Result<(), ExperimentError> {
        let sizes = &cell.ranks_per_node;
        if sizes.iter().any(|size| *size != sizes[0]) {
            return Err(ExperimentError::Place("nodes of a virtual cluster have the same number of ranks".into()));
        }
        let (rate, latency) = words(&cell.link);
        let mut up = self.command();
        up.args(["up", "--tied", "--nodes", &sizes.len().to_string(), "--ranks-per-node", &sizes[0].to_string()]);
        up.args(["--rate", &rate, "--latency", &latency]);
        up.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |reason: String| ExperimentError::Place(format!("{reason}; --on machine does without"));
        let mut tie = up.spawn().map_err(|error| failed(format!("{}: {error}", self.script.display())))?;
        // What it says is one line; the cluster's own processes write elsewhere.
        let mut said = String::new();
        if let Some(mut stderr) = tie.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        // Not `wait`: that would close the tie.
        let code = loop {
            match tie.try_wait() {
                Ok(Some(status)) => break status.code(),
                Ok(None) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        if code != Some(0) {
            return Err(failed(said.trim().to_string()));
        }
        let status = self.call(&["status", "--json"])?;
        let nodes = serde_json::from_str(&status).map_err(|error| failed(format!("status --json: {error}")))?;
        self.running = Some(Running { tie, ranks_per_node: sizes.clone(), link: cell.link.clone(), nodes });
        Ok(())
    }

    /// Stops it.
    pub fn down(&mut self) {
        if let Some(running) = self.running.take() {
            if let Err(error) = self.call(&["down"]) {
                log::warn!("{error}");
            }
            drop(running.tie);
        }
    }

    /// Where the kernel keeps each node's counters.
    pub fn counters(&self) -> Vec<(String, PathBuf)> {
        let nodes = self.running.iter().flat_map(|running| &running.nodes);
        nodes.map(|node| (node.name.clone(), PathBuf::from(format!("/proc/{}/net/dev", node.pid)))).collect()
    }

    /// Standard output of a command of the script.
    fn call(&self, words: &[&str]) -> Result<String, ExperimentError> {
        let what = || format!("jobs/virtual-cluster {}", words.join(" "));
        let failed = |reason: String| ExperimentError::Program { what: what(), reason };
        let output = self.command().args(words).output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for VirtualCluster {
    fn drop(&mut self) {
        self.down();
    }
}

/// Rate and latency as `tc` reads them.
fn words(link: &Link) -> (String, String) {
    let rate = link.rate.map_or("none".into(), |rate| format!("{rate:.0}bit"));
    let latency = if link.latency > 0.0 { format!("{:.0}us", link.latency * 1e6) } else { "none".into() };
    (rate, latency)
}
