//! The backends of the scan: the scalar one, which is available everywhere, and one directory per architecture.

#[cfg(not(target_arch = "x86_64"))]
mod other;
pub(super) mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(not(target_arch = "x86_64"))]
use other as architecture;
#[cfg(target_arch = "x86_64")]
use x86_64 as architecture;

pub(super) use architecture::avx2::Avx2;
