//! Platform-specific operations on files and directories: one file per platform, all with the same functions.
//!
//! To port the crate, add a file and choose it here.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

pub(super) use platform::{
    DIRECTORY_ACCESS, create_unnamed, hold, is_append_only, link_by_descriptor, rename_to_new,
    sync_file_system,
};
