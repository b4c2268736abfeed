//! The exit codes of `corestream run` that are not the guest's own.

/// Exit code of a guest that trapped: what a shell gives for SIGABRT.
pub(super) const TRAPPED: u8 = 134;
/// Exit code of a guest that ran out of time, as `timeout` gives it.
pub(super) const TIME_LIMIT: u8 = 124;
/// Exit code of a guest that failed with a code whose low 8 bits are 0.
pub(super) const FAILED_GUEST: u8 = 1;
/// Exit code of a failure of the tool's own.
pub(super) const FAILED: u8 = 125;
