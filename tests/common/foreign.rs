//! Dumps as others write them, by wasm-encoder or byte by byte.
#![allow(dead_code, reason = "each test uses its part")]

use wasm_encoder::{
    ConstExpr, CoreDumpInstancesSection, CoreDumpModulesSection, CoreDumpSection, DataSection,
    MemorySection, Module,
};

/// The sections that a dump of others mostly has, and these memories and segments.
pub fn foreign(types: &[(u64, bool)], data: &DataSection) -> Vec<u8> {
    let mut module = Module::new();
    // Nobody says where they come, or that they are there at all.
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

pub fn address(address: u64, memory64: bool) -> ConstExpr {
    match memory64 {
        true => ConstExpr::i64_const(address.cast_signed()),
        false => ConstExpr::i32_const(u32::try_from(address).unwrap().cast_signed()),
    }
}

/// A module of these sections.
pub fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    for (id, body) in sections {
        bytes.push(*id);
        crate::common::own::leb(&mut bytes, body.len());
        bytes.extend(*body);
    }
    bytes
}

pub const CORE: (u8, &[u8]) = (0, b"\x04core\0\x01p");
