//! Linux.

pub(in crate::image) mod events;
pub(in crate::image) mod fiemap;
pub(in crate::image) mod file_system;
pub(in crate::image) mod fixed;
pub(in crate::image) mod leases;
pub(in crate::image) mod live;
mod mappings;
mod pages;
mod proc;
pub(in crate::image) mod reopen;
mod smaps;
mod tmpfs;
pub(in crate::image) mod tracked;

pub(in crate::image) use super::seek_data as seek;
