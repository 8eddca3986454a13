//! Small agreements between ranks outside a running plan: set-up, checkpoints, shutdown.

/// Collective calls on the world's main threads; every rank must make the same calls in the same order.
pub trait Control {
    /// This rank's number, counted group by group.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn size(&self) -> usize;
    /// Returns when all ranks have called it.
    fn barrier(&self);
    /// Sums element by element over all ranks, in rank order; wraps around.
    fn sum_u64(&self, values: &mut [u64]);
    /// Sums element by element over all ranks, in rank order.
    fn sum_f64(&self, values: &mut [f64]);
    /// Gives every rank the root's bytes.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>);
    /// Gives rank 0 every rank's bytes, in rank order; the others get nothing.
    fn gather(&self, bytes: &[u8]) -> Option<Vec<Vec<u8>>>;
    /// Point to point: sends bytes to a rank that calls [`Control::receive`].
    fn send(&self, to: usize, bytes: &[u8]);
    /// Point to point: waits for bytes from a rank.
    fn receive(&self, from: usize) -> Vec<u8>;
}

/// A world of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Control for Solo {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn barrier(&self) {}
    fn sum_u64(&self, _: &mut [u64]) {}
    fn sum_f64(&self, _: &mut [f64]) {}
    fn broadcast(&self, _: usize, _: &mut Vec<u8>) {}
    fn gather(&self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        Some(vec![bytes.to_vec()])
    }
    fn send(&self, to: usize, _: &[u8]) {
        panic!("a world of one sent to rank {to}");
    }
    fn receive(&self, from: usize) -> Vec<u8> {
        panic!("a world of one waited for rank {from}");
    }
}
