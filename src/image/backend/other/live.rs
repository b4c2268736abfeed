//! Extents of live memory where the system has no way to ask: there is nothing to be had.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use crate::image::backend::answers::Impossible;
use crate::image::method::{ExtentMethod, MappingMethod};

/// There is none.
pub(in crate::image) struct Kernel(Infallible);

impl Kernel {
    pub(in crate::image) fn new(
        _: Option<ExtentMethod>,
        _: Option<MappingMethod>,
    ) -> Result<Self, Impossible> {
        Err(Impossible::Method(io::ErrorKind::Unsupported.into()))
    }

    pub(in crate::image) fn note(&self) -> Option<&str> {
        match self.0 {}
    }

    pub(in crate::image) fn mapping_method(&self) -> MappingMethod {
        match self.0 {}
    }
}

/// There are none.
pub(in crate::image) struct Live<'k>(Infallible, PhantomData<&'k Kernel>);

impl<'k> Live<'k> {
    pub(in crate::image) fn new(kernel: &'k Kernel, _: usize, _: usize) -> Self {
        match kernel.0 {}
    }

    pub(in crate::image) fn method(&self) -> ExtentMethod {
        match self.0 {}
    }

    pub(in crate::image) fn next(&mut self, _: u64) -> Range<u64> {
        match self.0 {}
    }

    pub(in crate::image) fn close(&mut self) {
        match self.0 {}
    }
}
