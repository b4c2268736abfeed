//! `extract --all`: writes a directory with an image of each memory, and a manifest of everything else.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use corestream::read::MemoryView;
use corestream::{
    CoreDumpFile, Error, ErrorKind, FileOptions, GlobalValue, MemoryIndex, NewDirectory,
    UnnamedFile,
};

use super::done::{self, Extraction, MANIFEST};
use super::meter::Meter;
use crate::input::Input;
use crate::json::Manifest;
use crate::limits::MAX_EMPTY_IMAGE_BYTES;
use crate::output::{check_directory, directory_of, warn_if_not_private};
use crate::report::{self, Failure};
use crate::signals::Interrupt;

/// The error for a directory that was moved or removed during the extraction.
const MOVED: &str = "the directory was moved or removed during the extraction; nothing was kept";

/// A directory that appears under its name once it is complete.
pub(super) struct Directory {
    path: PathBuf,
    /// Whether to skip memories of a damaged dump that cannot be extracted.
    salvage: bool,
}

impl Directory {
    /// Checks the path before the dump is verified.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created there.
    pub(super) fn new(path: &Path, salvage: bool) -> Result<Self, Failure> {
        // This is not a usage error: the same command may succeed later.
        NewDirectory::check(path).map_err(Failure::new)?;
        check_directory(directory_of(path)).map_err(|why| Failure::new(why).at(path.display()))?;
        Ok(Self { path: path.into(), salvage })
    }

    /// Extracts everything into the directory. Calls `check` before the directory gets its name.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, if the directory cannot be written, if the work is cancelled, or if
    /// `check` fails.
    pub(super) fn fill(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        interrupt: &Interrupt,
        meter: &Meter,
        check: impl Fn() -> Result<(), Failure>,
    ) -> Result<Extraction, Failure> {
        interrupt.begin_clean_up();
        let mut directory = NewDirectory::create(&self.path).map_err(Failure::new)?;
        let mut extraction =
            Extraction { memories: Vec::new(), skipped: Vec::new(), manifest: true };
        let views = dump.memories().filter(|view| !has_no_image(*view));
        meter.begin(views.clone());
        for view in views {
            let memory = view.index();
            let name = image_name(memory);
            let image = directory.add(&name)?;
            let restored = view.restore(&image, FileOptions::new());
            meter.count(view);
            // Errors name the final path of the image, not the temporary one.
            let failed = |error: &Error| match directory.is_moved() {
                true => Failure::new(MOVED).at(self.path.display()),
                false => {
                    let (hidden, shown) = (image.to_string_lossy(), self.path.join(&name));
                    Failure::new(error.to_string().replace(&*hidden, &shown.to_string_lossy()))
                }
            };
            if self.salvage
                && let Err(error) = &restored
                && error.io_error().is_some_and(is_too_large)
            {
                // Perhaps its size is damaged. Skip it, so that the other memories are still extracted.
                let cause = failed(error).message;
                report::line(&format!("warning: memory {memory} was not extracted: {cause}"));
                extraction.skipped.push(memory);
                continue;
            }
            let restored = restored.map_err(|error| match error.kind() {
                ErrorKind::Output => failed(&error),
                _ => input.failure(&error),
            });
            extraction.memories.push((memory, restored?));
        }
        write_manifest(&directory.add(MANIFEST)?, input, dump, &extraction.skipped)
            .map_err(|failure| failure.at(self.path.display()))?;
        if interrupt.cancel().load(Ordering::Relaxed) {
            // The caller reports the signal instead.
            return Err(Failure::new("cancelled").at(self.path.display()));
        }
        let mut missing = None;
        for (index, global) in dump.globals().enumerate() {
            if matches!(global?.value, GlobalValue::Missing(_)) {
                missing = Some(index);
                break;
            }
        }
        check()?;
        directory.commit()?;
        warn_if_not_private(&self.path);
        if let Some(index) = missing {
            report::line(&format!(
                "warning: {}: global {index} has no value in the dump; add one before `dump --manifest`",
                self.path.join(MANIFEST).display()
            ));
        }
        Ok(extraction)
    }
}

/// Returns whether a memory gets no image, because it has no data and file systems do not support files of its size. The
/// manifest alone describes such a memory.
fn has_no_image(memory: MemoryView<'_>) -> bool {
    let len = memory.ty().byte_len();
    memory.coverage().data_bytes == 0 && len.is_none_or(|len| len > MAX_EMPTY_IMAGE_BYTES)
}

/// Returns the ranges of a memory whose bytes are known.
fn data_ranges(memory: MemoryView<'_>) -> impl Iterator<Item = RangeInclusive<u64>> {
    let known = memory.contents().filter(|content| content.clone().unknown().is_none());
    known.map(|content| content.addresses().clone())
}

/// Returns whether a file is too large for its file system, or for any file system.
fn is_too_large(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput)
}

/// Returns the file name of the image of a memory.
fn image_name(memory: MemoryIndex) -> String {
    format!("memory-{memory}.mem")
}

fn write_manifest(
    path: &Path,
    input: &Input,
    dump: &CoreDumpFile<'_>,
    skipped: &[MemoryIndex],
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot write the manifest: {error}"));
    let file = UnnamedFile::create_in(directory_of(path), FileOptions::new())?;
    let mut writer = io::BufWriter::new(file.file());
    let image = |memory: MemoryView<'_>| {
        let is_missing = has_no_image(memory) || skipped.contains(&memory.index());
        (!is_missing).then(|| image_name(memory.index()))
    };
    let lost = input.lost();
    let unread = |memory: MemoryView<'_>| match skipped.contains(&memory.index()) {
        true => data_ranges(memory).collect(),
        false => done::unread_ranges(memory, &lost).collect(),
    };
    let manifest = Manifest::salvaged(dump, &image, &unread);
    serde_json::to_writer_pretty(&mut writer, &manifest).map_err(|error| match error.is_io() {
        true => failed(error.into()),
        false => Failure::new(format!("cannot read the dump for the manifest: {error}")),
    })?;
    writer.write_all(b"\n").and_then(|()| writer.flush()).map_err(failed)?;
    drop(writer);
    file.commit([path.to_path_buf()])?;
    Ok(())
}
