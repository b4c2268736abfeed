//! The system calls of Linux.

pub(in crate::sink) mod file;
pub(in crate::sink) mod pipe;
pub(in crate::sink) mod socket;
