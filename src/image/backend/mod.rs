//! Queries of the operating system about images: one directory per platform, all with the same functions.
//!
//! To port the crate, add a directory and select it here. [`answers`] contains the types that all platforms share. A
//! platform that does not support a query returns that answer, as `other` does for every query. Images are then read
//! completely.

#[allow(dead_code, reason = "no platform supports all queries")]
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

pub(super) use platform::{
    events, fiemap, file_system, fixed, leases, live, reopen, seek, tracked,
};
