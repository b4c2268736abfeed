//! Snapshots: consistent dumps of running guests, with a pause that is usually less than a millisecond.
//!
//! # The problem
//! A guest must stand still while its memory is dumped, or the dump is a mixture of old and new bytes. Writing a dense
//! GiB takes 0.2 s to a file, and minutes to a slow network. A guest that serves requests cannot wait that long.
//!
//! # The idea
//! The memory is protected against writes, with the kernel's userfaultfd. When the guest writes to a page for the first
//! time, its old contents are copied aside before the write goes through. The dump takes such a page from the copy, and
//! all others from the memory itself.
//!
//! Protecting a GiB takes 25 ms, so it is done while the guest runs:
//!
//! 1. **Prepare** ([`SnapshotOptions::prepare`]). The memory is protected in steps. A page to which the guest writes
//!    meanwhile becomes *dirty*: it is unprotected and remembered.
//! 2. **Freeze** ([`Preparation::freeze`]), on the thread of the guest, in a host function or at an epoch deadline. The
//!    dirty pages are copied aside and stay writable: they are the ones to which the guest writes most often. This is
//!    the only moment at which the guest stands still.
//! 3. **Dump** ([`Snapshot::dump`]), on any other thread, while the guest runs. Pages that the dump has read are released,
//!    and the guest writes to them at full speed again.
//! 4. **End** ([`Snapshot::finish`]).
//!
//! # Consistency
//! A dump of a snapshot is the memory at one moment during the freeze, to the byte, or an error. It is an error if the
//! guest writes to more pages than the limit for copies allows ([`SnapshotOptions::copy_limit`], [`AtLimit`]), or if its
//! memory is unmapped or discarded.
//!
//! # Cost
//! The first write to a page after the freeze takes 16 to 60 microseconds, or 6 to 7 with [`Faults::Signal`]. The room
//! for copies is at most 256 MiB by default. docs/performance.md has measurements.
//!
//! A dump scans the memory with several threads, which compete with the guest. Leave one core to the guest
//! ([`Dumper::threads`](crate::Dumper::threads)), and give the dumping thread a low priority (`nice`), which its threads
//! inherit. Do both after `prepare`, because the thread that handles the guest's writes must not have a low priority.
//!
//! # Deadlocks
//! A thread of the guest that waits for a page cannot do anything else. So the dump must not need it: not its
//! asynchronous runtime, not its store, and no lock that a host function may hold while it writes to the memory of the
//! guest.
//!
//! # Without userfaultfd
//! `prepare` returns an error if the system does not support it. [`copy`] then copies the memory while the guest is
//! stopped, which takes 100 to 500 ms for each GiB.

mod bitmap;
mod copies;
mod engine;
mod frozen;
mod frozen_dump;
mod guard;
mod live_memory;
mod options;
#[cfg(any(debug_assertions, feature = "internals"))]
mod oracle;
mod preparation;
mod signal;
mod state;
mod zeroed;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub use frozen_dump::kill_thread;
pub use frozen_dump::{Snapshot, SnapshotStats, copy};
pub use live_memory::LiveMemory;
pub use options::{AtLimit, Faults, SnapshotOptions};
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use oracle::find_mismatch;
pub use preparation::Preparation;
pub use signal::handle_sigbus;
