//! Detects the format of a file that should contain a WebAssembly module or component, such as a guest or a core dump.

use wasmparser::{Parser, Payload};

/// The form of a module or component in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In binary form.
    Binary,
    /// In text form.
    Text,
}

/// The magic bytes of compressed files, the name of each format, and the command that decompresses it.
const COMPRESSED: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "gzip", "gzip -d"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"PK\x03\x04", "zip", "unzip"),
];

/// The number of bytes that [`compression`] needs, at most.
pub const MAGIC_BYTES: usize = 6;

/// The magic bytes of the binary form; the version and the layer follow, two bytes each.
const MAGIC: &[u8] = b"\0asm";
/// The version and the layer of a core module.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];

/// What to do with a component.
#[derive(Clone, Copy, Debug)]
pub enum Components {
    /// The function [`form`] returns the form of a component as it does for a core module.
    #[cfg_attr(not(feature = "run"), allow(dead_code))]
    Accepted,
    /// A component in text form is an error with this message. The remedy differs from that for a core module in text form.
    #[cfg_attr(feature = "run", allow(dead_code))]
    TextRefused(&'static str),
}

impl Components {
    fn check_text(self) -> Result<Form, String> {
        match self {
            Self::Accepted => Ok(Form::Text),
            Self::TextRefused(message) => Err(message.into()),
        }
    }
}

/// Returns the form of the module or component in `bytes`.
///
/// # Errors
/// Returns a message if the file contains neither. The message names the actual format, without the path.
pub fn form(bytes: &[u8], components: Components) -> Result<Form, String> {
    let Some(header) = bytes.strip_prefix(MAGIC) else {
        return text_or_other(bytes, components);
    };
    match header.first_chunk() {
        None => Err("truncated: a module has a header of 8 bytes".into()),
        Some(&CORE_MODULE) if is_core_dump(bytes) => {
            Err("is a core dump, not a guest; use `corestream inspect`".into())
        }
        Some(&CORE_MODULE) => Ok(Form::Binary),
        Some([_, _, 1, 0]) => Ok(Form::Binary),
        Some([minor, major, ..]) => {
            let version = u16::from_le_bytes([*minor, *major]);
            Err(format!("unknown version {version} of the WebAssembly binary format"))
        }
    }
}

/// Returns the message for a compressed file, with its format and the remedy, or `None` for another file. `bytes` is the
/// file or its start.
pub fn compression(bytes: &[u8]) -> Option<String> {
    let (_, name, command) = COMPRESSED.iter().find(|(magic, ..)| bytes.starts_with(magic))?;
    Some(format!("is compressed with {name}; decompress it with `{command}` first"))
}

fn text_or_other(bytes: &[u8], components: Components) -> Result<Form, String> {
    if let Some(cause) = compression(bytes) {
        return Err(cause);
    }
    if bytes.starts_with(b"\x7fELF") {
        // Wasmtime's precompiled modules are ELF files too.
        let precompiled = bytes.windows(10).any(|window| window == b".wasmtime.");
        let cause = if precompiled {
            "is a module precompiled by Wasmtime; name its .wasm file instead"
        } else {
            "is an ELF file, not a WebAssembly module"
        };
        return Err(cause.into());
    }
    if bytes.starts_with(b"#!") {
        return Err("is a script, not a WebAssembly module".into());
    }
    if bytes.is_empty() {
        return Err("is empty, not a WebAssembly module".into());
    }
    let text = after_blanks(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let Some(text) = text.strip_prefix(b"(") else {
        return Err("is not a WebAssembly module, neither in binary nor in text form".into());
    };
    match after_blanks(text).strip_prefix(b"component") {
        Some(rest) if !rest.first().is_some_and(|byte| is_id_char(*byte)) => {
            components.check_text()
        }
        _ => Ok(Form::Text),
    }
}

/// Skips white space and comments (core specification, "White Space").
fn after_blanks(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        if text.starts_with(b";;") {
            text = text.iter().position(|byte| *byte == b'\n').map_or(&[], |end| &text[end..]);
        } else if text.starts_with(b"(;") {
            text = after_block_comment(text);
        } else {
            return text;
        }
    }
}

/// Skips the block comment that the text begins with. Block comments nest.
fn after_block_comment(text: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_u64, 0);
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"(;" => depth += 1,
            b";)" if depth == 1 => return &text[at + 2..],
            b";)" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    &[]
}

/// Returns whether this byte can continue a keyword (core specification, "Tokens").
fn is_id_char(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),;[]{}".contains(&byte)
}

/// Returns whether a module is a core dump: it has the custom section `core` and another one of the format, in any order.
fn is_core_dump(bytes: &[u8]) -> bool {
    let (mut core, mut listed) = (false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::CustomSection(section)) => {
                core |= section.name() == "core";
                listed |= matches!(section.name(), "corestack" | "coremodules" | "coreinstances");
            }
            // Core dumps have no code section.
            Ok(Payload::CodeSectionStart { .. }) | Err(_) => break,
            Ok(_) => {}
        }
    }
    core && listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_both_forms() {
        let form = |bytes: &[u8]| form(bytes, Components::TextRefused("component"));
        assert_eq!(form(b"\0asm\x01\0\0\0"), Ok(Form::Binary));
        for text in [
            "(module)",
            "\u{feff} (module)",
            ";; a (component)\n(module)",
            "(; (; (component ;) ;)(module)",
            "(func (export \"component\"))",
            "(components)",
            "(",
        ] {
            assert_eq!(form(text.as_bytes()), Ok(Form::Text), "{text}");
        }
    }

    #[test]
    fn recognizes_components_in_both_forms() {
        let form = |bytes: &[u8]| form(bytes, Components::TextRefused("component"));
        assert_eq!(form(b"\0asm\x0d\0\x01\0"), Ok(Form::Binary));
        for bytes in [
            &b"(component)"[..],
            b" ;; x\n (; y (; z ;) ;) (\n component $id",
            b"(component(core module))",
            b"(component",
        ] {
            assert_eq!(form(bytes), Err("component".into()), "{bytes:?}");
            assert_eq!(super::form(bytes, Components::Accepted), Ok(Form::Text), "{bytes:?}");
        }
    }

    #[test]
    fn detects_compression_in_the_first_bytes() {
        assert!(COMPRESSED.iter().all(|(magic, ..)| magic.len() <= MAGIC_BYTES));
        assert!(COMPRESSED.iter().all(|(magic, ..)| compression(magic).is_some()));
        assert_eq!(compression(b"\0asm\x01\0"), None);
        assert_eq!(compression(b""), None);
    }

    #[test]
    fn reports_other_formats() {
        for (bytes, expected) in [
            (&b""[..], "is empty"),
            (b"\0asm\x01\0", "truncated: a module has a header"),
            (b"\0asm\x02\0\0\0", "unknown version 2 of"),
            (b"\x1f\x8b\x08\0", "is compressed with gzip; decompress it with `gzip -d` first"),
            (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
            (b"\x7fELF\x02", "is an ELF file"),
            (b"\x7fELF\x02 .wasmtime.engine", "is a module precompiled by Wasmtime"),
            (b"#!/bin/sh", "is a script"),
            (b"console.log(1)", "is not a WebAssembly module"),
            (b"(; without end", "is not a WebAssembly module"),
            (b"\xff\xfe", "is not a WebAssembly module"),
            (b"\0asm\x01\0\0\0\0\x06\x04core\0\0\x0a\x09corestack", "is a core dump, not a guest"),
        ] {
            let cause = form(bytes, Components::TextRefused("component")).unwrap_err();
            assert!(cause.starts_with(expected), "{bytes:?}: {cause}");
        }
    }
}
