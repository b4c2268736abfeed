//! Backends for x86-64.

pub(in crate::scan) mod avx2;
