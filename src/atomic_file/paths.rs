//! Splits the path of a file.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns the directory of a path.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns the last part of a path that was checked to have one.
pub(super) fn base_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// Returns the file name of a path.
///
/// # Errors
/// Returns an error if the path ends with `/` or `/.`.
pub(super) fn file_name(path: &Path) -> io::Result<&OsStr> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    let name = path.file_name().ok_or_else(|| invalid("the path names no file"))?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
        return Err(invalid("the path names a directory, not a file"));
    }
    Ok(name)
}
