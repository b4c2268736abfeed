//! The guest in Wasmtime.

use std::num::NonZeroUsize;
use std::path::Path;

use corestream_wasmtime::{Capture, module_identity};
use wasmtime::{Config, Engine, Linker, Module, Store};

use super::Result;

const MAX_FRAMES: usize = 10_000;

/// Runs the export `start` of a guest until it traps, and dumps it to `path`.
pub fn dump(name: &str, wasm: &[u8], start: &str, path: &Path) -> Result<()> {
    let mut config = Config::new();
    config.coredump_on_trap(true).wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, wasm)?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "log", |_: i32| {})?;
    let instance = linker.instantiate(&mut store, &module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, start)?;
    let error = start.call(&mut store, ()).err().ok_or("the guest did not trap in Wasmtime")?;
    let capture = Capture::new(name).max_frames(MAX_FRAMES);
    let capture = capture.module_identity(&module, module_identity(wasm));
    let captured = capture.trapped(&mut store, &error)?;
    assert_eq!(captured.notes, []);
    captured.write_file(path)?;
    Ok(())
}
