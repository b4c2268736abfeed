//! The exit codes of `corestream run` other than the guest's.

/// The exit code if the guest trapped, which is a shell's code for SIGABRT.
pub(super) const TRAPPED: u8 = 134;
/// The exit code if the guest exceeded the time limit, as for `timeout`.
pub(super) const TIME_LIMIT: u8 = 124;
/// The exit code if the guest's code is not 0 but its low 8 bits are.
pub(super) const FAILED_GUEST: u8 = 1;
/// The exit code if the tool itself failed.
pub(super) const FAILED: u8 = 125;
