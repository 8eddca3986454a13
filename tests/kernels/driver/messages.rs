//! Communicators between threads, each with a GPU of its own.

use std::sync::Mutex;

use crate::driver::api::{Gpu, call, cuda, good, nccl};

const F32: i32 = 7;
const SUM: i32 = 0;
const IN_PROGRESS: i32 = 7;
const RANKS: i32 = 3;
const LEN: usize = 50_000;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; 128]);

/// `ncclConfig_t` up to the switch that makes calls return at once, and what lies behind it.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: i32,
    rest: [i32; 20],
}

type Init = unsafe extern "C" fn(*mut usize, i32, UniqueId, i32, *mut Config) -> i32;

/// One rank: its GPU, stream and communicator.
struct Rank {
    gpu: Gpu,
    stream: usize,
    comm: usize,
    rank: i32,
}

impl Rank {
    fn join(id: UniqueId, rank: i32, device: i32) -> Rank {
        let gpu = Gpu::enter(device);
        let mut config =
            Config { size: size_of::<Config>(), magic: 0xcafebeef, version: 23003, blocking: 0, rest: [i32::MIN; 20] };
        let mut comm = 0usize;
        // SAFETY: the function of this name has this type.
        let init: Init = unsafe { std::mem::transmute(nccl().symbol("ncclCommInitRankConfig")) };
        // SAFETY: places that live during the call.
        let result = unsafe { init(&mut comm, RANKS, id, rank, &mut config) };
        assert_eq!(result, IN_PROGRESS, "it does not block");
        let stream = gpu.stream();
        Rank { gpu, stream, comm, rank }
    }

    /// Waits until the last call has done its work; what came of it.
    fn settle(&self) -> i32 {
        loop {
            let mut state = 0i32;
            good!(nccl(), ncclCommGetAsyncError(self.comm, &raw mut state));
            if state != IN_PROGRESS {
                return state;
            }
            std::thread::yield_now();
        }
    }

    /// The numbers at an address, once the last call is over.
    fn result(&self, address: u64, len: usize) -> Vec<f32> {
        assert_eq!(self.settle(), 0);
        good!(cuda(), cuStreamSynchronize(self.stream));
        self.gpu.numbers(address, len)
    }
}

/// Runs all ranks, each in a thread. They take turns with other tests, which use the same GPUs.
fn ranks(device: impl Fn(i32) -> i32 + Sync, run: impl Fn(Rank) + Sync) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut id = UniqueId([0; 128]);
    good!(nccl(), ncclGetUniqueId(&raw mut id));
    std::thread::scope(|scope| {
        for rank in 0..RANKS {
            let (device, run) = (&device, &run);
            scope.spawn(move || run(Rank::join(id, rank, device(rank))));
        }
    });
}

/// A device that the tests of launches do not spoil.
fn own(rank: i32) -> i32 {
    [0, 1, 3][rank as usize]
}

/// Numbers go around a ring, sums and copies reach whom they must, whole buffers larger than what passes at once.
#[test]
fn messages_arrive() {
    ranks(own, |me| {
        assert_eq!(me.settle(), 0);
        let (rank, comm, stream) = (me.rank, me.comm, me.stream);
        let values = |rank: i32| (0..LEN).map(|i| (rank as usize * LEN + i) as f32).collect::<Vec<f32>>();
        let (mine, other) = (me.gpu.buffer(&values(rank)), me.gpu.buffer(&vec![f32::NAN; LEN]));
        let (next, last) = ((rank + 1) % RANKS, (rank + RANKS - 1) % RANKS);
        for _ in 0..3 {
            good!(nccl(), ncclGroupStart());
            good!(nccl(), ncclSend(mine, LEN, F32, next, comm, stream));
            good!(nccl(), ncclRecv(other, LEN, F32, last, comm, stream));
            assert_eq!(call!(nccl(), ncclGroupEnd()), IN_PROGRESS);
            assert_eq!(me.result(other, LEN), values(last));
        }
        let all = [0, 1, 2].map(values);
        let sum: Vec<f32> = (0..LEN).map(|i| all.iter().map(|values| values[i]).sum()).collect();
        call!(nccl(), ncclAllReduce(mine, other, LEN, F32, SUM, comm, stream));
        assert_eq!(me.result(other, LEN), sum);
        call!(nccl(), ncclBroadcast(mine, other, LEN, F32, 1, comm, stream));
        assert_eq!(me.result(other, LEN), values(1));
        call!(nccl(), ncclReduce(mine, other, LEN, F32, SUM, 2, comm, stream));
        assert_eq!(me.result(other, LEN), if rank == 2 { sum.clone() } else { values(1) });
        let part = LEN / RANKS as usize;
        call!(nccl(), ncclReduceScatter(mine, other, part, F32, SUM, comm, stream));
        assert_eq!(me.result(other, part), sum[part * rank as usize..][..part]);
        let gathered = me.gpu.buffer(&vec![f32::NAN; part * RANKS as usize]);
        call!(nccl(), ncclAllGather(other, gathered, part, F32, comm, stream));
        assert_eq!(me.result(gathered, part * RANKS as usize), sum[..part * RANKS as usize]);
        assert_eq!(call!(nccl(), ncclCommFinalize(comm)), IN_PROGRESS);
        assert_eq!(me.settle(), 0);
        good!(nccl(), ncclCommDestroy(comm));
    });
}

/// Ranks that disagree on a call are told; an abort ends what another waits for in vain.
#[test]
fn disagreement_is_an_error() {
    ranks(own, |me| {
        assert_eq!(me.settle(), 0);
        let buffer = me.gpu.buffer(&vec![1.0; LEN]);
        let count = if me.rank == 1 { LEN / 2 } else { LEN };
        call!(nccl(), ncclBroadcast(buffer, buffer, count, F32, 1, me.comm, me.stream));
        // The root stops at the first that disagrees with it; the last rank may wait for ever.
        while me.rank != 2 && me.settle() == 0 {
            std::thread::yield_now();
        }
        assert!(me.rank == 2 || me.settle() == 5);
        good!(nccl(), ncclCommAbort(me.comm));
        good!(cuda(), cuStreamSynchronize(me.stream));
    });
}

/// Two ranks on one GPU are refused.
#[test]
fn a_gpu_has_one_rank() {
    ranks(
        |rank| if rank == 2 { 0 } else { own(rank) },
        |me| {
            let shares = me.rank != 1;
            assert_eq!(me.settle(), if shares { 5 } else { 0 });
            good!(nccl(), ncclCommAbort(me.comm));
        },
    );
}

/// `EMU_NCCL_STALL` keeps a group from ending, and an abort ends it; run by itself, with that variable.
#[test]
#[ignore = "started by a_stalled_group_ends_by_abort"]
fn stalled() {
    ranks(own, |me| {
        assert_eq!(me.settle(), 0);
        let buffer = me.gpu.buffer(&[1.0; 8]);
        call!(nccl(), ncclAllReduce(buffer, buffer, 8usize, F32, SUM, me.comm, me.stream));
        assert_eq!(me.settle(), 0, "launched");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(call!(cuda(), cuStreamQuery(me.stream)), 600, "not ready");
        good!(nccl(), ncclCommAbort(me.comm));
        good!(cuda(), cuStreamSynchronize(me.stream));
    });
}

/// A group that one rank never ends holds up all of them, until each aborts.
#[test]
fn a_stalled_group_ends_by_abort() {
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "driver::messages::stalled", "--ignored"])
        .env("EMU_NCCL_STALL", "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && output.contains("1 passed"), "{output}");
}
