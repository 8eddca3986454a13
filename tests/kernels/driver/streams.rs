//! Streams run by themselves, and events order them: a forgotten wait gives wrong numbers.

use crate::driver::api::{Gpu, call, cuda, good, launch_flat};

/// Adds ones to a buffer in one stream and copies it in another, `rounds` times; how often the copy was not what it must be.
fn wrong_copies(gpu: &Gpu, waits: bool, rounds: usize) -> usize {
    const LEN: usize = 20000;
    let library = cuda();
    let add = gpu.kernel("flat.fatbin", "accumulate_f32_f32");
    let (work, copies) = (gpu.stream(), gpu.stream());
    let (ones, sum) = (gpu.buffer(&[1.0; LEN]), gpu.buffer(&[0.0; LEN]));
    let [mut added, mut copied] = [0usize; 2];
    good!(library, cuEventCreate(&raw mut added, 2u32));
    good!(library, cuEventCreate(&raw mut copied, 2u32));
    let targets: Vec<u64> = (0..rounds).map(|_| gpu.buffer(&[0.0; LEN])).collect();
    for target in &targets {
        if waits {
            good!(library, cuStreamWaitEvent(work, copied, 0u32));
        }
        assert_eq!(launch_flat(add, ones, sum, LEN as i64, work), 0);
        good!(library, cuEventRecord(added, work));
        if waits {
            good!(library, cuStreamWaitEvent(copies, added, 0u32));
        }
        good!(library, cuMemcpyDtoDAsync_v2(*target, sum, 4 * LEN, copies));
        good!(library, cuEventRecord(copied, copies));
    }
    good!(library, cuCtxSynchronize());
    let right = |(i, &target): (usize, &u64)| gpu.numbers(target, LEN).iter().all(|&x| x == (i + 1) as f32);
    let wrong = targets.iter().enumerate().filter(|&target| !right(target)).count();
    for event in [added, copied] {
        good!(library, cuEventDestroy_v2(event));
    }
    for stream in [work, copies] {
        good!(library, cuStreamDestroy_v2(stream));
    }
    wrong
}

/// With events every copy is right; without, many are not.
#[test]
fn a_forgotten_wait_shows() {
    let gpu = Gpu::enter(3);
    assert_eq!(wrong_copies(&gpu, true, 30), 0);
    assert!(wrong_copies(&gpu, false, 30) > 0);
}

/// An asynchronous copy reads pinned memory when its turn comes, and has read other memory when it returns.
#[test]
fn pinned_memory_is_read_late() {
    let (gpu, library) = (Gpu::enter(3), cuda());
    let stream = gpu.stream();
    let target = gpu.buffer(&[0.0; 1]);
    let mut pinned = std::ptr::null_mut::<f32>();
    good!(library, cuMemHostAlloc(&raw mut pinned, 4usize, 0u32));
    extern "C" fn sleep(_: *mut std::ffi::c_void) {
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    let sleep = sleep as extern "C" fn(*mut std::ffi::c_void) as usize;
    let copied = |from: *mut f32| {
        // SAFETY: four bytes of the host, pinned or not, that live until the copy is over.
        unsafe { *from = 1.0 };
        good!(library, cuLaunchHostFunc(stream, sleep, 0usize));
        good!(library, cuMemcpyHtoDAsync_v2(target, from, 4usize, stream));
        // SAFETY: as above; that the stream may read it at the same time is what this test is about.
        unsafe { *from = 2.0 };
        good!(library, cuStreamSynchronize(stream));
        gpu.numbers(target, 1)[0]
    };
    let mut pageable = 0f32;
    assert_eq!(copied(&raw mut pageable), 1.0);
    assert_eq!(copied(pinned), 2.0);
    good!(library, cuMemFreeHost(pinned));
}

/// Events tell when they were reached and how much time lay between.
#[test]
fn events() {
    let (gpu, library) = (Gpu::enter(3), cuda());
    let stream = gpu.stream();
    let [mut first, mut last] = [0usize; 2];
    for event in [&raw mut first, &raw mut last] {
        good!(library, cuEventCreate(event, 0u32));
    }
    let add = gpu.kernel("flat.fatbin", "accumulate_f32_f32");
    let x = gpu.buffer(&[1.0; 4096]);
    good!(library, cuEventRecord(first, stream));
    assert_eq!(launch_flat(add, x, x, 4096, stream), 0);
    good!(library, cuEventRecord(last, stream));
    good!(library, cuEventSynchronize(last));
    assert_eq!(call!(library, cuEventQuery(first)), 0);
    let mut milliseconds = 0f32;
    good!(library, cuEventElapsedTime(&raw mut milliseconds, first, last));
    assert!(milliseconds > 0.0 && milliseconds < 10_000.0, "{milliseconds}");
    assert_eq!(gpu.numbers(x, 4096), [2.0; 4096]);
}
