//! Dumps in the layouts of other writers, byte by byte as their source code writes them.
#![allow(dead_code, reason = "each test uses its part")]

use super::common::own::{leb, signed};
use super::foreign::module;

/// A frame: function, code offset, locals and operands, all `i32`.
pub type Frame<'f> = (Option<u32>, u32, u32, &'f [i32], &'f [i32]);

/// Appends an unsigned LEB128.
fn u32_leb(bytes: &mut Vec<u8>, value: u32) {
    leb(bytes, usize::try_from(value).unwrap());
}

/// Returns the body of a section `corestack` for the thread `main`. Frames with an instance include it.
pub fn stack(frames: &[Frame<'_>], counts_first: bool) -> Vec<u8> {
    let mut body = b"\x09corestack\0\x04main".to_vec();
    leb(&mut body, frames.len());
    for (instance, function, offset, locals, stack) in frames {
        body.push(0);
        if let Some(instance) = instance {
            u32_leb(&mut body, *instance);
        }
        u32_leb(&mut body, *function);
        u32_leb(&mut body, *offset);
        if counts_first {
            leb(&mut body, locals.len());
            leb(&mut body, stack.len());
            for value in locals.iter().chain(*stack) {
                body.push(0x7f);
                body.extend(value.to_le_bytes());
            }
            continue;
        }
        for values in [locals, stack] {
            leb(&mut body, values.len());
            for value in *values {
                body.push(0x7f);
                signed(&mut body, (*value).into());
            }
        }
    }
    body
}

/// Returns a dump as wasm-coredump-builder writes it for the wasmer CLI: frames without instances, an empty memory
/// type.
pub fn wasmer() -> Vec<u8> {
    let stack = stack(
        &[(None, 19, 0x12, &[], &[]), (None, 7, 0x44, &[], &[]), (None, 3, 9, &[], &[])],
        false,
    );
    let data = [&[1, 0, 0x41, 0, 0x0b][..], &[0]].concat();
    module(&[(0, b"\x04core\0\x0aguest.wasm"), (0, &stack), (5, &[1, 0, 0]), (11, &data)])
}

/// Returns a guest's memory of two pages as wasm-coredump-rewriter leaves it: with a dump that ends with the memory.
/// The dump's address is off by `misjudged`.
pub fn rewriter(frames: &[Frame<'_>], misjudged: i64) -> Vec<u8> {
    const PAGES: usize = 2;
    let stack = stack(frames, true);
    let mut bytes = module(&[(0, &stack), (0, b"\x04core\0\0"), (5, &[1, 1, 0, 2])]);
    let size = PAGES * 65_536;
    // The id, a size of three bytes, one segment of memory 0. The address has two or three bytes, and the length three.
    let payload = bytes.len() + 4 + 2 + 2 + 2 + 3;
    let payload = if payload < 64 { payload - 1 } else { payload };
    bytes.push(11);
    let body = size - bytes.len() - 3;
    leb(&mut bytes, body);
    bytes.extend([1, 0, 0x41]);
    signed(&mut bytes, i64::try_from(payload).unwrap() + misjudged);
    bytes.push(0x0b);
    leb(&mut bytes, size - payload);
    assert_eq!(bytes.len(), payload);
    bytes.extend((payload..size).map(|at| (at / 256 + at).to_le_bytes()[0]));
    bytes
}

/// Returns a dump as WasmEdge 0.14 writes it: frames without instances, counts first, names without a length, globals
/// without a value.
pub fn wasmedge(name: &[u8]) -> Vec<u8> {
    let stack = stack(&[(None, 2, 0x30, &[5], &[7, 8]), (None, 0, 0, &[], &[])], true);
    let modules = [b"\x0bcoremodules\x01\0", name].concat();
    module(&[
        (0, b"\x04core\0\0"),
        (0, &stack),
        (0, &modules),
        (0, b"\x0dcoreinstances\0"),
        (5, &[1, 0, 2]),
        (6, &[1, 0x7f, 1, 0x0b]),
    ])
}
