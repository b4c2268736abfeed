//! Guests for the tests, and the stores they run in.

use std::num::NonZeroUsize;

use wasmtime::{Config, Engine, Error, Extern, Instance, Module, Store};

/// Returns a configuration that captures core dumps and enables every proposal that the tests use.
pub fn config() -> Config {
    let mut config = Config::new();
    config.coredump_on_trap(true).wasm_memory64(true).wasm_multi_memory(true);
    config.wasm_custom_page_sizes(true).wasm_function_references(true).wasm_gc(true);
    config.wasm_exceptions(true).wasm_threads(true).shared_memory(true);
    config
}

/// Creates an engine whose backtraces keep all frames.
pub fn engine() -> Engine {
    Engine::new(config().wasm_backtrace_max_frames(NonZeroUsize::new(100_000))).unwrap()
}

/// A guest that trapped.
pub struct Trapped {
    pub store: Store<()>,
    pub instances: Vec<Instance>,
    pub error: Error,
}

/// Instantiates `text` with these imports and calls `run`, which traps.
pub fn trap(engine: &Engine, text: &str, imports: &[Extern]) -> Trapped {
    let store = Store::new(engine, ());
    trap_in(store, Vec::new(), text, imports)
}

/// Instantiates `text` in a store that already has `instances`, and calls `run`, which traps. A start function or a
/// segment may trap before that.
pub fn trap_in(
    mut store: Store<()>,
    mut instances: Vec<Instance>,
    text: &str,
    imports: &[Extern],
) -> Trapped {
    let module = Module::new(store.engine(), text).unwrap();
    let error = match Instance::new(&mut store, &module, imports) {
        Ok(instance) => {
            instances.push(instance);
            let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
            run.call(&mut store, ()).unwrap_err()
        }
        Err(error) => error,
    };
    Trapped { store, instances, error }
}

/// Instantiates `text`.
pub fn instantiate(store: &mut Store<()>, text: &str, imports: &[Extern]) -> Instance {
    let module = Module::new(store.engine(), text).unwrap();
    Instance::new(store, &module, imports).unwrap()
}
