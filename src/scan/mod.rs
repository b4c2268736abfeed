//! Finds what is not zero.
//!
//! A **run** is a maximal range that starts and ends with a byte that is not zero and holds no gap
//! of at least a given length. Two backends find the same runs: a scalar one that defines what is
//! right, and one for AVX2.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod parallel;
mod scalar;

use std::ops::Range;

use crate::image::MemoryImage;
use crate::model::MemoryIndex;
use crate::ranges::AddressRanges;

pub(crate) use parallel::{GapSink, Options, scan};

/// What is scanned of a memory.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'i> {
    /// Its index in the description, for messages.
    pub(crate) memory: MemoryIndex,
    pub(crate) image: &'i MemoryImage<'i>,
    /// Ranges that are not read.
    pub(crate) left_out: &'i AddressRanges,
    /// Whether its file system was found to be wrong about its holes: then all of it is read.
    pub(crate) in_doubt: bool,
}

impl Scanned<'_> {
    /// Whether bytes between `gap.start` and `gap.end` are left out.
    fn leaves_out(&self, gap: &Range<u64>) -> bool {
        self.left_out.overlaps(gap)
    }
}

/// Zeros, and what is left out, between two runs of one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Index of the image among those that are scanned.
    pub(crate) memory: u32,
    /// Address of the first byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len: u64,
}

impl Gap {
    /// Returns the address after the last byte.
    #[allow(clippy::arithmetic_side_effects, reason = "a gap ends within an image")]
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Finds runs in a slice, by a backend that was chosen when it was made.
///
/// ```
/// # #[cfg(feature = "internals")]
/// # fn main() {
/// use corestream::internals::Scanner;
///
/// let mut bytes = [0; 100];
/// bytes[10] = 1;
/// bytes[13] = 1;
/// bytes[50] = 1;
/// let mut runs = Vec::new();
/// Scanner::new().runs(&bytes, 8, |run| runs.push(run));
/// assert_eq!(runs, [10..14, 50..51]);
/// # }
/// # #[cfg(not(feature = "internals"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    backend: Backend,
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
}

impl Scanner {
    /// The fastest backend that this machine has.
    pub fn new() -> Self {
        Self::avx2().unwrap_or(Self::scalar())
    }

    /// The scalar backend, which runs everywhere and defines what the others must find.
    pub fn scalar() -> Self {
        Self { backend: Backend::Scalar }
    }

    /// The AVX2 backend; `None` where the machine does not have AVX2.
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return avx2::Avx2::new().map(|avx2| Self { backend: Backend::Avx2(avx2) });
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// The name of the backend: `scalar` or `avx2`.
    pub fn name(&self) -> &'static str {
        match self.backend {
            Backend::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) => "avx2",
        }
    }

    /// Calls `found` with each run of `bytes` in order, as indices.
    ///
    /// Zeros before the first and after the last run belong to none, however few. Between two runs
    /// lie at least `min_gap` zeros; 0 counts as 1.
    pub fn runs(&self, bytes: &[u8], min_gap: usize, found: impl FnMut(Range<usize>)) {
        let min_gap = min_gap.max(1);
        match self.backend {
            Backend::Scalar => scalar::runs(bytes, min_gap, found),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(avx2) => avx2.runs(bytes, min_gap, found),
        }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}
