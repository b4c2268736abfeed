//! AVX2, which this architecture does not have.

use std::convert::Infallible;
use std::ops::Range;

/// Proof that this machine supports AVX2, which cannot exist.
#[derive(Clone, Copy, Debug)]
pub(in crate::scan) struct Avx2(Infallible);

impl Avx2 {
    pub(in crate::scan) fn new() -> Option<Self> {
        None
    }

    pub(in crate::scan) fn runs(self, _: &[u8], _: usize, _: impl FnMut(Range<usize>)) {
        match self.0 {}
    }
}
