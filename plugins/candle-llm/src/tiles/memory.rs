//! Memory for weights.

#![expect(unsafe_code, reason = "advice to the system about memory that is held here")]

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// What the system maps at once where it can.
const LARGE: usize = 2 << 20;

/// Makes room for `length` items in all. Where that is much, the system is asked for it in large
/// pages: it clears what it hands out page by page, and the processor looks up each page that it
/// reads from. Where there are none, nothing changes.
pub(super) fn make_room<T>(items: &mut Vec<T>, length: usize) {
    items.reserve_exact(length.saturating_sub(items.len()));
    let room = items.spare_capacity_mut();
    let start = room.as_mut_ptr().cast::<c_void>();
    let skipped = start.align_offset(LARGE);
    let bytes = size_of_val(room).saturating_sub(skipped) / LARGE * LARGE;
    if let Some(first) = NonNull::new(start.wrapping_byte_add(skipped))
        && bytes > 0
    {
        // SAFETY: the range is inside of the allocation, and the advice changes no content.
        let _ = unsafe { madvise(first, bytes, MmapAdvise::MADV_HUGEPAGE) };
    }
}
