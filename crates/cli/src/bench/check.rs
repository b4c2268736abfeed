//! The answer is checked before it is timed: one dump is read back and compared with its image.

use std::ops::Range;
use std::time::{Duration, Instant};

use corestream::read::{Content, MappedFile, ReadAt, Verdict, Verifier};
use corestream::{CoreDump, CoreDumpFile, Dumper, FileSink, MemoryIndex, Stats};

use super::limits::{PlainRead, any_bit};
use super::target::{Target, fresh_file};
use crate::mapped;
use crate::report::Failure;

/// A dump in an unnamed file that holds what the image does.
pub struct Checked {
    file: MappedFile,
    pub stats: Stats,
    /// What it took to make it, with nothing mapped and perhaps nothing in the page cache.
    pub time: Duration,
}

impl Checked {
    /// Makes a dump in the directory of `target` and reads it back.
    pub fn new(
        target: &Target<'_>,
        guest: &CoreDump<'_>,
        dumper: &Dumper,
        read: &PlainRead<'_>,
    ) -> Result<Self, Failure> {
        let at = |failure: Failure| failure.at(target.directory.display());
        let start = Instant::now();
        let plan = dumper.plan(guest)?;
        let file = fresh_file(target.directory)?;
        plan.write_to(&mut FileSink::new(&file)).map_err(|error| {
            let mut failure = Failure::from(error);
            if !failure.is_cancelled() {
                let len = plan.len();
                failure.message.push_str(&format!(
                    "; the dump that is checked has {len} bytes, --dir DIR is where it goes"
                ));
            }
            at(failure)
        })?;
        let time = start.elapsed();
        // Or it would be brought to disk while something else is measured.
        file.sync_data().map_err(|error| at(Failure::new(error)))?;
        let file = mapped::file(&file)
            .map_err(|error| at(Failure::new(format!("cannot map a file in it: {error}"))))?;
        let checked = Self { file, stats: plan.stats().clone(), time };
        let compared = compare(checked.bytes(), read, checked.stats.threads);
        if let Err(why) = compared {
            // An image that was cut, or a signal, is behind it: then this is an error.
            let _ = dumper.plan(guest)?;
            return Err(Failure::new(format!(
                "the dump does not hold what the image does: {why}; was the image written to?"
            )));
        }
        Ok(checked)
    }

    /// The dump.
    pub fn bytes(&self) -> &[u8] {
        self.file.as_slice().unwrap_or_default()
    }
}

/// Whether a dump is whole and its only memory is the image.
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
                read.overlapping(range).all(|extent| any_bit(&read.image()[extent]) == 0)
            }
            _ => false,
        };
        if !same {
            return Err(format!("they differ between {first:#x} and {last:#x}"));
        }
    }
    Ok(())
}

/// The range of an image from its first address to its last; `None` if no image in this process has it.
fn in_image(first: u64, last: u64) -> Option<Range<usize>> {
    Some(usize::try_from(first).ok()?..usize::try_from(last).ok()?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use corestream::{Memory, MemoryImage, MemoryType};

    use super::super::limits::whole;
    use super::*;

    #[test]
    fn every_difference_is_found() {
        let mut image = vec![0; 3 * 65_536 - 100];
        image[1000..3000].fill(1);
        image[100_000..100_010].fill(2);
        let mut guest = CoreDump::new("guest");
        guest.add_memory(Memory::new(MemoryType::wasm32(3), MemoryImage::from_slice(&image)));
        let dump = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let compared = |image: &[u8]| compare(&dump, &PlainRead::of(image, whole(image.len())), 2);
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
