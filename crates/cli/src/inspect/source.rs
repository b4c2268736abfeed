//! Excerpts of source files.
//!
//! Compilers record the paths of source files on the machine that built the guest. The file is looked up in the given
//! directories by ever shorter ends of its path: for `/build/app/src/main.c`, these are `build/app/src/main.c`,
//! `app/src/main.c`, `src/main.c` and `main.c`. The guest's module is untrusted, so a path never leads out of the
//! directory: ends that contain `..` are skipped. A file with the MD5 hash that the compiler recorded is preferred.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use corestream::Visible;
use md5::{Digest, Md5};

use super::columns::Columns;
use crate::limits::{MAX_SOURCE_BYTES, MAX_SOURCE_FILES};
use crate::report;

/// The number of lines before and after the position.
const CONTEXT: u32 = 1;

/// The maximum number of files that are looked at for a source file.
const MAX_CANDIDATES: usize = 256;

/// The directories in which source files are looked up.
pub(super) struct SourceDirectories<'s> {
    directories: &'s [PathBuf],
    /// Each source file by recorded path and hash; `None` if it was not found.
    files: HashMap<(String, Option<Md5Hash>), Option<SourceFile>>,
}

type Md5Hash = [u8; 16];

/// A source file that was found.
struct SourceFile {
    path: PathBuf,
    lines: Vec<String>,
    /// The MD5 hash, or `None` if only a part of the file was read.
    md5: Option<Md5Hash>,
    /// Whether the mismatch was reported.
    has_warned: bool,
}

impl<'s> SourceDirectories<'s> {
    pub(super) fn new(directories: &'s [PathBuf]) -> Self {
        Self { directories, files: HashMap::new() }
    }

    /// Prints the lines around a position. Prints nothing if the file is not found. If the file is not the one that was
    /// compiled, prints a line that says so, once for each file: the compiler recorded another MD5 hash, or the file has
    /// fewer lines than the position says.
    ///
    /// # Errors
    /// Returns an error if writing fails.
    pub(super) fn print_excerpt(
        &mut self,
        out: &mut impl Write,
        file: &str,
        md5: Option<Md5Hash>,
        line: u32,
        columns: Columns,
    ) -> io::Result<()> {
        if self.directories.is_empty() || line == 0 {
            return Ok(());
        }
        if self.files.len() >= MAX_SOURCE_FILES {
            self.files.clear();
        }
        let directories = self.directories;
        let found = self.files.entry((file.into(), md5)).or_insert_with(|| {
            let all = directories.iter().flat_map(|directory| candidates(directory, file));
            let mut all = all.take(MAX_CANDIDATES).filter_map(read);
            let is_compiled = |found: &SourceFile| md5.is_none() || found.md5 == md5;
            let first = all.next()?;
            Some(if is_compiled(&first) { first } else { all.find(is_compiled).unwrap_or(first) })
        });
        let Some(found) = found else { return Ok(()) };
        let lines = &found.lines;
        let is_other = md5.is_some() && found.md5 != md5;
        if is_other || lines.len() < line as usize {
            if !std::mem::replace(&mut found.has_warned, true) {
                let path = columns.name(&found.path.display().to_string());
                let reason = match is_other {
                    true => "its MD5 is not that of the compiled file".into(),
                    false => format!("it has only {}", report::count(lines.len() as u64, "line")),
                };
                writeln!(out, "       {path} is not shown: {reason}")?;
            }
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

/// Returns the paths at which a directory may have a source file: each suffix of its recorded path, the longest first.
fn candidates(directory: &Path, recorded: &str) -> Vec<PathBuf> {
    let names: Vec<_> = Path::new(recorded)
        .components()
        .filter(|component| !matches!(component, Component::RootDir | Component::CurDir))
        .collect();
    let inside = (0..names.len()).filter_map(|start| {
        let end = names.get(start..)?;
        let is_inside = end.iter().all(|component| matches!(component, Component::Normal(_)));
        is_inside.then(|| directory.join(end.iter().collect::<PathBuf>()))
    });
    inside.collect()
}

fn read(path: PathBuf) -> Option<SourceFile> {
    // Opening a FIFO can block forever, and reading a device may never end.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let mut file = File::open(&path).ok()?;
    (&mut file).take(MAX_SOURCE_BYTES).read_to_end(&mut bytes).ok()?;
    let is_whole = file.read(&mut [0]).ok()? == 0;
    let md5 = is_whole.then(|| Md5::digest(&bytes).into());
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']).replace('\t', "    ");
        Visible(text).to_string()
    });
    let lines = lines.collect();
    Some(SourceFile { path, lines, md5, has_warned: false })
}
