//! The data ranges of a file, on systems that report them.

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
mod seek;
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
mod unknown;

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
pub use seek::ranges;
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
pub use unknown::ranges;
