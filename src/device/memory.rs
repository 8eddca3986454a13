//! All memory of a rank: one allocation a slot, made before the first step and never after.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use crate::plan::{Region, Slot};

use super::View;

/// Start of every slot: a page, which also suits every vector unit and network card.
const PAGE: usize = 4096;

/// The slots of a rank's plan, allocated on the host and zeroed.
#[derive(Debug)]
pub struct Memory {
    slots: Vec<(View, Layout)>,
}

impl Memory {
    /// Allocates every slot.
    pub fn new(slots: &[Slot]) -> Self {
        let slots = slots.iter().map(|slot| {
            let layout = Layout::from_size_align(slot.bytes().max(1), PAGE).expect("a slot below isize::MAX bytes");
            // SAFETY: the layout's size is not zero.
            let start = unsafe { alloc_zeroed(layout) };
            if start.is_null() {
                handle_alloc_error(layout);
            }
            // SAFETY: freshly allocated with this size and a page's alignment; freed only when the memory is dropped.
            (unsafe { View::new(start as usize, slot.elems, slot.dtype) }, layout)
        });
        Memory { slots: slots.collect() }
    }

    /// The elements a region names.
    pub fn view(&self, region: Region) -> View {
        self.slots[region.slot].0.sub(region.range())
    }

    /// The values of a slot of f32, while nothing runs on this memory.
    ///
    /// # Panics
    /// If the slot has another type.
    pub fn floats(&self, slot: usize) -> &[f32] {
        let view = self.slot(slot);
        assert_eq!(view.dtype(), crate::model::Dtype::F32);
        // SAFETY: host memory of this type, alive as long as `self`; the caller keeps everything else from writing.
        unsafe { view.slice() }
    }

    /// A whole slot.
    pub fn slot(&self, slot: usize) -> View {
        self.slots[slot].0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (view, layout) in &self.slots {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(view.address() as *mut u8, *layout) };
        }
    }
}
