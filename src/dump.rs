//! The dumper: the one place that wires the stages
//! image -> extents -> scan -> plan. Writing the plan is [`write`](crate::write)'s.

use std::sync::Arc;

use crate::control::{Cancel, Control, Progress};
use crate::encode;
use crate::error::Result;
use crate::image::ExtentOptions;
#[cfg(feature = "internals")]
use crate::image::{ExtentMethod, MappingMethod};
use crate::limits;
use crate::model::CoreDump;
use crate::plan::{self, Plan};
use crate::scan::{self, Scanner};

/// Makes plans of core dumps.
///
/// ```
/// use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
///
/// let mut bytes = vec![0; 65_536];
/// bytes[1000..2000].fill(1);
/// let mut dump = CoreDump::new("guest.wasm");
/// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
///
/// let plan = Dumper::new().plan(&dump)?;
/// assert_eq!(plan.segments().len(), 1);
/// assert_eq!(plan.stats().data_bytes, 1000);
/// assert_eq!(plan.to_vec()?.len() as u64, plan.len());
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Dumper {
    options: plan::Options,
}

impl Dumper {
    /// The default: 100,000 segments at most, as many threads as there are cores, what the
    /// kernel calls a hole trusted.
    pub fn new() -> Self {
        let extents = ExtentOptions { trust_holes: true, method: None, mappings: None };
        let scan = scan::ScanOptions { scanner: Scanner::new(), threads: 0, extents };
        let max_segments = limits::MAX_DATA_SEGMENTS;
        let max_section_bytes = limits::MAX_SECTION_BYTES;
        let (checksums, control) = (true, Control::default());
        let options = plan::Options { max_segments, max_section_bytes, scan, checksums, control };
        Self { options }
    }

    /// Sets how many segments a dump may have, 1 to [`limits::MAX_DATA_SEGMENTS`]. Every memory that holds data gets one, and every
    /// range between data that is left out on purpose ([`Memory::without`](crate::Memory::without))
    /// one more, also if that makes more. Beyond the data section, in dumps over 4 GiB, a segment is cut at each end of
    /// a section, and those cuts are not counted. The data section has never more than 100,000.
    ///
    /// ```
    /// # use corestream::*;
    /// # let mut bytes = vec![0; 65_536];
    /// # for i in 0..8 { bytes[8000 * i] = 1; }
    /// # let mut dump = CoreDump::new("guest.wasm");
    /// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let few = Dumper::new().max_segments(2).plan(&dump)?;
    /// let many = Dumper::new().plan(&dump)?; // 8 bytes that are not zero, far from each other
    /// assert_eq!((few.segments().len(), many.segments().len()), (2, 8));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn max_segments(mut self, segments: u32) -> Self {
        self.options.max_segments = segments;
        self
    }

    /// Sets how many threads scan, the caller's included; 0, the default, is one per core that the process may use.
    ///
    /// Fewer are used where there is less to do, where the system gives no more, and over [`limits::MAX_THREADS`]. The
    /// dump is the same for any number.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper};
    ///
    /// let dump = CoreDump::new("guest.wasm");
    /// assert_eq!(Dumper::new().threads(1).plan(&dump)?.stats().threads, 1);
    /// assert_eq!(Dumper::new().threads(0).plan(&dump)?.to_vec()?, Dumper::new().plan(&dump)?.to_vec()?);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.scan.threads = threads;
        self
    }

    /// Sets whether a part of an image file that the kernel calls a hole, or memory that was never touched, is taken as zero
    /// without reading it, as it is by default. If not, all of every image is read.
    ///
    /// ```
    /// # use corestream::*;
    /// # let mut bytes = vec![0; 65_536];
    /// # for i in 0..8 { bytes[8000 * i] = 1; }
    /// # let mut dump = CoreDump::new("guest.wasm");
    /// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let plan = Dumper::new().trust_holes(false).plan(&dump)?;
    /// assert_eq!(u128::from(plan.stats().extent_bytes), plan.stats().image_bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn trust_holes(mut self, trust: bool) -> Self {
        self.options.scan.extents.trust_holes = trust;
        self
    }

    /// How the pages of a live guest's memory that were never touched are found:
    /// [`ExtentMethod::PagemapScan`], [`Pagemap`](ExtentMethod::Pagemap),
    /// [`Smaps`](ExtentMethod::Smaps), or [`Whole`](ExtentMethod::Whole), which reads them. `None`, the default, is the best one that
    /// the system has; planning fails if a method that is asked for can't be used. Files are not
    /// concerned.
    ///
    /// ```
    /// use corestream::{CoreDump, Dumper, ExtentMethod, Memory, MemoryImage, MemoryType};
    ///
    /// let bytes = [1; 65_536];
    /// let mut dump = CoreDump::new("guest.wasm");
    /// dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let plan = Dumper::new().extent_method(Some(ExtentMethod::Whole)).plan(&dump)?;
    /// assert_eq!(plan.stats().extent_methods, [ExtentMethod::Whole]);
    /// # Ok::<(), corestream::Error>(())
    /// ```
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn extent_method(mut self, method: Option<ExtentMethod>) -> Self {
        self.options.scan.extents.method = method;
        self
    }

    /// How the mappings under a live guest's memory are found, which decide what may be skipped.
    /// `None`, the default, is the best way that the system has; planning fails if one that is asked
    /// for can't be used.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn mapping_method(mut self, method: Option<MappingMethod>) -> Self {
        self.options.scan.extents.mappings = method;
        self
    }

    /// The backend of the scan.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn scanner(mut self, scanner: Scanner) -> Self {
        self.options.scan.scanner = scanner;
        self
    }

    /// How many bytes the body of a section with data may have, at least
    /// `MIN_SECTION_BYTES`; what does not fit into the data section goes on in custom
    /// sections called `corestream.data`.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn max_section_bytes(mut self, bytes: u32) -> Self {
        self.options.max_section_bytes = bytes;
        self
    }

    /// Sets whether the dump holds a CRC-32 of every MiB of it, by which a reader can check it. They are there by default,
    /// and are made on another core while the sink is busy.
    ///
    /// ```
    /// # use corestream::*;
    /// # let mut bytes = vec![0; 65_536];
    /// # for i in 0..8 { bytes[8000 * i] = 1; }
    /// # let mut dump = CoreDump::new("guest.wasm");
    /// # dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    /// let without = Dumper::new().checksums(false).plan(&dump)?;
    /// assert!(without.len() < Dumper::new().plan(&dump)?.len());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.options.checksums = checksums;
        self
    }

    /// Sets what stops the work: planning and writing then fail with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and nothing is left behind. It is looked at every few
    /// megabytes. A [`Writer`](crate::Writer) can have another one.
    ///
    /// ```
    /// use corestream::{Cancel, CoreDump, Dumper, ErrorKind};
    ///
    /// let cancel = Cancel::new();
    /// let dumper = Dumper::new().cancel(cancel.clone());
    /// cancel.cancel("the host shuts down"); // from any thread
    /// let dump = CoreDump::new("guest.wasm");
    /// assert_eq!(dumper.plan(&dump).unwrap_err().kind(), ErrorKind::Cancelled);
    /// ```
    pub fn cancel(mut self, cancel: impl Into<Cancel>) -> Self {
        self.options.control.cancel = Some(cancel.into());
        self
    }

    /// Sets who is told how far planning and writing have come: in each stage at its beginning, every few
    /// megabytes, and at its end if it succeeds. It costs nothing that can be measured, if
    /// `watcher` is quick: the work waits for it.
    ///
    /// Any thread of a scan may call it, but only one at a time, and what it is told never goes back
    /// within a stage, except that a scan begins anew if the holes of an image file turn out to be doubtful. A stage
    /// that is cancelled, or fails, just ends.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use corestream::{CoreDump, Dumper, Stage};
    ///
    /// let written = Arc::new(AtomicU64::new(0));
    /// let watched = written.clone();
    /// let dumper = Dumper::new().progress(move |progress| {
    ///     if progress.stage == Stage::Write {
    ///         watched.store(progress.done, Ordering::Relaxed);
    ///     }
    /// });
    ///
    /// let dump = CoreDump::new("guest.wasm");
    /// let plan = dumper.plan(&dump)?;
    /// plan.write_to(&mut std::io::sink())?;
    /// assert_eq!(written.load(Ordering::Relaxed), plan.len());
    /// # Ok::<(), corestream::Error>(())
    /// ```
    pub fn progress(mut self, watcher: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.options.control.watcher = Some(Arc::new(watcher));
        self
    }

    /// Scans the memories of `dump` and fixes the layout of the core dump.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, if `dump` contradicts itself ([`CoreDump::validate`]), if an image
    /// cannot be read, or if there is no memory for the tables of the plan.
    pub fn plan<'d>(&self, dump: &'d CoreDump<'d>) -> Result<Plan<'d>> {
        Plan::new(dump, self.options.clone(), encode::prelude)
    }
}

impl Default for Dumper {
    fn default() -> Self {
        Self::new()
    }
}
