//! The MD5 hashes of source files, which DWARF 5 records.

use std::collections::HashMap;

use gimli::{Reader, UnitRef};

use crate::budget::BudgetReader;
use crate::demangle::truncate;

/// The hashes of a unit's source files, by path.
pub type FileHashes = HashMap<String, [u8; 16]>;

/// Returns the hashes of a unit's source files. Joins paths as addr2line does, so that its paths are keys.
///
/// # Errors
/// Returns an error if the entries are malformed.
pub fn file_hashes(unit: UnitRef<'_, BudgetReader<'_>>) -> gimli::Result<FileHashes> {
    let mut hashes = FileHashes::new();
    let Some(program) = &unit.line_program else { return Ok(hashes) };
    let header = program.header();
    if !header.file_has_md5() {
        return Ok(hashes);
    }
    for file in header.file_names() {
        let mut path = match &unit.comp_dir {
            Some(directory) => directory.to_string_lossy()?.into_owned(),
            None => String::new(),
        };
        // Directory 0 is that of the unit.
        if file.directory_index() != 0
            && let Some(directory) = file.directory(header)
        {
            push(&mut path, &unit.attr_string(directory)?.to_string_lossy()?);
        }
        push(&mut path, &unit.attr_string(file.path_name())?.to_string_lossy()?);
        hashes.insert(truncate(&path), *file.md5());
    }
    Ok(hashes)
}

/// Appends a path, which replaces the first one if it is absolute.
fn push(path: &mut String, more: &str) {
    let is_absolute = |path: &str, root: char, after_drive: &str| {
        path.starts_with(root) || path.get(1..3) == Some(after_drive)
    };
    if is_absolute(more, '/', ":/") || is_absolute(more, '\\', ":\\") {
        more.clone_into(path);
        return;
    }
    let separator = if is_absolute(path, '\\', ":\\") { '\\' } else { '/' };
    if !path.is_empty() && !path.ends_with(separator) {
        path.push(separator);
    }
    path.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_paths_as_addr2line_does() {
        let joined = |first: &str, more: &str| {
            let mut path = first.to_owned();
            push(&mut path, more);
            path
        };
        assert_eq!(joined("/build", "src/a.c"), "/build/src/a.c");
        assert_eq!(joined("/build/", "a.c"), "/build/a.c");
        assert_eq!(joined("/build", "/usr/a.h"), "/usr/a.h");
        assert_eq!(joined("C:\\build", "a.c"), "C:\\build\\a.c");
        assert_eq!(joined("", "a.c"), "a.c");
    }
}
