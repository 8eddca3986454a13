//! All memory of a rank: one allocation, made before the first step, and never another.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::borrow::Cow;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use crate::plan::{Region, Slot};

#[cfg(feature = "cuda")]
use super::cuda::{Allocation, Feeder, Stream};
use super::{DeviceError, Element, View};

/// Start of every slot: a page, which also suits every vector unit, copy engine and network card.
const PAGE: usize = 4096;

/// Where memory lies.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// In the machine's own memory.
    #[default]
    Host,
    /// In a GPU's. The host's copies go through this stream.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Stream>),
}

/// Who keeps the bytes.
#[derive(Debug)]
enum Arena {
    Host(usize, Layout),
    #[cfg(feature = "cuda")]
    Cuda(Allocation, Arc<Stream>, Option<Feeder>),
}

/// The slots of a rank's plan, zeroed.
#[derive(Debug)]
pub struct Memory {
    arena: Arena,
    slots: Vec<View>,
}

/// Where each slot starts, and the size of all.
fn layout(slots: &[Slot]) -> (Vec<usize>, usize) {
    let mut end = 0;
    let starts = slots.iter().map(|slot| {
        let start = end;
        end += slot.bytes().next_multiple_of(PAGE);
        start
    });
    (starts.collect(), end)
}

impl Memory {
    /// Allocates every slot on the host.
    pub fn new(slots: &[Slot]) -> Self {
        let (starts, bytes) = layout(slots);
        let layout = Layout::from_size_align(bytes.max(1), PAGE).expect("memory below isize::MAX bytes");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Memory::place(Arena::Host(start as usize, layout), start as usize, &starts, slots)
    }

    /// Allocates every slot in a place.
    ///
    /// # Errors
    /// If a GPU has not that much memory. A host without memory ends the process.
    pub fn on(place: &Place, slots: &[Slot]) -> Result<Self, DeviceError> {
        match place {
            Place::Host => Ok(Self::new(slots)),
            #[cfg(feature = "cuda")]
            Place::Cuda(stream) => {
                let (starts, bytes) = layout(slots);
                let arena = Allocation::new(stream.context(), bytes)?;
                stream.clear(arena.view(0, bytes, crate::model::Dtype::Byte))?;
                stream.synchronize()?;
                let start = arena.address();
                Ok(Self::place(Arena::Cuda(arena, stream.clone(), None), start, &starts, slots))
            }
        }
    }

    fn place(arena: Arena, start: usize, starts: &[usize], slots: &[Slot]) -> Self {
        // SAFETY: the arena holds all slots at these starts, aligned to pages; it is freed only with the memory.
        let view = |(at, slot): (&usize, &Slot)| unsafe { View::new(start + at, slot.elems, slot.dtype) };
        Memory { slots: starts.iter().zip(slots).map(view).collect(), arena }
    }

    /// The elements a region names.
    pub fn view(&self, region: Region) -> View {
        self.slots[region.slot].sub(region.range())
    }

    /// A whole slot.
    pub fn slot(&self, slot: usize) -> View {
        self.slots[slot]
    }

    /// Copies values in, while nothing else is at work on the elements; waits until they are there.
    ///
    /// # Errors
    /// If a GPU fails.
    ///
    /// # Panics
    /// If type or length differ, or the view is none of this memory.
    pub fn upload<T: Element>(&self, view: View, values: &[T]) -> Result<(), DeviceError> {
        assert_eq!((view.dtype(), view.len()), (T::DTYPE, values.len()));
        self.check(view);
        match &self.arena {
            // SAFETY: host memory of this type; nobody else touches it.
            Arena::Host(..) => unsafe { view.slice_mut::<T>() }.copy_from_slice(values),
            #[cfg(feature = "cuda")]
            Arena::Cuda(_, stream, _) => {
                // SAFETY: both ranges are as long as the view and live until the stream is done; nobody else touches them.
                unsafe { stream.copy(values.as_ptr() as usize, view.address(), view.bytes())? };
                stream.synchronize()?;
            }
        }
        Ok(())
    }

    /// Copies values out, while nothing else is at work on the elements.
    ///
    /// # Errors
    /// If a GPU fails, also earlier and unnoticed.
    ///
    /// # Panics
    /// If type or length differ, or the view is none of this memory.
    pub fn download<T: Element>(&self, view: View, values: &mut [T]) -> Result<(), DeviceError> {
        assert_eq!((view.dtype(), view.len()), (T::DTYPE, values.len()));
        self.check(view);
        match &self.arena {
            // SAFETY: host memory of this type; nobody else touches it.
            Arena::Host(..) => values.copy_from_slice(unsafe { view.slice::<T>() }),
            #[cfg(feature = "cuda")]
            Arena::Cuda(_, stream, _) => {
                // SAFETY: both ranges are as long as the view and live until the stream is done; nobody else touches them.
                unsafe { stream.copy(view.address(), values.as_mut_ptr() as usize, view.bytes())? };
                stream.synchronize()?;
            }
        }
        Ok(())
    }

    /// The values of a slot of f32, while nothing runs on this memory.
    ///
    /// # Errors
    /// If a GPU fails.
    ///
    /// # Panics
    /// If the slot has another type.
    pub fn floats(&self, slot: usize) -> Result<Cow<'_, [f32]>, DeviceError> {
        let view = self.slot(slot);
        match &self.arena {
            Arena::Host(..) => {
                assert_eq!(view.dtype(), crate::model::Dtype::F32);
                // SAFETY: host memory of this type, alive as long as `self`; nobody writes to it.
                Ok(Cow::Borrowed(unsafe { view.slice() }))
            }
            #[cfg(feature = "cuda")]
            Arena::Cuda(..) => {
                let mut values = vec![0.0; view.len()];
                self.download(view, &mut values)?;
                Ok(Cow::Owned(values))
            }
        }
    }

    /// Buffers for [`Memory::feed`] while a list of `count` loads of up to `elems` elements runs.
    ///
    /// # Errors
    /// If the host has not that much memory to pin.
    pub fn expect_feeds(&mut self, count: usize, elems: usize) -> Result<(), DeviceError> {
        match &mut self.arena {
            Arena::Host(..) => _ = (count, elems),
            #[cfg(feature = "cuda")]
            Arena::Cuda(_, stream, feeder) => *feeder = Some(Feeder::new(stream.context(), count, elems)?),
        }
        Ok(())
    }

    /// Lets `fill` write a view of i32, as an operation of the plan. On a GPU the host fills a pinned buffer and enqueues
    /// the copy where [`super::cuda::on`] says; it waits only if more than the expected feeds are on their way.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn feed(&self, view: View, fill: impl FnOnce(&mut [i32])) -> Result<(), DeviceError> {
        assert_eq!(view.dtype(), i32::DTYPE);
        self.check(view);
        match &self.arena {
            // SAFETY: host memory of this type; the plan's order keeps other operations off it.
            Arena::Host(..) => fill(unsafe { view.slice_mut() }),
            #[cfg(feature = "cuda")]
            Arena::Cuda(_, stream, feeder) => {
                let feeder = feeder.as_ref().expect("expect_feeds before the first feed");
                feeder.feed(&super::cuda::current(stream), view, fill)?;
            }
        }
        Ok(())
    }

    fn check(&self, view: View) {
        let (start, bytes) = match &self.arena {
            Arena::Host(start, layout) => (*start, layout.size()),
            #[cfg(feature = "cuda")]
            Arena::Cuda(arena, ..) => (arena.address(), arena.bytes()),
        };
        assert!(view.address() >= start && view.address() + view.bytes() <= start + bytes, "a view of other memory");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.arena {
            // SAFETY: allocated in `new` with this layout.
            Arena::Host(start, layout) => unsafe { dealloc(*start as *mut u8, *layout) },
            #[cfg(feature = "cuda")]
            Arena::Cuda(..) => {}
        }
    }
}
