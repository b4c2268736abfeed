//! Checks the result before measuring: writes one dump, reads it back, and compares it with the image.

use std::ops::Range;
use std::time::{Duration, Instant};

use corestream::read::{Content, MappedFile, ReadAt, Verdict, Verifier};
use corestream::{CoreDump, CoreDumpFile, Dumper, FileSink, MemoryIndex, Stats};

use super::limits::{PlainRead, or_all};
use super::target::{Target, scratch_file};
use crate::mapped;
use crate::report::Failure;

/// A dump in an unnamed file, whose content equals the image.
pub struct CheckedDump {
    file: MappedFile,
    pub stats: Stats,
    /// The time of the dump, with no pages mapped and perhaps none in the page cache.
    pub time: Duration,
}

impl CheckedDump {
    /// Writes a dump to a file in the directory of `target` and compares it with the image.
    ///
    /// # Errors
    /// Returns an error if the dump fails, or if it differs from the image.
    pub fn new(
        target: &Target<'_>,
        guest: &CoreDump<'_>,
        dumper: &Dumper,
        read: &PlainRead<'_>,
    ) -> Result<Self, Failure> {
        let at = |failure: Failure| failure.at(target.directory.display());
        let start = Instant::now();
        let plan = dumper.plan(guest)?;
        let file = scratch_file(target.directory)?;
        plan.write_to(&mut FileSink::new(&file)).map_err(|error| {
            let mut failure = Failure::from(error);
            if !failure.is_cancelled() {
                let len = plan.len();
                failure.message.push_str(&format!(
                    "; the dump needs {len} bytes; choose another directory with --dir"
                ));
            }
            at(failure)
        })?;
        let time = start.elapsed();
        // Otherwise the kernel would write it back during the measurements.
        file.sync_data().map_err(|error| at(Failure::new(error)))?;
        let file = mapped::map_file(&file)
            .map_err(|error| at(Failure::new(format!("cannot map a file in it: {error}"))))?;
        let checked = Self { file, stats: plan.stats().clone(), time };
        let compared = compare(checked.bytes(), read, checked.stats.threads);
        if let Err(cause) = compared {
            // If the root cause is a signal or a truncated image, planning fails with the right error.
            let _ = dumper.plan(guest)?;
            return Err(Failure::new(format!(
                "the dump differs from the image: {cause}; was the image modified?"
            )));
        }
        Ok(checked)
    }

    /// Returns the bytes of the dump.
    pub fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }
}

/// Checks that a dump is intact and that its only memory equals the image.
fn compare(bytes: &[u8], read: &PlainRead<'_>, threads: usize) -> Result<(), String> {
    let verdict = Verifier::new().threads(threads).verify(bytes);
    match verdict.map_err(|error| error.to_string())? {
        Verdict::Intact(_) => {}
        Verdict::Damaged(damage) => return Err(damage.to_string()),
    }
    let dump = CoreDumpFile::from_slice(bytes).map_err(|error| error.to_string())?;
    let memory = dump.memory(MemoryIndex(0)).map_err(|error| error.to_string())?;
    for part in memory.contents() {
        let (first, last) = part.addresses().clone().into_inner();
        let same = match (part, in_image(first, last)) {
            (Content::Data { offset, .. }, Some(range)) => {
                let start = usize::try_from(offset).ok();
                let end = start.and_then(|start| start.checked_add(range.len()));
                let kept = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
                kept.is_some() && read.image().get(range) == kept
            }
            (Content::Zero(_), Some(range)) => {
                read.overlapping(range).all(|extent| or_all(&read.image()[extent]) == 0)
            }
            _ => false,
        };
        if !same {
            return Err(format!("they differ between {first:#x} and {last:#x}"));
        }
    }
    Ok(())
}

/// Returns the range of an image between two addresses, or `None` if it exceeds the address space of this process.
fn in_image(first: u64, last: u64) -> Option<Range<usize>> {
    Some(usize::try_from(first).ok()?..usize::try_from(last).ok()?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use corestream::{Memory, MemoryImage, MemoryType};

    use super::super::limits::one_extent;
    use super::*;

    #[test]
    fn finds_every_difference() {
        let mut image = vec![0; 3 * 65_536 - 100];
        image[1000..3000].fill(1);
        image[100_000..100_010].fill(2);
        let mut guest = CoreDump::new("guest");
        guest.add_memory(Memory::new(MemoryType::wasm32(3), MemoryImage::from_slice(&image)));
        let dump = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let compared = |image: &[u8]| {
            let read = PlainRead::of(image, one_extent(image.len()));
            compare(&dump, &read, 2)
        };
        assert_eq!(compared(&image), Ok(()));
        for at in [0, 999, 1000, 2999, 3000, 100_005, image.len() - 1] {
            let mut other = image.clone();
            other[at] ^= 7;
            let error = compared(&other).unwrap_err();
            assert!(error.starts_with("they differ between 0x"), "{at}: {error}");
        }
        assert!(compared(&image[..100_005]).is_err());
        let cut = compare(&dump[..dump.len() - 1], &PlainRead::of(&image, vec![]), 2);
        assert!(cut.is_err());
    }
}
