//! Resolution of an instance's index space: the memory or global at each index.
//!
//! Wasmtime exposes the definitions and exports of an instance, but not its imports. This module deduces the imports,
//! for memories and globals alike, where there is exactly one possible answer.

use corestream::InstanceIndex;

/// Returns the indices of instances in order. A store has at most 2^32 instances.
pub(super) fn instance_indices() -> impl Iterator<Item = InstanceIndex> {
    (0..=u32::MAX).map(InstanceIndex)
}

/// The knowledge about an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot<Ty> {
    /// A known item, by its index in the dump.
    Known(u32),
    /// An import of this type.
    Import(Ty),
    /// A definition of the instance that Wasmtime does not list.
    Defined,
    /// An item that is not in any list.
    Other,
}

/// Returns the item at each index, or `None` if it is not certain.
///
/// `exported` are items that are certainly in one of `slots`, because the instance exports them, each with the type
/// that its module declares. `all` are all items of the store, if they are all known. `is` and `fits` return whether an
/// item can be in a slot, by its declared type and by its current type. They may return `true` too often, but never
/// `false` for an item that is there.
pub(super) fn resolve<Ty>(
    mut slots: Vec<Slot<Ty>>,
    exported: &[(u32, Ty)],
    all: impl Fn(&Slot<Ty>) -> Option<Vec<u32>>,
    is: impl Fn(&Slot<Ty>, u32, &Ty) -> bool,
    fits: impl Fn(&Slot<Ty>, u32) -> bool,
) -> Vec<Option<u32>> {
    loop {
        let by_export = exported.iter().find_map(|(item, ty)| {
            if slots.iter().any(|slot| matches!(slot, Slot::Known(known) if known == item)) {
                return None;
            }
            only((0..slots.len()).filter(|i| is(&slots[*i], *item, ty))).map(|i| (i, *item))
        });
        let found = by_export.or_else(|| {
            slots.iter().enumerate().find_map(|(i, slot)| {
                let all = all(slot)?;
                only(all.into_iter().filter(|item| fits(slot, *item))).map(|item| (i, item))
            })
        });
        match found {
            Some((i, item)) => slots[i] = Slot::Known(item),
            None => break,
        }
    }
    slots.iter().map(|slot| if let Slot::Known(item) = slot { Some(*item) } else { None }).collect()
}

/// Returns the only item of an iterator, or `None` if there are none or several.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types are bits. The index of an item is the bit of its type.
    fn solve(slots: &[Slot<u32>], exported: &[u32], all: Option<&[u32]>) -> Vec<Option<u32>> {
        let fits = |slot: &Slot<u32>, item: u32| matches!(slot, Slot::Import(ty) if *ty & (1 << item) != 0_u32);
        let is = |slot: &Slot<u32>, item, _: &u32| fits(slot, item);
        let exported: Vec<_> = exported.iter().map(|item| (*item, 0)).collect();
        let all = |slot: &Slot<u32>| match slot {
            Slot::Import(_) => all.map(<[u32]>::to_vec),
            _ => None,
        };
        resolve(slots.to_vec(), &exported, all, is, fits)
    }

    #[test]
    fn by_identity_where_there_is_one_place() {
        let slots = [Slot::Import(0b11), Slot::Import(0b10), Slot::Defined];
        assert_eq!(solve(&slots, &[0], None), [Some(0), None, None]);
        // Item 1 can be in either of the first two slots.
        assert_eq!(solve(&slots, &[1], None), [None, None, None]);
        // With item 0 in the first slot, item 1 is in the second.
        assert_eq!(solve(&slots, &[1, 0], None), [Some(0), Some(1), None]);
    }

    #[test]
    fn by_elimination_where_there_is_one_item() {
        let slots = [Slot::Import(0b110), Slot::Import(0b001), Slot::Known(7), Slot::Other];
        assert_eq!(solve(&slots, &[], Some(&[0, 1, 2])), [None, Some(0), Some(7), None]);
        assert_eq!(solve(&slots, &[], Some(&[0, 1])), [Some(1), Some(0), Some(7), None]);
        // Two imports can be the same item.
        let twice = [Slot::Import(1), Slot::Import(1)];
        assert_eq!(solve(&twice, &[], Some(&[0])), [Some(0), Some(0)]);
        assert_eq!(solve(&twice, &[0], None), [None, None]);
    }

    #[test]
    fn what_is_known_is_not_placed_again() {
        let slots = [Slot::Known(0), Slot::Import(0b01)];
        assert_eq!(solve(&slots, &[0], None), [Some(0), None]);
    }
}
