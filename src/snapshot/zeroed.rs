//! Tables that are zero until they are written, and occupy no memory until then.

use std::marker::PhantomData;

use memmap2::{Advice, MmapMut, MmapOptions};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{Error, Result};

/// A table of `T` in an anonymous mapping.
pub(super) struct Zeroed<T> {
    map: MmapMut,
    entry: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Zeroed<T> {
    /// Reserves addresses for `len` entries. `what` names the table in an error.
    ///
    /// # Errors
    /// Returns an error if the addresses cannot be reserved.
    pub(super) fn new(len: usize, what: &str) -> Result<Self> {
        // A mapping cannot be empty.
        let bytes =
            len.max(1).checked_mul(size_of::<T>()).ok_or_else(|| Error::out_of_memory(what))?;
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        Ok(Self { map: map.map_err(|_| Error::out_of_memory(what))?, entry: PhantomData })
    }

    /// Asks for huge pages, which make touching several times faster. The kernel may have none.
    pub(super) fn prefer_huge_pages(&self) {
        let _ = self.map.advise(Advice::HugePage);
    }

    /// Touches the first `len` entries, or all of them, so that writing to them does not allocate.
    ///
    /// # Errors
    /// Returns an error if the system has no memory for them.
    pub(super) fn touch(&self, len: usize, what: &str) -> Result<()> {
        let bytes = len.saturating_mul(size_of::<T>()).min(self.map.len());
        match self.map.advise_range(Advice::PopulateWrite, 0, bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                Err(Error::out_of_memory(what))
            }
            // Without this advice (before Linux 5.14), the first write to each page is slower.
            _ => Ok(()),
        }
    }

    pub(super) fn get(&self) -> &[T] {
        // A mapping is aligned to a page, and its length is a multiple of an entry.
        <[T]>::ref_from_bytes(&self.map).unwrap_or_default()
    }

    pub(super) fn get_mut(&mut self) -> &mut [T] {
        <[T]>::mut_from_bytes(&mut self.map).unwrap_or_default()
    }
}
