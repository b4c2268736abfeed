//! A guest: a memory with a shadow that has the same contents, and the writes to both.

use std::sync::atomic::{AtomicBool, Ordering};

use corestream::snapshot::LiveMemory;
use corestream::{CoreDump, CoreDumpFile, Memory, MemoryImage, MemoryType};
use memmap2::MmapMut;

/// A memory that is written word by word, and a shadow of it that no snapshot knows.
pub struct Guest {
    memory: MmapMut,
    shadow: Vec<u64>,
    next: u64,
}

impl Guest {
    /// Returns a guest with an untouched memory of `len` bytes.
    pub fn untouched(len: usize) -> Self {
        Self { memory: MmapMut::map_anon(len).unwrap(), shadow: vec![0; len / 8], next: 1 }
    }

    pub fn words(&self) -> usize {
        self.shadow.len()
    }

    pub fn live(&self) -> LiveMemory {
        LiveMemory::new(self.memory.as_ptr(), self.memory.len())
    }

    /// Writes the next number to a word.
    pub fn write(&mut self, word: usize) {
        let number = self.next;
        self.next += 1;
        self.memory[8 * word..8 * word + 8].copy_from_slice(&number.to_ne_bytes());
        self.shadow[word] = number;
    }

    /// Describes the guest.
    pub fn dump(&self) -> CoreDump<'_> {
        let mut dump = CoreDump::new("guest");
        let pages = self.memory.len().div_ceil(65_536) as u64;
        dump.add_memory(Memory::new(
            MemoryType::wasm64(pages),
            MemoryImage::from_slice(&self.memory),
        ));
        dump
    }

    /// Returns the contents that a dump of this moment must have.
    pub fn expected(&self) -> Vec<u64> {
        self.shadow.clone()
    }
}

/// Checks that memory 0 of a dump has these contents, to the byte.
pub fn assert_contents(core: &[u8], expected: &[u64]) {
    let dump = CoreDumpFile::from_slice(core).unwrap();
    let memory = dump.memory(0.into()).unwrap();
    let mut bytes = vec![0; expected.len() * 8];
    memory.read(0, &mut bytes).unwrap();
    let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    for (i, (word, expected)) in words.zip(expected).enumerate() {
        assert_eq!(word, *expected, "word {i} of page {}", i / 512);
    }
}

/// Sets a flag when it is dropped. A thread that waits for the flag then ends even if an assertion fails.
pub struct SetOnDrop<'d>(pub &'d AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
