//! The system calls of POSIX, for systems without specific support.

pub(in crate::sink) mod file;
pub(in crate::sink) mod pipe;
pub(in crate::sink) mod socket;
