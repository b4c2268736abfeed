//! A guest that is a component: its engine, store and instance, and the call.

use std::sync::Arc;

use corestream_symbols::{Component as CoreModules, SymbolFile};
use corestream_wasmtime::{Capture, Captured, FrameRecorder, HostMemories, Note, module_identity};
use wasmtime::component::{Component, InstancePre, Linker, Val};
use wasmtime::{Engine, Error, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::arguments::Run;
use super::check::Source;
use super::component_call::{self, FunctionCall};
use super::component_state::{self, ComponentState};
use super::host::{self, Outcome, Stopped, module_of_frame};
use super::overflow::StackPointer;
use super::snapshot::{Exchange, SnapshotPoint};
use super::time_limit::TimeLimit;
use super::{cause, stub, unreachable};
use crate::report::Failure;

/// A loaded component, which may have been started.
pub struct ComponentGuest {
    store: Store<ComponentState>,
    component: Component,
    /// The component in the binary format.
    wasm: Vec<u8>,
    call: Call,
    recorder: FrameRecorder<ComponentState>,
    /// The memories that snapshots protect.
    memories: Option<Arc<HostMemories>>,
}

/// The resolved call that `run` makes.
enum Call {
    /// `run` of the interface `wasi:cli/run`.
    Command(CommandPre<ComponentState>),
    Function(InstancePre<ComponentState>, FunctionCall),
}

impl ComponentGuest {
    /// Compiles the guest and prepares its store.
    pub fn load(run: &Run, source: Source<'_>) -> Result<Self, Failure> {
        let at = |why: String| Failure::new(format!("{}: {why}", run.guest.display()));
        let failed = |error: Error| at(cause::plain(&error));
        let memories = run.has_snapshots().then(HostMemories::new).map(Arc::new);
        let mut config = host::config(run, memories.as_ref())?;
        // Only guest debugging lists the core instances of a component that has not trapped.
        config.guest_debug(run.locals || run.has_snapshots());
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        if run.time_limit.is_some() || run.has_snapshots() {
            linker.allow_shadowing(true);
            component_state::add_to_linker(&mut linker).map_err(failed)?;
        }
        let is_text = source.is_text();
        let wasm = source.into_wasm();
        if !run.stub_imports {
            component_call::check_imports(&wasm, &linker).map_err(at)?;
        }
        if run.invoke.is_none() {
            component_call::check_run(&wasm).map_err(at)?;
        }
        let component = Component::from_binary(&engine, &wasm).map_err(|error| {
            // The text was encoded just now, so it is not damaged.
            let way_out =
                if is_text { "" } else { "; the file may be damaged: build or copy it again" };
            at(format!("invalid component: {}{way_out}", cause::plain(&error)))
        })?;
        if run.stub_imports {
            stub::add_to_component_linker(&mut linker, &component)
                .map_err(|error| at(component_call::import_cause(&error, true)))?;
        }
        let linked = linker.instantiate_pre(&component);
        let linked =
            linked.map_err(|error| at(component_call::import_cause(&error, run.stub_imports)))?;
        let call = match &run.invoke {
            None => Call::Command(CommandPre::new(linked).map_err(failed)?),
            Some(invoke) => {
                let call = component_call::resolve(&component, invoke).map_err(at)?;
                Call::Function(linked, call)
            }
        };
        let exchange = memories.as_ref().map(|_| Arc::new(Exchange::new(engine.clone())));
        let point = exchange.map(SnapshotPoint::new);
        let state = ComponentState::new(host::wasi(run)?.build(), point);
        let mut store = Store::new(&engine, state);
        let recorder = FrameRecorder::new();
        if run.locals {
            store.set_debug_handler(recorder.clone());
        }
        Ok(Self { store, component, wasm, call, recorder, memories })
    }

    /// Instantiates the guest and calls its function.
    pub fn run(&mut self, run: &Run) -> Result<Outcome, Failure> {
        let runtime = host::runtime()?;
        if self.memories.is_some() {
            host::freeze_at_epochs(&mut self.store);
        }
        let clock = TimeLimit::start(run, &mut self.store)?;
        let outcome = runtime.block_on(self.call(run));
        clock.end();
        // A thread may still be waiting for input.
        runtime.shutdown_background();
        let outcome = outcome.unwrap_or_else(Outcome::Failed);
        Ok(outcome)
    }

    /// Returns the memories and the exchange with the guest's thread, if snapshots can be requested.
    pub fn snapshot_parts(&self) -> Option<(Arc<HostMemories>, Arc<Exchange>)> {
        let exchange = self.store.data().snapshots.as_ref()?.exchange.clone();
        Some((self.memories.clone()?, exchange))
    }

    fn capture<'g>(&self, run: &Run) -> Capture<'g, ComponentState> {
        Capture::new(run.name())
            .max_frames(run.max_frames as usize)
            .component(&self.component, &self.wasm)
    }

    /// Lets snapshots freeze the guest from now on. All core instances exist.
    fn allow_snapshots(&mut self, run: &Run) {
        if self.memories.is_some() {
            // Hashes the core modules now, because that takes too long for a pause.
            let capture = Arc::new(self.capture(run).values(run.locals));
            if let Some(point) = &mut self.store.data_mut().snapshots {
                point.capture = Some(capture);
            }
        }
    }

    async fn call(&mut self, run: &Run) -> Result<Outcome, Error> {
        match &self.call {
            Call::Command(linked) => {
                let command = linked.instantiate_async(&mut self.store).await?;
                self.allow_snapshots(run);
                match command.wasi_cli_run().call_run(&mut self.store).await? {
                    Ok(()) => Ok(Outcome::Returned(String::new())),
                    Err(()) => Ok(Outcome::Failed(I32Exit(1).into())),
                }
            }
            Call::Function(linked, call) => {
                let instance = linked.instantiate_async(&mut self.store).await?;
                let function = instance.get_func(&mut self.store, call.function);
                let function = function.ok_or_else(|| Error::msg("the function is missing"))?;
                // The call overwrites these values of any type.
                let mut results = vec![Val::Bool(false); call.results];
                let parameters = call.parameters.clone();
                self.allow_snapshots(run);
                function.call_async(&mut self.store, &parameters, &mut results).await?;
                Ok(Outcome::Returned(component_call::render(&results)))
            }
        }
    }

    /// Captures the guest after a failed call.
    pub fn stopped(&mut self, run: &Run, error: &Error) -> Stopped<'_> {
        let mut capture = self.capture(run);
        if run.locals {
            capture = capture.frames(&self.recorder);
        }
        let mut captured = capture.trapped(&mut self.store, error);
        let (mut place, mut stack) = (None, None);
        if let Ok(captured) = &mut captured
            && let Some(trap) = error.downcast_ref::<Trap>()
            && let Some(module) = youngest_module(&self.wasm, captured)
        {
            if *trap == Trap::UnreachableCodeReached {
                place = correct_place(module, captured, error);
            }
            stack = StackPointer::find(module);
        }
        Stopped { captured, place, stack }
    }
}

/// Returns the bytes of the core module of the youngest frame. An adapter has none.
fn youngest_module<'w>(wasm: &'w [u8], captured: &Captured<'_>) -> Option<&'w [u8]> {
    let dump = &captured.dump;
    let module = module_of_frame(dump, 0).or_else(|| {
        // A frame whose instance is unknown is one of a module that a note names.
        let mut unknown = captured.notes.iter().filter_map(|note| match note {
            Note::FrameInstances { module, .. } => dump.modules.get(module.0 as usize),
            _ => None,
        });
        unknown.next().filter(|_| unknown.next().is_none())
    });
    core_module(wasm, module?.identity.sha256?)
}

/// Corrects the offset of the youngest frame, which is at an `unreachable`. Returns the true offset, if the engine
/// reports another one.
fn correct_place(module: &[u8], captured: &mut Captured<'_>, error: &Error) -> Option<u32> {
    let reported = error.downcast_ref::<WasmBacktrace>()?.frames().first()?;
    let (function, offset) = (reported.func_index(), reported.func_offset()? as u64);
    let frame = captured.dump.threads.first_mut()?.frames.first_mut()?;
    if (frame.function, u64::from(frame.offset)) != (function, offset) {
        return None;
    }
    frame.offset = unreachable::place(module, function, offset)?;
    Some(frame.offset)
}

/// Returns the core module in a component that has this SHA-256.
fn core_module(wasm: &[u8], sha256: [u8; 32]) -> Option<&[u8]> {
    let component = CoreModules::read(&SymbolFile::new("", wasm))?;
    let modules = component.modules().iter().map(SymbolFile::bytes);
    modules.into_iter().find(|module| module_identity(module).sha256 == Some(sha256))
}
