//! Systems on which only POSIX is known to be available.

pub(in crate::image) mod events;
pub(in crate::image) mod fiemap;
pub(in crate::image) mod file_system;
pub(in crate::image) mod fixed;
pub(in crate::image) mod leases;
pub(in crate::image) mod live;
pub(in crate::image) mod reopen;
#[cfg(not(any(target_os = "macos", target_os = "freebsd")))]
pub(in crate::image) mod seek;
pub(in crate::image) mod tracked;

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(in crate::image) use super::seek_data as seek;
