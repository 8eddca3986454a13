//! The communication lanes of TawPipe, and the ops on them.

use crate::cluster::Rank;
use crate::plan::build::List;
use crate::plan::collective::Collective;
use crate::plan::{Action, Algorithm, Call, CommId, Lane, Message, OpId, Payload, Region};

/// A communication lane, which is also the number of its split.
#[derive(Clone, Copy)]
pub enum Channel {
    WeightHop,
    Broadcast,
    Reduce,
    GradientHop,
    /// Only with replicated embedding and head, or where hops are collectives, for the statistics.
    AllReduce,
}

impl Channel {
    pub fn lane(self) -> Lane {
        Lane::Comm(self as usize)
    }

    pub fn comm(self) -> CommId {
        self as usize
    }

    /// A collective, which waits for some `also`.
    pub fn collective(
        self,
        list: &mut List,
        (what, algorithm): (Collective, Algorithm),
        region: Region,
        scratch: Option<Region>,
        payload: Payload,
        also: &[OpId],
    ) -> OpId {
        let call = Call { comm: self.comm(), what, algorithm, region, scratch, payload };
        list.push_after(self.lane(), Action::Collective(call), also)
    }

    /// Messages that start and complete together; nothing, if there are none.
    pub fn exchange(self, list: &mut List, Exchange { sends, recvs }: Exchange, also: &[OpId]) {
        if !(sends.is_empty() && recvs.is_empty()) {
            list.push_after(self.lane(), Action::Exchange { comm: self.comm(), sends, recvs }, also);
        }
    }

    /// Adds a gradient to a sum, or puts it there if it is the first of the iteration.
    pub fn accumulate(self, list: &mut List, src: Region, dst: Region, first: bool) {
        list.push(self.lane(), if first { Action::Cast { src, dst } } else { Action::Accumulate { src, dst } });
    }
}

/// A message between groups.
#[derive(Clone, Debug)]
pub struct Hop {
    pub from: Rank,
    pub to: Rank,
    pub payload: Payload,
}

/// One rank's ends of hops that start and complete together.
#[derive(Default)]
pub struct Exchange {
    sends: Vec<Message>,
    recvs: Vec<Message>,
}

impl Exchange {
    /// Adds a rank's end of a hop, if it has one.
    pub fn add(&mut self, rank: Rank, hop: Hop, region: impl FnOnce() -> Region) {
        if hop.from == rank {
            self.sends.push(Message { peer: hop.to, region: region(), payload: hop.payload });
        } else if hop.to == rank {
            self.recvs.push(Message { peer: hop.from, region: region(), payload: hop.payload });
        }
    }
}

/// Hops in waves, in each of which a rank receives at most once: that bounds its memory, while different ranks receive
/// together.
pub fn waves(hops: impl IntoIterator<Item = Hop>) -> Vec<Vec<Hop>> {
    let mut waves: Vec<Vec<Hop>> = Vec::new();
    for hop in hops {
        match waves.iter_mut().find(|wave| wave.iter().all(|other| other.to != hop.to)) {
            Some(wave) => wave.push(hop),
            None => waves.push(vec![hop]),
        }
    }
    waves
}
