//! A host that writes a core dump to a file when its guest traps.
//!
//! `cargo run -p corestream-wasmtime --example dump_on_trap -- orders.core`
#![allow(dead_code, reason = "a test includes this file and does not call main")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;

use wasmtime::{Config, Engine, Instance, Module, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    dump_on_trap(path.as_ref())
}

/// Runs `orders.wat`, which traps, and writes its dump to `path`.
pub fn dump_on_trap(path: &Path) -> Result<(), Box<dyn Error>> {
    const MAX_FRAMES: usize = 10_000;
    let mut config = Config::new();
    config.coredump_on_trap(true).wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, include_str!("../../../examples/orders.wat"))?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;

    let Err(error) = start.call(&mut store, ()) else { return Ok(()) };
    let capture = corestream_wasmtime::Capture::new("orders.wat").max_frames(MAX_FRAMES);
    let captured = capture.trapped(&mut store, &error)?;
    captured.write_file(path)?;
    Ok(())
}
