//! Collectives against sums taken directly in their documented order.

use std::time::Duration;

use half::bf16;
use tawpipe::device::Memory;
use tawpipe::fabric::{Advance, Progress, Sent, Transfers};
use tawpipe::model::Dtype;
use tawpipe::plan::collective::{Collective, piece, scratch as scratch_len};
use tawpipe::plan::{Action, Algorithm, Call, Payload, REDUCE_CHUNK, REDUCE_CHUNKS, Region, Segment, Slot, Split};

use super::Context;

/// Value of an element of a rank before a collective: many magnitudes, so that the order of a sum shows in its bits.
fn value(rank: usize, element: usize) -> f64 {
    let mixed = (rank * 7919 + element + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    (mixed % 2001) as f64 / 7.0 * 2f64.powi((mixed % 23) as i32 - 11) - 100.0
}

/// Rounds as a slot of this type does.
fn store(dtype: Dtype, value: f64) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(value as f32),
        Dtype::Bf16 => bf16::from_f32(value as f32).to_f64(),
        _ => value,
    }
}

/// Sums in this order, rounded as the slot does after every addition: in f32 for bf16.
fn sum(dtype: Dtype, order: impl Iterator<Item = usize>, element: usize) -> f64 {
    let values = order.map(|rank| store(dtype, value(rank, element)));
    let add = |a: f64, b: f64| match dtype {
        Dtype::F64 => a + b,
        _ => store(dtype, f64::from(a as f32 + b as f32)),
    };
    values.reduce(add).unwrap()
}

fn slot(name: &str, elems: usize, dtype: Dtype) -> Slot {
    Slot { name: name.into(), elems, dtype, segment: Segment::Workspace, holds: None }
}

fn write(memory: &Memory, dtype: Dtype, get: impl Fn(usize) -> f64) {
    let view = memory.slot(0);
    // SAFETY: nothing else uses the memory now.
    unsafe {
        match dtype {
            Dtype::F32 => view.slice_mut::<f32>().iter_mut().enumerate().for_each(|(i, x)| *x = get(i) as f32),
            Dtype::Bf16 => view.slice_mut::<bf16>().iter_mut().enumerate().for_each(|(i, x)| {
                *x = bf16::from_f64(store(dtype, get(i)));
            }),
            _ => view.slice_mut::<f64>().iter_mut().enumerate().for_each(|(i, x)| *x = get(i)),
        }
    }
}

fn read(memory: &Memory, dtype: Dtype) -> Vec<f64> {
    let view = memory.slot(0);
    // SAFETY: nothing else uses the memory now.
    unsafe {
        match dtype {
            Dtype::F32 => view.slice::<f32>().iter().map(|&x| f64::from(x)).collect(),
            Dtype::Bf16 => view.slice::<bf16>().iter().map(|x| x.to_f64()).collect(),
            _ => view.slice::<f64>().to_vec(),
        }
    }
}

/// Every algorithm on the world, inside groups and across them, for odd lengths, all types and several roots: results equal those of direct
/// sums in the documented order, bit by bit, and the bytes sent are those of the plan's tables.
pub fn exact(context: &Context) {
    let n = context.ranks();
    let splits = [
        Split { name: "world", sets: vec![(0..n).collect()] },
        Split::inside("inside", &context.groups),
        Split::across("across", &context.groups),
    ];
    let mut wire = (context.wire)(&splits);
    let lengths = [1, 7, REDUCE_CHUNK, 2 * REDUCE_CHUNK + 129];
    for (comm, split) in splits.iter().enumerate() {
        let set = split.set_of(context.rank).unwrap().to_vec();
        let m = set.len();
        for len in lengths {
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F64] {
                // The scratch starts in the middle of a slot.
                let ring = scratch_len(Collective::AllReduce, Algorithm::Ring, len, m).unwrap_or(0);
                let len_of_scratch = (REDUCE_CHUNKS * REDUCE_CHUNK).max(ring);
                let memory = Memory::new(&[slot("data", len, dtype), slot("scratch", len_of_scratch + 3, dtype)]);
                let region = Region::new(0, 0..len);
                let scratch = Region::new(1, 3..3 + len_of_scratch);
                let mut transfers = Transfers::new(context.rank, &splits);
                let mut call = |what, algorithm, scratch, payload| {
                    let action = Action::Collective(Call { comm, what, algorithm, region, scratch, payload });
                    write(&memory, dtype, |i| value(context.rank, i));
                    let transfer = transfers.make(&action, &memory).unwrap();
                    let mut sent = Sent::new(n);
                    let mut progress = Progress::default();
                    while progress.advance(&transfer, &mut *wire, &mut sent).unwrap() != Advance::Complete {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    read(&memory, dtype)
                };
                for &root in [set[0], set[m / 2], set[m - 1]].iter().take(m) {
                    let payload = Payload::Weights(0, 0..len);
                    for algorithm in [Algorithm::Chain, Algorithm::Tree] {
                        let got = call(Collective::Broadcast(root), algorithm, None, payload.clone());
                        let good = got.iter().enumerate().all(|(i, &x)| x == store(dtype, value(root, i)));
                        assert!(good, "{algorithm:?} broadcast of {len} {dtype:?} from {root} in {set:?}");
                    }
                    let algorithm = Algorithm::Chain;
                    let got = call(Collective::Reduce(root), algorithm, Some(scratch), payload);
                    if root == context.rank {
                        let at = set.iter().position(|&r| r == root).unwrap();
                        let order = || (0..m).map(|i| set[(at + 1 + i) % m]);
                        let good = got.iter().enumerate().all(|(i, &x)| x == sum(dtype, order(), i));
                        assert!(good, "reduce of {len} {dtype:?} to {root} in {set:?}");
                    }
                }
                let payload = Payload::Scalars;
                let algorithm = Algorithm::Flat;
                let got = call(Collective::AllReduce, algorithm, None, payload);
                let good = got.iter().enumerate().all(|(i, &x)| x == sum(dtype, set.iter().copied(), i));
                assert!(good, "flat all-reduce of {len} {dtype:?} in {set:?}");

                let payload = Payload::Gradient(0, 0..len);
                let algorithm = Algorithm::Ring;
                let got = call(Collective::AllReduce, algorithm, Some(scratch), payload);
                // Piece c starts behind member c and ends at it.
                let order = |c: usize| (0..m).map(move |i| (c + 1 + i) % m);
                let right =
                    |got: &[f64], c: usize| piece(len, m, c).all(|i| got[i] == sum(dtype, order(c).map(|i| set[i]), i));
                let good = (0..m).all(|c| right(&got, c));
                assert!(good, "ring all-reduce of {len} {dtype:?} in {set:?}");

                let me = set.iter().position(|&r| r == context.rank).unwrap();
                let payload = Payload::Gradient(0, 0..len);
                let got = call(Collective::ReduceScatter, algorithm, Some(scratch), payload.clone());
                assert!(right(&got, me), "reduce-scatter of {len} {dtype:?} in {set:?}");
                let got = call(Collective::AllGather, algorithm, None, payload);
                let good = (0..m).all(|c| piece(len, m, c).all(|i| got[i] == store(dtype, value(set[c], i))));
                assert!(good, "all-gather of {len} {dtype:?} in {set:?}");
            }
        }
    }
}

/// Set-up calls give the same on all ranks, with empty, short and long contents.
pub fn control(context: &Context) {
    let (control, n, me) = (context.control, context.ranks(), context.rank);
    assert_eq!((control.rank(), control.size()), (me, n));
    for len in [0, 1, 100_003] {
        for root in [0, n - 1] {
            let mut bytes = vec![me as u8 + 1; if me == root { len } else { 3 }];
            control.broadcast(root, &mut bytes);
            assert_eq!(bytes, vec![root as u8 + 1; len]);
        }
        let all = control.gather(&vec![me as u8; len + me]);
        assert_eq!(all.is_some(), me == 0);
        for (rank, bytes) in all.iter().flatten().enumerate() {
            assert_eq!(*bytes, vec![rank as u8; len + rank]);
        }
    }
    let mut counts = [me as u64, u64::MAX];
    control.sum_u64(&mut counts);
    assert_eq!(counts, [(n * (n - 1) / 2) as u64, 0u64.wrapping_sub(n as u64)]);
    let mut reals = [value(me, 3), value(me, 4)];
    control.sum_f64(&mut reals);
    assert_eq!(reals, [3, 4].map(|i| sum(Dtype::F64, 0..n, i)));
    control.barrier();
    // Any set of ranks may call its own roll, twice.
    let ends: Vec<usize> = if n > 1 { vec![0, n - 1] } else { vec![0] };
    if ends.contains(&me) {
        for _ in 0..2 {
            assert!(control.roll_call(&ends, Duration::from_secs(60)).is_empty());
        }
    }
}
