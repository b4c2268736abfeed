//! Checks a dump against V8's limits on size, which the WebAssembly specification does not have.

use corestream::limits::{PAGE_BYTES, V8_MAX_MEMORY64_PAGES, V8_MAX_MODULE_BYTES};
use corestream::{CoreDump, MemoryIndex, MemoryType, Plan};

/// Returns the reasons why V8 refuses a dump because of its size, or `None` if there are none.
pub fn refusal(plan: &Plan<'_>, dump: &CoreDump<'_>) -> Option<String> {
    let ty = |index: MemoryIndex| Some((index, dump.memories.get(index.0 as usize)?.ty));
    reasons(plan.len(), plan.memories().filter_map(ty))
}

fn reasons(len: u64, memories: impl Iterator<Item = (MemoryIndex, MemoryType)>) -> Option<String> {
    let mut reasons = Vec::new();
    if len > V8_MAX_MODULE_BYTES {
        reasons.push(format!("a module of {len} bytes exceeds the limit of {V8_MAX_MODULE_BYTES}"));
    }
    reasons.extend({ memories }.find_map(|(index, ty)| too_large(index, ty)));
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Returns the reason if the size or the maximum of a memory exceeds V8's limit.
fn too_large(index: MemoryIndex, ty: MemoryType) -> Option<String> {
    let limit = u128::from(V8_MAX_MEMORY64_PAGES) * u128::from(PAGE_BYTES);
    let is_over = |pages: u64| ty.memory64 && u128::from(pages) * u128::from(ty.page_size) > limit;
    let (what, pages) = if is_over(ty.minimum) {
        ("size", ty.minimum)
    } else {
        ("maximum", ty.maximum.filter(|pages| is_over(*pages))?)
    };
    let page_size = ty.page_size;
    let limit = limit / u128::from(page_size.max(1));
    Some(format!("the {what} of memory {index}, {pages} pages, exceeds the limit of {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(len: u64, ty: MemoryType) -> Option<String> {
        reasons(len, [(MemoryIndex(3), ty)].into_iter())
    }

    #[test]
    fn limits_are_inclusive() {
        let largest = MemoryType::wasm64(262_144).with_maximum(262_144);
        assert_eq!(of(1 << 30, largest), None);
        assert_eq!(of(1 << 30, MemoryType::wasm32(65_536).with_maximum(65_536)), None);
        let line = "a module of 1073741825 bytes exceeds the limit of 1073741824";
        assert_eq!(of((1 << 30) + 1, largest).as_deref(), Some(line));
        let line = "the size of memory 3, 262145 pages, exceeds the limit of 262144";
        assert_eq!(of(1, MemoryType::wasm64(262_145)).as_deref(), Some(line));
        let line = "the maximum of memory 3, 281474976710656 pages, exceeds the limit of 262144";
        assert_eq!(of(1, MemoryType::wasm64(1).with_maximum(1 << 48)).as_deref(), Some(line));
        let bytes = MemoryType::wasm64((1 << 34) + 1).with_page_size(1);
        let line = "the size of memory 3, 17179869185 pages, exceeds the limit of 17179869184";
        assert_eq!(of(1, bytes).as_deref(), Some(line));
        let both = of(u64::MAX, MemoryType::wasm64(262_145)).unwrap();
        assert!(both.contains("; the size of memory 3"), "{both}");
    }
}
