//! Matrix products of bf16 by the system's oneDNN.
//!
//! Plans are made once for each combination of sizes and types. Weights are rearranged into the layout the library likes
//! best before each product: that costs less than it saves. One pool does all work: each of its threads calls the library for
//! a part of the weights and then for a part of the result, and the library works in that thread alone. With one thread there is
//! one part.

mod ffi;
mod library;
mod probe;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use self::ffi::Layout;
use self::library::{Library, Primitive, Shape, Status, Stream};
use super::pool::Pool;
use crate::device::Matrix;

/// What [`library::VARIABLE`] says.
static SETTING: LazyLock<Option<std::ffi::OsString>> =
    LazyLock::new(|| std::env::var_os(library::VARIABLE).filter(|value| !value.is_empty()));

/// The library that was found and can do what it would be used for.
static FOUND: LazyLock<Result<Option<OneDnn>, String>> = LazyLock::new(|| {
    let setting = SETTING.as_deref();
    if setting.is_some_and(|value| value == "off") {
        return Ok(None);
    }
    let opened = Library::open(setting)
        .map_err(|why| format!("{}: {why}; accepted are the path of a libdnnl.so and \"off\"", library::VARIABLE));
    let library = match opened {
        Ok(Some(library)) => library,
        // One that nobody asked for, and that is no good.
        Err(why) if setting.is_none() => {
            log::warn!("oneDNN is not used: {why}");
            return Ok(None);
        }
        other => return other.map(|_| None),
    };
    let found = OneDnn::new(library);
    match probe::works(&found) {
        Ok(implementation) => {
            log::debug!("{} multiplies bf16 by {implementation}", found.name());
            Ok(Some(found))
        }
        Err(why) => {
            log::info!("{} is not used on this processor: {why}", found.name());
            Ok(None)
        }
    }
});

/// The library, if there is one that can do what it would be used for; looked for once.
pub fn find() -> Option<&'static OneDnn> {
    FOUND.as_ref().ok()?.as_ref()
}

/// What is wrong with the library that the environment names.
pub fn refused() -> Option<&'static str> {
    FOUND.as_ref().err().map(String::as_str)
}

/// Whether the environment names a library.
pub fn named() -> bool {
    SETTING.as_deref().is_some_and(|value| value != "off")
}

/// The library, ready for products.
#[derive(Debug)]
pub struct OneDnn {
    library: &'static Library,
    /// None where the library has no such product.
    products: Mutex<HashMap<Key, Option<Arc<Product>>>>,
    /// Memory for packed weights that nobody uses.
    spare: Mutex<Vec<Buffer>>,
}

/// What a product's plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    a: Shape,
    b: Shape,
    c: Shape,
    add: bool,
    threads: usize,
}

/// A product in two rounds of steps; those of a round are independent.
#[derive(Debug)]
struct Product {
    /// Rearrange the weights.
    packs: Vec<Step>,
    /// Multiply, each for a part of the result.
    parts: Vec<Step>,
    /// Bytes of the packed weights.
    bytes: usize,
}

/// One operation, and what it works on.
#[derive(Debug)]
struct Step {
    primitive: Primitive,
    on: Vec<Place>,
}

/// Where an argument of an operation lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    what: c_int,
    layout: Layout,
    of: Of,
    /// Bytes from the start.
    at: usize,
}

impl Place {
    fn new((what, (layout, of, at)): (c_int, (Layout, Of, usize))) -> Self {
        Place { what, layout, of, at }
    }
}

/// The memory that a place is in.
#[derive(Clone, Copy, Debug)]
enum Of {
    A,
    B,
    C,
    Packed,
}

// SAFETY: layouts are never written once they are made, nor destroyed.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

/// A cache line.
const LINE: usize = 64;

/// Rows of the result that a thread should have, before its columns are shared too.
const ROWS: usize = 128;

/// Columns in which the weights are packed: a multiple of every block of columns that the library has.
const COLUMNS: usize = 192;

/// Bytes that start where the library's vectors want them.
#[derive(Debug, Default)]
struct Buffer(Vec<[u8; LINE]>);

impl Buffer {
    /// Memory of at least so many bytes, with whatever it holds.
    fn of(&mut self, bytes: usize) -> *mut c_void {
        let lines = bytes.div_ceil(LINE) + 1;
        if self.0.len() < lines {
            self.0.resize(lines, [0; LINE]);
        }
        let start = self.0.as_mut_ptr().cast::<u8>();
        // The first boundary of a line, behind which there are `lines - 1` lines.
        start.wrapping_add(start.align_offset(LINE)).cast()
    }
}

/// What a thread needs of its own.
#[derive(Default)]
struct Lane {
    stream: Option<Stream>,
    scratchpad: Buffer,
}

thread_local! {
    static LANE: RefCell<Lane> = RefCell::default();
}

fn shape(m: Matrix) -> Shape {
    Shape { dims: [m.rows, m.cols], strides: Some([m.row_stride, m.col_stride]), dtype: m.view.dtype() }
}

/// `0..n` in at most `parts` ranges, which start at multiples of `step`.
fn ranges(n: usize, parts: usize, step: usize) -> Vec<Range<usize>> {
    let share = n.div_ceil(parts.max(1)).next_multiple_of(step);
    (0..n).step_by(share).map(|start| start..(start + share).min(n)).collect()
}

impl OneDnn {
    fn new(library: Library) -> Self {
        OneDnn { library: Box::leak(Box::new(library)), products: Mutex::default(), spare: Mutex::default() }
    }

    /// The library's name and version.
    pub fn name(&self) -> String {
        format!("oneDNN {}", self.library.version())
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &str {
        self.library.path()
    }

    /// `c (+)= a·b` of bf16 matrices; c is bf16 or f32. False, with nothing done, if the library cannot.
    pub fn product(&self, pool: &Pool, a: Matrix, b: Matrix, c: Matrix, add: bool) -> bool {
        let key = Key { a: shape(a), b: shape(b), c: shape(c), add, threads: pool.threads() };
        let Some(product) = self.plan(key) else { return false };
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packed = spare().pop().unwrap_or_default();
        let packed_at = packed.of(product.bytes) as usize;
        let run = |steps: &[Step]| {
            pool.each(steps.len(), |i| {
                let starts = |of: Of| match of {
                    Of::A => a.view.address(),
                    Of::B => b.view.address(),
                    Of::C => c.view.address(),
                    Of::Packed => packed_at,
                };
                LANE.with_borrow_mut(|lane| self.step(lane, &steps[i], starts)).unwrap_or_else(|status| {
                    // The plan is there: what is missing can only be memory.
                    panic!("{} failed in a product with {status}", self.name())
                });
            });
        };
        run(&product.packs);
        run(&product.parts);
        spare().push(packed);
        true
    }

    /// A step, in the calling thread alone.
    fn step(&self, lane: &mut Lane, step: &Step, start: impl Fn(Of) -> usize) -> Result<(), Status> {
        self.library.alone();
        let Lane { stream, scratchpad } = lane;
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(self.library.stream()?),
        };
        let layout = step.primitive.scratchpad;
        let pad = (ffi::SCRATCHPAD, layout, scratchpad.of(self.library.bytes(layout)));
        let places = step.on.iter().map(|p| (p.what, p.layout, (start(p.of) + p.at) as *mut c_void));
        let all: Vec<_> = places.chain([pad]).collect();
        // SAFETY: matrices cover their elements (see `Matrix`), buffers are as long as their layouts, and the steps of a round
        // write to different places.
        unsafe { stream.execute(&step.primitive, &all) }
    }

    /// The plan of a product, made when it is first asked for.
    fn plan(&self, key: Key) -> Option<Arc<Product>> {
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let made = products.entry(key).or_insert_with(|| {
            self.library.alone();
            let made = self.make(&key).inspect_err(|status| log::debug!("{} has no {key:?}: {status}", self.name()));
            made.ok().map(Arc::new)
        });
        made.clone()
    }

    /// The result is shared by rows, and where there are few of them also by columns.
    fn make(&self, key: &Key) -> Result<Product, Status> {
        let library = self.library;
        let [m, n] = key.c.dims;
        let rows = ranges(m, key.threads.min(m.div_ceil(ROWS)), LINE);
        let panels = ranges(n, key.threads.div_ceil(rows.len().max(1)), LINE);
        let mut product = Product { packs: Vec::new(), parts: Vec::new(), bytes: 0 };
        for columns in &panels {
            let b = key.b.part(0..key.b.dims[0], columns.clone());
            let (plain, any) = (library.layout(&b)?, library.layout(&Shape { strides: None, ..b })?);
            let [b_at, packed_at] = [key.b.at(0, columns.start), product.bytes];
            let mut best = None;
            for rows in &rows {
                let a = library.layout(&key.a.part(rows.clone(), 0..key.a.dims[1]))?;
                let c = library.layout(&key.c.part(rows.clone(), columns.clone()))?;
                let (primitive, wanted) = library.product(a, best.unwrap_or(any), c, key.add)?;
                // The first rows decide about the weights' layout, the others follow.
                let weights = match *best.get_or_insert(wanted) {
                    best if library.same(best, plain) => (plain, Of::B, b_at),
                    best => (best, Of::Packed, packed_at),
                };
                let (a_at, c_at) = (key.a.at(rows.start, 0), key.c.at(rows.start, columns.start));
                let on = [(ffi::SRC, (a, Of::A, a_at)), (ffi::WEIGHTS, weights), (ffi::DST, (c, Of::C, c_at))];
                product.parts.push(Step { primitive, on: on.map(Place::new).to_vec() });
            }
            if let Some(best) = best.filter(|best| !library.same(*best, plain)) {
                product.packs.extend(self.packs(&b, b_at, best, packed_at, key.threads.div_ceil(panels.len()))?);
                product.bytes += library.bytes(best).next_multiple_of(LINE);
            }
        }
        Ok(product)
    }

    /// Steps that bring weights into a layout: in parts of their columns, for the threads to share, if the library can do that.
    fn packs(&self, b: &Shape, b_at: usize, to: Layout, at: usize, parts: usize) -> Result<Vec<Step>, Status> {
        let library = self.library;
        let step = |columns: &Range<usize>, to: Layout| {
            let from = library.layout(&b.part(0..b.dims[0], columns.clone()))?;
            let primitive = library.reorder(from, to)?;
            let on = [(ffi::SRC, (from, Of::B, b_at + b.at(0, columns.start))), (ffi::DST, (to, Of::Packed, at))];
            Ok(Step { primitive, on: on.map(Place::new).to_vec() })
        };
        let shares = ranges(b.dims[1], parts, COLUMNS);
        if shares.len() > 1 {
            let part = |columns| step(columns, library.columns(to, b.dims[0], columns)?);
            let steps: Result<Vec<_>, Status> = shares.iter().map(part).collect();
            if let Ok(steps) = steps {
                return Ok(steps);
            }
        }
        Ok(vec![step(&(0..b.dims[1]), to)?])
    }
}
