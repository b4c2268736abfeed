//! Modules in the WebAssembly text format.

use std::path::Path;

use wat::{GenerateDwarf, Parser};

/// Compiles a module in text form to binary form. With `lines`, adds debugging information about the lines of the text;
/// the rest of the module is the same.
///
/// # Errors
/// Returns the first error in the text as one line, `PATH:LINE:COLUMN: cause`.
pub fn module(path: &Path, text: &[u8], lines: bool) -> Result<Vec<u8>, String> {
    let name = path.display();
    let text = std::str::from_utf8(text).map_err(|error| {
        format!("{name}: the text is not valid UTF-8 at offset {:#x}", error.valid_up_to())
    })?;
    let mut parser = Parser::new();
    if lines {
        parser.generate_dwarf(GenerateDwarf::Lines);
    }
    parser.parse_str(Some(path), text).map_err(|error| one_line(path, &error.to_string()))
}

/// Reformats an error of the parser as one line with place and cause. Omits the excerpt of the text.
fn one_line(path: &Path, message: &str) -> String {
    let name = path.display();
    let (cause, rest) = message.split_once(&format!("\n     --> {name}:")).unwrap_or((message, ""));
    let cause = cause.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match rest.lines().next().filter(|place| !place.is_empty()) {
        Some(place) => format!("{name}:{place}: {cause}"),
        None => format!("{name}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_place_of_an_error() {
        let fails = |text: &[u8]| module(Path::new("a b.wat"), text, false).unwrap_err();
        assert_eq!(fails(b"(module\n  (funk))"), "a b.wat:2:4: expected valid module field");
        assert_eq!(
            fails(b"(module\n  (func (call $none)))"),
            "a b.wat:2:15: unknown func: failed to find name `$none`"
        );
        assert!(fails(b"(module").starts_with("a b.wat:1:8: "), "{}", fails(b"(module"));
        assert_eq!(fails(b"(module \xff)"), "a b.wat: the text is not valid UTF-8 at offset 0x8");
    }
}
