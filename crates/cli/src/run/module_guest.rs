//! A guest that is a core module: its engine, store and instance, and the call.

use std::sync::Arc;

use corestream_wasmtime::{Capture, Captured, FrameRecorder, HostMemories};
use wasmtime::{
    Engine, Error, Instance, Linker, Module, Store, Trap, Val, WasmBacktrace, WasmCoreDump,
};
use wasmtime_wasi::{I32Exit, p1};

use super::arguments::Run;
use super::check::{Call, Source};
use super::expose::{self, Changes, Exposed};
use super::host::{self, Outcome, Stopped};
use super::host_state::HostState;
use super::overflow::StackPointer;
use super::snapshot::{Exchange, SnapshotPoint};
use super::time_limit::TimeLimit;
use super::{cause, host_call, invoke, shared, stub, unreachable};
use crate::report::Failure;

/// A loaded core module, which may have been started.
pub struct ModuleGuest {
    store: Store<HostState>,
    linker: Linker<HostState>,
    /// The module before the rewrite.
    wasm: Vec<u8>,
    module: Module,
    call: Call,
    /// The index of the first added function, which is the number of the guest's own functions.
    first_added: u32,
    /// Whether exports were added for the shared memories.
    exports: bool,
    instance: Option<Instance>,
    recorder: FrameRecorder<HostState>,
    /// The memories that snapshots protect.
    memories: Option<Arc<HostMemories>>,
}

impl ModuleGuest {
    /// Compiles the guest and prepares its store.
    pub fn load(run: &Run, source: Source<'_>) -> Result<Self, Failure> {
        let failed = |error: Error| {
            Failure::new(format!("{}: {}", run.guest.display(), cause::plain(&error)))
        };
        if run.network {
            let path = run.guest.display();
            return Err(Failure::new(format!(
                "{path}: is a core module; WASI preview 1 has no network, so leave --network out"
            )));
        }
        let memories = run.has_snapshots().then(HostMemories::new).map(Arc::new);
        let engine = Engine::new(&host::config(run, memories.as_ref())?).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        p1::add_to_linker_async(&mut linker, HostState::wasi).map_err(failed)?;
        // Wasmtime's own `proc_exit` treats codes over 125 as errors.
        linker.allow_shadowing(true);
        if run.time_limit.is_some() || run.has_snapshots() {
            host_call::add_to_linker(&mut linker).map_err(failed)?;
        }
        let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
        linker.func_wrap("wasi_snapshot_preview1", "proc_exit", exit).map_err(failed)?;
        let exchange = memories.as_ref().map(|_| Arc::new(Exchange::new(engine.clone())));
        let point = exchange.map(SnapshotPoint::new);
        let mut store = Store::new(&engine, HostState::new(host::wasi(run)?.build_p1(), point));
        let recorder = FrameRecorder::new();
        if run.locals {
            store.set_debug_handler(recorder.clone());
        }
        let invoke = run.invoke.as_deref();
        let call = source.check(invoke, &run.args, run.stub_imports, &linker, &mut store)?;
        let wasm = source.into_wasm();
        let changes = Changes {
            waits: run.time_limit.is_some() || run.has_snapshots(),
            all_state: run.has_snapshots(),
        };
        let exposed = expose::expose(&wasm, changes);
        let (module, first_added, exports) = match exposed {
            Some(Exposed { bytes, first_added, exports }) => {
                (Module::from_binary(&engine, &bytes), first_added, exports)
            }
            None => (Module::from_binary(&engine, &wasm), u32::MAX, false),
        };
        let module = module.map_err(failed)?;
        if run.stub_imports {
            stub::add_to_linker(&mut linker, &module);
        }
        let instance = None;
        Ok(Self {
            memories,
            store,
            linker,
            wasm,
            module,
            call,
            first_added,
            exports,
            instance,
            recorder,
        })
    }

    /// Instantiates the guest and calls its function.
    pub fn run(&mut self, run: &Run) -> Result<Outcome, Failure> {
        let runtime = host::runtime()?;
        if self.memories.is_some() {
            host::freeze_at_epochs(&mut self.store);
        }
        let clock = TimeLimit::start(run, &mut self.store)?;
        // Every host call that can be pending ends at the limit.
        let outcome = runtime.block_on(self.call(run));
        clock.end();
        // A thread may still be waiting for input.
        runtime.shutdown_background();
        outcome.map_err(|why| Failure::new(format!("{}: {why}", run.guest.display())))
    }

    /// Returns the memories and the exchange with the guest's thread, if snapshots can be requested.
    pub fn snapshot_parts(&self) -> Option<(Arc<HostMemories>, Arc<Exchange>)> {
        let exchange = self.store.data().snapshots.as_ref()?.exchange.clone();
        Some((self.memories.clone()?, exchange))
    }

    /// Returns an error if the call is invalid. A trap or an exit is an outcome, not an error.
    async fn call(&mut self, run: &Run) -> Result<Outcome, String> {
        let linked = self.linker.instantiate_pre(&self.module);
        let linked = linked.map_err(|error| cause::plain(&error))?;
        let instance = match linked.instantiate_async(&mut self.store).await {
            Ok(instance) => instance,
            Err(error) => return Ok(Outcome::Failed(error)),
        };
        self.instance = Some(instance);
        let shared = shared::Memories::of(&mut self.store, instance);
        if let Some(point) = &mut self.store.data_mut().snapshots {
            point.exchange.set_shared(shared);
            // Hashes the module now, because that takes too long for a pause.
            let capture = Capture::new(run.name())
                .instances([instance])
                .max_frames(run.max_frames as usize)
                .module_bytes(&self.module, &self.wasm);
            point.capture = Some(Arc::new(capture));
        }
        let Some(name) = &self.call.name else {
            return Ok(Outcome::Returned(String::new()));
        };
        let Some(function) = instance.get_func(&mut self.store, name) else {
            return Err(format!("exports no function {name}"));
        };
        // A reactor must be initialized first.
        if self.call.initialize
            && let Some(initialize) = instance.get_func(&mut self.store, "_initialize")
            && let Err(error) = initialize.call_async(&mut self.store, &[], &mut []).await
        {
            return Ok(Outcome::Failed(error));
        }
        // The call overwrites these values of any type.
        let mut results = vec![Val::I32(0); self.call.results];
        match function.call_async(&mut self.store, &self.call.parameters, &mut results).await {
            Ok(()) => Ok(Outcome::Returned(invoke::render(&results))),
            Err(error) => Ok(Outcome::Failed(error)),
        }
    }

    fn capture<'g>(
        run: &Run,
        linker: &'g Linker<HostState>,
        recorder: &'g FrameRecorder<HostState>,
    ) -> Capture<'g, HostState> {
        let capture = Capture::new(run.name()).linker(linker).max_frames(run.max_frames as usize);
        if run.locals { capture.frames(recorder) } else { capture }
    }

    /// Captures the guest after a failed call.
    pub fn stopped(&mut self, run: &Run, error: &Error) -> Stopped<'_> {
        let place = self.place_of_unreachable(error);
        let stack = if error.is::<Trap>() { StackPointer::find(&self.wasm) } else { None };
        let captured = self.captured(run, error, place);
        Stopped { captured, place: place.map(|(_, offset)| offset), stack }
    }

    fn captured(
        &mut self,
        run: &Run,
        error: &Error,
        place: Option<((u32, u64), u32)>,
    ) -> corestream::Result<Captured<'_>> {
        // Records the identity of the original bytes, without the added parts.
        let capture =
            Self::capture(run, &self.linker, &self.recorder).module_bytes(&self.module, &self.wasm);
        let trapped = || error.downcast_ref::<WasmCoreDump>()?.instances().first().copied();
        let shared = match self.instance.or_else(trapped) {
            Some(instance) if self.exports => shared::Memories::of(&mut self.store, instance),
            _ => shared::Memories::default(),
        };
        let mut captured = capture.trapped(&mut self.store, error)?;
        shared.place(&mut captured.dump, &mut captured.notes);
        for thread in &mut captured.dump.threads {
            thread.frames.retain(|frame| frame.function < self.first_added);
        }
        if let Some((reported, offset)) = place
            && let Some(frame) =
                captured.dump.threads.first_mut().and_then(|t| t.frames.first_mut())
            && (frame.function, u64::from(frame.offset)) == reported
        {
            frame.offset = offset;
        }
        Ok(captured)
    }

    /// Returns the function and offset that the engine reports for an `unreachable`, and the true offset, if it
    /// differs.
    fn place_of_unreachable(&self, error: &Error) -> Option<((u32, u64), u32)> {
        let Some(Trap::UnreachableCodeReached) = error.downcast_ref() else { return None };
        let frame = error.downcast_ref::<WasmBacktrace>()?.frames().first()?;
        let (function, offset) = (frame.func_index(), frame.func_offset()? as u64);
        let place = unreachable::place(&self.wasm, function, offset)?;
        Some(((function, offset), place))
    }

    /// Returns whether the guest was waiting for a notification.
    pub fn waits(&self, error: &Error) -> bool {
        let backtrace = error.downcast_ref::<WasmBacktrace>();
        let youngest = backtrace.and_then(|backtrace| backtrace.frames().first());
        youngest.is_some_and(|frame| frame.func_index() >= self.first_added)
    }

    /// Returns the index of the first added function.
    pub fn first_added(&self) -> u32 {
        self.first_added
    }
}
