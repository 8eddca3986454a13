//! Splits of work over the threads of one rank.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

/// The threads of a device; none at all for one thread.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
}

impl Pool {
    /// A pool of `threads` threads; with one, the caller's thread does the work. Where the system refuses so many, there are
    /// fewer, and a warning.
    pub fn new(threads: usize) -> Self {
        let mut count = threads.max(1);
        while count > 1 {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("compute-{i}"));
            match builder.build() {
                Ok(pool) => return Pool { threads: count, pool: Some(pool) },
                Err(reason) => {
                    log::warn!("{count} computing threads cannot be started ({reason}); trying {}", count / 2);
                    count /= 2;
                }
            }
        }
        Pool { threads: 1, pool: None }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs a closure inside the pool.
    pub fn install<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(body),
            None => body(),
        }
    }

    /// Runs `body` on disjoint ranges that cover `0..n`, each of at least `grain` (but for the last).
    pub fn split(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Send + Sync) {
        let pieces = (n / grain.max(1)).clamp(1, 4 * self.threads);
        match &self.pool {
            Some(pool) if pieces > 1 => {
                let size = n.div_ceil(pieces);
                pool.install(|| {
                    (0..n.div_ceil(size)).into_par_iter().for_each(|i| body(i * size..((i + 1) * size).min(n)));
                });
            }
            _ => body(0..n),
        }
    }

    /// Runs `body(i)` for every i in `0..n`, in any order.
    pub fn each(&self, n: usize, body: impl Fn(usize) + Send + Sync) {
        match &self.pool {
            Some(pool) if n > 1 => pool.install(|| (0..n).into_par_iter().for_each(body)),
            _ => (0..n).for_each(body),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends a thread's own scratch memory of `len` numbers, with whatever they hold. It grows to the largest demand (tiles
/// of one attention head) and stays.
///
/// # Panics
/// If the body asks for scratch again.
pub fn scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    // A line of cache: tiles start at vector boundaries.
    const ALIGN: usize = 16;
    SCRATCH.with(|cell| {
        let mut buffer = cell.borrow_mut();
        if buffer.len() < len + ALIGN {
            buffer.resize(len + ALIGN, 0.0);
        }
        let start = buffer.as_ptr().align_offset(64).min(ALIGN);
        body(&mut buffer[start..start + len])
    })
}
