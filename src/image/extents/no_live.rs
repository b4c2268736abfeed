//! Extents of live memory where the system has no way to ask: there is nothing to be had.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use super::{ExtentMethod, MappingMethod};

/// There is none.
pub(super) struct Kernel(Infallible);

/// Why there is none.
pub(super) enum Impossible {
    Method(io::Error),
    #[allow(dead_code, reason = "Linux has it")]
    Mappings(io::Error),
}

impl Kernel {
    pub(super) fn new(
        _: Option<ExtentMethod>,
        _: Option<MappingMethod>,
    ) -> Result<Self, Impossible> {
        Err(Impossible::Method(io::ErrorKind::Unsupported.into()))
    }

    pub(super) fn note(&self) -> Option<&str> {
        match self.0 {}
    }

    pub(super) fn mapping_method(&self) -> MappingMethod {
        match self.0 {}
    }
}

/// There are none.
pub(super) struct Live<'k>(Infallible, PhantomData<&'k Kernel>);

impl<'k> Live<'k> {
    pub(super) fn new(kernel: &'k Kernel, _: usize, _: usize) -> Self {
        match kernel.0 {}
    }

    pub(super) fn method(&self) -> ExtentMethod {
        match self.0 {}
    }

    pub(super) fn next(&mut self, _: u64) -> Range<u64> {
        match self.0 {}
    }

    pub(super) fn close(&mut self) {
        match self.0 {}
    }
}
