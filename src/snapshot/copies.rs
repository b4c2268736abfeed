//! The room for pages that are copied aside, and the table that finds the copy of a page.
//!
//! # The problem
//! A page is copied while a thread of the guest waits to write to it, possibly in a signal handler. So copying must not
//! allocate, and must not touch memory for the first time if that can be avoided.
//!
//! # The idea
//! The addresses of all slots are reserved in advance, and as many slots are touched as the guest has pages. A hash table
//! with open addressing finds the slot of a page. It is never more than half full. Removing an entry moves the entries
//! after it back, so the table needs no markers and never has to be rebuilt.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "slots are numbered from 0 and exist; positions in the table are masked by its length"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::zeroed::Zeroed;
use crate::error::{Error, Result};

/// The name of the room in errors.
const ROOM: &str = "room for the copied pages of a snapshot";
/// The maximum number of entries of a table that is touched in advance: 4 MiB, for copies of 512 MiB in pages of 4 KiB.
const MAX_TOUCHED_ENTRIES: usize = 1 << 18;

/// Pages that were copied aside, by page number.
pub(super) struct Copies {
    arena: Zeroed<u8>,
    page_size: usize,
    /// The number of slots.
    slots: usize,
    /// Slots that were used and are free again.
    freed: Vec<u32>,
    /// The slots from this one on were never used.
    unused: usize,
    table: Zeroed<Entry>,
    /// The maximum number of copies at one time.
    peak: usize,
}

/// An entry of the table. It is empty if it is zero.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    /// The page number plus one.
    key: u64,
    slot: u64,
}

impl Copies {
    /// Reserves room for copies of `slots` pages of `page_size` bytes.
    ///
    /// # Errors
    /// Returns an error if the addresses for it cannot be reserved.
    pub(super) fn new(slots: usize, page_size: usize) -> Result<Self> {
        let no_room = || Error::out_of_memory(ROOM);
        let slots = slots.min(u32::MAX as usize);
        let arena = Zeroed::new(slots.checked_mul(page_size).ok_or_else(no_room)?, ROOM)?;
        arena.prefer_huge_pages();
        let mut freed = Vec::new();
        freed.try_reserve_exact(slots).map_err(|_| no_room())?;
        let table = Zeroed::new((2 * slots).max(2).next_power_of_two(), ROOM)?;
        Ok(Self { arena, page_size, slots, freed, unused: 0, table, peak: 0 })
    }

    /// Touches the room for the first `pages` copies, or for all of them.
    ///
    /// # Errors
    /// Returns an error if the system has no memory for it.
    pub(super) fn touch(&self, pages: usize) -> Result<()> {
        let entries = self.table.get().len();
        // The entries of a few pages are spread over the whole table.
        if entries <= MAX_TOUCHED_ENTRIES {
            self.table.touch(entries, ROOM)?;
        }
        self.arena.touch(pages.min(self.slots) * self.page_size, ROOM)
    }

    /// Returns the number of pages that can still be copied.
    pub(super) fn room(&self) -> usize {
        self.slots - self.len()
    }

    /// Returns the number of copies.
    pub(super) fn len(&self) -> usize {
        self.unused - self.freed.len()
    }

    /// Returns the maximum number of copies at one time.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Returns the copy of page number `page`.
    pub(super) fn get(&self, page: u64) -> Option<&[u8]> {
        let slot = usize::try_from(self.table.get()[self.find(page)?].slot).ok()?;
        self.arena.get().get(slot * self.page_size..(slot + 1) * self.page_size)
    }

    /// Returns the room for the copy of page number `page`, which has none yet. Returns `None` if no room is left.
    pub(super) fn add(&mut self, page: u64) -> Option<&mut [u8]> {
        let slot = match self.freed.pop() {
            Some(slot) => slot,
            None if self.unused < self.slots => {
                self.unused += 1;
                u32::try_from(self.unused - 1).ok()?
            }
            None => return None,
        };
        self.peak = self.peak.max(self.len());
        let mut at = self.home(page);
        let table = self.table.get_mut();
        while table[at].key != 0 {
            at = (at + 1) & (table.len() - 1);
        }
        table[at] = Entry { key: page + 1, slot: slot.into() };
        let start = slot as usize * self.page_size;
        self.arena.get_mut().get_mut(start..start + self.page_size)
    }

    /// Frees the copy of page number `page`, if it has one.
    pub(super) fn remove(&mut self, page: u64) {
        let Some(mut hole) = self.find(page) else { return };
        let mask = self.table.get().len() - 1;
        // Slots have 32 bits.
        self.freed.extend(u32::try_from(self.table.get()[hole].slot));
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.table.get()[at];
            if entry.key == 0 {
                break;
            }
            // An entry may move back to the hole if its home is not between the two.
            let distance_to_home = at.wrapping_sub(self.home(entry.key - 1)) & mask;
            if distance_to_home >= at.wrapping_sub(hole) & mask {
                self.table.get_mut()[hole] = entry;
                hole = at;
            }
        }
        self.table.get_mut()[hole].key = 0;
    }

    /// Returns the position of a page in the table.
    fn find(&self, page: u64) -> Option<usize> {
        let table = self.table.get();
        let mut at = self.home(page);
        loop {
            match table[at].key {
                0 => return None,
                key if key == page + 1 => return Some(at),
                _ => at = (at + 1) & (table.len() - 1),
            }
        }
    }

    /// Returns the position at which the search for a page begins.
    fn home(&self, page: u64) -> usize {
        // Fibonacci hashing: the high bits of a product with 2^64 divided by the golden ratio are well distributed.
        let shift = u64::BITS - self.table.get().len().trailing_zeros();
        // The shifted product is below the length of the table.
        usize::try_from(page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use proptest::prelude::*;

    use super::Copies;

    proptest! {
        #[test]
        fn agrees_with_a_map(operations in proptest::collection::vec((0..60_u64, any::<bool>()), 0..400)) {
            let mut copies = Copies::new(20, 16).unwrap();
            let mut map = HashMap::new();
            for (i, (page, add)) in operations.into_iter().enumerate() {
                // Some pages share their low and high bits.
                let page = page << (page % 3 * 20);
                if !add {
                    copies.remove(page);
                    map.remove(&page);
                } else if let Entry::Vacant(vacant) = map.entry(page) {
                    let contents = [i.to_le_bytes()[0]; 16];
                    match copies.add(page) {
                        Some(room) => {
                            room.copy_from_slice(&contents);
                            vacant.insert(contents);
                        }
                        None => prop_assert_eq!(map.len(), 20),
                    }
                }
                prop_assert_eq!((copies.len(), copies.room()), (map.len(), 20 - map.len()));
                for page in (0..60_u64).map(|page| page << (page % 3 * 20)) {
                    prop_assert_eq!(copies.get(page), map.get(&page).map(|c| &c[..]));
                }
            }
            prop_assert!(copies.peak() >= map.len());
        }
    }
}
