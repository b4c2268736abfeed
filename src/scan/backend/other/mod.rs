//! Architectures without a backend of their own.

pub(in crate::scan) mod avx2;
