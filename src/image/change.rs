//! The reasons for which a dump marks a memory as *changing*.

use std::fmt;

/// The reason for which a dump marks a memory as *changing*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Change {
    /// The caller stated that the memory changes ([`mark_changing`](crate::MemoryImage::mark_changing),
    /// [`from_shared`](crate::MemoryImage::from_shared)).
    Assumed,
    /// The file was open for writing and may have been written to. A writable mapping of the file counts as well.
    Writable,
    /// The file was written to, or its length changed.
    Written,
}

impl Change {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Assumed, Self::Writable, Self::Written]
            .into_iter()
            .find(|change| change.code() == code)
    }

    /// Returns the severity, from 1 to 3. The code 0 is reserved for no change.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Assumed => 1,
            Self::Writable => 2,
            Self::Written => 3,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Assumed => "is assumed to change while it is dumped",
            Self::Writable => "was open for writing while it was dumped",
            Self::Written => "was written to while it was dumped",
        })
    }
}
