//! Why a dump marks a memory as *changing*.

use std::fmt;

/// Why a dump marks a memory as *changing*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Change {
    /// The caller says that it changes ([`mark_changing`](crate::MemoryImage::mark_changing), [`from_shared`](crate::MemoryImage::from_shared)).
    Assumed,
    /// Somebody had the file open for writing, which includes a writable mapping of it, and may have
    /// written to it.
    Writable,
    /// Somebody wrote to the file, or changed its length.
    Written,
}

impl Change {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Assumed, Self::Writable, Self::Written]
            .into_iter()
            .find(|change| change.code() == code)
    }

    /// Greater for what is worse; 0 is no change.
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
            Self::Assumed => "is taken to change while it is dumped",
            Self::Writable => "was open for writing while it was dumped",
            Self::Written => "was written to while it was dumped",
        })
    }
}
