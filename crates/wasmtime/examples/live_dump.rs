//! A host that dumps a live guest on request of the guest. The guest then continues.
//!
//! `cargo run -p corestream-wasmtime --example live_dump -- live.core`
#![allow(dead_code, reason = "a test includes this file and does not call main")]

use std::error::Error;
use std::path::{Path, PathBuf};

use corestream_wasmtime::Capture;
use wasmtime::{Caller, Engine, Instance, Linker, Module, Store};

/// Adds up the numbers from 1 to 100, and requests a dump after 50.
const GUEST: &str = r#"(module $sum
    (import "host" "dump" (func $dump))
    (memory (export "memory") 1)
    (func (export "run") (result i32) (local $i i32)
        (loop $next
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (local.get $i)))
            (if (i32.eq (local.get $i) (i32.const 50)) (then (call $dump)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 100))))
        (i32.load (i32.const 8))))"#;

/// The host's state: the guest's instance, and the path of the dump.
struct Host {
    instance: Option<Instance>,
    path: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    live_dump(path.as_ref()).map(|_| ())
}

/// Runs the guest to its end and returns its result. Dumps to `path` on the guest's request.
pub fn live_dump(path: &Path) -> Result<i32, Box<dyn Error>> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "dump", |mut caller: Caller<'_, Host>| {
        let Host { instance, path } = caller.data();
        let (capture, path) = (Capture::new("sum").instances(*instance), path.clone());
        // The guest continues even if the dump fails.
        let _ = capture.live(&mut caller).write_file(path);
    })?;
    let mut store = Store::new(&engine, Host { instance: None, path: path.into() });
    let instance = linker.instantiate(&mut store, &Module::new(&engine, GUEST)?)?;
    store.data_mut().instance = Some(instance);
    Ok(instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())?)
}
