//! The preamble of a module: the magic number and the version. Every dump begins with it.
//!
//! Source: core specification, "Binary format",
//! [modules](https://webassembly.github.io/spec/core/binary/modules.html#binary-module).

use super::decode::Decoder;
use super::fault::{Fault, Result, dump_fault_to_none};
use super::input::Input;

/// The magic number and the version of a core module.
const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";

/// The magic number, the version and the layer of a component.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// The offset of the first section.
pub(super) const LEN: u64 = MODULE.len() as u64;

/// Checks that a dump begins with the preamble of a module.
///
/// # Errors
/// Returns an error if it does not, or if the bytes cannot be read.
pub(super) fn check<I: Input>(input: &mut I) -> Result<()> {
    let mut decoder = Decoder::new(input, u64::MAX);
    match decoder.array() {
        Ok(MODULE) => Ok(()),
        Ok(COMPONENT) => Err(Fault::format("it is a component, and a dump is a core module")),
        Err(fault) if !fault.is_of_dump() => Err(fault),
        Err(fault) if fault.range.start == 0 => Err(Fault::format("it is empty")),
        _ => Err(Fault::format("it is not a WebAssembly module")),
    }
}

/// Returns whether the next bytes are the preamble of a module.
///
/// # Errors
/// Returns an error if the bytes cannot be read.
pub(super) fn is_module<I: Input>(input: &mut I) -> Result<bool> {
    let bytes = dump_fault_to_none(Decoder::new(input, u64::MAX).array())?;
    Ok(bytes == Some(MODULE))
}

/// Returns the fault of a dump whose preamble is damaged.
pub(super) fn damaged() -> Box<Fault> {
    Fault::damaged(0..LEN, "does not start like a WebAssembly module")
}
