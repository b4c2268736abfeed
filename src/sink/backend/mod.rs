//! Platform-specific system calls for sinks: one directory per platform, all with the same functions.
//!
//! To port the crate, add a directory and choose it here. A platform without a fast path omits it, as `other` does.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub(super) use platform::{file, pipe, socket};
