//! This machine described, so that every measured cell has a prediction beside it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Description, Duplex, InterLink, Node};
use crate::results::{Cell, Place, Prediction};

use super::launch::{Host, mpirun};
use super::predict::predict;

/// The calibration of this machine in a folder of results: read, or measured and written there. `None`, with a warning,
/// if that fails: an experiment can do without.
pub fn calibration(folder: &Path, host: &Host, ranks: usize) -> Option<Description> {
    let file = folder.join("calibration.toml");
    if !file.exists() {
        if matches!(host, Host::Allocation) {
            log::info!("no predictions: put what jobs/calibrate.sbatch measures into {}", file.display());
            return None;
        }
        log::info!("calibrating this machine for predictions");
        let program = std::env::current_exe().ok()?;
        let mut command = Command::new(mpirun());
        command.args(["-n", &ranks.to_string(), "--bind-to", "none"]).arg(program);
        command.arg("calibrate").arg(&file);
        super::launch::share_cores(&mut command);
        let output = command.stdin(Stdio::null()).output().ok()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            log::warn!("no predictions: {}", said.trim().lines().last().unwrap_or("the calibration failed"));
            return None;
        }
    }
    Description::read(&file).map_err(|error| log::warn!("no predictions: {error}")).ok()
}

/// The machine as a cell sees it. The nodes of a virtual cluster share this machine's cores: each has its part of them.
fn describe(machine: &Description, cell: &Cell) -> Description {
    let mut machine = machine.clone();
    let cores: f64 = machine.nodes.iter().filter_map(|node| Some(node.count as f64 * node.cores?)).sum();
    let cores = |part: usize| (cores > 0.0).then(|| cores * part as f64 / cell.ranks() as f64);
    if cell.place == Place::Machine {
        let groups = Some(cell.ranks_per_node.clone());
        machine.nodes = vec![Node { count: 1, ranks: cell.ranks(), groups, cores: cores(cell.ranks()) }];
        return machine;
    }
    let node = |&ranks: &usize| Node { count: 1, ranks, groups: None, cores: cores(ranks) };
    machine.nodes = cell.ranks_per_node.iter().map(node).collect();
    machine.links.inter = InterLink {
        latency: machine.links.intra.latency + cell.link.latency,
        // Without a limit, messages are copies in memory here too.
        rate: cell.link.rate.map_or(machine.links.intra.rate, |rate| rate / 8.0),
        duplex: Duplex::Full,
        nics: 1,
    };
    machine.name = format!("{}, links {}", machine.name, cell.link.name);
    machine
}

/// Simulates a cell; `None` for PyTorch, and for what no plan can be made for.
pub fn foresee(machine: &Description, cell: &Cell) -> Option<Prediction> {
    let job = cell.job(Default::default())?;
    predict(&job, &describe(machine, cell)).ok().map(|forecast| forecast.prediction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::read_folder;

    /// Nodes of a virtual cluster share the cores of the machine that it runs on, each according to its ranks; on the machine
    /// itself all ranks share all of them.
    #[test]
    fn nodes_share_the_cores() {
        let record = read_folder("docs/results/headline".as_ref()).unwrap().swap_remove(0);
        let mut machine = Description::read("docs/results/headline/calibration.toml".as_ref()).unwrap();
        machine.nodes = vec![Node { count: 2, ranks: 2, groups: None, cores: Some(3.0) }];
        let mut cell = Cell { place: Place::VirtualCluster, ranks_per_node: vec![1, 2], ..record.cell };
        let cores = |cell: &Cell| -> Vec<_> { describe(&machine, cell).nodes.iter().map(|node| node.cores).collect() };
        assert_eq!(cores(&cell), [Some(2.0), Some(4.0)]);
        cell.place = Place::Machine;
        assert_eq!(cores(&cell), [Some(6.0)]);
    }
}
