//! How fast messages go from rank to rank.

use std::time::Instant;

use crate::fabric::Control;

/// Messages of each size; the median counts.
const TIMES: usize = 15;

/// Bytes of a message that is all latency, and of one that is all bytes.
const SIZES: [usize; 2] = [8, 4 << 20];

/// Seconds before a message arrives, bytes a second, and core seconds a byte at either end. A rank alone measures copies
/// in its own memory.
pub fn measure(control: &dyn Control) -> (f64, f64, f64) {
    let [small, large] = SIZES.map(|bytes| {
        let data = vec![1u8; bytes];
        let mut times: Vec<f64> = (0..TIMES)
            .map(|_| {
                let start = Instant::now();
                match (control.size(), control.rank()) {
                    (1, _) => drop(std::hint::black_box(data.clone())),
                    (_, 0) => {
                        control.send(1, &data);
                        control.receive(1);
                        return start.elapsed().as_secs_f64() / 2.0;
                    }
                    (_, 1) => {
                        control.receive(0);
                        control.send(0, &data);
                    }
                    _ => {}
                }
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[TIMES / 2]
    });
    let each = ((large - small) / (SIZES[1] - SIZES[0]) as f64).max(1e-12);
    // A copy in shared memory keeps both ends busy all the time.
    (small, 1.0 / each, each)
}
