//! Connects the stages image, extents, scan and plan. [`write`](crate::write) connects the stages after them.

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

/// The options of a dump, and the entry point: turns the description of a guest into a [`Plan`].
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
    options: plan::PlanOptions,
}

impl Dumper {
    /// Returns a dumper with the defaults: at most 100,000 segments, one thread per core, trusted holes, checksums.
    pub fn new() -> Self {
        let extents = ExtentOptions { trust_holes: true, method: None, mappings: None };
        let scan = scan::ScanOptions { scanner: Scanner::new(), threads: 0, extents };
        let max_segments = limits::MAX_DATA_SEGMENTS;
        let max_section_bytes = limits::MAX_SECTION_BYTES;
        let (checksums, control) = (true, Control::default());
        let options =
            plan::PlanOptions { max_segments, max_section_bytes, scan, checksums, control };
        Self { options }
    }

    /// Sets the maximum number of segments, from 1 to [`limits::MAX_DATA_SEGMENTS`], which is the default.
    ///
    /// Every memory that holds data needs a segment, and every excluded range between data
    /// ([`Memory::without`](crate::Memory::without)) needs one more, even beyond this maximum. In dumps over 4 GiB, a
    /// segment that continues in another section also counts once. The data section itself never has more than 100,000.
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

    /// Sets the number of threads that scan, including the caller's. The default 0 means one per core that the process
    /// may use.
    ///
    /// Fewer are used if there is less to do, if the system cannot start as many, or beyond [`limits::MAX_THREADS`].
    /// The dump is the same for any number.
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

    /// Sets whether holes are taken as zeros without reading them, which is the default. If not, the scan reads every
    /// image completely.
    ///
    /// Holes are the parts of an image file that the kernel reports as holes, and the pages of live memory that were
    /// never touched.
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

    /// Sets how untouched pages of live memory are found: [`ExtentMethod::PagemapScan`],
    /// [`Pagemap`](ExtentMethod::Pagemap), [`Smaps`](ExtentMethod::Smaps), or [`Whole`](ExtentMethod::Whole), which
    /// reads them.
    ///
    /// `None`, the default, is the best method that the system has. Planning fails if the given method is not
    /// available. Files are not affected.
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

    /// Sets how the mappings of live memory are found, which decide which pages may be skipped.
    ///
    /// `None`, the default, is the best method that the system has. Planning fails if the given method is not
    /// available.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn mapping_method(mut self, method: Option<MappingMethod>) -> Self {
        self.options.scan.extents.mappings = method;
        self
    }

    /// Sets the backend of the scan.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn scanner(mut self, scanner: Scanner) -> Self {
        self.options.scan.scanner = scanner;
        self
    }

    /// Sets the maximum length in bytes of the body of a section with data, at least `MIN_SECTION_BYTES`. Data that
    /// does not fit into the data section continues in custom sections named `corestream.data`.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn max_section_bytes(mut self, bytes: u32) -> Self {
        self.options.max_section_bytes = bytes;
        self
    }

    /// Sets whether the dump has checksums: a CRC-32 of each MiB, by which a reader can verify it. This is the default.
    ///
    /// Another core computes them while the sink is busy.
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

    /// Sets the handle that cancels planning and writing. They then fail with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) and leave nothing behind.
    ///
    /// The handle is checked every few megabytes. A [`Writer`](crate::Writer) can have another one.
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

    /// Sets the callback that receives the progress of planning and writing: at the start of each stage, every few
    /// megabytes, and at the end of a stage that succeeds.
    ///
    /// Any thread of a scan may call it, but only one at a time. The work waits for the callback. If it is quick, its
    /// cost is not measurable.
    ///
    /// Within a stage the count never decreases, with one exception: a scan starts over if the holes of an image file
    /// turn out to be doubtful. A stage that fails or is cancelled has no last report.
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

    /// Scans the memories of `dump` and computes the layout of the core dump.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, if `dump` is inconsistent ([`CoreDump::validate`]), if an image
    /// cannot be read, if the work was cancelled, or if the tables of the plan cannot be allocated.
    pub fn plan<'d>(&self, dump: &'d CoreDump<'d>) -> Result<Plan<'d>> {
        Plan::new(dump, self.options.clone(), encode::encode_prelude)
    }
}

impl Default for Dumper {
    fn default() -> Self {
        Self::new()
    }
}
