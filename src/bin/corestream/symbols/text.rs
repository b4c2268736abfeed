//! Guests in text form, as `corestream run` takes them.

use std::path::Path;

use wat::{Detect, GenerateDwarf, Parser};

/// The module that a text is, the same that is run, with the lines of the text as its debugging
/// information; all else as it is.
///
/// # Errors
/// There is a mistake in the text; in one line.
pub fn module(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if !matches!(Detect::from_bytes(&bytes), Detect::WasmText) {
        return Ok(bytes);
    }
    let mut parser = Parser::new();
    let parsed = parser.generate_dwarf(GenerateDwarf::Lines).parse_bytes(Some(path), &bytes);
    parsed.map(|module| module.into_owned()).map_err(|error| {
        // What it is and where, before lines of the text.
        let error = error.to_string();
        let lines: Vec<_> = error.lines().take(2).map(str::trim).collect();
        lines.join(" ")
    })
}
