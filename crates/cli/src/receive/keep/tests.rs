use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// Returns a directory and what keeps dumps in it under their names.
fn keeper(max_partials: Option<usize>) -> (TempDir, Keeper) {
    let directory = tempfile::tempdir().unwrap();
    let naming = Naming::new(&directory.path().join("%n")).unwrap();
    (directory, Keeper::new(naming, FileOptions::new(), max_partials))
}

fn begin(keeper: &Keeper, bytes: &[u8]) -> UnnamedFile {
    let file = keeper.begin().unwrap();
    file.file().write_all_at(bytes, 0).unwrap();
    file
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn keeps_each_dump_under_its_own_name() {
    let (directory, keeper) = keeper(None);
    for (name, expected) in [("a", "a"), ("b", "b"), ("a", "a.1"), ("", "unnamed"), ("a", "a.2")] {
        let path = keeper.keep(begin(&keeper, expected.as_bytes()), name).unwrap();
        assert_eq!(path, directory.path().join(expected));
    }
    for name in names(directory.path()) {
        assert_eq!(fs::read(directory.path().join(&name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_file_without_a_name_leaves_nothing() {
    let (directory, keeper) = keeper(None);
    drop(begin(&keeper, b"half"));
    assert_eq!(keeper.keep_partial(begin(&keeper, b"half"), "a", 4), "");
    assert!(names(directory.path()).is_empty());
}

#[test]
fn keeps_only_the_received_part_of_a_partial_dump() {
    let (directory, keeper) = keeper(Some(2));
    // Room was reserved for bytes that did not come.
    let file = begin(&keeper, b"half\0\0\0\0");
    let path = directory.path().join("a.partial");
    assert_eq!(keeper.keep_partial(file, "a", 4), format!("; kept as {}", path.display()));
    assert_eq!(fs::read(path).unwrap(), b"half");
}

#[test]
fn counts_partial_dumps_in_the_directory() {
    let (directory, keeper) = keeper(Some(2));
    let keep = || keeper.keep_partial(begin(&keeper, b"half"), "a", 4);
    let path = |name: &str| directory.path().join(name);
    let kept = |name: &str| format!("; kept as {}", path(name).display());
    let full = "; not kept: the directory already has 2 .partial files (--max-partials)";
    assert_eq!([keep(), keep()], [kept("a.partial"), kept("a.1.partial")]);
    assert_eq!(keep(), full);
    // Complete dumps do not count, and neither do files under construction.
    fs::remove_file(path("a.partial")).unwrap();
    keeper.keep(begin(&keeper, b"all"), "b").unwrap();
    fs::write(path(".corestream.1-1.partial"), "").unwrap();
    assert_eq!(keep(), kept("a.partial"));
    assert_eq!(keep(), full);
    let expected = [".corestream.1-1.partial", "a.1.partial", "a.partial", "b"];
    assert_eq!(names(directory.path()), expected);
}

#[test]
fn keeps_no_partial_dump_if_none_may_be_kept() {
    let (directory, keeper) = keeper(Some(0));
    let message = keeper.keep_partial(begin(&keeper, b"half"), "a", 4);
    assert_eq!(message, "; not kept: the directory already has 0 .partial files (--max-partials)");
    assert!(names(directory.path()).is_empty());
}

#[test]
fn reports_why_a_partial_dump_cannot_be_kept() {
    let (directory, keeper) = keeper(Some(2));
    let file = begin(&keeper, b"half");
    fs::remove_dir_all(directory.path()).unwrap();
    let message = keeper.keep_partial(file, "a", 4);
    assert!(message.starts_with("; cannot be kept: "), "{message}");
}
