//! The memory of the guest as cells, for a host call during which the store is captured.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use wasmtime::{AsContext, Memory};

/// Returns the bytes of an unshared memory as cells. They do not borrow the store.
///
/// # Safety
/// Until the caller has dropped the cells:
/// - The guest does not run, so the memory does not grow or move, and the store is not dropped.
/// - No `&mut` to the bytes exists. While a `&[u8]` to them exists, no code writes to the cells.
pub unsafe fn cells<'m>(memory: &Memory, store: impl AsContext) -> &'m [UnsafeCell<u8>] {
    let (start, len) = (memory.data_ptr(&store), memory.data_size(&store));
    // SAFETY: the engine reports the address and the length of the memory, which stays there as long as the cells are
    // used. Cells make no promise about their contents.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}
