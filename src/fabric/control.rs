//! Small agreements between ranks outside a running plan: set-up, checkpoints, shutdown.

use std::time::Duration;

/// Collective calls on the world's main threads; every rank must make the same calls in the same order. Everything is
/// made of [`Control::send`] and [`Control::receive`], so results do not depend on who implements them.
pub trait Control {
    /// This rank's number, counted group by group.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn size(&self) -> usize;
    /// Point to point: sends bytes to a rank that calls [`Control::receive`].
    fn send(&self, to: usize, bytes: &[u8]);
    /// Point to point: waits for bytes from a rank.
    fn receive(&self, from: usize) -> Vec<u8>;

    /// How long to wait for a rank, from now on, before the job ends. Ranks that are threads of one process need none.
    fn set_patience(&self, _patience: Duration) {}

    /// Collective over these ranks, which ascend: returns when all have called it, or says on the first of them who has
    /// not within `patience`. Ranks that are threads of one process are waited for.
    fn roll_call(&self, members: &[usize], patience: Duration) -> Vec<usize> {
        let _ = patience;
        if self.rank() == members[0] {
            members[1..].iter().for_each(|&member| drop(self.receive(member)));
        } else {
            self.send(members[0], &[]);
        }
        Vec::new()
    }

    /// Returns when all ranks have called it.
    fn barrier(&self) {
        self.gather(&[]);
        self.broadcast(0, &mut Vec::new());
    }

    /// Sums element by element over all ranks, in rank order; wraps around.
    fn sum_u64(&self, values: &mut [u64]) {
        sum(self, values, u64::wrapping_add);
    }

    /// Sums element by element over all ranks, in rank order.
    fn sum_f64(&self, values: &mut [f64]) {
        sum(self, values, |a, b| a + b);
    }

    /// Gives every rank the root's bytes.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        // A binomial tree, ranks counted from the root: rank r hears from r without its lowest bit.
        let n = self.size();
        let me = (self.rank() + n - root) % n;
        let lowest = if me == 0 { n.next_power_of_two() } else { me & me.wrapping_neg() };
        if me > 0 {
            *bytes = self.receive((me - lowest + root) % n);
        }
        let mut bit = lowest / 2;
        while bit > 0 {
            if me + bit < n {
                self.send((me + bit + root) % n, bytes);
            }
            bit /= 2;
        }
    }

    /// Gives rank 0 every rank's bytes, in rank order; the others get nothing.
    fn gather(&self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        if self.rank() > 0 {
            self.send(0, bytes);
            return None;
        }
        Some(std::iter::once(bytes.to_vec()).chain((1..self.size()).map(|rank| self.receive(rank))).collect())
    }
}

/// Sums on rank 0 in rank order, and tells everyone.
fn sum<C: Control + ?Sized, T: bytemuck::Pod>(control: &C, values: &mut [T], add: impl Fn(T, T) -> T) {
    let mut total = Vec::new();
    if let Some(parts) = control.gather(bytemuck::cast_slice(values)) {
        for part in &parts[1..] {
            // Received bytes need not be aligned for T.
            assert_eq!(part.len(), size_of_val(values), "ranks sum lists of different lengths");
            for (value, other) in values.iter_mut().zip(part.chunks_exact(size_of::<T>())) {
                *value = add(*value, bytemuck::pod_read_unaligned(other));
            }
        }
        total = bytemuck::cast_slice(values).to_vec();
    }
    control.broadcast(0, &mut total);
    bytemuck::cast_slice_mut::<T, u8>(values).copy_from_slice(&total);
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
    fn send(&self, to: usize, _: &[u8]) {
        panic!("a world of one sent to rank {to}");
    }
    fn receive(&self, from: usize) -> Vec<u8> {
        panic!("a world of one waited for rank {from}");
    }
}
