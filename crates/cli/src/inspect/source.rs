//! Excerpts of source files.
//!
//! Compilers record the paths of source files on the machine that built the guest. The file is looked up in the given
//! directories by ever shorter ends of its path: for `/build/app/src/main.c`, these are `build/app/src/main.c`,
//! `app/src/main.c`, `src/main.c` and `main.c`. The guest's module is untrusted, so a path never leads out of the
//! directory: ends that contain `..` are skipped.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use corestream::Visible;

use super::columns::Columns;
use crate::limits::{MAX_SOURCE_BYTES, MAX_SOURCE_FILES};

/// The number of lines before and after the position.
const CONTEXT: u32 = 1;

/// The directories in which source files are looked up.
pub(super) struct SourceDirectories<'s> {
    directories: &'s [PathBuf],
    /// The lines of each source file by recorded path; `None` if it was not found.
    files: HashMap<String, Option<Vec<String>>>,
}

impl<'s> SourceDirectories<'s> {
    pub(super) fn new(directories: &'s [PathBuf]) -> Self {
        Self { directories, files: HashMap::new() }
    }

    /// Prints the lines around a position. Prints nothing if the file is not found, or has fewer lines than the position
    /// says, which means that it is another version.
    ///
    /// # Errors
    /// Returns an error if writing fails.
    pub(super) fn print_excerpt(
        &mut self,
        out: &mut impl Write,
        file: &str,
        line: u32,
        columns: Columns,
    ) -> io::Result<()> {
        if self.directories.is_empty() {
            return Ok(());
        }
        if self.files.len() >= MAX_SOURCE_FILES {
            self.files.clear();
        }
        let lines = match self.files.get(file) {
            Some(lines) => lines,
            None => {
                let lines = self.directories.iter().find_map(|directory| find(directory, file));
                self.files.entry(file.into()).or_insert(lines)
            }
        };
        let Some(lines) = lines else { return Ok(()) };
        if line == 0 || lines.len() < line as usize {
            return Ok(());
        }
        for number in line.saturating_sub(CONTEXT).max(1)..=line.saturating_add(CONTEXT) {
            let Some(text) = lines.get(number as usize - 1) else { break };
            let mark = if number == line { '>' } else { ' ' };
            let text = columns.name(text);
            let shown = format!("     {mark} {number:>5} | {text}");
            writeln!(out, "{}", shown.trim_end())?;
        }
        Ok(())
    }
}

/// Finds a source file in a directory, and returns its lines.
fn find(directory: &Path, recorded: &str) -> Option<Vec<String>> {
    let names: Vec<_> = Path::new(recorded)
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .collect();
    (0..names.len()).find_map(|start| {
        let end = names.get(start..)?;
        let is_inside = end.iter().all(|component| matches!(component, Component::Normal(_)));
        let path = is_inside.then(|| directory.join(end.iter().collect::<PathBuf>()))?;
        read_lines(&path)
    })
}

fn read_lines(path: &Path) -> Option<Vec<String>> {
    // Opening a FIFO can block forever, and reading a device may never end.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut reader = BufReader::new(File::open(path).ok()?.take(MAX_SOURCE_BYTES));
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    while reader.read_until(b'\n', &mut line).ok()? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']).replace('\t', "    ");
        lines.push(Visible(text).to_string());
        line.clear();
    }
    Some(lines)
}
