//! Systems of which nothing is known but POSIX.

pub(in crate::sink) mod file;
pub(in crate::sink) mod pipe;
pub(in crate::sink) mod socket;
