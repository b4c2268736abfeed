//! What the operating system is asked about images: one directory per platform, all with the same functions.
//!
//! To port the crate, write one more directory, and choose it here. [`answers`] are the types that all have in common.
//! A platform that cannot answer a question says so, as `other` does to all of them, and images are read as a whole.

#[allow(dead_code, reason = "no platform gives all answers")]
pub(super) mod answers;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
pub(super) mod seek_data;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub(super) use platform::{events, fiemap, file_system, fixed, leases, live, reopen, seek};
