//! Capturing: the embedder's information about a guest, and the calls that turn its store into a core dump.

use std::collections::HashMap;
use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{
    AsContextMut, Extern, Instance, Linker, Module, StoreContextMut, WasmBacktrace, WasmCoreDump,
};

use super::component::{ComponentInstances, KnownComponent};
use super::describe::describe;
use super::frames::FrameRecorder;
use super::identity::{Identities, Unidentified, module_identity};
use super::inventory::{ImportHints, Inventory};
use super::note::Note;
use super::stack::{self, Moment, Stack};
use super::wasm_frame::{WasmFrame, of_backtrace};
use corestream::{
    CoreDump, Dumper, Error, ErrorKind, FileOptions, ModuleIdentity, Plan, Result, Sink,
};

/// The number of frames that Wasmtime keeps by default
/// ([`Config::wasm_backtrace_max_frames`](wasmtime::Config::wasm_backtrace_max_frames)).
const DEFAULT_MAX_FRAMES: usize = 20;

/// Captures the store of a call that failed with `error`, as a core dump called `name`.
///
/// This is short for `Capture::new(name).trapped(store, error)`. The [crate] has an example.
///
/// # Errors
/// Returns an error if `error` carries no core dump: see [`Capture::trapped`].
///
/// # Panics
/// Panics if `error` comes from another store.
pub fn capture<'a>(
    store: &'a mut impl AsContextMut,
    name: impl Into<String>,
    error: &wasmtime::Error,
) -> Result<Captured<'a>> {
    Capture::new(name).trapped(store, error)
}

/// A captured guest: its core dump, which borrows the store, and notes on what is unknown.
///
/// The dump records the time of the capture ([`CoreDump::captured_at`]), so two captures of the same guest differ.
///
/// Exclude secrets before writing:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use wasmtime::{Config, Engine, Instance, Module, Store};
/// use corestream::{CoreDumpFile, Dumper, ErrorKind, FileOptions};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("guest.core");
/// # let engine = Engine::new(Config::new().coredump_on_trap(true))?;
/// # let text = r#"(module (memory 1) (data (i32.const 4096) "secret") (func (export "f") unreachable))"#;
/// # let module = Module::new(&engine, text)?;
/// # let mut store = Store::new(&engine, ());
/// # let instance = Instance::new(&mut store, &module, &[])?;
/// # let f = instance.get_typed_func::<(), ()>(&mut store, "f")?;
/// # let error = f.call(&mut store, ()).unwrap_err();
/// let mut captured = corestream_wasmtime::capture(&mut store, "guest.wat", &error)?;
/// captured.dump.memories[0].exclude(0x1000..0x1100); // where the guest keeps a key
/// captured.write_file_with(&path, FileOptions::new().sync(true))?;
/// let bytes = captured.plan(&Dumper::new().checksums(false))?.to_vec()?;
///
/// for dump in [CoreDumpFile::open(&path)?, CoreDumpFile::from_slice(&bytes)?] {
///     let error = dump.memory(0.into())?.read(0x1000, &mut [0; 6]).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::Excluded);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is written yet"]
#[non_exhaustive]
pub struct Captured<'a> {
    /// The guest.
    pub dump: CoreDump<'a>,
    /// Notes on what is unknown. Usually empty.
    pub notes: Vec<Note>,
    /// The modules that a note of the dump is about.
    unidentified: Unidentified,
}

impl<'a> Captured<'a> {
    /// Merges the captured store of another thread into this one, so that one dump has both.
    ///
    /// The memories, globals, instances and threads of `other` follow those of this store. A
    /// [`SharedMemory`](wasmtime::SharedMemory) of both stores is in the dump once. So is a [`Module`] of both, if it
    /// has the same name in both. [`CoreDump::merge`] has the rules. The notes get the new indices, or name the thread
    /// ([`Note::Thread`]).
    ///
    /// Debuggers select the first thread, so begin with the store that trapped. If the host stopped the others, set their
    /// [`CoreDump::trap`] to `None`. Otherwise a note of the dump says how each of them stopped. Add a thread that could
    /// not be captured with [`CoreDump::add_missing_thread`].
    ///
    /// The program `examples/thread_pool.rs` of this crate does this for the threads of a pool.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Config, Engine, Linker, MemoryType, Module, SharedMemory, Store};
    ///
    /// let engine = Engine::new(Config::new().coredump_on_trap(true).shared_memory(true))?;
    /// let text = r#"(module (import "env" "memory" (memory 1 1 shared))
    ///     (func (export "run") unreachable))"#;
    /// let module = Module::new(&engine, text)?;
    /// let shared = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
    ///
    /// let mut stopped = Vec::new();
    /// for worker in 0..2 {
    ///     let mut store = Store::new(&engine, ());
    ///     let mut linker = Linker::new(&engine);
    ///     linker.define(&store, "env", "memory", shared.clone())?;
    ///     let instance = linker.instantiate(&mut store, &module)?;
    ///     let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    ///     let error = run.call(&mut store, ()).unwrap_err();
    ///     stopped.push((format!("worker {worker}"), store, error));
    /// }
    ///
    /// let mut captured = stopped.iter_mut().map(|(name, store, error)| {
    ///     let capture = Capture::new("pool").thread(name.as_str());
    ///     capture.define("env", "memory", shared.clone()).trapped(store, error)
    /// });
    /// let mut all = captured.next().unwrap()?;
    /// for captured in captured {
    ///     all.merge(captured?)?;
    /// }
    /// assert_eq!((all.dump.threads.len(), all.dump.instances.len()), (2, 2));
    /// assert_eq!((all.dump.modules.len(), all.dump.memories.len()), (1, 1));
    /// all.write_to(&mut std::io::sink())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the errors of [`CoreDump::merge`]. This store is then as before.
    pub fn merge(&mut self, other: Captured<'a>) -> Result<()> {
        let merged = self.unidentified.merge(&mut self.dump, other.unidentified, other.dump)?;
        let notes = std::mem::take(&mut self.notes).into_iter().map(|note| note.of_thread(0));
        let thread = merged.threads.start;
        let theirs = other.notes.into_iter().map(|note| note.renumbered(&merged, thread));
        let mut all = Vec::new();
        for note in notes.chain(theirs) {
            note.add_to(&mut all);
        }
        self.notes = all;
        Ok(())
    }

    /// Copies the memories that the dump borrows from the store, at most `limit` bytes of data.
    ///
    /// The result borrows nothing. In a host function or at an epoch deadline, send it to the thread that merges and
    /// writes the dump, and let the guest continue. Shared memories are not copied: the dump has their contents at the time when
    /// it is written.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::mpsc;
    ///
    /// use corestream_wasmtime::{Capture, Captured};
    /// use wasmtime::{Caller, Engine, Instance, Linker, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let text = r#"(module (import "host" "stop" (func $stop)) (memory (export "memory") 1)
    ///     (func (export "run") (call $stop)))"#;
    /// let module = Module::new(&engine, text)?;
    /// let mut linker = Linker::new(&engine);
    /// let (sender, receiver) = mpsc::channel::<Captured<'static>>();
    /// linker.func_wrap("host", "stop", move |mut caller: Caller<'_, Option<Instance>>| {
    ///     let capture = Capture::new("pool").all_instances(*caller.data());
    ///     sender.send(capture.live(&mut caller).copy(64 << 20)?)?;
    ///     Ok(())
    /// })?;
    /// let workers = [0, 1].map(|_| {
    ///     let (engine, linker, module) = (engine.clone(), linker.clone(), module.clone());
    ///     std::thread::spawn(move || -> wasmtime::Result<()> {
    ///         let mut store = Store::new(&engine, None);
    ///         let instance = linker.instantiate(&mut store, &module)?;
    ///         *store.data_mut() = Some(instance);
    ///         instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())
    ///     })
    /// });
    ///
    /// let mut all = receiver.recv()?;
    /// all.merge(receiver.recv()?)?;
    /// assert_eq!((all.dump.threads.len(), all.dump.memories.len()), (2, 2));
    /// assert_eq!(all.dump.threads[1].frames[0].instance, Some(1.into()));
    /// # for worker in workers { worker.join().unwrap()?; }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns the errors of [`corestream::snapshot::copy`].
    pub fn copy(self, limit: u64) -> Result<Captured<'static>> {
        let Self { dump, notes, unidentified } = self;
        Ok(Captured { dump: corestream::snapshot::copy(dump, limit)?, notes, unidentified })
    }

    /// Streams the dump to `sink` straight from the guest's memories, with the defaults of [`Dumper`].
    ///
    /// # Errors
    /// Returns the errors of [`Dumper::plan`] and [`Plan::write_to`](corestream::Plan::write_to).
    pub fn write_to<S: Sink + ?Sized>(&self, sink: &mut S) -> Result<()> {
        self.plan(&Dumper::new())?.write_to(sink)
    }

    /// Writes the dump to a new file, which appears once it is complete.
    ///
    /// # Errors
    /// Returns the errors of [`Dumper::plan`] and [`Plan::write_file`].
    pub fn write_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write_file_with(path, FileOptions::new())
    }

    /// Writes the dump to a new file like [`write_file`](Self::write_file), with options.
    ///
    /// # Errors
    /// Returns the errors of [`Dumper::plan`] and [`Plan::write_file_with`].
    pub fn write_file_with(&self, path: impl AsRef<Path>, options: FileOptions) -> Result<()> {
        self.plan(&Dumper::new())?.write_file_with(path, options)
    }

    /// Plans the dump with the options of `dumper`.
    ///
    /// # Errors
    /// Returns the errors of [`Dumper::plan`].
    pub fn plan(&self, dumper: &Dumper) -> Result<Plan<'_>> {
        dumper.plan(&self.dump)
    }

    /// Returns the dump in one vector, as `WasmCoreDump::serialize` does.
    ///
    /// # Errors
    /// Returns the errors of [`Dumper::plan`] and [`Plan::to_vec`](corestream::Plan::to_vec).
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.plan(&Dumper::new())?.to_vec()
    }
}

/// A builder that captures a store as a core dump, with information that only the embedder has.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use corestream_wasmtime::Capture;
/// use wasmtime::{Caller, Engine, Linker, Module, Store};
///
/// let engine = Engine::default();
/// let text = r#"(module (import "" "dump" (func $dump)) (memory (export "memory") 1)
///                       (func (export "run") (call $dump)))"#;
/// let module = Module::new(&engine, text)?;
/// let mut linker = Linker::new(&engine);
/// linker.func_wrap("", "dump", |mut caller: Caller<'_, Option<wasmtime::Instance>>| {
///     let instance = *caller.data();
///     let captured = Capture::new("guest.wat").instances(instance).live(&mut caller);
///     assert_eq!(captured.dump.memories.len(), 1);
///     captured.write_to(&mut std::io::sink())?;
///     Ok(()) // the guest continues
/// })?;
/// let mut store = Store::new(&engine, None);
/// let instance = linker.instantiate(&mut store, &module)?;
/// *store.data_mut() = Some(instance);
/// instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Capture<'w, T: 'static> {
    name: String,
    thread: String,
    max_frames: usize,
    instances: Vec<Instance>,
    /// Whether the store has no other instances.
    lists_all_instances: bool,
    pub(super) hints: ImportHints<'w, T>,
    identities: Identities,
    components: Vec<KnownComponent>,
    values: bool,
    recorder: Option<&'w FrameRecorder<T>>,
}

impl<'w, T: 'static> Capture<'w, T> {
    /// Returns a capture of a process called `name`, without further information.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            thread: "main".into(),
            max_frames: DEFAULT_MAX_FRAMES,
            instances: Vec::new(),
            lists_all_instances: false,
            hints: ImportHints { defined: HashMap::new(), instances: Vec::new(), linker: None },
            identities: Identities::default(),
            components: Vec::new(),
            values: true,
            recorder: None,
        }
    }

    /// Sets the name of the thread. The default is "main".
    ///
    /// ```
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Engine, Store};
    ///
    /// let mut store = Store::new(&Engine::default(), ());
    /// let captured = Capture::new("guest.wasm").thread("worker").live(&mut store);
    /// assert_eq!(captured.dump.threads[0].name, "worker");
    /// ```
    pub fn thread(mut self, name: impl Into<String>) -> Self {
        self.thread = name.into();
        self
    }

    /// Sets the number of frames that Wasmtime keeps. The default is 20.
    ///
    /// Pass the value of [`Config::wasm_backtrace_max_frames`](wasmtime::Config::wasm_backtrace_max_frames). A
    /// backtrace with that many frames may be incomplete and gets a [`Note::Frames`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use wasmtime::{Config, Engine, Instance, Module, Store};
    /// use std::num::NonZeroUsize;
    ///
    /// use corestream_wasmtime::{Capture, Note};
    ///
    /// let mut config = Config::new();
    /// config.coredump_on_trap(true).wasm_backtrace_max_frames(NonZeroUsize::new(100));
    /// # let engine = Engine::new(&config)?;
    /// # let module = Module::new(&engine, r#"(module (func $f (export "f") (call $f)))"#)?;
    /// # let mut store = Store::new(&engine, ());
    /// # let instance = Instance::new(&mut store, &module, &[])?;
    /// # let f = instance.get_typed_func::<(), ()>(&mut store, "f")?;
    /// // A function that calls itself until the stack overflows.
    /// let error = f.call(&mut store, ()).unwrap_err();
    /// let captured = Capture::new("guest.wat").max_frames(100).trapped(&mut store, &error)?;
    /// assert_eq!(captured.notes, [Note::Frames { kept: 100 }]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_frames(mut self, frames: usize) -> Self {
        self.max_frames = frames;
        self
    }

    /// Finds imports in `linker`, with which the instances were created.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Engine, Linker, Memory, MemoryType, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let mut store = Store::new(&engine, ());
    /// let mut linker = Linker::new(&engine);
    /// for name in ["own", "other"] {
    ///     let memory = Memory::new(&mut store, MemoryType::new(1, None))?;
    ///     linker.define(&store, "env", name, memory)?;
    /// }
    /// let module = Module::new(&engine, r#"(module (import "env" "own" (memory 1)))"#)?;
    /// let instance = linker.instantiate(&mut store, &module)?;
    ///
    /// // Wasmtime does not expose the imports of an instance.
    /// let capture = Capture::new("guest.wat").instances([instance]);
    /// assert_eq!(capture.live(&mut store).dump.instances[0].memories, [None]);
    /// let own = linker.get(&mut store, "env", "own").unwrap();
    /// for capture in [
    ///     Capture::new("guest.wat").instances([instance]).linker(&linker),
    ///     Capture::new("guest.wat").instances([instance]).define("env", "own", own),
    /// ] {
    ///     assert_eq!(capture.live(&mut store).dump.instances[0].memories, [Some(0.into())]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn linker(mut self, linker: &'w Linker<T>) -> Self {
        self.hints.linker = Some(linker);
        self
    }

    /// Declares that every import `module` `name` is `item`, a memory or a global.
    ///
    /// This takes precedence over [`instance`](Self::instance) and [`linker`](Self::linker), whose example shows it.
    pub fn define(mut self, module: &str, name: &str, item: impl Into<Extern>) -> Self {
        self.hints.defined.insert((module.into(), name.into()), item.into());
        self
    }

    /// Declares that every import from the module `name` is an export of `instance`.
    ///
    /// This takes precedence over [`linker`](Self::linker). If the guest did not trap, the instance is captured too.
    pub fn instance(mut self, name: &str, instance: Instance) -> Self {
        self.hints.instances.push((name.into(), instance));
        self.instances([instance])
    }

    /// Adds instances of a guest that did not trap.
    ///
    /// With guest debugging Wasmtime lists all instances anyway. Without it there may be others, so the instances of
    /// the frames are unknown. If there are none, call [`all_instances`](Self::all_instances) instead.
    pub fn instances(mut self, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.instances.extend(instances);
        self
    }

    /// Adds instances of a guest that did not trap, and declares that the store has no others. Then the instance of a
    /// frame is known if its module has only one.
    ///
    /// The declaration must be true. Otherwise a frame of an instance that was not added may be shown in another
    /// instance of the same module.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Caller, Engine, Instance, Linker, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap("", "dump", |mut caller: Caller<'_, Option<Instance>>| {
    ///     let instance = *caller.data();
    ///     let known = Capture::new("guest.wat").all_instances(instance).live(&mut caller);
    ///     assert_eq!(known.dump.threads[0].frames[0].instance, Some(0.into()));
    ///     drop(known);
    ///     let unknown = Capture::new("guest.wat").instances(instance).live(&mut caller);
    ///     assert_eq!(unknown.dump.threads[0].frames[0].instance, None);
    /// })?;
    /// # let text = r#"(module (import "" "dump" (func $dump)) (func (export "run") (call $dump)))"#;
    /// # let module = Module::new(&engine, text)?;
    /// # let mut store = Store::new(&engine, None);
    /// # let instance = linker.instantiate(&mut store, &module)?;
    /// # *store.data_mut() = Some(instance);
    /// # instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn all_instances(mut self, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.lists_all_instances = true;
        self.instances(instances)
    }

    /// Takes the frames with locals and operand stacks that `recorder` recorded at the trap.
    ///
    /// [`FrameRecorder`] has an example.
    pub fn frames(mut self, recorder: &'w FrameRecorder<T>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Records the identity of `module` ([`ModuleIdentity`](corestream::ModuleIdentity)) from its bytes in the binary
    /// format.
    ///
    /// The dump then has the SHA-256 and the build id of the module. This hashes `wasm` and does not keep it. If no
    /// bytes are given for a module, a note of the dump ([`CoreDump::notes`]) says that its identity was not recorded.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Engine, Instance, Module, Store};
    ///
    /// let wasm = b"\0asm\x01\0\0\0\0\x0c\x08build_id\x02\x12\x34";
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, wasm)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    ///
    /// let capture = Capture::new("guest.wasm").instances([instance]).module_bytes(&module, wasm);
    /// let captured = capture.live(&mut store);
    /// let identity = &captured.dump.modules[0].identity;
    /// assert_eq!(identity.build_id.as_deref(), Some(&[0x12, 0x34][..]));
    /// assert!(identity.sha256.is_some() && captured.dump.notes.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn module_bytes(self, module: &Module, wasm: &[u8]) -> Self {
        self.module_identity(module, module_identity(wasm))
    }

    /// Records an identity of `module` that was determined before ([`module_identity`]), so that a guest need not stand
    /// still for it. Apart from that it is like [`module_bytes`](Self::module_bytes).
    pub fn module_identity(mut self, module: &Module, identity: ModuleIdentity) -> Self {
        self.identities.add(module, identity);
        self
    }

    /// Sets whether [`live`](Self::live) and [`freeze`](Self::freeze) record locals, operand stacks and the exact instance
    /// of each frame, if guest debugging is on. The default is `true`. This parses and validates the modules on the stack,
    /// which takes about a millisecond per megabyte, while the guest stands still.
    ///
    /// ```
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::{Caller, Config, Engine, Linker, Module, Store};
    ///
    /// let engine = Engine::new(Config::new().guest_debug(true))?;
    /// let text = r#"(module (import "" "dump" (func $dump))
    ///     (func (export "run") (local i32) (call $dump)))"#;
    /// let module = Module::new(&engine, text)?;
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap("", "dump", |mut caller: Caller<'_, ()>| {
    ///     let locals = [true, false].map(|values| {
    ///         let captured = Capture::new("guest.wat").values(values).live(&mut caller);
    ///         captured.dump.threads[0].frames[0].locals.len()
    ///     });
    ///     assert_eq!(locals, [1, 0]);
    /// })?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = linker.instantiate(&mut store, &module)?;
    /// instance.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    /// # Ok::<(), wasmtime::Error>(())
    /// ```
    pub fn values(mut self, record: bool) -> Self {
        self.values = record;
        self
    }

    /// Records where the core instances of `component` come from. `wasm` is the component in the binary format.
    ///
    /// In the dump, each core instance of the component has a module of its own, even if several are instances of the
    /// same module. The name of that module is the path of the component instance and the name of the core module, such
    /// as `outer/inner:module`. An instance of the outermost component has no path. A part without a name is its index,
    /// such as `#2`. If a name would occur again, the name of the core instance or a number is added, as in `libc(2)`. A
    /// second instantiation of the component in the same store adds `[2]`.
    ///
    /// A fused adapter, which Wasmtime makes between components, is named `adapter(a, b)`. The order of the names has no
    /// meaning. It has no identity, and its memories and globals may be unknown, without a note.
    ///
    /// The identities of the core modules are recorded too. This hashes them, and does not keep `wasm`. If the instances
    /// of the store do not fit the bytes, the result has a [`Note::Component`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use corestream_wasmtime::Capture;
    /// use wasmtime::component::{Component, Linker};
    /// use wasmtime::{Config, Engine, Store};
    ///
    /// let text = r#"(component
    ///     (component $inner
    ///         (core module $code (func (export "f") unreachable))
    ///         (core instance $code (instantiate $code))
    ///         (func (export "f") (canon lift (core func $code "f"))))
    ///     (instance $inner (instantiate $inner))
    ///     (export "run" (func $inner "f")))"#;
    /// let wasm = wat::parse_str(text)?;
    /// let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    /// let component = Component::from_binary(&engine, &wasm)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Linker::new(&engine).instantiate(&mut store, &component)?;
    /// let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
    ///
    /// let error = run.call(&mut store, ()).unwrap_err();
    /// let capture = Capture::new("guest.wasm").component(&component, &wasm);
    /// let captured = capture.trapped(&mut store, &error)?;
    /// assert_eq!(captured.dump.modules[0].name.as_deref(), Some("inner:code"));
    /// assert!(captured.dump.modules[0].identity.sha256.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn component(mut self, component: &Component, wasm: &[u8]) -> Self {
        self.components.push(KnownComponent::new(component, wasm));
        self
    }

    /// Captures the store of a call that failed with `error`. The trap's message in the dump is the root cause of
    /// `error`.
    ///
    /// Without [`Config::coredump_on_trap`](wasmtime::Config::coredump_on_trap) the error has no information about the
    /// store. Then the dump has the instances that [`live`](Self::live) would capture, and the frames of the error's
    /// backtrace.
    ///
    /// # Errors
    /// Returns an error if there is nothing to dump: `error` carries no core dump, no instance was added, and guest
    /// debugging is off.
    ///
    /// # Panics
    /// Panics if `error`, an instance or an item comes from another store.
    pub fn trapped<'a>(
        &self,
        store: &'a mut impl AsContextMut<Data = T>,
        error: &wasmtime::Error,
    ) -> Result<Captured<'a>> {
        let trap = error.root_cause().to_string();
        if let Some(core_dump) = error.downcast_ref::<WasmCoreDump>() {
            let mut captured = self.core_dump(store, core_dump);
            captured.dump.trap = Some(trap);
            return Ok(captured);
        }
        let inventory = self.reachable(&mut store.as_context_mut());
        if inventory.instances.is_empty() {
            return Err(Error::new(
                ErrorKind::Guest,
                "the error carries no core dump: turn on Config::coredump_on_trap, or name the \
                 guest's instances",
            ));
        }
        let backtrace = error.downcast_ref::<WasmBacktrace>();
        let backtrace = of_backtrace(backtrace.map_or(&[], WasmBacktrace::frames));
        let mut captured = self.finish(store, inventory, backtrace);
        captured.dump.trap = Some(trap);
        Ok(captured)
    }

    /// Captures the store of a call that trapped, with the core dump that its error carried.
    ///
    /// A `WasmCoreDump` does not have the trap's message, so this dump has none either.
    ///
    /// # Panics
    /// Panics if `core_dump`, an instance or an item comes from another store.
    pub fn core_dump<'a>(
        &self,
        store: &'a mut impl AsContextMut<Data = T>,
        core_dump: &WasmCoreDump,
    ) -> Captured<'a> {
        let mut inventory = Inventory::of_core_dump(core_dump);
        self.find_components(&store.as_context_mut(), &mut inventory);
        self.finish(store, inventory, of_backtrace(core_dump.frames()))
    }

    /// Captures a guest that did not trap: from a host function, the callback of an epoch deadline or a debug handler,
    /// or between two calls.
    ///
    /// With guest debugging this captures the whole store, with locals and operand stacks. Otherwise it captures the
    /// added instances and the items that they export. It does not change the store.
    ///
    /// # Panics
    /// Panics if an instance or an item comes from another store.
    pub fn live<'a>(&self, store: &'a mut impl AsContextMut<Data = T>) -> Captured<'a> {
        let inventory = self.reachable(&mut store.as_context_mut());
        let none = inventory.instances.is_empty();
        let mut stack = Stack::default();
        if self.values {
            stack = stack::of_stack(&mut store.as_context_mut(), Moment::Other);
        }
        if stack.frames.is_empty() {
            let backtrace = WasmBacktrace::force_capture(&*store);
            stack = Stack { frames: of_backtrace(backtrace.frames()), complete: false };
        }
        let notes = if stack.complete { Vec::new() } else { self.truncation_notes(&stack.frames) };
        let mut captured = self.describe(store, inventory, stack.frames, notes);
        if none {
            captured.notes.insert(0, Note::NoInstances);
        }
        captured
    }

    /// Takes the inventory without a core dump: all instances if Wasmtime lists them, or the added ones.
    pub(super) fn reachable(&self, store: &mut StoreContextMut<'_, T>) -> Inventory {
        let mut instances = store.as_context_mut().debug_all_instances();
        let listed = !instances.is_empty();
        if !listed {
            for instance in &self.instances {
                if !instances.contains(instance) {
                    instances.push(*instance);
                }
            }
        }
        let mut inventory =
            Inventory::of_instances(store, instances, listed || self.lists_all_instances);
        self.find_components(store, &mut inventory);
        inventory
    }

    fn find_components(&self, store: &StoreContextMut<'_, T>, inventory: &mut Inventory) {
        inventory.components =
            ComponentInstances::find(store, &inventory.instances, &self.components);
    }

    /// Returns the recorder's frames if they belong to this backtrace, otherwise the backtrace's.
    fn finish<'a>(
        &self,
        store: &'a mut impl AsContextMut<Data = T>,
        inventory: Inventory,
        backtrace: Vec<WasmFrame>,
    ) -> Captured<'a> {
        let recorded = self.recorder.and_then(|r| r.matching(&backtrace, self.max_frames));
        if let Some(Stack { frames, complete }) = recorded {
            let notes = if complete { Vec::new() } else { self.truncation_notes(&frames) };
            return self.describe(store, inventory, frames, notes);
        }
        let mut notes = self.truncation_notes(&backtrace);
        if backtrace.is_empty() {
            notes.push(Note::NoFrames);
        }
        self.describe(store, inventory, backtrace, notes)
    }

    /// Adds a note if the backtrace may be truncated.
    fn truncation_notes(&self, backtrace: &[WasmFrame]) -> Vec<Note> {
        let kept = backtrace.len();
        let is_truncated = kept > 0 && kept >= self.max_frames;
        if is_truncated { vec![Note::Frames { kept }] } else { Vec::new() }
    }

    fn describe<'a>(
        &self,
        store: &'a mut impl AsContextMut<Data = T>,
        inventory: Inventory,
        frames: Vec<WasmFrame>,
        mut notes: Vec<Note>,
    ) -> Captured<'a> {
        let (hints, identities, thread) = (&self.hints, &self.identities, &self.thread);
        let (mut dump, unidentified) =
            describe(store, inventory, hints, identities, thread, frames, &mut notes);
        dump.name.clone_from(&self.name);
        Captured { dump, notes, unidentified }
    }
}

impl<T> std::fmt::Debug for Capture<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("name", &self.name)
            .field("max_frames", &self.max_frames)
            .field("instances", &self.instances.len())
            .finish_non_exhaustive()
    }
}
