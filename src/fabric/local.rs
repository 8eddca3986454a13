//! Ranks as threads of one process: any plan on any number of ranks without MPI.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::cluster::Rank;
use crate::device::View;
use crate::model::Dtype;
use crate::plan::CommId;
use crate::random::SplitMix64;

use super::{Control, FabricError, Request, Wire};

/// How messages between threads behave.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalOptions {
    /// Messages of fewer bytes are copied when they are sent, so that the send completes at once; longer ones last
    /// until they are received. 0: all sends last, which shows a plan's deadlocks.
    pub eager: usize,
    /// Every message takes a random time up to this.
    pub delay: Duration,
    /// For the random times.
    pub seed: u64,
}

/// Bytes to be sent: in place, or copied.
enum Data {
    InPlace(View),
    Copied(Vec<u8>),
}

/// Number of a wire and communicator in it.
type Address = (usize, CommId);

/// A started send or receive.
struct Post<T> {
    address: Address,
    what: T,
    ready: Instant,
    done: Arc<AtomicBool>,
}

/// What one rank sends to another.
#[derive(Default)]
struct Channel {
    sends: VecDeque<Post<Data>>,
    receives: VecDeque<Post<View>>,
    control: VecDeque<Vec<u8>>,
}

const NOBODY: usize = usize::MAX;

/// What the threads share: a channel for each ordered pair of ranks.
struct Hub {
    ranks: usize,
    options: LocalOptions,
    channels: Vec<(Mutex<Channel>, Condvar)>,
    /// The first rank that panicked, or [`NOBODY`].
    failed: AtomicUsize,
}

impl Hub {
    fn pair(&self, from: Rank, to: Rank) -> &(Mutex<Channel>, Condvar) {
        &self.channels[from * self.ranks + to]
    }

    fn channel(&self, from: Rank, to: Rank) -> MutexGuard<'_, Channel> {
        // A rank that panicked has told everyone through `failed`; the channel itself is whole between two statements.
        self.pair(from, to).0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), FabricError> {
        match self.failed.load(Ordering::Acquire) {
            NOBODY => Ok(()),
            rank => Err(FabricError::Peer(rank)),
        }
    }

    fn fail(&self, rank: Rank) {
        let _ = self.failed.compare_exchange(NOBODY, rank, Ordering::AcqRel, Ordering::Acquire);
        for (_, wake) in &self.channels {
            wake.notify_all();
        }
    }
}

impl Channel {
    /// Carries every message whose two sides have started and whose time has come, in order.
    fn carry(&mut self, from: Rank) -> Result<(), FabricError> {
        let now = Instant::now();
        let mut i = 0;
        while let Some(receive) = self.receives.get(i) {
            let Some(j) = self.sends.iter().position(|send| send.address == receive.address) else {
                i += 1;
                continue;
            };
            if self.sends[j].ready > now || self.receives.range(..i).any(|earlier| earlier.address == receive.address) {
                i += 1;
                continue;
            }
            let send = self.sends.remove(j).expect("just found");
            let receive = self.receives.remove(i).expect("just found");
            let into = receive.what.cast(Dtype::Byte);
            let got = match &send.what {
                Data::InPlace(view) => view.bytes(),
                Data::Copied(bytes) => bytes.len(),
            };
            if got != into.bytes() {
                return Err(FabricError::Length { from, got, expected: into.bytes() });
            }
            // SAFETY: both views are host memory that their ranks keep alive and leave alone until the request is
            // complete or the wire is dropped; dropping a wire takes its posts away under this channel's lock.
            unsafe {
                let into = into.slice_mut::<u8>();
                match &send.what {
                    Data::InPlace(view) => into.copy_from_slice(view.cast(Dtype::Byte).slice()),
                    Data::Copied(bytes) => into.copy_from_slice(bytes),
                }
            }
            send.done.store(true, Ordering::Release);
            receive.done.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// A rank's messages in a world of threads.
pub struct LocalWire {
    hub: Arc<Hub>,
    rank: Rank,
    number: usize,
    random: SplitMix64,
    /// Started messages by request number: sender, receiver and whether it is complete.
    requests: Vec<Option<(Rank, Rank, Arc<AtomicBool>)>>,
    free: Vec<usize>,
}

impl LocalWire {
    fn request(&mut self, from: Rank, to: Rank, done: Arc<AtomicBool>) -> Request {
        let index = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        self.requests[index] = Some((from, to, done));
        Request(index)
    }
}

impl Wire for LocalWire {
    fn send(&mut self, comm: CommId, to: Rank, data: View) -> Result<Request, FabricError> {
        self.hub.check()?;
        let options = self.hub.options;
        let delay = options.delay.mul_f64(self.random.next_u64() as f64 / u64::MAX as f64);
        let eager = data.bytes() < options.eager;
        let done = Arc::new(AtomicBool::new(eager));
        let what = if eager {
            // SAFETY: host memory that nobody changes before the request is complete.
            Data::Copied(unsafe { data.cast(Dtype::Byte).slice() }.to_vec())
        } else {
            Data::InPlace(data)
        };
        let post = Post { address: (self.number, comm), what, ready: Instant::now() + delay, done: done.clone() };
        self.hub.channel(self.rank, to).sends.push_back(post);
        Ok(self.request(self.rank, to, done))
    }

    fn receive(&mut self, comm: CommId, from: Rank, into: View) -> Result<Request, FabricError> {
        self.hub.check()?;
        let done = Arc::new(AtomicBool::new(false));
        let post = Post { address: (self.number, comm), what: into, ready: Instant::now(), done: done.clone() };
        self.hub.channel(from, self.rank).receives.push_back(post);
        Ok(self.request(from, self.rank, done))
    }

    fn test(&mut self, request: Request) -> Result<Option<Request>, FabricError> {
        let (from, to, done) = self.requests[request.0].as_ref().expect("a request of this wire");
        if !done.load(Ordering::Acquire) {
            self.hub.channel(*from, *to).carry(*from)?;
        }
        if !done.load(Ordering::Acquire) {
            self.hub.check()?;
            return Ok(Some(request));
        }
        self.requests[request.0] = None;
        self.free.push(request.0);
        Ok(None)
    }
}

impl Drop for LocalWire {
    fn drop(&mut self) {
        // Nobody may touch this rank's memory from now on; copies of sent bytes may still be received.
        let other = |address: Address| address.0 != self.number;
        for peer in 0..self.hub.ranks {
            let mut channel = self.hub.channel(self.rank, peer);
            channel.sends.retain(|post| other(post.address) || matches!(post.what, Data::Copied(_)));
            drop(channel);
            self.hub.channel(peer, self.rank).receives.retain(|post| other(post.address));
        }
    }
}

/// One rank of a world of threads. If it waits for a rank that panicked, it panics too.
pub struct LocalWorld {
    hub: Arc<Hub>,
    rank: Rank,
    wires: Cell<usize>,
}

impl LocalWorld {
    /// A wire for any communicators. All ranks make the same wires in the same order.
    pub fn wire(&self) -> LocalWire {
        let number = self.wires.replace(self.wires.get() + 1);
        let mut random = SplitMix64::new(self.hub.options.seed ^ self.rank as u64);
        random.next_u64();
        LocalWire { hub: self.hub.clone(), rank: self.rank, number, random, requests: Vec::new(), free: Vec::new() }
    }
}

impl Control for LocalWorld {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hub.ranks
    }

    fn send(&self, to: usize, bytes: &[u8]) {
        self.hub.channel(self.rank, to).control.push_back(bytes.to_vec());
        self.hub.pair(self.rank, to).1.notify_all();
    }

    fn receive(&self, from: usize) -> Vec<u8> {
        let mut channel = self.hub.channel(from, self.rank);
        loop {
            if let Some(bytes) = channel.control.pop_front() {
                return bytes;
            }
            if let Err(error) = self.hub.check() {
                drop(channel);
                panic!("{error}");
            }
            // The time limit covers a failure that is announced between the check and the wait.
            let wake = &self.hub.pair(from, self.rank).1;
            channel = wake.wait_timeout(channel, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A world of threads: what each rank sees of it.
pub fn world(ranks: usize, options: LocalOptions) -> Vec<LocalWorld> {
    let channels = (0..ranks * ranks).map(|_| Default::default()).collect();
    let hub = Arc::new(Hub { ranks, options, channels, failed: AtomicUsize::new(NOBODY) });
    (0..ranks).map(|rank| LocalWorld { hub: hub.clone(), rank, wires: Cell::new(0) }).collect()
}

/// Runs every rank on a thread of its own and returns what they return, in rank order.
///
/// # Panics
/// If a rank panics: with the first one's payload, after the others have noticed and ended too.
pub fn run<T: Send>(ranks: usize, options: LocalOptions, body: impl Fn(Rank, &LocalWorld) -> T + Sync) -> Vec<T> {
    let worlds = world(ranks, options);
    let hub = worlds[0].hub.clone();
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let (body, hub) = (&body, &hub);
        let start = |(rank, world): (Rank, LocalWorld)| {
            let thread = move || {
                let result = catch_unwind(AssertUnwindSafe(|| body(rank, &world)));
                result.inspect_err(|_| hub.fail(rank))
            };
            std::thread::Builder::new().name(format!("rank {rank}")).spawn_scoped(scope, thread)
        };
        let threads: Vec<_> = worlds.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|t| t.expect("a thread for each rank").join().expect("caught inside")).collect()
    });
    match hub.failed.load(Ordering::Acquire) {
        NOBODY => results.into_iter().map(|result| result.unwrap_or_else(|cause| resume_unwind(cause))).collect(),
        first => resume_unwind(results.swap_remove(first).err().expect("the rank that failed")),
    }
}
