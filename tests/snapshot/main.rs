//! Snapshots of memory that threads of this process write to.
//!
//! These tests need a process of their own: they install a handler for SIGBUS, and an open userfaultfd changes how other
//! tests find untouched pages.
#![allow(unsafe_code, reason = "protects and writes memory by address")]

mod guest;
mod torture;
