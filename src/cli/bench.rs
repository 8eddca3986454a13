//! `tawpipe bench`: measures this machine for the simulator.

use crate::bench::{CalibrationError, calibrate};
use crate::cluster::Groups;
use crate::deck::GpuSection;
use crate::exit::Exit;
use crate::fabric::Control;

use crate::train::choose;

use super::args::BenchArgs;
use super::launch::Unusable;

/// Measures on all ranks that the launcher started, and writes the description.
pub fn run(args: &BenchArgs) -> anyhow::Result<Exit> {
    #[cfg(feature = "mpi")]
    {
        let world = crate::fabric::mpi::World::start()?;
        let groups = world.groups().clone();
        let exit = on(args, &world, &groups)?;
        world.finish();
        Ok(exit)
    }
    #[cfg(not(feature = "mpi"))]
    on(args, &crate::fabric::Solo, &Groups::new(&[1]))
}

fn on(args: &BenchArgs, control: &dyn Control, found: &Groups) -> anyhow::Result<Exit> {
    let sizes: Vec<usize> = match args.groups.len() {
        0 => found.sizes(),
        _ => args.groups.iter().map(|&size| size as usize).collect(),
    };
    if sizes.iter().sum::<usize>() != control.size() {
        return Err(Unusable(format!("--groups {sizes:?} must add up to the {} ranks", control.size())).into());
    }
    let device = choose(args.device, &GpuSection::default(), 1, control, found)?;
    if let Some(description) = calibrate(control, &sizes, &device, &args.widths, args.seq.map(|seq| seq as usize))? {
        let write = std::fs::write(&args.calibrate, description.to_toml());
        write.map_err(|reason| CalibrationError::Write { file: args.calibrate.clone(), reason })?;
        log::info!("wrote {}", args.calibrate.display());
    }
    Ok(Exit::Done)
}
