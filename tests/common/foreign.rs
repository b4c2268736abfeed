//! Dumps of other writers, made by wasm-encoder or byte by byte.
#![allow(dead_code, reason = "each test uses its part")]

use wasm_encoder::{
    ConstExpr, CoreDumpInstancesSection, CoreDumpModulesSection, CoreDumpSection, DataSection,
    MemorySection, Module,
};

use crate::common::own::leb;

/// Returns a dump with these memories and segments, and with the usual sections in an unusual order.
pub fn foreign(types: &[(u64, bool)], data: &DataSection) -> Vec<u8> {
    let mut module = Module::new();
    // Custom sections can be anywhere. Most are optional.
    module.section(&wasm_encoder::CustomSection { name: "before".into(), data: (&[1][..]).into() });
    module.section(&wasm_encoder::TypeSection::new());
    let mut memories = MemorySection::new();
    for (minimum, memory64) in types {
        let (minimum, memory64) = (*minimum, *memory64);
        memories.memory(wasm_encoder::MemoryType {
            minimum,
            maximum: None,
            memory64,
            shared: false,
            page_size_log2: None,
        });
    }
    module.section(&memories);
    module.section(&CoreDumpModulesSection::new());
    module.section(data);
    module.section(&CoreDumpInstancesSection::new());
    module.section(&CoreDumpSection::new("foreign"));
    module.finish()
}

/// Returns the constant expression of an address.
pub fn address(address: u64, memory64: bool) -> ConstExpr {
    match memory64 {
        true => ConstExpr::i64_const(address.cast_signed()),
        false => ConstExpr::i32_const(u32::try_from(address).unwrap().cast_signed()),
    }
}

/// Returns the body of a custom section: its name, the bytes `before`, and a list of `count` items.
pub fn list(name: &str, before: &[u8], count: usize, item: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    leb(&mut body, name.len());
    body.extend(name.bytes());
    body.extend(before);
    leb(&mut body, count);
    body.extend(item.repeat(count));
    body
}

/// Returns a module with these sections.
pub fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    for (id, body) in sections {
        bytes.push(*id);
        leb(&mut bytes, body.len());
        bytes.extend(*body);
    }
    bytes
}

/// The section of a process.
pub const CORE: (u8, &[u8]) = (0, b"\x04core\0\x01p");
