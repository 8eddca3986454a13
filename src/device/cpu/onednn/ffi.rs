//! The parts of oneDNN's C interface that are used here, of its versions 2 and 3: types, numbers and tables of functions.
//!
//! Described in <https://uxlfoundation.github.io/oneDNN/>.

use std::ffi::{c_int, c_uint, c_void};
use std::fmt;

use libloading::Library as Loaded;

/// An object of the library.
pub type Handle = *mut c_void;

/// A descriptor of a matrix in memory, to be read.
pub type Layout = *const c_void;

// Numbers of the headers, the same in both versions.
pub const BF16: c_int = 2;
pub const F32: c_int = 3;
pub const FORMAT_ANY: c_int = 1;
pub const CPU: c_int = 1;
pub const STREAM_IN_ORDER: c_uint = 1;
pub const SCRATCHPAD_OF_THE_USER: c_int = 1;
pub const QUERY_IMPLEMENTATION: c_int = 8;
pub const QUERY_WEIGHTS: c_int = 131;
pub const QUERY_SCRATCHPAD: c_int = 136;
/// `DNNL_ARG_SRC`.
pub const SRC: c_int = 1;
/// `DNNL_ARG_DST`.
pub const DST: c_int = 17;
/// `DNNL_ARG_WEIGHTS`.
pub const WEIGHTS: c_int = 33;
/// `DNNL_ARG_SCRATCHPAD`.
pub const SCRATCHPAD: c_int = 80;

/// `dnnl_exec_arg_t`: a memory object and what it is for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Argument {
    /// What for.
    pub what: c_int,
    /// The object.
    pub memory: Handle,
}

/// The start of `dnnl_version_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: c_int,
    pub minor: c_int,
    pub patch: c_int,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// `dnnl_memory_desc_t` of version 2: 696 bytes in 2.6, here with space for a later one's.
#[repr(C, align(16))]
pub struct Described(pub [u8; 1024]);

/// `dnnl_matmul_desc_t` of version 2: 2,800 bytes in 2.6.
#[repr(C, align(16))]
pub struct Operation(pub [u8; 4096]);

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $symbol:literal: fn($($arg:ty),* $(,)?) -> $result:ty;)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name { $(pub $field: unsafe extern "C" fn($($arg),*) -> $result,)* }

        impl $name {
            /// # Safety
            /// The library is oneDNN of this version, and is never unloaded.
            pub unsafe fn load(library: &Loaded) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of the headers.
                unsafe { Ok($name { $($field: *library.get(concat!($symbol, "\0").as_bytes())?,)* }) }
            }
        }
    };
}

functions! {
    /// What versions 2 and 3 share.
    Common {
        engine_create = "dnnl_engine_create": fn(*mut Handle, c_int, usize) -> c_int;
        stream_create = "dnnl_stream_create": fn(*mut Handle, Handle, c_uint) -> c_int;
        stream_wait = "dnnl_stream_wait": fn(Handle) -> c_int;
        stream_destroy = "dnnl_stream_destroy": fn(Handle) -> c_int;
        layout_size = "dnnl_memory_desc_get_size": fn(Layout) -> usize;
        layout_equal = "dnnl_memory_desc_equal": fn(Layout, Layout) -> c_int;
        memory_create = "dnnl_memory_create": fn(*mut Handle, Layout, Handle, *mut c_void) -> c_int;
        memory_destroy = "dnnl_memory_destroy": fn(Handle) -> c_int;
        reorder = "dnnl_reorder_primitive_desc_create":
            fn(*mut Handle, Layout, Handle, Layout, Handle, Handle) -> c_int;
        attributes_create = "dnnl_primitive_attr_create": fn(*mut Handle) -> c_int;
        attributes_set_post_ops = "dnnl_primitive_attr_set_post_ops": fn(Handle, Handle) -> c_int;
        attributes_set_scratchpad = "dnnl_primitive_attr_set_scratchpad_mode": fn(Handle, c_int) -> c_int;
        attributes_destroy = "dnnl_primitive_attr_destroy": fn(Handle) -> c_int;
        post_ops_create = "dnnl_post_ops_create": fn(*mut Handle) -> c_int;
        post_ops_destroy = "dnnl_post_ops_destroy": fn(Handle) -> c_int;
        query = "dnnl_primitive_desc_query": fn(Handle, c_int, c_int, *mut c_void) -> c_int;
        query_layout = "dnnl_primitive_desc_query_md": fn(Handle, c_int, c_int) -> Layout;
        plan_destroy = "dnnl_primitive_desc_destroy": fn(Handle) -> c_int;
        primitive_create = "dnnl_primitive_create": fn(*mut Handle, Handle) -> c_int;
        execute = "dnnl_primitive_execute": fn(Handle, Handle, c_int, *const Argument) -> c_int;
    }
}

functions! {
    /// Version 2: a product is described in the caller's memory first.
    Two {
        by_strides = "dnnl_memory_desc_init_by_strides":
            fn(*mut Described, c_int, *const i64, c_int, *const i64) -> c_int;
        by_tag = "dnnl_memory_desc_init_by_tag": fn(*mut Described, c_int, *const i64, c_int, c_int) -> c_int;
        part = "dnnl_memory_desc_init_submemory": fn(*mut Described, Layout, *const i64, *const i64) -> c_int;
        matmul = "dnnl_matmul_desc_init": fn(*mut Operation, Layout, Layout, Layout, Layout) -> c_int;
        plan_create = "dnnl_primitive_desc_create":
            fn(*mut Handle, *const Operation, Handle, Handle, Handle) -> c_int;
        append_sum = "dnnl_post_ops_append_sum": fn(Handle, f32) -> c_int;
    }
}

functions! {
    /// Version 3: descriptors are the library's objects.
    Three {
        by_strides = "dnnl_memory_desc_create_with_strides":
            fn(*mut Handle, c_int, *const i64, c_int, *const i64) -> c_int;
        by_tag = "dnnl_memory_desc_create_with_tag": fn(*mut Handle, c_int, *const i64, c_int, c_int) -> c_int;
        part = "dnnl_memory_desc_create_submemory": fn(*mut Handle, Layout, *const i64, *const i64) -> c_int;
        matmul = "dnnl_matmul_primitive_desc_create":
            fn(*mut Handle, Handle, Layout, Layout, Layout, Layout, Handle) -> c_int;
        append_sum = "dnnl_post_ops_append_sum": fn(Handle, f32, i32, c_int) -> c_int;
    }
}
