//! How the extents of an image, and the mappings under it, were found.

use std::fmt;

/// How the extents of an image were found.
///
/// ```
/// use corestream::ExtentMethod;
///
/// assert_eq!(ExtentMethod::PagemapScan.to_string(), "pagemap-scan");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentMethod {
    /// Nothing was asked: the whole image is one extent.
    Whole,
    /// `SEEK_DATA` and `SEEK_HOLE` on the file of the image, which the blocks of the file do not contradict.
    Seek,
    /// The whole file was read, because the file occupies more blocks than `SEEK_DATA` finds data, or
    /// bytes that it calls a hole are not zero.
    ReadInDoubt,
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7 and later): private anonymous memory that is neither
    /// present nor swapped, or is the zero page, is no extent.
    PagemapScan,
    /// The entries of `/proc/self/pagemap`: private anonymous memory that is neither present nor
    /// swapped is no extent.
    Pagemap,
    /// `/proc/self/smaps`, where the pagemap cannot be used: a private anonymous mapping of which nothing
    /// is resident or swapped is no extent.
    Smaps,
}

impl fmt::Display for ExtentMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Seek => "seek",
            Self::ReadInDoubt => "read-in-doubt",
            Self::PagemapScan => "pagemap-scan",
            Self::Pagemap => "pagemap",
            Self::Smaps => "smaps",
        })
    }
}

/// How it was found which mappings lie under the memory of a live guest.
///
/// ```
/// use corestream::MappingMethod;
///
/// assert_eq!(MappingMethod::ProcmapQuery.to_string(), "procmap-query");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingMethod {
    /// The ioctl `PROCMAP_QUERY` (Linux 6.11 and later).
    ProcmapQuery,
    /// The lines of `/proc/self/maps`.
    Maps,
}

impl fmt::Display for MappingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcmapQuery => "procmap-query",
            Self::Maps => "maps",
        })
    }
}
