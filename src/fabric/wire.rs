//! Messages between ranks while a plan runs.

use std::time::Duration;

use crate::cluster::Rank;
use crate::device::View;
use crate::plan::CommId;

use super::FabricError;
use super::sum::add;

/// A message on its way; given back to the [`Wire`] that made it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request(pub(super) usize);

/// Non-blocking messages. Messages of one communicator from one rank to another are matched in the order in which they
/// were started, on both sides. A send may last until it is received. Ranks are numbered as in the world.
///
/// A view must stay valid, and must not be changed (send) or touched (receive), until its request has tested true or
/// the wire is dropped.
pub trait Wire: Send {
    /// Starts sending a view's bytes.
    fn send(&mut self, comm: CommId, to: Rank, data: View) -> Result<Request, FabricError>;
    /// Starts receiving into a view; the message must be as long as it.
    fn receive(&mut self, comm: CommId, from: Rank, into: View) -> Result<Request, FabricError>;
    /// Adds what has been received to what is there (see [`crate::plan::collective`]): at once, or as a request. The two are
    /// of equal length and type; bf16 is added in f32 and rounded once.
    fn add(&mut self, from: View, into: View) -> Result<Option<Request>, FabricError> {
        add(into, from);
        Ok(None)
    }
    /// Whether a message (or a sum) is complete. If not, the request comes back.
    fn test(&mut self, request: Request) -> Result<Option<Request>, FabricError>;
}

/// How long to sleep between two looks at messages that do not move.
pub const NAP: Duration = Duration::from_micros(50);
