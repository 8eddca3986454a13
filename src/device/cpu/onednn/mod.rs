//! Matrix products of bf16 by the system's oneDNN.
//!
//! Primitives are made once for each combination of sizes and types. Weights are rearranged into the layout the
//! library likes best before each product: that costs less than it saves.
// SAFETY of the blocks below: handles come from the library's own constructors and live until `drop`; descriptors
// are larger than the library's; matrices cover their elements (see `Matrix`).

mod ffi;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};

use self::ffi::{Handle, dnnl_exec_arg_t, dnnl_matmul_desc_t, dnnl_memory_desc_t};
use crate::device::Matrix;
use crate::model::Dtype;

/// The library, ready for products; absent if the one installed is not of the version this was written for.
#[derive(Debug)]
pub struct OneDnn {
    threads: c_int,
    state: Mutex<State>,
}

/// Handles are used under the mutex only.
#[derive(Debug)]
struct State {
    engine: Handle,
    stream: Handle,
    products: HashMap<Key, Product>,
    /// Weights in the library's layout.
    packed: Vec<[u8; 64]>,
}

// SAFETY: the library's handles may be used by any thread, one at a time.
unsafe impl Send for State {}

/// What a primitive depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    a: Side,
    b: Side,
    c: Side,
    add: bool,
}

/// A matrix without its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Side {
    dims: [usize; 2],
    strides: [usize; 2],
    dtype: Dtype,
}

#[derive(Debug)]
struct Product {
    primitive: Handle,
    /// Source, weights as they come, destination.
    memories: [Handle; 3],
    /// Rearranges the weights: primitive, its destination, bytes.
    pack: Option<(Handle, Handle, usize)>,
}

fn check(status: c_int, what: &str) {
    assert_eq!(status, 0, "oneDNN: {what} failed with status {status}");
}

fn made(what: &str, create: impl FnOnce(*mut Handle) -> c_int) -> Handle {
    let mut handle = null_mut();
    check(create(&mut handle), what);
    handle
}

impl Side {
    fn of(m: Matrix) -> Self {
        Side { dims: [m.rows, m.cols], strides: [m.row_stride, m.col_stride], dtype: m.view.dtype() }
    }

    fn code(&self) -> c_int {
        match self.dtype {
            Dtype::Bf16 => ffi::BF16,
            _ => ffi::F32,
        }
    }

    fn dims(&self) -> [i64; ffi::MAX_NDIMS] {
        std::array::from_fn(|i| self.dims.get(i).map_or(0, |&d| d as i64))
    }

    fn strided(&self) -> dnnl_memory_desc_t {
        let mut desc = dnnl_memory_desc_t([0; 1024]);
        let strides: [i64; ffi::MAX_NDIMS] = std::array::from_fn(|i| self.strides.get(i).map_or(0, |&s| s as i64));
        let status = unsafe {
            ffi::dnnl_memory_desc_init_by_strides(&mut desc, 2, self.dims().as_ptr(), self.code(), strides.as_ptr())
        };
        check(status, "describing a matrix");
        desc
    }

    fn any(&self) -> dnnl_memory_desc_t {
        let mut desc = dnnl_memory_desc_t([0; 1024]);
        let status = unsafe {
            ffi::dnnl_memory_desc_init_by_tag(&mut desc, 2, self.dims().as_ptr(), self.code(), ffi::FORMAT_ANY)
        };
        check(status, "describing a matrix");
        desc
    }
}

impl OneDnn {
    /// The library for a device of `threads` threads.
    pub fn new(threads: usize) -> Option<Self> {
        // SAFETY: a static of the library.
        let version = unsafe { &*ffi::dnnl_version() };
        if version.major != 2 {
            let ffi::dnnl_version_t { major, minor, patch } = version;
            log::warn!("oneDNN {major}.{minor}.{patch} is not version 2: its matrix products are not used");
            return None;
        }
        let engine = made("an engine", |e| unsafe { ffi::dnnl_engine_create(e, ffi::CPU, 0) });
        let stream = made("a stream", |s| unsafe { ffi::dnnl_stream_create(s, engine, ffi::STREAM_IN_ORDER) });
        let state = State { engine, stream, products: HashMap::new(), packed: Vec::new() };
        Some(OneDnn { threads: threads as c_int, state: Mutex::new(state) })
    }

    /// `c (+)= a·b` of bf16 matrices; c is bf16 or f32.
    pub fn bf16(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        let key = Key { a: Side::of(a), b: Side::of(b), c: Side::of(c), add };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        unsafe { ffi::omp_set_num_threads(self.threads) };
        let State { engine, stream, products, packed } = &mut *state;
        let product = products.entry(key).or_insert_with(|| Product::new(*engine, &key));
        for (memory, matrix) in product.memories.iter().zip([a, b, c]) {
            let data = matrix.view.address() as *mut c_void;
            check(unsafe { ffi::dnnl_memory_set_data_handle(*memory, data) }, "placing a matrix");
        }
        let [src, weights, dst] = product.memories;
        let arg = |arg, memory| dnnl_exec_arg_t { arg, memory };
        let mut best = weights;
        if let Some((pack, target, bytes)) = product.pack {
            if packed.len() * 64 < bytes {
                packed.resize(bytes.div_ceil(64), [0; 64]);
            }
            let data = packed.as_mut_ptr().cast();
            check(unsafe { ffi::dnnl_memory_set_data_handle(target, data) }, "placing packed weights");
            let args = [arg(ffi::ARG_SRC, weights), arg(ffi::ARG_DST, target)];
            check(unsafe { ffi::dnnl_primitive_execute(pack, *stream, 2, args.as_ptr()) }, "packing weights");
            best = target;
        }
        let args = [arg(ffi::ARG_SRC, src), arg(ffi::ARG_WEIGHTS, best), arg(ffi::ARG_DST, dst)];
        unsafe {
            check(ffi::dnnl_primitive_execute(product.primitive, *stream, 3, args.as_ptr()), "a product");
            check(ffi::dnnl_stream_wait(*stream), "a product");
        }
    }
}

impl Product {
    fn new(engine: Handle, key: &Key) -> Self {
        let attr = made("attributes", |a| unsafe { ffi::dnnl_primitive_attr_create(a) });
        if key.add {
            unsafe {
                let ops = made("post-ops", |o| ffi::dnnl_post_ops_create(o));
                check(ffi::dnnl_post_ops_append_sum(ops, 1.0), "asking for a sum");
                check(ffi::dnnl_primitive_attr_set_post_ops(attr, ops), "asking for a sum");
                ffi::dnnl_post_ops_destroy(ops);
            }
        }
        let plain = [key.a.strided(), key.b.strided(), key.c.strided()];
        let mut op = dnnl_matmul_desc_t([0; 4096]);
        let status = unsafe { ffi::dnnl_matmul_desc_init(&mut op, &plain[0], &key.b.any(), null(), &plain[2]) };
        check(status, "describing a product");
        let desc = made("a product", |d| unsafe { ffi::dnnl_primitive_desc_create(d, &op, attr, engine, null_mut()) });
        let primitive = made("a product", |p| unsafe { ffi::dnnl_primitive_create(p, desc) });
        let memory = |desc: *const dnnl_memory_desc_t| {
            made("a matrix", |m| unsafe { ffi::dnnl_memory_create(m, desc, engine, null_mut()) })
        };
        let pack = unsafe {
            let best = ffi::dnnl_primitive_desc_query_md(desc, ffi::QUERY_WEIGHTS, 0);
            (ffi::dnnl_memory_desc_equal(best, &plain[1]) == 0).then(|| {
                let reorder = made("a packing", |d| {
                    ffi::dnnl_reorder_primitive_desc_create(d, &plain[1], engine, best, engine, null_mut())
                });
                let pack = made("a packing", |p| ffi::dnnl_primitive_create(p, reorder));
                let made = (pack, memory(best), ffi::dnnl_memory_desc_get_size(best));
                ffi::dnnl_primitive_desc_destroy(reorder);
                made
            })
        };
        unsafe {
            ffi::dnnl_primitive_desc_destroy(desc);
            ffi::dnnl_primitive_attr_destroy(attr);
        }
        Product { primitive, memories: plain.each_ref().map(|desc| memory(desc)), pack }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        unsafe {
            for product in self.products.values() {
                ffi::dnnl_primitive_destroy(product.primitive);
                product.memories.iter().for_each(|m| {
                    ffi::dnnl_memory_destroy(*m);
                });
                if let Some((pack, memory, _)) = product.pack {
                    ffi::dnnl_primitive_destroy(pack);
                    ffi::dnnl_memory_destroy(memory);
                }
            }
            ffi::dnnl_stream_destroy(self.stream);
            ffi::dnnl_engine_destroy(self.engine);
        }
    }
}
