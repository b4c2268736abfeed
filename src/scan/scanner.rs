//! The scan of one slice with the fastest available backend.

use std::ops::Range;

use super::backend::{Avx2, scalar};

/// Finds runs in a slice, with the backend that the constructor selects.
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
    Avx2(Avx2),
}

impl Scanner {
    /// Returns a scanner with the fastest backend that this machine supports.
    pub fn new() -> Self {
        Self::avx2().unwrap_or(Self::scalar())
    }

    /// Returns a scanner with the scalar backend, which runs everywhere and defines the correct result.
    pub fn scalar() -> Self {
        Self { backend: Backend::Scalar }
    }

    /// Returns a scanner with the AVX2 backend, or `None` if this machine does not support AVX2.
    pub fn avx2() -> Option<Self> {
        Avx2::new().map(|avx2| Self { backend: Backend::Avx2(avx2) })
    }

    /// Returns the name of the backend: `scalar` or `avx2`.
    pub fn name(&self) -> &'static str {
        match self.backend {
            Backend::Scalar => "scalar",
            Backend::Avx2(_) => "avx2",
        }
    }

    /// Calls `found` with each run of `bytes`, as a range of indices, in order.
    ///
    /// Zeros before the first run and after the last one belong to no run, however few they are. Two runs are
    /// separated by at least `min_gap` zeros. A `min_gap` of 0 counts as 1.
    pub fn runs(&self, bytes: &[u8], min_gap: usize, found: impl FnMut(Range<usize>)) {
        let min_gap = min_gap.max(1);
        match self.backend {
            Backend::Scalar => scalar::runs(bytes, min_gap, found),
            Backend::Avx2(avx2) => avx2.runs(bytes, min_gap, found),
        }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}
