//! `tawpipe calibrate` (once `bench --calibrate`): measures this machine for the simulator.

use std::path::Path;

use crate::bench::{CalibrationError, calibrate};
use crate::cluster::Groups;
use crate::deck::GpuSection;
use crate::exit::Exit;
use crate::fabric::Control;

use crate::train::choose;

use super::args::MeasureArgs;
use super::launch::Unusable;

/// Measures on all ranks that the launcher started, and writes the description.
pub fn run(file: &Path, args: &MeasureArgs) -> anyhow::Result<Exit> {
    #[cfg(feature = "mpi")]
    {
        let world = crate::fabric::mpi::World::start()?;
        let groups = world.groups().clone();
        let outcome = on(file, args, &world, &groups);
        // What all ranks find wrong with what was typed ends them in an orderly way, with its own exit code.
        if outcome.as_ref().err().is_none_or(|error| error.is::<Unusable>()) {
            world.finish();
        }
        outcome
    }
    #[cfg(not(feature = "mpi"))]
    on(file, args, &crate::fabric::Solo, &Groups::new(&[1]))
}

fn on(file: &Path, args: &MeasureArgs, control: &dyn Control, found: &Groups) -> anyhow::Result<Exit> {
    let sizes: Vec<usize> = match args.groups.len() {
        0 => found.sizes(),
        _ => args.groups.iter().map(|&size| size as usize).collect(),
    };
    if sizes.iter().sum::<usize>() != control.size() {
        return Err(Unusable(format!("--groups {sizes:?} must add up to the {} ranks", control.size())).into());
    }
    let device = choose(args.device, &GpuSection::default(), 1, control, found)?;
    if let Some(description) = calibrate(control, &sizes, &device, &args.widths, args.seq.map(|seq| seq as usize))? {
        let write = std::fs::write(file, description.to_toml());
        write.map_err(|reason| CalibrationError::Write { file: file.to_path_buf(), reason })?;
        log::info!("wrote {}", file.display());
    }
    Ok(Exit::Done)
}
