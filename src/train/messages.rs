//! Who carries the messages of a plan: the same on all ranks.

use crate::deck::{Deck, FabricKind};
use crate::device::Chosen;
use crate::exit::Exit;
use crate::fabric::Control;

use super::{Agreed, MakeWire};

/// Who carries a rank's messages while a plan runs.
pub enum Messages<'a> {
    /// The host, over wires like this; those of GPU memory pass through the host's.
    Host(&'a MakeWire<'a>),
    /// The GPU's streams.
    #[cfg(feature = "cuda")]
    Streams {
        /// What carries them; none for a rank that is alone.
        nccl: Option<crate::fabric::nccl::Library>,
        /// What makes communicators.
        control: &'a dyn Control,
        /// Several ranks use one GPU.
        shared: bool,
    },
}

/// Collective. What `run.fabric` asks for, on every rank.
///
/// # Errors
/// [`Agreed`] bad input, if the deck asks for NCCL and it cannot be had.
pub fn choose<'a>(
    deck: &Deck,
    device: &Chosen,
    control: &'a dyn Control,
    wire: &'a MakeWire<'a>,
) -> anyhow::Result<Messages<'a>> {
    match device {
        Chosen::Cpu { .. } if deck.run.fabric == FabricKind::Nccl => {
            let message =
                "run.fabric = \"nccl\" is for GPUs, but the CPU computes; set run.device = \"cuda\"".to_string();
            Err(Agreed::new(control, Exit::BadInput, message).into())
        }
        Chosen::Cpu { .. } => Ok(Messages::Host(wire)),
        #[cfg(feature = "cuda")]
        Chosen::Cuda(gpu) => gpus::choose(deck, gpu.launcher(), control, wire),
    }
}

#[cfg(feature = "cuda")]
mod gpus {
    use std::collections::BTreeSet;

    use super::*;
    use crate::device::cuda::Cuda;
    use crate::fabric::FabricError;
    use crate::fabric::nccl::{Library, SHARED};
    use crate::train::agree;

    pub fn choose<'a>(
        deck: &Deck,
        gpu: &Cuda,
        control: &'a dyn Control,
        wire: &'a MakeWire<'a>,
    ) -> anyhow::Result<Messages<'a>> {
        if control.size() == 1 && deck.run.fabric != FabricKind::Nccl {
            return Ok(Messages::Streams { nccl: None, control, shared: false });
        }
        if deck.run.fabric == FabricKind::Mpi {
            return Ok(Messages::Host(wire));
        }
        let shared = shared(gpu, control);
        let library = Library::open().and_then(|library| match library.version() {
            version if shared && version < SHARED => {
                Err(FabricError::NcclShared { found: version.to_string(), needed: SHARED.to_string() })
            }
            _ => Ok(library),
        });
        let why = match deck.run.fabric {
            FabricKind::Auto if shared => Some("several ranks use one GPU".to_string()),
            FabricKind::Auto => library.as_ref().err().map(ToString::to_string),
            _ => None,
        };
        let mut without = [u64::from(why.is_some())];
        control.sum_u64(&mut without);
        if without[0] > 0 {
            if let Some(why) = why.filter(|_| control.rank() == 0) {
                log::info!("messages between GPUs pass through the hosts' memory: {why}");
            }
            return Ok(Messages::Host(wire));
        }
        let library = agree(control, Exit::BadInput, library.map_err(Into::into))?;
        if control.rank() == 0 {
            log::info!("messages between GPUs: NCCL {}", library.version());
        }
        Ok(Messages::Streams { nccl: Some(library), control, shared })
    }

    /// Collective. Whether some GPU is used by more than one rank.
    fn shared(gpu: &Cuda, control: &dyn Control) -> bool {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let seat = format!("{} {}", host.trim(), gpu.context().properties().uuid);
        let mut twice = [0];
        if let Some(all) = control.gather(seat.as_bytes()) {
            let different: BTreeSet<_> = all.iter().collect();
            twice[0] = (all.len() - different.len()) as u64;
        }
        control.sum_u64(&mut twice);
        twice[0] > 0
    }
}
