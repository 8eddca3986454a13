//! The part of oneDNN's C interface (version 2) that is used here, and OpenMP's thread count.
#![allow(non_camel_case_types, reason = "the names of the C interface")]

use std::ffi::{c_int, c_uint, c_void};

/// Room for a `dnnl_memory_desc_t` (696 bytes in 2.6); only the library looks inside.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct dnnl_memory_desc_t(pub [u8; 1024]);

/// Room for a `dnnl_matmul_desc_t` (2,800 bytes in 2.6); only the library looks inside.
#[repr(C, align(16))]
pub struct dnnl_matmul_desc_t(pub [u8; 4096]);

pub type Handle = *mut c_void;

#[repr(C)]
pub struct dnnl_exec_arg_t {
    pub arg: c_int,
    pub memory: Handle,
}

#[repr(C)]
pub struct dnnl_version_t {
    pub major: c_int,
    pub minor: c_int,
    pub patch: c_int,
}

pub const MAX_NDIMS: usize = 12;
pub const BF16: c_int = 2;
pub const F32: c_int = 3;
pub const FORMAT_ANY: c_int = 1;
pub const CPU: c_int = 1;
pub const STREAM_IN_ORDER: c_uint = 1;
pub const QUERY_WEIGHTS: c_int = 131;
pub const ARG_SRC: c_int = 1;
pub const ARG_DST: c_int = 17;
pub const ARG_WEIGHTS: c_int = 33;

unsafe extern "C" {
    pub fn dnnl_version() -> *const dnnl_version_t;
    pub fn dnnl_engine_create(engine: *mut Handle, kind: c_int, index: usize) -> c_int;
    pub fn dnnl_engine_destroy(engine: Handle) -> c_int;
    pub fn dnnl_stream_create(stream: *mut Handle, engine: Handle, flags: c_uint) -> c_int;
    pub fn dnnl_stream_wait(stream: Handle) -> c_int;
    pub fn dnnl_stream_destroy(stream: Handle) -> c_int;
    pub fn dnnl_memory_desc_init_by_strides(
        desc: *mut dnnl_memory_desc_t,
        ndims: c_int,
        dims: *const i64,
        dtype: c_int,
        strides: *const i64,
    ) -> c_int;
    pub fn dnnl_memory_desc_init_by_tag(
        desc: *mut dnnl_memory_desc_t,
        ndims: c_int,
        dims: *const i64,
        dtype: c_int,
        tag: c_int,
    ) -> c_int;
    pub fn dnnl_memory_desc_get_size(desc: *const dnnl_memory_desc_t) -> usize;
    pub fn dnnl_memory_desc_equal(a: *const dnnl_memory_desc_t, b: *const dnnl_memory_desc_t) -> c_int;
    pub fn dnnl_memory_create(
        memory: *mut Handle,
        desc: *const dnnl_memory_desc_t,
        engine: Handle,
        data: *mut c_void,
    ) -> c_int;
    pub fn dnnl_memory_set_data_handle(memory: Handle, data: *mut c_void) -> c_int;
    pub fn dnnl_memory_destroy(memory: Handle) -> c_int;
    pub fn dnnl_matmul_desc_init(
        matmul: *mut dnnl_matmul_desc_t,
        src: *const dnnl_memory_desc_t,
        weights: *const dnnl_memory_desc_t,
        bias: *const dnnl_memory_desc_t,
        dst: *const dnnl_memory_desc_t,
    ) -> c_int;
    pub fn dnnl_reorder_primitive_desc_create(
        desc: *mut Handle,
        src: *const dnnl_memory_desc_t,
        src_engine: Handle,
        dst: *const dnnl_memory_desc_t,
        dst_engine: Handle,
        attr: Handle,
    ) -> c_int;
    pub fn dnnl_primitive_attr_create(attr: *mut Handle) -> c_int;
    pub fn dnnl_primitive_attr_set_post_ops(attr: Handle, ops: Handle) -> c_int;
    pub fn dnnl_primitive_attr_destroy(attr: Handle) -> c_int;
    pub fn dnnl_post_ops_create(ops: *mut Handle) -> c_int;
    pub fn dnnl_post_ops_append_sum(ops: Handle, scale: f32) -> c_int;
    pub fn dnnl_post_ops_destroy(ops: Handle) -> c_int;
    pub fn dnnl_primitive_desc_create(
        desc: *mut Handle,
        op: *const dnnl_matmul_desc_t,
        attr: Handle,
        engine: Handle,
        hint: Handle,
    ) -> c_int;
    pub fn dnnl_primitive_desc_query_md(desc: Handle, what: c_int, index: c_int) -> *const dnnl_memory_desc_t;
    pub fn dnnl_primitive_desc_destroy(desc: Handle) -> c_int;
    pub fn dnnl_primitive_create(primitive: *mut Handle, desc: Handle) -> c_int;
    pub fn dnnl_primitive_execute(
        primitive: Handle,
        stream: Handle,
        count: c_int,
        args: *const dnnl_exec_arg_t,
    ) -> c_int;
    pub fn dnnl_primitive_destroy(primitive: Handle) -> c_int;
    pub fn omp_set_num_threads(threads: c_int);
}
