//! Reading the live stack of a Wasmtime guest: its frames with locals and operand stacks.
//!
//! # The problem
//! Wasmtime finds the debug slots of a frame by searching its table of program points for the last point at or before
//! the frame's program counter (`FrameTable::find_program_point` in `wasmtime-environ/src/frame_table.rs`). The search
//! does not stop at the start of the function. A function without points therefore gets the slots of the preceding
//! function in the text, and if there is none, `VirtualFrame::decode` in `wasmtime/src/runtime/debug.rs` panics. With
//! the wrong slots, `FrameHandle::instance` dereferences arbitrary stack contents, and so does
//! `wasm_function_index_and_pc` in a build with debug assertions. No guest may cause that in its host.
//!
//! # Frames with slots
//! Only functions of a module have points: `translate_body` in
//! `wasmtime-internal-cranelift/src/translate/func_translator.rs` creates the slots, and `before_translate_operator`
//! sets a point before each operator. The start-up code of a module (globals, segments, the call of the start function:
//! `translate_module_startup` in the same file) has none, but it has a frame between the entry into wasm and the exit.
//! Such a frame calls the start function or traps in a segment. It is always the oldest of its activation, because the
//! host enters it.
//!
//! Trampolines into and out of wasm are never visited: an activation begins at the frame that called out, and ends
//! before the frame of the entry trampoline (`FrameCursor` in `wasmtime-internal-unwinder/src/stackwalk.rs`).
//!
//! # Slots with values
//! A function writes its slots in this order: parameters and locals; after the stack limit check, its instance; after
//! that it checks fuel and epoch; then comes the first operator (`declare_wasm_parameters`,
//! `before_translate_function`). A frame that has not reached its first operator was only *entered*:
//! - At a stack overflow the instance is not written. The trap has a point of its own.
//! - At an epoch deadline everything is written. The call has no point, but its block is cold and therefore placed
//!   after the points of its function, so the search finds one of those.
//! - Out of fuel, the call precedes the first point. The search leaves the function, and panics in the first function
//!   of a text.
//!
//! # The idea
//! A backtrace finds its frames in another, reliable way: by the ranges of the functions in the text
//! (`ModuleRegistry::lookup_frame_info`). It skips everything that is not a function of a module. The frames come from
//! the backtrace, and a handle is used only to read the values of a frame that has slots according to the backtrace.
//!
//! The invariant: the n-th handle is used only if it is certain to be the n-th frame of the backtrace. This is certain
//! - if the backtrace has as many frames as the stack, because then the stack has no start-up code;
//! - if there is one activation, because start-up code can only be its oldest frame. The last handle is not used if a
//!   module of the store has a start function.
//!
//! Otherwise the frames are those of the backtrace, without values. The number of frames on the stack, including
//! start-up code, is only in the `Debug` text of a backtrace. If that text has an unexpected form, the number is
//! unknown, and only values are lost.
//!
//! # The cost
//! Every exception that a guest throws is recorded, so the cost per frame matters. Formatting the text takes longer
//! than everything else. It happens only if there are several activations or a start function.
//!
//! # Alternatives tried
//! - Comparing a handle's number of locals with the function's: they can match by accident.
//! - Splitting a backtrace into activations by the calls at which its frames are: ambiguous for indirect and tail
//!   calls.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use wasmparser::ValType;
use wasmtime::{
    AsContextMut, DebugEvent, ExternType, FrameHandle, Module, StoreContextMut, Trap, Val,
    WasmBacktrace,
};

use super::bytecode::{self, Entry, Positions, Shape, Shapes};
use super::wasm_frame::{WasmFrame, of_backtrace};
use corestream::Value;

/// The event at which a stack is read, as far as it affects the youngest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A stack overflow.
    Overflow,
    /// An epoch deadline.
    Interrupt,
    /// Another or an unknown event.
    Other,
}

impl Moment {
    pub(super) fn of(event: &DebugEvent<'_>) -> Self {
        match event {
            DebugEvent::Trap(Trap::StackOverflow) => Self::Overflow,
            DebugEvent::Trap(Trap::Interrupt) => Self::Interrupt,
            _ => Self::Other,
        }
    }
}

/// The frames of a stack, from youngest to oldest.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    pub(super) frames: Vec<WasmFrame>,
    /// Whether the list is certain to be complete.
    pub(super) complete: bool,
}

/// Reads the current stack of `store`. Returns an empty stack without guest debugging, or if no wasm is running.
///
/// Wasmtime 48 panics at a frame of its own between two frames of the guest, such as that of a component's
/// `resource.drop` that calls a destructor (`wasmtime/src/runtime/debug.rs`, `FrameData`). No public function tells that
/// there is one. The stack then has the frames of the backtrace, without values.
pub(super) fn of_stack<T>(store: &mut StoreContextMut<'_, T>, moment: Moment) -> Stack {
    // The walk only reads, so the store is the same after a panic.
    let walked = catch_unwind(AssertUnwindSafe(|| walk(store, moment)));
    walked.unwrap_or_else(|_| {
        let backtrace = WasmBacktrace::force_capture(&*store);
        let frames = of_backtrace(backtrace.frames());
        let complete = frames_on_stack(&backtrace) == Some(frames.len());
        Stack { frames, complete }
    })
}

fn walk<T>(store: &mut StoreContextMut<'_, T>, moment: Moment) -> Stack {
    // This lists the activations and does not visit any frame.
    let activations = store.debug_exit_frames().size_hint().1;
    if activations == Some(0) {
        return Stack::default();
    }
    let backtrace = WasmBacktrace::force_capture(&*store);
    let known = of_backtrace(backtrace.frames());
    if known.is_empty() {
        return Stack::default();
    }
    let mut modules = Modules::default();
    for frame in &known {
        modules.add(&frame.module, frame.function);
    }
    modules.find_entries();
    let mut entered: Vec<_> = known.iter().map(|frame| modules.is_entered(frame)).collect();
    if moment == Moment::Overflow
        && let Some(youngest) = entered.first_mut()
    {
        *youngest = true;
    }
    // Even taking the handle of a frame that is out of fuel can panic. The event only concerns the youngest frame.
    let no_point = known.iter().zip(&entered).enumerate().any(|(at, (frame, entered))| {
        *entered && modules.is_first(frame) && (at > 0 || moment == Moment::Other)
    });
    let one_activation = activations == Some(1);
    let (limit, complete) = if !no_point && one_activation && !any_start(store) {
        // There is no start-up code, so all handles are frames. The backtrace may list only the youngest ones.
        (Some(usize::MAX), true)
    } else {
        // Only in this case, because formatting a deep stack takes longer than everything else.
        let on_stack = frames_on_stack(&backtrace);
        let limit =
            if no_point { None } else { handle_limit(known.len(), on_stack, one_activation) };
        (limit, on_stack == Some(known.len()))
    };
    drop(backtrace);
    let Some(limit) = limit else {
        return Stack { frames: known, complete };
    };
    let handles = take_handles(store, limit);
    if handles.len() < known.len() {
        return Stack { frames: known, complete };
    }
    let mut known = known.into_iter().zip(entered);
    let mut found = Vec::with_capacity(handles.len());
    for (at, handle) in handles.into_iter().enumerate() {
        match known.next() {
            Some((frame, true)) => {
                let youngest = (at == 0).then_some(moment);
                found.push(Found::entered(handle, frame, youngest, &modules));
            }
            Some((frame, false)) => {
                let found_here =
                    Found::new(store, handle).filter(|found| found.is(&frame, &modules));
                found.push(match found_here {
                    Some(found) => Found { exact: frame.offset, ..found },
                    None => Found::of(frame),
                });
            }
            None => match Found::new(store, handle) {
                Some(found_here) => {
                    modules.add(&found_here.frame.module, found_here.frame.function);
                    found.push(found_here);
                }
                None => break,
            },
        }
    }
    Stack { frames: with_values(store, found, &modules), complete }
}

/// Returns whether a module of the store may have a start function.
fn any_start<T>(store: &mut StoreContextMut<'_, T>) -> bool {
    let modules = store.as_context_mut().debug_all_modules();
    modules.iter().any(|module| module.debug_bytecode().is_none_or(bytecode::has_start))
}

/// Returns the number of handles that may be used if start-up code may be on the stack, or `None` if none may.
fn handle_limit(known: usize, on_stack: Option<usize>, one_activation: bool) -> Option<usize> {
    if on_stack == Some(known) {
        return Some(known);
    }
    if !one_activation {
        return None;
    }
    // The backtrace is truncated, or the oldest frame on the stack is start-up code.
    let but_one = on_stack.and_then(|frames| frames.checked_sub(1));
    Some(but_one.map_or(known, |frames| frames.max(known)))
}

/// Takes the handles of the youngest frames, at most `limit`. Does not visit other frames.
fn take_handles<T>(store: &mut StoreContextMut<'_, T>, limit: usize) -> Vec<FrameHandle> {
    let mut handles = Vec::new();
    let exits: Vec<_> = store.debug_exit_frames().collect();
    for exit in exits {
        let mut next = Some(exit);
        while let Some(handle) = next {
            if handles.len() == limit {
                return handles;
            }
            handles.push(handle.clone());
            if handles.len() == limit {
                return handles;
            }
            // A handle is only invalid after the guest has continued, which it has not.
            next = handle.parent(&mut *store).unwrap_or(None);
        }
    }
    handles
}

/// Counts the frames between entries into wasm and exits from it, including those that a backtrace does not list.
/// Returns `None` if the count is unknown.
///
/// This formats the whole backtrace, which takes a microsecond per frame.
fn frames_on_stack(backtrace: &WasmBacktrace) -> Option<usize> {
    let mut counter = Counter::new();
    write!(counter, "{backtrace:?}").ok()?;
    counter.finish()
}

/// Counts the frames in the `Debug` text of a backtrace.
///
/// The last field of the text lists all frames on the stack: `_runtime_trace: Backtrace([Frame { pc: 1, fp: 2 }, ...])
/// }`. The text of a deep stack has megabytes, so the counter does not store it.
///
/// Names before that field come from the guest. They are in quotes, and the text after the last such field has no
/// quotes.
struct Counter {
    field: Finder,
    frame: Finder,
    /// The number of frames since the last start of the field, or `None` before it and in case of doubt.
    frames: Option<usize>,
    /// Whether the list has ended.
    ended: bool,
}

impl Counter {
    fn new() -> Self {
        let field = Finder::new(b"_trace: Backtrace([");
        Self { field, frame: Finder::new(b"Frame { pc: "), frames: None, ended: false }
    }

    fn finish(self) -> Option<usize> {
        self.frames.filter(|_| self.ended)
    }
}

impl Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let (field, frame) = (self.field.ends_at(byte), self.frame.ends_at(byte));
            if field {
                self.frames = Some(0);
                self.ended = false;
            } else if frame {
                self.frames = self.frames.and_then(|frames| frames.checked_add(1));
            } else if byte == b'"' {
                self.frames = None;
            } else if byte == b']' {
                self.ended = true;
            }
        }
        Ok(())
    }
}

/// Searches for a text in a stream of bytes.
///
/// The first byte of the text must not occur again in it. Then no other match can have started when a match breaks off,
/// and matches do not overlap, so every byte is examined once.
struct Finder {
    text: &'static [u8],
    /// The rest of the text after the matched part.
    rest: &'static [u8],
}

impl Finder {
    fn new(text: &'static [u8]) -> Self {
        debug_assert!(text.split_first().is_some_and(|(first, rest)| !rest.contains(first)));
        Self { text, rest: text }
    }

    /// Takes the next byte. Returns whether a match of the text ends there.
    fn ends_at(&mut self, byte: u8) -> bool {
        let after = |text: &'static [u8]| text.split_first().filter(|(next, _)| **next == byte);
        let matched = after(self.rest).or_else(|| after(self.text));
        self.rest = matched.map_or(self.text, |(_, rest)| rest);
        let found = self.rest.is_empty();
        if found {
            self.rest = self.text;
        }
        found
    }
}

/// The parsed bytecode of the modules on the stack.
#[derive(Default)]
struct Modules {
    by_id: BTreeMap<u64, OnStack>,
}

struct OnStack {
    module: Module,
    /// The number of functions that the module imports, or `None` if it exceeds an index space.
    imported: Option<u32>,
    /// The module's functions on the stack, by their indices among the defined functions.
    defined: HashSet<u32>,
    entries: HashMap<u32, Entry>,
}

impl Modules {
    /// Adds a function, by its index in the module's index space.
    fn add(&mut self, module: &Module, function: u32) {
        let on_stack = self.by_id.entry(module.debug_index_in_engine()).or_insert_with(|| {
            let (imported, defined) = (imported_functions(module), HashSet::new());
            OnStack { module: module.clone(), imported, defined, entries: HashMap::new() }
        });
        on_stack.defined.extend(on_stack.imported.and_then(|count| function.checked_sub(count)));
    }

    fn find_entries(&mut self) {
        for on_stack in self.by_id.values_mut() {
            let bytes = on_stack.module.debug_bytecode().unwrap_or_default();
            on_stack.entries = bytecode::entries(bytes, &on_stack.defined);
        }
    }

    fn of(&self, module: &Module) -> Option<&OnStack> {
        self.by_id.get(&module.debug_index_in_engine())
    }

    /// Returns the index of a frame's function among the functions that its module defines.
    fn defined(&self, frame: &WasmFrame) -> Option<u32> {
        frame.function.checked_sub(self.of(&frame.module)?.imported?)
    }

    fn entry(&self, frame: &WasmFrame) -> Option<Entry> {
        self.of(&frame.module)?.entries.get(&self.defined(frame)?).copied()
    }

    /// Returns whether a frame may not have reached the first operator of its function.
    fn is_entered(&self, frame: &WasmFrame) -> bool {
        self.entry(frame).is_none_or(|entry| is_before(frame.offset, entry))
    }

    /// Returns whether the frame's function may be the first with points in the text.
    fn is_first(&self, frame: &WasmFrame) -> bool {
        self.defined(frame).is_none_or(|defined| defined == 0)
    }
}

/// Returns whether an offset may be before the first operator of its function.
fn is_before(offset: Option<u32>, entry: Entry) -> bool {
    offset.is_none_or(|offset| offset < entry.offset)
}

fn imported_functions(module: &Module) -> Option<u32> {
    let imported = module.imports().filter(|import| matches!(import.ty(), ExternType::Func(_)));
    u32::try_from(imported.count()).ok()
}

/// A frame, and the location of its values.
struct Found {
    frame: WasmFrame,
    values: Option<Values>,
    /// The offset in the function, if the backtrace has it.
    exact: Option<u32>,
}

/// The data needed to read the values of a frame.
struct Values {
    handle: FrameHandle,
    /// The index of the function among those that the module defines.
    defined: u32,
    /// The offset in bytes from the start of the module.
    position: u32,
    /// Whether the frame has no operands yet.
    entered: bool,
}

impl Found {
    /// Returns a frame without values.
    fn of(frame: WasmFrame) -> Self {
        let exact = frame.offset;
        Self { frame, values: None, exact }
    }

    /// Returns the frame of a handle that has reached an operator of its function.
    fn new<T>(store: &mut StoreContextMut<'_, T>, handle: FrameHandle) -> Option<Self> {
        let (defined, position) = handle.wasm_function_index_and_pc(&mut *store).ok()??;
        let instance = handle.instance(&mut *store).ok()?;
        let module = instance.module(&mut *store).clone();
        let (defined, position) = (defined.as_u32(), position.raw());
        let function = imported_functions(&module)?.checked_add(defined)?;
        let (locals, stack) = (Vec::new(), Vec::new());
        let instance = Some(instance);
        let frame = WasmFrame { module, instance, function, offset: None, locals, stack };
        let values = Some(Values { handle, defined, position, entered: false });
        Some(Self { frame, values, exact: None })
    }

    /// Returns a frame that was only entered. `moment` is known for the youngest frame. Does not read the instance.
    fn entered(
        handle: FrameHandle,
        frame: WasmFrame,
        moment: Option<Moment>,
        modules: &Modules,
    ) -> Self {
        let mut found = Self::of(frame);
        if !matches!(moment, Some(Moment::Overflow | Moment::Interrupt)) {
            return found;
        }
        // The values are certain to be written only if this is the start of the function.
        let entry = modules.entry(&found.frame);
        let entry = entry.filter(|entry| is_before(found.frame.offset, *entry));
        if let (Some(entry), Some(defined)) = (entry, modules.defined(&found.frame)) {
            let position = entry.position;
            found.values = Some(Values { handle, defined, position, entered: true });
        }
        found
    }

    fn is(&self, frame: &WasmFrame, modules: &Modules) -> bool {
        let defined = self.values.as_ref().map(|values| values.defined);
        Module::same(&self.frame.module, &frame.module)
            && self.frame.function == frame.function
            && defined == modules.defined(frame)
    }
}

/// Reads the values of frames.
fn with_values<T>(
    store: &mut StoreContextMut<'_, T>,
    found: Vec<Found>,
    modules: &Modules,
) -> Vec<WasmFrame> {
    let mut positions: HashMap<u64, Positions> = HashMap::new();
    for found in &found {
        if let Some(values) = &found.values {
            let positions =
                positions.entry(found.frame.module.debug_index_in_engine()).or_default();
            positions.entry(values.defined).or_default().insert(values.position);
        }
    }
    let shapes: HashMap<u64, _> = positions
        .into_iter()
        .map(|(id, positions)| {
            let module =
                modules.by_id.get(&id).and_then(|on_stack| on_stack.module.debug_bytecode());
            (id, bytecode::shapes(module.unwrap_or_default(), &positions))
        })
        .collect();
    let frame = |found: Found| {
        let Found { mut frame, values, exact } = found;
        let Some(values) = values else { return frame };
        let shapes = shapes.get(&frame.module.debug_index_in_engine());
        let shapes = shapes.and_then(|shapes| shapes.get(&(values.defined, values.position)));
        if values.entered {
            let shape = shapes.and_then(|shapes| shapes.here.as_ref());
            frame.locals = locals(store, &values.handle, shape);
            return frame;
        }
        let shape = shapes.and_then(|shapes| choose(shapes, exact));
        frame.locals = locals(store, &values.handle, shape);
        // At an epoch deadline the engine reports another position in the same function. The types of locals are the
        // same everywhere in a function, those of operands are not.
        if exact.is_none_or(|exact| shape.is_some_and(|shape| shape.offset == exact)) {
            frame.stack = stack(store, &values.handle, shape);
        }
        frame.offset = exact.or(shape.map(|shape| shape.offset));
        frame
    };
    found.into_iter().map(frame).collect()
}

/// Returns the instruction at which a frame is: the one at `offset` in its function if known, otherwise the call that
/// the frame made.
fn choose(shapes: &Shapes, offset: Option<u32>) -> Option<&Shape> {
    let Shapes { call, here } = shapes;
    let is_there = |shape: &&Shape| offset.is_none_or(|offset| shape.offset == offset);
    call.as_ref().filter(is_there).or(here.as_ref()).or(call.as_ref())
}

fn locals<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    // A handle is only invalid after the guest has continued, which it has not.
    let Ok(count) = frame.num_locals(&mut *store) else { return Vec::new() };
    let ty = |i| shape.and_then(|shape| shape.locals.get(i).copied());
    (0..count).map(|i| read(ty(i as usize), || frame.local(&mut *store, i))).collect()
}

fn stack<T>(
    store: &mut StoreContextMut<'_, T>,
    frame: &FrameHandle,
    shape: Option<&Shape>,
) -> Vec<Value> {
    let Ok(count) = frame.num_stacks(&mut *store) else { return Vec::new() };
    let ty = |i| shape.and_then(|shape| shape.stack.get(i).copied().flatten());
    (0..count).map(|i| read(ty(i as usize), || frame.stack(&mut *store, i))).collect()
}

/// Reads a value if a dump can encode its type.
fn read(ty: Option<ValType>, value: impl FnOnce() -> wasmtime::Result<Val>) -> Value {
    if !matches!(ty, Some(ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64)) {
        return Value::Missing;
    }
    match value() {
        Ok(Val::I32(x)) => Value::I32(x),
        Ok(Val::I64(x)) => Value::I64(x),
        Ok(Val::F32(bits)) => Value::F32(bits),
        Ok(Val::F64(bits)) => Value::F64(bits),
        _ => Value::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the frames in a text, as a whole and byte by byte, and checks that both agree.
    fn count(text: &str) -> Option<usize> {
        let (mut whole, mut bytes) = (Counter::new(), Counter::new());
        whole.write_str(text).unwrap();
        text.split("").for_each(|part| bytes.write_str(part).unwrap());
        let count = whole.finish();
        assert_eq!(bytes.finish(), count, "{text}");
        count
    }

    #[test]
    fn counts_the_frames_of_a_text() {
        let frame = "Frame { pc: 94, fp: 140 }";
        for (text, expected) in [
            ("", None),
            ("WasmBacktrace { wasm_trace: [], _runtime_trace: Backtrace([]) }", Some(0)),
            ("{ _runtime_trace: Backtrace([FRAME]) }", Some(1)),
            ("{ _runtime_trace: Backtrace([FRAME, FRAME, FFrame { FRAME]) }", Some(3)),
            ("{ __runtime_trace_trace: Backtrace([FRAME, FRAME]) }", Some(2)),
            // Uses the last list.
            (
                "{ _runtime_trace: Backtrace([FRAME]), _runtime_trace: Backtrace([FRAME, FRAME]) }",
                Some(2),
            ),
            // The list has no end, or the field has another name.
            ("{ _runtime_trace: Backtrace([FRAME, FRAME", None),
            ("{ _runtime_trace: [FRAME] }", None),
            // The names of a guest are in quotes.
            (r#"{ name: Some("_runtime_trace: Backtrace([FRAME])") }"#, None),
            (
                r#"{ name: Some("_runtime_trace: Backtrace([FRAME"), _runtime_trace: Backtrace([FRAME]) }"#,
                Some(1),
            ),
        ] {
            assert_eq!(count(&text.replace("FRAME", frame)), expected, "{text}");
        }
    }
}
