//! Extents of live memory, about which these systems cannot be queried.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use crate::image::backend::answers::ProbeError;
use crate::image::method::{ExtentMethod, MappingMethod};

/// The interfaces of the kernel, which do not exist.
pub(in crate::image) struct KernelInterfaces(Infallible);

impl KernelInterfaces {
    pub(in crate::image) fn new(
        _: Option<ExtentMethod>,
        _: Option<MappingMethod>,
    ) -> Result<Self, ProbeError> {
        Err(ProbeError::Method(io::ErrorKind::Unsupported.into()))
    }

    pub(in crate::image) fn note(&self) -> Option<&str> {
        match self.0 {}
    }

    pub(in crate::image) fn mapping_method(&self) -> MappingMethod {
        match self.0 {}
    }
}

/// The extents of one memory, which cannot exist.
pub(in crate::image) struct LiveExtents<'k>(Infallible, PhantomData<&'k KernelInterfaces>);

impl<'k> LiveExtents<'k> {
    pub(in crate::image) fn new(kernel: &'k KernelInterfaces, _: usize, _: usize) -> Self {
        match kernel.0 {}
    }

    pub(in crate::image) fn method(&self) -> ExtentMethod {
        match self.0 {}
    }

    pub(in crate::image) fn next(&mut self, _: u64) -> Range<u64> {
        match self.0 {}
    }

    pub(in crate::image) fn free_buffers(&mut self) {
        match self.0 {}
    }
}
