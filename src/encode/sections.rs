//! Encodes the small sections before the data section, with wasm-encoder.
//!
//! Their order is `core, coremodules, coreinstances, corestack` (one for each thread), `corestream.trap,
//! corestream.modules, corestream.notes, memory, global`. `corestream` comes after the first one. Its content depends
//! on the layout, so it is encoded separately.
//!
//! The sections that explain a crash come before the large ones, so a truncated stream still holds the backtrace.

use wasm_encoder::{
    AbstractHeapType, ConstExpr, CoreDumpInstancesSection, CoreDumpModulesSection, CoreDumpSection,
    CoreDumpStackSection, CoreDumpValue, CustomSection, Encode, GlobalSection, GlobalType,
    HeapType, Ieee32, Ieee64, MemorySection, MemoryType, Module, RefType, ValType,
};
use zerocopy::IntoBytes;

use crate::format::{
    HAS_SHA256, IDENTITIES, IDENTITIES_VERSION, IdentitiesHead, IdentityHead, NOTES, NOTES_VERSION,
    TRAP, TRAP_VERSION, TrapHead, UNKNOWN_TIME,
};
use crate::limits::{MAX_NOTE_BYTES, MAX_NOTES, PAGE_BYTES, UNKNOWN_INDEX};
use crate::model::{
    self, CoreDump, Frame, GlobalValue, ModuleIdentity, NumberType, UnixTime, Value,
};
use crate::plan::{KeptParts, Prelude, kept_build_id, truncate_name, truncate_trap};

/// Encodes the header of the module and all sections before `data`, except for `corestream`. `found` are the notes of
/// the plan.
pub(crate) fn encode_prelude(dump: &CoreDump<'_>, kept: &KeptParts, found: &[String]) -> Prelude {
    let mut module = Module::new();
    module.section(&CoreDumpSection::new(truncate_name(&dump.name)));
    let core_len = module.len();
    module.section(&encode_modules(dump, kept));
    module.section(&encode_instances(dump, kept));
    for (thread, frames) in dump.threads.iter().zip(&kept.frames) {
        let mut stack = CoreDumpStackSection::new(truncate_name(&thread.name));
        for frame in thread.frames.iter().take(*frames) {
            add_frame(&mut stack, frame);
        }
        module.section(&stack);
    }
    if let Some(body) = encode_trap(dump) {
        module.section(&CustomSection { name: TRAP.into(), data: body.into() });
    }
    if let Some(body) = encode_identities(dump, kept) {
        module.section(&CustomSection { name: IDENTITIES.into(), data: body.into() });
    }
    // A guest that was read from a dump may already have these notes.
    let found = found.iter().filter(|note| !dump.notes.contains(note));
    let notes: Vec<_> = dump.notes.iter().chain(found).take(MAX_NOTES).collect();
    if !notes.is_empty() {
        module.section(&CustomSection { name: NOTES.into(), data: encode_notes(&notes).into() });
    }
    if !kept.memories.items.is_empty() {
        module.section(&encode_memories(dump, kept));
    }
    if !kept.globals.items.is_empty() {
        module.section(&encode_globals(dump, kept));
    }
    let mut core = module.finish();
    let state = core.split_off(core_len);
    Prelude { core, state }
}

/// Encodes the body of the section with notes, after its name.
fn encode_notes(notes: &[&String]) -> Vec<u8> {
    let mut body = NOTES_VERSION.to_le_bytes().to_vec();
    notes.len().encode(&mut body);
    for note in notes {
        note.split_at(note.floor_char_boundary(MAX_NOTE_BYTES)).0.encode(&mut body);
    }
    body
}

/// Encodes the body of the section with the trap, after its name. Returns `None` if neither the message nor the time is
/// known.
fn encode_trap(dump: &CoreDump<'_>) -> Option<Vec<u8>> {
    let message = truncate_trap(dump.trap.as_deref().unwrap_or_default());
    if message.is_empty() && dump.captured_at.is_none() {
        return None;
    }
    let head = TrapHead {
        captured_at: dump.captured_at.map_or(UNKNOWN_TIME, UnixTime::nanoseconds).into(),
        message_len: u32::try_from(message.len()).ok()?.into(),
    };
    let mut body = TRAP_VERSION.to_le_bytes().to_vec();
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(message.as_bytes());
    Some(body)
}

/// Encodes the body of the section with the identities of modules, after its name. Returns `None` if no module has one.
fn encode_identities(dump: &CoreDump<'_>, kept: &KeptParts) -> Option<Vec<u8>> {
    let modules = dump.modules.iter().take(kept.modules);
    let is_known = |identity: &ModuleIdentity| {
        identity.sha256.is_some() || !kept_build_id(identity).is_empty()
    };
    if !modules.clone().any(|module| is_known(&module.identity)) {
        return None;
    }
    let mut body = IDENTITIES_VERSION.to_le_bytes().to_vec();
    let head = IdentitiesHead { modules: u32::try_from(kept.modules).ok()?.into() };
    body.extend_from_slice(head.as_bytes());
    for module in modules {
        let (sha256, build_id) = (module.identity.sha256, kept_build_id(&module.identity));
        let head = IdentityHead {
            flags: if sha256.is_some() { HAS_SHA256 } else { 0 }.into(),
            build_id_len: u32::try_from(build_id.len()).ok()?.into(),
        };
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(sha256.as_ref().map_or(&[][..], |sha256| sha256));
        body.extend_from_slice(build_id);
    }
    Some(body)
}

fn encode_modules(dump: &CoreDump<'_>, kept: &KeptParts) -> CoreDumpModulesSection {
    let mut section = CoreDumpModulesSection::new();
    for (i, module) in dump.modules.iter().take(kept.modules).enumerate() {
        section.module(truncate_name(&module.name_or_anonymous(i)));
    }
    section
}

fn encode_instances(dump: &CoreDump<'_>, kept: &KeptParts) -> CoreDumpInstancesSection {
    let mut section = CoreDumpInstancesSection::new();
    for instance in dump.instances.iter().take(kept.instances) {
        section.instance(
            instance.module.map_or(UNKNOWN_INDEX, |m| m.0),
            instance.memories.iter().map(|memory| kept.memories.dump_index(*memory)),
            instance.globals.iter().map(|global| kept.globals.dump_index(*global)),
        );
    }
    section
}

fn add_frame(stack: &mut CoreDumpStackSection, frame: &Frame) {
    let values = |list: &[Value]| list.iter().copied().map(encode_value).collect::<Vec<_>>();
    stack.frame(
        frame.instance.map_or(UNKNOWN_INDEX, |i| i.0),
        frame.function,
        frame.offset,
        values(&frame.locals),
        values(&frame.stack),
    );
}

fn encode_value(value: Value) -> CoreDumpValue {
    match value {
        Value::Missing => CoreDumpValue::Missing,
        Value::I32(x) => CoreDumpValue::I32(x),
        Value::I64(x) => CoreDumpValue::I64(x),
        Value::F32(bits) => CoreDumpValue::F32(Ieee32::new(bits)),
        Value::F64(bits) => CoreDumpValue::F64(Ieee64::new(bits)),
    }
}

fn encode_memories(dump: &CoreDump<'_>, kept: &KeptParts) -> MemorySection {
    let mut section = MemorySection::new();
    for memory in kept.memories.items.iter().filter_map(|index| dump.memories.get(index.0 as usize))
    {
        let ty = &memory.ty;
        section.memory(MemoryType {
            minimum: ty.minimum,
            maximum: ty.maximum,
            memory64: ty.memory64,
            shared: ty.shared,
            page_size_log2: (ty.page_size != PAGE_BYTES).then(|| ty.page_size.ilog2()),
        });
    }
    section
}

fn encode_globals(dump: &CoreDump<'_>, kept: &KeptParts) -> GlobalSection {
    let mut section = GlobalSection::new();
    for global in kept.globals.items.iter().filter_map(|index| dump.globals.get(index.0 as usize)) {
        let (val_type, init) = encode_global_value(global.value);
        section.global(GlobalType { val_type, mutable: global.mutable, shared: false }, &init);
    }
    section
}

fn encode_global_value(value: GlobalValue) -> (ValType, ConstExpr) {
    match value {
        GlobalValue::I32(x) => (ValType::I32, ConstExpr::i32_const(x)),
        GlobalValue::I64(x) => (ValType::I64, ConstExpr::i64_const(x)),
        GlobalValue::F32(bits) => (ValType::F32, ConstExpr::f32_const(Ieee32::new(bits))),
        GlobalValue::F64(bits) => (ValType::F64, ConstExpr::f64_const(Ieee64::new(bits))),
        GlobalValue::V128(x) => (ValType::V128, ConstExpr::v128_const(x.cast_signed())),
        GlobalValue::Ref(top) => {
            let heap_type = match top {
                model::RefType::Func => HeapType::FUNC,
                model::RefType::Extern => HeapType::EXTERN,
                model::RefType::Any => HeapType::ANY,
                model::RefType::Exn => abstract_type(AbstractHeapType::Exn),
                model::RefType::Cont => abstract_type(AbstractHeapType::Cont),
            };
            let ty = ValType::Ref(RefType { nullable: true, heap_type });
            (ty, ConstExpr::ref_null(heap_type))
        }
        // Validation rejects a missing value before anything is encoded.
        GlobalValue::Missing(NumberType::I32) => encode_global_value(GlobalValue::I32(0)),
        GlobalValue::Missing(NumberType::I64) => encode_global_value(GlobalValue::I64(0)),
        GlobalValue::Missing(NumberType::F32) => encode_global_value(GlobalValue::F32(0)),
        GlobalValue::Missing(NumberType::F64) => encode_global_value(GlobalValue::F64(0)),
        GlobalValue::Missing(NumberType::V128) => encode_global_value(GlobalValue::V128(0)),
    }
}

/// Returns a heap type for which wasm-encoder has no constant.
fn abstract_type(ty: AbstractHeapType) -> HeapType {
    HeapType::Abstract { shared: false, ty }
}
