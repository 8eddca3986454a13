//! NCCL's communicators of a rank: made over [`Control`], asked how they are, ended one way or the other.

use std::ffi::c_char;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::cluster::Rank;
use crate::device::cuda::Stream;
use crate::fabric::{Control, FabricError, NAP};
use crate::plan::Split;

use super::library::{Comm, Library, State, UniqueId, Version};
use super::{Calls, ORDER, SHARED, words};

/// One communicator of the plan, as this rank sees it.
struct Communicator {
    raw: Comm,
    /// For messages.
    name: &'static str,
    /// World ranks of its members, ascending.
    members: Vec<Rank>,
}

/// A rank's communicators, one for each rank set of a plan's splits that it belongs to and is not alone in.
///
/// No call blocks: NCCL enqueues in the background if it has to, and [`Nccl::enqueue`] looks until it has. On success
/// [`Nccl::finish`] ends them together with the other ranks; without it they are aborted, which frees the GPU from a kernel
/// that waits for a rank that will never come.
pub struct Nccl {
    library: Arc<Library>,
    /// By [`CommId`](crate::plan::CommId).
    comms: Vec<Option<Communicator>>,
    patience: Duration,
}

// SAFETY: communicators are handles of the process, not of a thread; NCCL asks that one thread at a time uses them, which
// `&mut self` and not being `Sync` see to.
unsafe impl Send for Nccl {}

impl Nccl {
    /// Collective: makes the communicators of these splits. The calling thread's current context is the GPU's, and this
    /// rank's alone unless `shared`.
    ///
    /// Before each split the ranks of a set report to their first one, which then makes NCCL's id and sends it: NCCL itself
    /// would wait for a missing rank without saying for which.
    ///
    /// # Errors
    /// After `patience`: [`FabricError::Missing`] names the ranks that have not come (on the set's first rank) or that hang in
    /// NCCL while the others wait, and [`FabricError::Unconnected`] a communicator that NCCL could not connect although all
    /// are there. Any other of NCCL's.
    /// The others wait, so the job must end.
    pub fn start(
        library: Library,
        control: &dyn Control,
        splits: &[Split],
        shared: bool,
        patience: Duration,
    ) -> Result<Self, FabricError> {
        if shared && library.version() < SHARED {
            return Err(FabricError::NcclShared { found: library.version().to_string(), needed: SHARED.to_string() });
        }
        let mut nccl = Nccl { library: Arc::new(library), comms: Vec::new(), patience };
        // The first rank of a set speaks first when one is missing.
        control.set_patience(2 * patience);
        for split in splits {
            let members = split.set_of(control.rank()).filter(|members| members.len() > 1);
            let comm = members.map(|members| nccl.connect(split.name, members, control)).transpose()?;
            nccl.comms.push(comm);
        }
        Ok(nccl)
    }

    fn connect(
        &self,
        name: &'static str,
        members: &[Rank],
        control: &dyn Control,
    ) -> Result<Communicator, FabricError> {
        let me = members.binary_search(&control.rank()).expect("a member of its own set");
        let missing = control.roll_call(members, self.patience);
        if !missing.is_empty() {
            return Err(FabricError::Missing { name, missing: words(&missing), after: self.patience });
        }
        let id = if me == 0 {
            let id = self.library.unique_id()?;
            let bytes: Vec<u8> = id.0.iter().map(|&c| c as u8).collect();
            members[1..].iter().for_each(|&member| control.send(member, &bytes));
            id
        } else {
            let mut id = UniqueId([0; 128]);
            id.0.iter_mut().zip(control.receive(members[0])).for_each(|(to, from)| *to = from as c_char);
            id
        };
        let raw = self.library.init(members.len(), id, me)?;
        let comm = Communicator { raw, name, members: members.to_vec() };
        match self.settle(&comm) {
            Err(FabricError::Unconnected { .. }) => Err(self.why_unconnected(&comm, control)),
            settled => settled.map(|()| comm),
        }
    }

    /// Collective over the members that wait in vain for NCCL: whether some hang, which those then do not say. Ranks that are found
    /// missing at another communicator meanwhile may be waiting here.
    fn why_unconnected(&self, comm: &Communicator, control: &dyn Control) -> FabricError {
        let Communicator { name, members, .. } = comm;
        let missing = if control.rank() == members[0] {
            let missing = control.roll_call(members, self.patience);
            let list: Vec<u64> = missing.iter().map(|&rank| rank as u64).collect();
            let here = members[1..].iter().filter(|member| !missing.contains(member));
            here.for_each(|&member| control.send(member, bytemuck::cast_slice(&list)));
            missing
        } else {
            control.roll_call(members, self.patience);
            let list = control.receive(members[0]);
            list.chunks_exact(8).map(|rank| bytemuck::pod_read_unaligned::<u64>(rank) as Rank).collect()
        };
        match missing.is_empty() {
            true => FabricError::Unconnected { name, members: words(members), after: self.patience },
            false => FabricError::Missing { name, missing: words(&missing), after: self.patience },
        }
    }

    /// Looks until a communicator's last call is through.
    fn settle(&self, comm: &Communicator) -> Result<(), FabricError> {
        let start = Instant::now();
        // SAFETY: the communicator lives as long as `self`, or has just been made.
        while unsafe { self.library.state(comm.raw)? } == State::InProgress {
            if start.elapsed() > self.patience {
                let (name, members) = (comm.name, words(&comm.members));
                return Err(FabricError::Unconnected { name, members, after: self.patience });
            }
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    /// NCCL's version.
    pub fn version(&self) -> Version {
        self.library.version()
    }

    /// Whether NCCL itself starts operations of different communicators in the order of the calls, on this rank and so on
    /// all: see [`super::prepare`].
    pub fn keeps_order(&self) -> bool {
        self.version() >= ORDER && std::env::var("NCCL_LAUNCH_ORDER_IMPLICIT").is_ok_and(|value| value == "1")
    }

    /// Enqueues a group of calls on a stream; returns once they are there, which for the first message to a peer takes
    /// until that peer has come as well. Views are of memory of the stream's GPU that outlives the plan's run.
    ///
    /// # Errors
    /// NCCL's, and [`FabricError::Unconnected`] after the patience given at the start.
    pub fn enqueue(&mut self, calls: &Calls, stream: &Stream) -> Result<(), FabricError> {
        if calls.list.is_empty() {
            return Ok(());
        }
        let comm = self.comms[calls.comm].as_ref().expect("a communicator that this rank belongs to");
        stream.context().enter()?;
        self.library.group_start()?;
        let mut outcome = Ok(State::Done);
        for call in &calls.list {
            // SAFETY: communicator and stream live; views are of live memory, and plans keep others off them (see `View`).
            outcome = outcome.and_then(|_| unsafe { self.library.call(call, comm.raw, stream.raw().cast()) });
        }
        // A group that was begun must be ended, whatever happened inside.
        let ended = self.library.group_end();
        outcome?;
        if ended? == State::InProgress {
            self.settle(comm)?;
        }
        Ok(())
    }

    /// Asks every communicator how it is.
    ///
    /// # Errors
    /// What went wrong since the last call, such as a peer whose connection broke.
    pub fn check(&self) -> Result<(), FabricError> {
        // SAFETY: the communicators live as long as `self`.
        self.comms.iter().flatten().try_for_each(|comm| unsafe { self.library.state(comm.raw) }.map(|_| ()))
    }

    /// Collective: ends all communicators, once their work is done.
    ///
    /// # Errors
    /// NCCL's; the communicators that are left are then aborted.
    pub fn finish(mut self) -> Result<(), FabricError> {
        while let Some(comm) = self.comms.pop() {
            let Some(comm) = comm else { continue };
            // SAFETY: the communicator lives, and is looked at until it is through.
            let finalized = unsafe { self.library.finalize(comm.raw) };
            let settled = finalized.and_then(|_| self.settle(&comm));
            // SAFETY: it is not used again.
            let released =
                unsafe { if settled.is_ok() { self.library.destroy(comm.raw) } else { self.library.abort(comm.raw) } };
            settled?;
            released?;
        }
        Ok(())
    }
}

/// How long an end without success waits for NCCL to take its kernels off the GPU.
const LAST: Duration = Duration::from_secs(5);

impl Drop for Nccl {
    fn drop(&mut self) {
        let comms: Vec<Handle> = self.comms.drain(..).flatten().map(|comm| Handle(comm.raw)).collect();
        if comms.is_empty() {
            return;
        }
        // Aborting waits for the GPU, which may be what has failed: the program must end all the same, and say why.
        let library = self.library.clone();
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            for comm in comms {
                // SAFETY: it is not used again.
                if let Err(error) = unsafe { library.abort(comm.raw()) } {
                    log::debug!("{error}");
                }
            }
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(LAST);
    }
}

/// A communicator on its way to the thread that aborts it.
struct Handle(Comm);

// SAFETY: communicators are handles of the process, not of a thread.
unsafe impl Send for Handle {}

impl Handle {
    fn raw(self) -> Comm {
        self.0
    }
}
