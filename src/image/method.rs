//! The methods that find the extents of an image, and the mappings below it.

use std::fmt;

/// The method by which the extents of an image were found.
///
/// ```
/// use corestream::ExtentMethod;
///
/// assert_eq!(ExtentMethod::PagemapScan.to_string(), "pagemap-scan");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentMethod {
    /// No query was made: the whole image is one extent.
    Whole,
    /// `SEEK_DATA` and `SEEK_HOLE` on the file of the image. The blocks that the file occupies are consistent with
    /// the answers.
    Seek,
    /// The whole file was read, because it occupies more blocks than `SEEK_DATA` finds data, or because bytes in a
    /// reported hole are not zero.
    ReadInDoubt,
    /// The ioctl `PAGEMAP_SCAN` (Linux 6.7 and later). Private anonymous memory is not an extent if it is neither
    /// present nor swapped, or is the zero page.
    PagemapScan,
    /// The entries of `/proc/self/pagemap`. Private anonymous memory is not an extent if it is neither present nor
    /// swapped.
    Pagemap,
    /// The pages that a [snapshot](crate::snapshot) has fixed.
    Snapshot,
    /// `/proc/self/smaps`, used if the pagemap is unavailable. A private anonymous mapping is not an extent if none
    /// of it is resident or swapped.
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
            Self::Snapshot => "snapshot",
        })
    }
}

/// The method by which the mappings below the memory of a live guest were found.
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
