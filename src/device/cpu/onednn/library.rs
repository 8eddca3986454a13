//! oneDNN, looked for when the program runs, so that one build serves machines with and without it.
//!
//! Versions 2 and 3 of its C interface are known; where they differ is hidden here. Version 2 lets its caller hold the
//! descriptors of matrices, version 3 holds them itself and makes the plan of a product without describing it first.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr::{null, null_mut};

use libloading::Library as Loaded;

use super::ffi::{self, Argument, Common, Described, Handle, Layout, Operation, Three, Two, Version};
use crate::model::Dtype;

/// The environment variable that chooses the library, or none.
pub const VARIABLE: &str = "TAWPIPE_ONEDNN";

/// Newest minor version of version 3 that is looked for: Debian's file names have it.
const NEWEST_MINOR: u32 = 20;

#[derive(Debug)]
enum Interface {
    Two(Two),
    Three(Three),
}

/// What a call of the library returned in place of success; see `dnnl_status_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("status {0}")]
pub struct Status(c_int);

fn check(status: c_int) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

fn made(create: impl FnOnce(*mut Handle) -> c_int) -> Result<Handle, Status> {
    let mut handle = null_mut();
    check(create(&mut handle))?;
    Ok(handle)
}

/// A matrix without its address, or any layout that the library likes best for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows and columns.
    pub dims: [usize; 2],
    /// Elements from row to row and from column to column.
    pub strides: Option<[usize; 2]>,
    /// Type of an element.
    pub dtype: Dtype,
}

impl Shape {
    /// Some rows and columns of it.
    pub fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        Shape { dims: [rows.len(), columns.len()], ..*self }
    }

    /// Bytes from its start to an element.
    pub fn at(&self, row: usize, column: usize) -> usize {
        let [down, right] = self.strides.unwrap_or_default();
        (row * down + column * right) * self.dtype.bytes()
    }
}

/// The library, loaded for as long as the program runs.
#[derive(Debug)]
pub struct Library {
    common: Common,
    interface: Interface,
    /// Sets the number of OpenMP threads of the calling thread, where the library is built with OpenMP.
    set_threads: Option<unsafe extern "C" fn(c_int)>,
    version: Version,
    path: String,
    engine: Handle,
}

// SAFETY: functions and a processor's engine may be used by all threads at once, as the library's documentation says.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// A plan of an operation (the library's "primitive descriptor") and the operation itself. They live for as long as the
/// program, as the library does.
#[derive(Clone, Copy, Debug)]
pub struct Primitive {
    plan: Handle,
    primitive: Handle,
    /// Scratch memory that every execution needs of its own.
    pub scratchpad: Layout,
}

// SAFETY: an operation with the caller's scratch memory may be executed by all threads at once.
unsafe impl Send for Primitive {}
// SAFETY: as above.
unsafe impl Sync for Primitive {}

/// What is tried in turn: the path that the environment names, or the names of version 3 and then of version 2.
fn names(setting: Option<&OsStr>) -> Vec<OsString> {
    match setting {
        Some(path) => vec![path.to_owned()],
        None => {
            let minors = (0..=NEWEST_MINOR).rev().map(|minor| format!("libdnnl.so.3.{minor}"));
            let names = std::iter::once("libdnnl.so.3".to_string()).chain(minors);
            names.chain(["libdnnl.so.2".to_string()]).map(OsString::from).collect()
        }
    }
}

/// The file in which a function lies.
fn path_of(function: *const c_void) -> String {
    // SAFETY: all zeros is a valid answer, which the call fills; the name that it points to lives with the loaded library.
    unsafe {
        let mut answer = std::mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(function, &mut answer) == 0 || answer.dli_fname.is_null() {
            return String::new();
        }
        CStr::from_ptr(answer.dli_fname).to_string_lossy().into_owned()
    }
}

impl Library {
    /// Looks for the library: at the path that `setting` says, or by the names that systems give it. None if there is none.
    ///
    /// # Errors
    /// What is wrong with the one that was found or named.
    pub fn open(setting: Option<&OsStr>) -> Result<Option<Self>, String> {
        for name in names(setting) {
            // SAFETY: loads the library, whose initialisers are its maker's business; it is never unloaded, because its
            // functions, and perhaps threads, are used until the program ends.
            match unsafe { Loaded::new(&name) } {
                Ok(loaded) => {
                    let library = Self::of(&loaded).map_err(|why| format!("{}: {why}", name.display()))?;
                    std::mem::forget(loaded);
                    return Ok(Some(library));
                }
                // The error alone says no more than that loading failed; what the loader said is its source.
                Err(why) if setting.is_some() => {
                    let said = std::error::Error::source(&why).map_or_else(|| why.to_string(), ToString::to_string);
                    return Err(format!("{}: cannot be loaded: {said}", name.display()));
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn of(loaded: &Loaded) -> Result<Self, String> {
        type GetVersion = unsafe extern "C" fn() -> *const Version;
        // SAFETY: the function has this type in every version; what it returns is static. The interface is that of the
        // version, and the caller never unloads the library.
        unsafe {
            let get = loaded.get::<GetVersion>(b"dnnl_version\0").map_err(|_| "is not oneDNN")?;
            let version = *get();
            let absent = |why: libloading::Error| format!("oneDNN {version} lacks a function: {why}");
            let interface = match version.major {
                2 => Interface::Two(Two::load(loaded).map_err(absent)?),
                3 => Interface::Three(Three::load(loaded).map_err(absent)?),
                _ => return Err(format!("oneDNN {version} is neither version 2 nor 3")),
            };
            let common = Common::load(loaded).map_err(absent)?;
            let engine =
                made(|engine| (common.engine_create)(engine, ffi::CPU, 0)).map_err(|s| format!("no engine: {s}"))?;
            let set_threads = loaded.get(b"omp_set_num_threads\0").ok().map(|symbol| *symbol);
            let path = path_of(*get as *const c_void);
            Ok(Library { common, interface, set_threads, version, path, engine })
        }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Lets the calling thread work alone in its calls of the library, instead of waking the library's own threads, which would
    /// then go on spinning on the cores of ours.
    pub fn alone(&self) {
        if let Some(set_threads) = self.set_threads {
            // SAFETY: OpenMP's function takes any positive number; it concerns the calling thread only.
            unsafe { set_threads(1) };
        }
    }

    /// Describes a matrix. Version 2's description is leaked like version 3's: there is one for each size of a model's matrices.
    pub fn layout(&self, shape: &Shape) -> Result<Layout, Status> {
        let dims = shape.dims.map(|d| d as i64);
        // Both versions copy as many numbers as there are dimensions.
        let strides = shape.strides.map(|strides| strides.map(|s| s as i64));
        let code = if shape.dtype == Dtype::Bf16 { ffi::BF16 } else { ffi::F32 };
        // SAFETY: two dimensions and strides; the description is large enough (see `Described`).
        unsafe {
            match &self.interface {
                Interface::Two(two) => {
                    let described = Box::leak(Box::new(Described([0; 1024])));
                    check(match strides {
                        Some(strides) => (two.by_strides)(described, 2, dims.as_ptr(), code, strides.as_ptr()),
                        None => (two.by_tag)(described, 2, dims.as_ptr(), code, ffi::FORMAT_ANY),
                    })?;
                    Ok((&raw const *described).cast())
                }
                Interface::Three(three) => Ok(made(|layout| match strides {
                    Some(strides) => (three.by_strides)(layout, 2, dims.as_ptr(), code, strides.as_ptr()),
                    None => (three.by_tag)(layout, 2, dims.as_ptr(), code, ffi::FORMAT_ANY),
                })?
                .cast_const()),
            }
        }
    }

    /// Describes some columns of a matrix in its memory. The library has it only for columns from one of its blocks to another.
    pub fn columns(&self, whole: Layout, rows: usize, columns: &Range<usize>) -> Result<Layout, Status> {
        let (dims, offsets) = ([rows as i64, columns.len() as i64], [0, columns.start as i64]);
        // SAFETY: layouts come from this library and have two dimensions; the description is large enough (see `Described`).
        unsafe {
            match &self.interface {
                Interface::Two(two) => {
                    let described = Box::leak(Box::new(Described([0; 1024])));
                    check((two.part)(described, whole, dims.as_ptr(), offsets.as_ptr()))?;
                    Ok((&raw const *described).cast())
                }
                Interface::Three(three) => {
                    Ok(made(|part| (three.part)(part, whole, dims.as_ptr(), offsets.as_ptr()))?.cast_const())
                }
            }
        }
    }

    /// Bytes that a layout takes.
    pub fn bytes(&self, layout: Layout) -> usize {
        // SAFETY: layouts come from this library and are never destroyed.
        unsafe { (self.common.layout_size)(layout) }
    }

    /// Whether two layouts are the same.
    pub fn same(&self, a: Layout, b: Layout) -> bool {
        // SAFETY: layouts come from this library and are never destroyed.
        unsafe { (self.common.layout_equal)(a, b) != 0 }
    }

    /// `dst (+)= src·weights`, and the layout in which it wants the weights.
    pub fn product(&self, src: Layout, weights: Layout, dst: Layout, add: bool) -> Result<(Primitive, Layout), Status> {
        let attributes = Attributes::new(self, add)?;
        // SAFETY: layouts and attributes are this library's; the description is large enough (see `Operation`).
        let plan = unsafe {
            match &self.interface {
                Interface::Two(two) => {
                    let mut operation = Operation([0; 4096]);
                    check((two.matmul)(&mut operation, src, weights, null(), dst))?;
                    made(|plan| (two.plan_create)(plan, &operation, attributes.handle, self.engine, null_mut()))?
                }
                Interface::Three(three) => {
                    made(|plan| (three.matmul)(plan, self.engine, src, weights, null(), dst, attributes.handle))?
                }
            }
        };
        let primitive = self.primitive(plan)?;
        // SAFETY: the plan is this library's; the layout lives with it.
        Ok((primitive, unsafe { (self.common.query_layout)(plan, ffi::QUERY_WEIGHTS, 0) }))
    }

    /// Brings a matrix from one layout into another.
    pub fn reorder(&self, from: Layout, to: Layout) -> Result<Primitive, Status> {
        let attributes = Attributes::new(self, false)?;
        let (engine, reorder) = (self.engine, self.common.reorder);
        // SAFETY: layouts, engine and attributes are this library's.
        let plan = made(|plan| unsafe { reorder(plan, from, engine, to, engine, attributes.handle) })?;
        self.primitive(plan)
    }

    fn primitive(&self, plan: Handle) -> Result<Primitive, Status> {
        // SAFETY: the plan is this library's; what it is asked for lives with it.
        unsafe {
            match made(|primitive| (self.common.primitive_create)(primitive, plan)) {
                Ok(primitive) => {
                    let scratchpad = (self.common.query_layout)(plan, ffi::QUERY_SCRATCHPAD, 0);
                    Ok(Primitive { plan, primitive, scratchpad })
                }
                Err(status) => {
                    (self.common.plan_destroy)(plan);
                    Err(status)
                }
            }
        }
    }

    /// What the library calls its way of doing it: `brg:avx512_core_bf16`, `ref:any`.
    pub fn implementation(&self, primitive: &Primitive) -> String {
        let mut name: *const c_char = null();
        // SAFETY: the plan is this library's; the answer is a static text.
        unsafe {
            let status = (self.common.query)(primitive.plan, ffi::QUERY_IMPLEMENTATION, 0, (&raw mut name).cast());
            if status != 0 || name.is_null() {
                return String::new();
            }
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }

    /// A stream of the calling thread.
    pub fn stream(&'static self) -> Result<Stream, Status> {
        // SAFETY: the engine is this library's.
        let handle = made(|stream| unsafe { (self.common.stream_create)(stream, self.engine, ffi::STREAM_IN_ORDER) })?;
        Ok(Stream { library: self, handle })
    }
}

/// Attributes of an operation: whether its result is added, and that its caller brings the scratch memory, without which an
/// operation is tied to the thread that made it.
struct Attributes<'a> {
    library: &'a Library,
    handle: Handle,
}

impl<'a> Attributes<'a> {
    fn new(library: &'a Library, add: bool) -> Result<Self, Status> {
        let common = &library.common;
        // SAFETY: handles come from the library's own constructors and are destroyed once.
        unsafe {
            let attributes = Attributes { library, handle: made(|handle| (common.attributes_create)(handle))? };
            check((common.attributes_set_scratchpad)(attributes.handle, ffi::SCRATCHPAD_OF_THE_USER))?;
            if add {
                let ops = made(|ops| (common.post_ops_create)(ops))?;
                let appended = match &library.interface {
                    Interface::Two(two) => (two.append_sum)(ops, 1.0),
                    // No zero point, and the destination's own type.
                    Interface::Three(three) => (three.append_sum)(ops, 1.0, 0, 0),
                };
                let set =
                    check(appended).and_then(|()| check((common.attributes_set_post_ops)(attributes.handle, ops)));
                (common.post_ops_destroy)(ops);
                set?;
            }
            Ok(attributes)
        }
    }
}

impl Drop for Attributes<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours; plans keep a copy.
        unsafe { (self.library.common.attributes_destroy)(self.handle) };
    }
}

/// Where a thread executes operations.
#[derive(Debug)]
pub struct Stream {
    library: &'static Library,
    handle: Handle,
}

impl Stream {
    /// Executes an operation on memory at the given addresses, and waits for it.
    ///
    /// # Safety
    /// Each address is good for its layout, to be read or written as the operation does.
    pub unsafe fn execute(&self, primitive: &Primitive, on: &[(c_int, Layout, *mut c_void)]) -> Result<(), Status> {
        let common = &self.library.common;
        let mut arguments = Vec::with_capacity(on.len());
        let mut run = || {
            for &(what, layout, address) in on {
                // SAFETY: layout and engine are this library's.
                let memory =
                    made(|memory| unsafe { (common.memory_create)(memory, layout, self.library.engine, address) })?;
                arguments.push(Argument { what, memory });
            }
            // SAFETY: the caller's promise.
            unsafe {
                let count = arguments.len() as c_int;
                check((common.execute)(primitive.primitive, self.handle, count, arguments.as_ptr()))?;
                check((common.stream_wait)(self.handle))
            }
        };
        let done = run();
        for argument in arguments {
            // SAFETY: made above, and the stream is done with it.
            unsafe { (common.memory_destroy)(argument.memory) };
        }
        done
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is ours.
        unsafe { (self.library.common.stream_destroy)(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that was named is the only one tried, and a failure to load it is told; the names of systems may be absent.
    #[test]
    fn a_path_is_loaded_or_refused() {
        assert_eq!(names(Some(OsStr::new("/a"))), ["/a"]);
        let all = names(None);
        assert_eq!((all[0].to_str(), all.last().unwrap().to_str()), (Some("libdnnl.so.3"), Some("libdnnl.so.2")));
        let nowhere = Library::open(Some(OsStr::new("/nowhere/libdnnl.so.3"))).unwrap_err();
        assert!(nowhere.contains("/nowhere/libdnnl.so.3"), "{nowhere}");
        // A library that every Linux has, and that is another.
        let other = Library::open(Some(OsStr::new("libm.so.6"))).unwrap_err();
        assert_eq!(other, "libm.so.6: is not oneDNN");
    }
}
