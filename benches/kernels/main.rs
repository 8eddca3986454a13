//! Times every kernel of a GPU at the sizes of real models, beside the ceilings of the same run: a copy, for what moves
//! bytes, and a large matrix product. Where a kernel has an earlier generation, that is timed too.
//!
//!     cargo bench --bench gpu_kernels -- [--tiny] [--only NAME] [--repeat 20]
//!     ncu … gpu-kernels --profile     # each kernel of attention once, for a profiler
//!
//! One JSON object a line on standard output: what ran, on which sizes, the median and the best time of a call by events of
//! the stream, and from its operations and bytes (each operand once) TFLOP/s and GB/s. `--tiny` is for trying this program.

mod cases;
mod room;

use serde_json::json;
use tawpipe::device::Device;
use tawpipe::device::cuda::{Context, Cuda, CudaOptions, Event, Gpu};

use crate::cases::{Case, Sizes};

/// What a call took, in seconds.
struct Times {
    median: f64,
    best: f64,
}

/// Times single calls, each between two events, after some that warm up.
fn time(cuda: &Cuda, case: &Case, repeat: usize) -> Times {
    let device = Gpu::new(cuda.clone());
    for _ in 0..repeat.div_ceil(5) {
        (case.run)(&device);
    }
    let event = || Event::new(cuda.context(), true).expect("an event");
    let pairs: Vec<[Event; 2]> = (0..repeat).map(|_| [event(), event()]).collect();
    for [start, end] in &pairs {
        cuda.stream().record(start).expect("a live stream");
        (case.run)(&device);
        cuda.stream().record(end).expect("a live stream");
    }
    device.finish().unwrap_or_else(|e| panic!("{} on {}: {e}", case.name, case.sizes));
    let mut seconds: Vec<f64> =
        pairs.iter().map(|[start, end]| end.seconds_since(start).expect("complete events")).collect();
    seconds.sort_by(f64::total_cmp);
    Times { median: seconds[repeat / 2], best: seconds[0] }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut tiny, mut profile, mut only, mut repeat) = (false, false, String::new(), 20);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--tiny" => tiny = true,
            "--profile" => (profile, only) = (true, "attention".into()),
            "--only" => only = args.next().unwrap_or_default(),
            "--repeat" => repeat = args.next().and_then(|n| n.parse().ok()).unwrap_or(repeat),
            _ => {} // cargo's own
        }
    }
    let context = Context::open(0).unwrap_or_else(|e| panic!("no GPU to measure: {e}"));
    let cuda = Cuda::new(&context, CudaOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let properties = context.properties();
    println!("{}", json!({ "gpu": properties.name, "driver": properties.driver, "kernels": cuda.kernels() }));
    let sizes = match (profile, tiny) {
        (true, _) => Sizes::profile(),
        (false, true) => Sizes::tiny(),
        (false, false) => Sizes::real(),
    };
    for case in cases::all(&cuda, sizes) {
        let case = case();
        if !case.name.contains(&only) {
            continue;
        }
        if profile {
            let device = Gpu::new(cuda.clone());
            (case.run)(&device);
            device.finish().unwrap_or_else(|e| panic!("{} on {}: {e}", case.name, case.sizes));
            println!("{}", json!({ "kernel": case.name, "sizes": case.sizes }));
            continue;
        }
        let times = time(&cuda, &case, repeat.max(1));
        let line = json!({
            "kernel": case.name,
            "sizes": case.sizes,
            "bound": if case.flops > 300.0 * case.bytes { "products" } else { "bytes" },
            "seconds": times.median,
            "best_seconds": times.best,
            "tflops": case.flops / times.median * 1e-12,
            "gbps": case.bytes / times.median * 1e-9,
        });
        println!("{line}");
    }
}
