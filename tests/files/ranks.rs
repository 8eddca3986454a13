//! A world of threads, and models cut over it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, Mutex};

use tawpipe::checkpoint::{Piece, PieceMut, pieces, pieces_mut};
use tawpipe::fabric::Control;
use tawpipe::model::{ModelShape, Shards};

/// One of the threads: collectives by channels through rank 0.
pub struct Thread<'w> {
    rank: usize,
    /// To every rank.
    senders: Vec<Sender<Vec<u8>>>,
    /// From every rank.
    receivers: Vec<Mutex<Receiver<Vec<u8>>>>,
    barrier: &'w Barrier,
}

/// Runs `body` on every rank of a world and returns what it returns, in rank order.
pub fn world<T: Send>(size: usize, body: impl Fn(&Thread) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(size);
    let mut senders: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
    let mut receivers: Vec<Vec<Mutex<Receiver<Vec<u8>>>>> = (0..size).map(|_| Vec::new()).collect();
    for from in &mut senders {
        for to in &mut receivers {
            let (sender, receiver) = channel();
            from.push(sender);
            to.push(Mutex::new(receiver));
        }
    }
    let (barrier, body) = (&barrier, &body);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = senders.into_iter().zip(receivers).enumerate().collect();
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|(rank, (senders, receivers))| {
                scope.spawn(move || body(&Thread { rank, senders, receivers, barrier }))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank panicked")).collect()
    })
}

impl Control for Thread<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.senders.len()
    }

    fn barrier(&self) {
        self.barrier.wait();
    }

    fn sum_u64(&self, values: &mut [u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut total = vec![0u64; values.len()];
        for part in self.gather(&bytes).unwrap_or_default() {
            for (sum, word) in total.iter_mut().zip(part.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let mut bytes = total.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.broadcast(0, &mut bytes);
        for (value, word) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *value = u64::from_le_bytes(*word);
        }
    }

    fn sum_f64(&self, _: &mut [f64]) {
        unimplemented!("files sum no reals");
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        if self.rank == root {
            (0..self.size()).filter(|&to| to != root).for_each(|to| self.send(to, bytes));
        } else {
            *bytes = self.receive(root);
        }
    }

    fn gather(&self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.send(0, bytes);
        (self.rank == 0).then(|| (0..self.size()).map(|from| self.receive(from)).collect())
    }

    fn send(&self, to: usize, bytes: &[u8]) {
        self.senders[to].send(bytes.to_vec()).expect("the other rank lives");
    }

    fn receive(&self, from: usize) -> Vec<u8> {
        self.receivers[from].lock().expect("one thread").recv().expect("the other rank lives")
    }
}

/// A small model with grouped queries.
pub fn shape(tied: bool) -> ModelShape {
    ModelShape {
        dim: 24,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn: 40,
        vocab: 37,
        tied,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
    }
}

/// The value that element `at` of a shard starts with in array `which`; every one is different.
pub fn value(shard: usize, at: usize, which: usize) -> f32 {
    ((shard * 1_000_003 + at) as f32 * 0.37 + which as f32).sin()
}

/// One rank's part of a model: each shard is cut evenly over the ranks, so that tensors and padding are cut anywhere.
pub struct Part {
    shards: Shards,
    /// A shard: its range on this rank and its three arrays.
    held: Vec<(Range<usize>, [Vec<f32>; 3])>,
}

impl Part {
    /// Filled by `fill(shard, element, array)`.
    pub fn new(
        shape: &ModelShape,
        blocks: usize,
        rank: usize,
        size: usize,
        fill: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let shards = Shards::new(shape, blocks);
        let held = shards.shards.iter().enumerate().map(|(id, shard)| {
            let range = shard.len * rank / size..shard.len * (rank + 1) / size;
            let arrays = [0, 1, 2].map(|which| range.clone().map(|at| fill(id, at, which)).collect());
            (range, arrays)
        });
        let held = held.collect();
        Part { shards, held }
    }

    pub fn pieces(&self) -> Vec<Piece<'_>> {
        let each = self.shards.shards.iter().zip(&self.held);
        each.flat_map(|(shard, (range, [w, m, v]))| pieces(shard, range.clone(), w, m, v)).collect()
    }

    pub fn pieces_mut(&mut self) -> Vec<PieceMut<'_>> {
        let each = self.shards.shards.iter().zip(&mut self.held);
        each.flat_map(|(shard, (range, [w, m, v]))| pieces_mut(shard, range.clone(), w, Some([m, v]))).collect()
    }
}

/// Every weight and moment of a model by (name, array), from the parts of all ranks.
pub fn whole(parts: &[Part]) -> std::collections::BTreeMap<(String, usize), Vec<f32>> {
    let mut all = std::collections::BTreeMap::new();
    for piece in parts.iter().flat_map(Part::pieces) {
        for (which, values) in [piece.weights, piece.moment1, piece.moment2].into_iter().enumerate() {
            let tensor: &mut Vec<f32> = all.entry((piece.name.to_string(), which)).or_default();
            assert_eq!(tensor.len(), piece.start, "ranks hold ascending ranges of {}", piece.name);
            tensor.extend(values);
        }
    }
    all
}
