//! Matrix products by cuBLASLt.
//!
//! cuBLASLt thinks in columns: a matrix of contiguous rows is to it the transposed one. So `c = a·b` is asked for as
//! `cᵀ = bᵀ·aᵀ`, and no element moves. Functions: <https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api>.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use cudarc::cublaslt::sys::{self, cublasComputeType_t as Compute};
use cudarc::cublaslt::sys::{
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Wish,
};

use super::driver::{Allocation, Context};
use super::stream::Stream;
use super::{CudaOptions, library};
use crate::device::beside::WORKSPACE;
use crate::device::{DeviceError, Matrix};
use crate::model::Dtype;

/// `CUBLAS_OP_N` and `CUBLAS_OP_T`: the library's attributes hold them as 32 bits.
const AS_IT_IS: u32 = 0;
const TRANSPOSED: u32 = 1;

/// Starts of matrices are taken for aligned to so many bytes at most: more makes no algorithm faster.
const ALIGNMENT: usize = 256;

/// One side of a product as cuBLASLt sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Side {
    dtype: Dtype,
    /// Rows and columns in memory, columns contiguous.
    rows: usize,
    cols: usize,
    /// Elements from one column to the next.
    pitch: usize,
    /// Whether cuBLASLt transposes it.
    transposed: bool,
    /// Bytes that its start is a multiple of, a power of two.
    alignment: usize,
}

impl Side {
    /// The transposed of a matrix.
    fn new(m: &Matrix) -> Self {
        let alignment = 1 << m.view.address().trailing_zeros().min(ALIGNMENT.trailing_zeros());
        let dtype = m.view.dtype();
        // A row or column alone has no pitch, but the library wants one that it could have.
        if m.col_stride == 1 {
            let pitch = if m.rows == 1 { m.cols } else { m.row_stride };
            Side { dtype, rows: m.cols, cols: m.rows, pitch, transposed: false, alignment }
        } else {
            let pitch = if m.cols == 1 { m.rows } else { m.col_stride };
            Side { dtype, rows: m.rows, cols: m.cols, pitch, transposed: true, alignment }
        }
    }
}

/// What an algorithm is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Problem {
    /// Transposed b, a and c.
    sides: [Side; 3],
    add: bool,
}

/// A product made ready: descriptions and algorithm.
#[derive(Debug)]
struct Ready {
    product: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Products on one GPU, one after the other: they share scratch memory.
#[derive(Debug)]
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    /// Algorithms are asked for once: the library's heuristics take some 50 µs.
    known: Mutex<HashMap<Problem, Ready>>,
    workspace: Allocation,
    f32: Compute,
    context: Arc<Context>,
}

// SAFETY: the library's calls are thread safe; descriptions are written before they are shared.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

fn check(call: &'static str, status: sys::cublasStatus_t) -> Result<(), DeviceError> {
    if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: the library returns a constant text.
    let text = unsafe { CStr::from_ptr(sys::cublasLtGetStatusString(status)) };
    let what = format!("{status:?}: {}", text.to_string_lossy());
    Err(DeviceError::Call { call, code: status as u32, what })
}

/// Calls a function that makes a handle.
fn make<T>(call: &'static str, with: impl FnOnce(*mut T) -> sys::cublasStatus_t) -> Result<T, DeviceError> {
    let mut made = MaybeUninit::uninit();
    check(call, with(made.as_mut_ptr()))?;
    // SAFETY: written by a call that succeeded.
    Ok(unsafe { made.assume_init() })
}

fn cuda_type(dtype: Dtype) -> sys::cudaDataType {
    match dtype {
        Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
        Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        other => panic!("no products of {}", other.name()),
    }
}

impl Products {
    /// Loads the library and allocates its scratch memory.
    pub fn new(context: &Arc<Context>, options: CudaOptions) -> Result<Self, DeviceError> {
        library::products()?;
        context.enter()?;
        // SAFETY: a place for the handle.
        let handle = make("cublasLtCreate", |place| unsafe { sys::cublasLtCreate(place) })?;
        let hopper = context.properties().capability.0 == 9;
        let workspace = Allocation::new(context, WORKSPACE[usize::from(!hopper)])?;
        let f32 = if options.tf32 { Compute::CUBLAS_COMPUTE_32F_FAST_TF32 } else { Compute::CUBLAS_COMPUTE_32F };
        Ok(Products { handle, known: Mutex::default(), workspace, f32, context: context.clone() })
    }

    /// Bytes of scratch memory.
    pub fn workspace(&self) -> usize {
        self.workspace.bytes()
    }

    /// Enqueues `c = a·b`, or `c += a·b` with `add`; sums in f32.
    ///
    /// # Panics
    /// If sizes or types do not fit.
    pub fn enqueue(&self, stream: &Stream, a: Matrix, b: Matrix, c: Matrix, add: bool) -> Result<(), DeviceError> {
        assert!(a.cols == b.rows && a.rows == c.rows && b.cols == c.cols, "{a:?} · {b:?} -> {c:?}");
        assert_eq!(a.view.dtype(), b.view.dtype());
        if c.col_stride != 1 {
            return self.enqueue(stream, b.t(), a.t(), c.t(), add);
        }
        if c.rows == 0 || c.cols == 0 {
            return Ok(());
        }
        self.context.enter()?;
        let problem = Problem { sides: [b, a, c].map(|m| Side::new(&m)), add };
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        let Ready { product, layouts, algorithm } = match known.entry(problem) {
            Entry::Occupied(ready) => ready.into_mut(),
            Entry::Vacant(place) => place.insert(self.prepare(&problem)?),
        };
        let (alpha, beta) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        let at = |m: &Matrix| m.view.address() as *mut c_void;
        let pointer = |x: &f32| std::ptr::from_ref(x).cast();
        // SAFETY: live handles; matrices of the sizes that the layouts say; the library copies its scalars at once.
        check("cublasLtMatmul", unsafe {
            sys::cublasLtMatmul(
                self.handle,
                *product,
                pointer(&alpha),
                at(&b),
                layouts[0],
                at(&a),
                layouts[1],
                pointer(&beta),
                at(&c),
                layouts[2],
                at(&c),
                layouts[2],
                std::ptr::from_ref(algorithm),
                self.workspace.address() as *mut c_void,
                self.workspace.bytes(),
                stream.raw().cast(),
            )
        })
    }

    /// Describes a product and asks for the best algorithm.
    fn prepare(&self, problem: &Problem) -> Result<Ready, DeviceError> {
        let [b, a, _] = &problem.sides;
        let compute = if a.dtype == Dtype::F32 { self.f32 } else { Compute::CUBLAS_COMPUTE_32F };
        // SAFETY: places for handles; attributes have the types that the manual says. What an error leaves behind is lost,
        // and the run with it.
        unsafe {
            let scale = sys::cudaDataType::CUDA_R_32F;
            let product =
                make("cublasLtMatmulDescCreate", |place| sys::cublasLtMatmulDescCreate(place, compute, scale))?;
            for (attribute, side) in
                [(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, b), (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, a)]
            {
                let operation = if side.transposed { TRANSPOSED } else { AS_IT_IS };
                let (value, size) = (std::ptr::from_ref(&operation).cast(), size_of_val(&operation));
                let status = sys::cublasLtMatmulDescSetAttribute(product, attribute, value, size);
                check("cublasLtMatmulDescSetAttribute", status)?;
            }
            let mut layouts = [std::ptr::null_mut(); 3];
            for (layout, side) in layouts.iter_mut().zip(&problem.sides) {
                let (rows, cols, pitch) = (side.rows as u64, side.cols as u64, side.pitch as i64);
                let dtype = cuda_type(side.dtype);
                *layout = make("cublasLtMatrixLayoutCreate", |place| {
                    sys::cublasLtMatrixLayoutCreate(place, dtype, rows, cols, pitch)
                })?;
            }
            let algorithm = self.algorithm(problem, product, layouts)?;
            Ok(Ready { product, layouts, algorithm })
        }
    }

    /// The library's first choice within our scratch memory and alignments.
    ///
    /// # Safety
    /// Live handles.
    unsafe fn algorithm(
        &self,
        problem: &Problem,
        product: sys::cublasLtMatmulDesc_t,
        [b, a, c]: [sys::cublasLtMatrixLayout_t; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t, DeviceError> {
        let [b_side, a_side, c_side] = &problem.sides;
        // SAFETY: the caller's promise; places for results; attributes have the types that the manual says.
        unsafe {
            let wishes = make("cublasLtMatmulPreferenceCreate", |place| sys::cublasLtMatmulPreferenceCreate(place))?;
            let set = |wish: Wish, value: *const c_void, size: usize| {
                let status = sys::cublasLtMatmulPreferenceSetAttribute(wishes, wish, value, size);
                check("cublasLtMatmulPreferenceSetAttribute", status)
            };
            let bytes = self.workspace.bytes() as u64;
            set(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&bytes).cast(), size_of::<u64>())?;
            for (wish, side) in [
                (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b_side),
                (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a_side),
                (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c_side),
                (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c_side),
            ] {
                let bytes = side.alignment as u32;
                set(wish, std::ptr::from_ref(&bytes).cast(), size_of::<u32>())?;
            }
            let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
            let mut count = 0;
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                product,
                b,
                a,
                c,
                c,
                wishes,
                1,
                found.as_mut_ptr(),
                &mut count,
            );
            sys::cublasLtMatmulPreferenceDestroy(wishes);
            check("cublasLtMatmulAlgoGetHeuristic", status)?;
            if count == 0 {
                let what = format!("CUBLAS_STATUS_NOT_SUPPORTED: no algorithm for {problem:?}");
                return Err(DeviceError::Call { call: "cublasLtMatmulAlgoGetHeuristic", code: 15, what });
            }
            let found = found.assume_init();
            check("cublasLtMatmulAlgoGetHeuristic", found.state)?;
            Ok(found.algo)
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let known = self.known.get_mut().unwrap_or_else(|e| e.into_inner());
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: each was created once, and no product runs any more.
        unsafe {
            for ready in known.values() {
                ready.layouts.iter().for_each(|&layout| _ = sys::cublasLtMatrixLayoutDestroy(layout));
                sys::cublasLtMatmulDescDestroy(ready.product);
            }
            sys::cublasLtDestroy(self.handle);
        }
    }
}
