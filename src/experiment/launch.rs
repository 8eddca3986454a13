//! How a cell's program is started on each kind of place.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::results::{Cell, Place, Program};

use super::ExperimentError;
use super::virtual_cluster::VirtualCluster;

/// The launcher: `MPIRUN`, else `mpirun`.
pub fn mpirun() -> String {
    std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".into())
}

/// Lets mpirun start more ranks than there are cores, perhaps as root in a container.
pub fn share_cores(command: &mut Command) {
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
}

/// The repository with `jobs/` and `benches/`: TAWPIPE_ROOT, else the nearest folder above the working folder or above
/// this program that has them.
pub fn repository() -> Option<PathBuf> {
    let has = |folder: &Path| folder.join("jobs/virtual-cluster").is_file();
    if let Some(root) = std::env::var_os("TAWPIPE_ROOT") {
        return Some(PathBuf::from(root)).filter(|root| has(root));
    }
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts.iter().flatten().find_map(|start| start.ancestors().find(|folder| has(folder)).map(Path::to_path_buf))
}

/// A file of the repository.
///
/// # Errors
/// If there is no repository.
pub fn ours(path: &str) -> Result<PathBuf, ExperimentError> {
    let root = repository().ok_or_else(|| {
        ExperimentError::Place(format!("{path} is not found; run this inside the repository, or set TAWPIPE_ROOT"))
    })?;
    Ok(root.join(path))
}

/// Where ranks run.
pub enum Host {
    /// Beside each other on this machine.
    Machine,
    /// On a virtual cluster, which is started when it is first needed.
    Cluster(VirtualCluster),
    /// On the nodes of this Slurm job.
    Allocation,
}

impl Host {
    /// Whatever a place needs.
    ///
    /// # Errors
    /// If the place is not at hand, with the reason.
    pub fn new(place: Place) -> Result<Self, ExperimentError> {
        match place {
            Place::Machine => Ok(Host::Machine),
            Place::Simulated => Err(ExperimentError::Place(
                "where.kind = \"simulated\" is nothing to measure; accepted: machine, virtual-cluster, allocation".into(),
            )),
            Place::VirtualCluster => Ok(Host::Cluster(VirtualCluster::new()?)),
            Place::Allocation if std::env::var_os("SLURM_JOB_ID").is_some() => Ok(Host::Allocation),
            Place::Allocation => Err(ExperimentError::Place(
                "there is no SLURM_JOB_ID: submit this with sbatch (jobs/scaling.sbatch), or choose another place with \
                 --on"
                    .into(),
            )),
        }
    }

    /// A command that starts `words` on all ranks of a cell.
    ///
    /// # Errors
    /// If the place cannot be made ready.
    pub fn command(&mut self, cell: &Cell, words: &[String]) -> Result<Command, ExperimentError> {
        let ranks = cell.ranks().to_string();
        match self {
            Host::Machine => {
                let mut command = Command::new(mpirun());
                command.args(["-n", &ranks, "--bind-to", "none"]).args(words);
                share_cores(&mut command);
                Ok(command)
            }
            Host::Cluster(cluster) => {
                cluster.ready(cell)?;
                let mut command = cluster.command();
                command.args(["run", "-n", &ranks, "--"]).args(words);
                Ok(command)
            }
            Host::Allocation => {
                let mut command = Command::new("bash");
                let script = "jobs=$0; source \"$jobs/common.sh\"; \
                              if [ \"$1\" = train ]; then launch \"${tawpipe[@]}\" \"$@\" \"${settings[@]}\"; \
                              else launch \"$@\"; fi";
                command.arg("-c").arg(script).arg(ours("jobs")?).args(words);
                // srun takes its options from here, if the cell is smaller than the allocation.
                let (nodes, each) = (cell.nodes().to_string(), cell.ranks_per_node[0].to_string());
                for (name, value) in [
                    ("SLURM_NNODES", &nodes),
                    ("SLURM_JOB_NUM_NODES", &nodes),
                    ("SLURM_NTASKS", &ranks),
                    ("SLURM_NPROCS", &ranks),
                    ("SLURM_NTASKS_PER_NODE", &each),
                ] {
                    command.env(name, value);
                }
                Ok(command)
            }
        }
    }

    /// Files with the interface counters of each node, with its name.
    pub fn counters(&self) -> Vec<(String, PathBuf)> {
        match self {
            Host::Cluster(cluster) => cluster.counters(),
            _ => Vec::new(),
        }
    }

    /// After a run that had to be ended by force: nothing of it may be left.
    pub fn clean(&mut self) {
        if let Host::Cluster(cluster) = self {
            cluster.down();
        }
    }

    /// The program to start for a cell, with its arguments, writing to a folder of its own.
    ///
    /// # Errors
    /// If a file of the repository is missing.
    pub fn words(
        &self,
        cell: &Cell,
        deck: &Path,
        torch: Option<&str>,
        folder: &Path,
    ) -> Result<Vec<String>, ExperimentError> {
        let text = |path: &Path| path.display().to_string();
        if cell.program == Program::Torch {
            let shape = &cell.shape;
            let script = ours("benches/torch_sharded.py")?;
            let mut words = vec![torch.unwrap_or("python3").to_string(), text(&script), "--json".into()];
            let numbers = [
                ("dim", shape.dim),
                ("layers", shape.layers),
                ("heads", shape.heads),
                ("ffn", shape.ffn),
                ("vocab", shape.vocab),
                ("seq", cell.seq),
                ("micro", cell.micro),
                ("accumulate", (cell.global / cell.micro / cell.ranks()).max(1)),
                ("steps", cell.warmup + cell.steps),
            ];
            words.extend(["--config".into(), "tiny".into(), "--mode".into(), cell.system.clone()]);
            words.extend(["--store".into(), text(&folder.join("store"))]);
            words.extend(numbers.iter().flat_map(|(name, value)| [format!("--{name}"), value.to_string()]));
            if cell.dtype == crate::model::Dtype::Bf16 {
                words.push("--bf16".into());
            }
            return Ok(words);
        }
        let mut words = Vec::new();
        if !matches!(self, Host::Allocation) {
            let program = std::env::current_exe().map_err(|error| ExperimentError::Program {
                what: "this program's own path".into(),
                reason: error.to_string(),
            })?;
            words.push(text(&program));
        }
        words.extend(["train".into(), text(deck), "--json".into()]);
        let mut sets = cell.sets.clone();
        if cell.place == Place::Machine {
            sets.push(format!("cluster.ranks_per_group={:?}", cell.ranks_per_node));
        }
        sets.push(format!("run.folder={}", text(&folder.join("run"))));
        words.extend(sets.into_iter().flat_map(|set| ["--set".to_string(), set]));
        Ok(words)
    }
}
