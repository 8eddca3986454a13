//! GPU memory over a wire that reaches host memory only.
//!
//! A message is cut into pieces, which pass through two pinned host buffers for each peer and direction: while one piece is
//! with the wire, the next is copied. So ranks can share a GPU, or have one where there is no NCCL, and the wire never sees
//! an address of the GPU. Sums are taken on the GPU, by the same arithmetic as on the host.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::cluster::Rank;
use crate::device::cuda::{Cuda, Event, Gpu, Pinned, Priority, Stream, on};
use crate::device::{Device, DeviceError, View};
use crate::model::Dtype;
use crate::plan::collective::steps;
use crate::plan::{Action, CommId, RankPlan, Region, Split};

use super::sum::add;
use super::{FabricError, Request, Wire};

/// Most bytes of a piece: large enough for a copy and a message at full speed.
const PIECE: usize = 4 << 20;

/// Buffers of a way.
const BUFFERS: usize = 2;

/// Elements of a sum that the host takes: a few scalars.
const SCALARS: usize = 64;

/// Sums that may be on their way at once: one for each chunk that a few lanes work on.
const SUMS: usize = 64;

/// From this rank to another on a communicator, or from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    comm: CommId,
    peer: Rank,
    sends: bool,
}

/// All ways that a plan's messages take, with the bytes of the longest message of each.
fn ways(plan: &RankPlan, splits: &[Split]) -> BTreeMap<Way, usize> {
    let mut ways = BTreeMap::new();
    for op in plan.prepare.iter().chain(&plan.train).chain(&plan.evaluate) {
        let mut longest = |comm: CommId, peer: Rank, sends: bool, region: &Region, len: usize| {
            let bytes = len * plan.slots[region.slot].dtype.bytes();
            let entry = ways.entry(Way { comm, peer, sends }).or_insert(bytes);
            *entry = bytes.max(*entry);
        };
        match &op.action {
            Action::Exchange { comm, sends, recvs } => {
                sends.iter().for_each(|m| longest(*comm, m.peer, true, &m.region, m.region.len));
                recvs.iter().for_each(|m| longest(*comm, m.peer, false, &m.region, m.region.len));
            }
            Action::Collective(call) => {
                let members = splits[call.comm].set_of(plan.rank).expect("a member of the communicator");
                let steps = steps(call.what, call.algorithm, members, plan.rank, call.region.len);
                for step in steps.expect("an algorithm of this collective") {
                    let parts = [(step.send, true), (step.recv, false)];
                    for (part, sends) in parts.into_iter().filter_map(|(part, sends)| Some((part?, sends))) {
                        longest(call.comm, part.peer, sends, &call.region, part.range.len());
                    }
                }
            }
            _ => {}
        }
    }
    ways
}

/// Where a piece is.
#[derive(Debug)]
enum Stage {
    /// Between GPU and buffer, until the buffer's event is complete.
    Copying,
    /// With the wire.
    Travelling(Request),
    /// Where it should be.
    Done,
}

/// A piece on its way.
#[derive(Debug)]
struct Piece {
    stage: Stage,
    /// Index of its buffer.
    buffer: usize,
    /// Its place in GPU memory.
    view: View,
    /// The message that it belongs to, by its request.
    message: usize,
}

/// A message that has not been cut up altogether.
#[derive(Debug)]
struct Rest {
    view: View,
    message: usize,
}

/// Messages of one way, in order, and the buffers they pass through.
struct Channel {
    way: Way,
    pinned: Pinned,
    /// Bytes of a buffer.
    size: usize,
    /// For each buffer, when the last copy from or to it is complete.
    copied: Vec<Event>,
    waiting: VecDeque<Rest>,
    pieces: VecDeque<Piece>,
    /// Pieces so far: buffers are used in turn.
    count: usize,
}

impl Channel {
    fn new(gpu: &Cuda, way: Way, longest: usize) -> Result<Self, DeviceError> {
        let size = longest.clamp(1, PIECE).next_multiple_of(64);
        let pinned = Pinned::new(gpu.context(), BUFFERS * size)?;
        let copied = (0..BUFFERS).map(|_| Event::new(gpu.context(), false)).collect::<Result<_, _>>()?;
        let (waiting, pieces) = Default::default();
        Ok(Channel { way, pinned, size, copied, waiting, pieces, count: 0 })
    }

    fn buffer(&self, piece: &Piece) -> View {
        self.pinned.view(piece.buffer * self.size, piece.view.len(), Dtype::Byte)
    }

    /// Brings pieces as far as they go without waiting; calls `done` for each that is where it should be.
    fn advance(
        &mut self,
        wire: &mut dyn Wire,
        stream: &Stream,
        mut done: impl FnMut(usize),
    ) -> Result<(), FabricError> {
        let Way { comm, peer, sends } = self.way;
        // The wire matches messages by order, so pieces enter it in order.
        let mut ahead_in_wire = true;
        for i in 0..self.pieces.len() {
            let buffer = self.buffer(&self.pieces[i]);
            let piece = &mut self.pieces[i];
            piece.stage = match std::mem::replace(&mut piece.stage, Stage::Done) {
                Stage::Copying if !self.copied[piece.buffer].is_complete()? => Stage::Copying,
                Stage::Copying if !sends => Stage::Done,
                Stage::Copying if ahead_in_wire => Stage::Travelling(wire.send(comm, peer, buffer)?),
                Stage::Copying => Stage::Copying,
                Stage::Travelling(request) => match wire.test(request)? {
                    Some(request) => Stage::Travelling(request),
                    None if sends => Stage::Done,
                    None => {
                        stream.copy_view(buffer, piece.view)?;
                        stream.record(&self.copied[piece.buffer])?;
                        Stage::Copying
                    }
                },
                Stage::Done => Stage::Done,
            };
            ahead_in_wire &= !matches!(piece.stage, Stage::Copying);
        }
        while self.pieces.front().is_some_and(|piece| matches!(piece.stage, Stage::Done)) {
            done(self.pieces.pop_front().expect("just seen").message);
        }
        while self.pieces.len() < BUFFERS
            && let Some(rest) = self.waiting.front_mut()
        {
            let len = rest.view.len().min(self.size);
            let view = rest.view.sub(0..len);
            rest.view = rest.view.sub(len..rest.view.len());
            let message = rest.message;
            if rest.view.is_empty() {
                self.waiting.pop_front();
            }
            let mut piece = Piece { stage: Stage::Copying, buffer: self.count % BUFFERS, view, message };
            self.count += 1;
            let buffer = self.buffer(&piece);
            if sends {
                stream.copy_view(view, buffer)?;
                stream.record(&self.copied[piece.buffer])?;
            } else {
                piece.stage = Stage::Travelling(wire.receive(comm, peer, buffer)?);
            }
            self.pieces.push_back(piece);
        }
        Ok(())
    }
}

/// What a request stands for.
#[derive(Debug)]
enum Flight {
    /// A message on a channel, with this many pieces to come.
    Message { channel: usize, pieces: usize },
    /// A sum that is complete when this event is.
    Sum(Event),
}

/// A wire for the memory of a GPU, on top of one for the host's.
pub struct Staged {
    wire: Box<dyn Wire>,
    gpu: Gpu<Cuda>,
    /// Copies to the host.
    out: Stream,
    /// Copies to the GPU, and sums of what has come.
    back: Arc<Stream>,
    /// Ordered by way.
    channels: Vec<Channel>,
    /// By request number.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Events for sums.
    events: Vec<Event>,
    /// Two operands of a sum of scalars.
    scalars: Pinned,
}

impl Staged {
    /// A wire for this plan's messages, with all buffers that they need.
    ///
    /// # Errors
    /// If the host has not that much memory to pin.
    pub fn new(wire: Box<dyn Wire>, gpu: &Cuda, plan: &RankPlan, splits: &[Split]) -> Result<Self, DeviceError> {
        let channels = ways(plan, splits).into_iter().map(|(way, longest)| Channel::new(gpu, way, longest));
        Ok(Staged {
            wire,
            gpu: Gpu::new(gpu.clone()),
            out: Stream::new(gpu.context(), Priority::High)?,
            back: Arc::new(Stream::new(gpu.context(), Priority::High)?),
            channels: channels.collect::<Result<_, _>>()?,
            flights: Vec::new(),
            free: Vec::new(),
            events: (0..SUMS).map(|_| Event::new(gpu.context(), false)).collect::<Result<_, _>>()?,
            scalars: Pinned::new(gpu.context(), 2 * SCALARS * Dtype::F64.bytes())?,
        })
    }

    /// Bytes of pinned host memory.
    pub fn pinned(&self) -> usize {
        self.channels.iter().map(|channel| channel.pinned.bytes()).sum::<usize>() + self.scalars.bytes()
    }

    fn request(&mut self, flight: Flight) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[index] = Some(flight);
        index
    }

    fn message(&mut self, way: Way, view: View) -> Result<Request, FabricError> {
        let channel = self.channels.binary_search_by_key(&way, |channel| channel.way).expect("a way of the plan");
        let view = view.cast(Dtype::Byte);
        let pieces = view.len().div_ceil(self.channels[channel].size).max(1);
        let message = self.request(Flight::Message { channel, pieces });
        self.channels[channel].waiting.push_back(Rest { view, message });
        self.advance(channel)?;
        Ok(Request(message))
    }

    fn advance(&mut self, channel: usize) -> Result<(), FabricError> {
        let Staged { wire, channels, flights, out, back, .. } = self;
        let channel = &mut channels[channel];
        let stream = if channel.way.sends { &*out } else { &**back };
        channel.advance(&mut **wire, stream, |message| match &mut flights[message] {
            Some(Flight::Message { pieces, .. }) => *pieces -= 1,
            other => unreachable!("{other:?} is no message"),
        })
    }

    /// A sum of scalars, on the host: the GPU has no kernel for their type.
    fn add_scalars(&mut self, from: View, into: View) -> Result<(), DeviceError> {
        let half = SCALARS * Dtype::F64.bytes();
        for start in (0..into.len()).step_by(SCALARS) {
            let range = start..into.len().min(start + SCALARS);
            let [a, b] = [0, half].map(|at| self.scalars.view(at, range.len(), Dtype::F64));
            self.back.copy_view(into.sub(range.clone()), a)?;
            self.back.copy_view(from.sub(range.clone()), b)?;
            self.back.synchronize()?;
            add(a, b);
            self.back.copy_view(a, into.sub(range))?;
            self.back.synchronize()?;
        }
        Ok(())
    }
}

impl Wire for Staged {
    fn send(&mut self, comm: CommId, to: Rank, data: View) -> Result<Request, FabricError> {
        self.message(Way { comm, peer: to, sends: true }, data)
    }

    fn receive(&mut self, comm: CommId, from: Rank, into: View) -> Result<Request, FabricError> {
        self.message(Way { comm, peer: from, sends: false }, into)
    }

    fn add(&mut self, from: View, into: View) -> Result<Option<Request>, FabricError> {
        if into.dtype() == Dtype::F64 {
            self.add_scalars(from, into)?;
            return Ok(None);
        }
        on(&self.back, || self.gpu.accumulate(from, into));
        let event = match self.events.pop() {
            Some(event) => event,
            None => Event::new(self.back.context(), false)?,
        };
        self.back.record(&event)?;
        Ok(Some(Request(self.request(Flight::Sum(event)))))
    }

    fn test(&mut self, request: Request) -> Result<Option<Request>, FabricError> {
        if let Some(Flight::Message { channel, .. }) = self.flights[request.0] {
            self.advance(channel)?;
        }
        let done = match self.flights[request.0].as_ref().expect("a request of this wire") {
            Flight::Message { pieces, .. } => *pieces == 0,
            Flight::Sum(event) => event.is_complete()?,
        };
        if !done {
            return Ok(Some(request));
        }
        if let Some(Flight::Sum(event)) = self.flights[request.0].take() {
            self.events.push(event);
        }
        self.free.push(request.0);
        Ok(None)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is still with the wire may be written to for as long as the process lives.
        let busy = self.channels.extract_if(.., |channel| !channel.pieces.is_empty());
        busy.for_each(std::mem::forget);
    }
}
