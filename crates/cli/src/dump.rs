//! `corestream dump`: writes a core dump from memory images and an optional manifest.

mod options;
pub mod pattern;
mod ranges;
mod stats;
mod v8;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args};
use corestream::{Change, CoreDump, FileSink, Memory, PipeSink, Plan, SocketSink};

pub use self::options::{MemoryOption, PlanOptions, parse_nonzero_size, parse_seconds};
use self::ranges::RangeOption;
use self::stats::StatsFormat;
use crate::blocking_stream::BlockingStream;
use crate::image;
use crate::input::Watch;
use crate::json::Manifest;
use crate::limits::MAX_MANIFEST_BYTES;
use crate::number_option::within;
use crate::output::{OpenOutput, Output, warn_if_not_private};
use crate::peer::Peer;
use crate::peer::answer::Exchange;
use crate::placeholder::is_placeholder;
use crate::progress::{ProgressDisplay, ProgressMode};
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

/// Write the core dump of a stopped guest
///
/// The guest consists of the memory images given with `--memory`, the contents of a `--manifest` (memories,
/// globals, instances, threads and frames), or both. The length of the dump is known before its first byte is
/// written. A file appears under its name once it is complete, and only its owner can read it. A failed dump
/// leaves no file behind.
#[derive(Args)]
#[command(
    group(ArgGroup::new("destination").required(true).multiple(true)
        .args(["output", "to", "fd", "dry_run"])),
    override_usage = "corestream dump [OPTIONS] --memory <IMAGE>... <-o <PATH>|--to <PEER>|--fd <N>|--dry-run>\n       \
                      corestream dump [OPTIONS] --manifest <FILE> <-o <PATH>|--to <PEER>|--fd <N>|--dry-run>"
)]
pub struct Dump {
    /// Name of the process; by default the name in the manifest, or the file name of the first image
    #[arg(long)]
    name: Option<String>,

    /// Image of a memory, with options: PATH[,memory64][,page-size=1][,maximum=PAGES|SIZE][,shared][,changing]
    ///
    /// `changing` means that the image is modified while it is dumped. The dump then marks the memory as changing.
    #[arg(long = "memory", value_name = "IMAGE",
          value_parser = OsStringValueParser::new().try_map(MemoryOption::parse))]
    memories: Vec<MemoryOption>,

    /// Description of the guest as JSON, or - for standard input; image paths are relative to its directory
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Exclude an address range of a memory: it is not read, and the dump records that it is missing
    ///
    /// MEMORY is an index. START and END are decimal, hexadecimal after 0x, or sizes such as 1.5GiB. If absent,
    /// they are the start and the end of the memory. END is not part of the range; START..=LAST includes LAST.
    #[arg(long, value_name = "MEMORY:START..END", value_parser = RangeOption::parse)]
    exclude: Vec<RangeOption>,

    /// Exclude all of a memory except these ranges; --exclude still applies within them
    #[arg(long, value_name = "MEMORY:START..END", value_parser = RangeOption::parse)]
    only: Vec<RangeOption>,

    /// Path of the dump, or - for standard output; %p, %t, %n and %% stand for the process id, the Unix time,
    /// the process name, and a percent sign
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Write the dump to an inherited descriptor: a pipe, a socket or a file
    #[arg(long, value_name = "N", conflicts_with_all = ["output", "to"],
          value_parser = within(0..=i32::MAX), allow_negative_numbers = true)]
    fd: Option<i32>,

    /// Connect to a receiver and send it the dump: tcp:HOST:PORT or unix:PATH
    ///
    /// The command fails if the receiver replies that it did not keep the dump.
    #[arg(long, value_name = "PEER", conflicts_with = "output",
          value_parser = OsStringValueParser::new().try_map(Peer::to_connect_to))]
    to: Option<Peer>,

    /// Seconds, such as 0.5, to wait for the other side before the dump fails; by default, forever
    ///
    /// This limits each wait: for a connection, for a reader to open a FIFO, for a reader that has stopped
    /// reading, and for a receiver's reply.
    #[arg(long, value_name = "S", value_parser = parse_seconds, allow_negative_numbers = true)]
    write_timeout: Option<Duration>,

    #[command(flatten)]
    plan: PlanOptions,

    /// Overwrite an existing file, or write to a terminal
    #[arg(long)]
    force: bool,

    /// Wait until the dump and its name are on disk
    #[arg(long)]
    sync: bool,

    /// Write nothing; print the size of the dump, whether it exceeds V8's limits and, with -o, whether it fits on the
    /// disk
    #[arg(long)]
    dry_run: bool,

    /// When to show progress on standard error, for a dump that takes longer than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressMode,

    /// Print statistics to standard error
    #[arg(long, value_name = "FORMAT")]
    stats: Option<StatsFormat>,
}

impl Dump {
    pub fn run(self) -> Result<(), Failure> {
        if self.manifest.is_none() && self.memories.is_empty() {
            return Err(Failure::usage(
                "nothing to dump: name an image with --memory, or a --manifest",
            ));
        }
        let manifest = self.manifest.as_deref().map(ManifestFile::read).transpose()?;
        let name = self.name(manifest.as_ref());
        let output = self.output(&name, manifest.as_ref())?;
        let interrupt = Interrupt::watch();

        let images = self.images(manifest.as_ref());
        // If an image cannot be watched, it cannot be opened either. That is reported below.
        let watch = |path: &Option<PathBuf>| Watch::new(path.as_ref()?).ok();
        let watches: Vec<_> = images.iter().map(watch).collect();
        let of_manifest = manifest
            .as_ref()
            .map(|manifest| manifest.content.images_with_pages(manifest.directory()));
        let dump = self.guest(name, manifest)?;
        let mapped = dump.memories.iter().filter_map(|memory| memory.image.as_slice());
        sigbus::install(mapped, Some(interrupt.cancel()));
        // The root cause of a failure may be a signal or an image that cannot be read: report that instead.
        let root_cause = |failure: Failure| {
            let unread = failure.is_cancelled().then(|| unread_image(&dump, &watches));
            interrupt.failure().or(unread.flatten()).unwrap_or(failure)
        };
        let output_name = output.as_ref().map_or(&*dump.name, Output::name);
        let progress = ProgressDisplay::start(self.progress, output_name);
        let dumper = self.plan.dumper().cancel(interrupt.cancel()).progress(progress.callback());
        let planned = dumper.plan(&dump);
        let plan = planned.map_err(|error| root_cause(error.into()))?;
        for shortfall in plan.shortfalls() {
            report::line(&format!("warning: {shortfall}"));
        }
        let v8 = v8::refusal(&plan, &dump);
        let mut write_time = None;
        if self.dry_run {
            let free = output.as_ref().and_then(Output::free_bytes);
            report::result(&stats::plan(&plan, free, v8.as_deref()))?;
        } else if let Some(output) = output {
            let start = Instant::now();
            let written = write(&plan, &output, self.write_timeout, &interrupt, &progress);
            written.map_err(root_cause)?;
            write_time = Some(start.elapsed());
        }
        progress.finish();
        if let Some(excluded) = report::excluded(plan.excluded().map(stats::excluded)) {
            report::line(&excluded);
        }
        let of_options = self.memories.iter().map(|option| Some(option.image.clone()));
        let paths = of_manifest.into_iter().flatten().chain(of_options);
        for (memory, path) in dump.memories.iter().zip(paths) {
            if let Some(warning) = path.and_then(|path| odd_length(memory, &path)) {
                report::line(&warning);
            }
        }
        warn_of_changes(&plan, &images);
        if let Some(format) = self.stats {
            report::raw(&stats::render(format, &plan, v8.as_deref(), write_time)?);
        }
        Ok(())
    }

    /// Returns the name of the process.
    fn name(&self, manifest: Option<&ManifestFile>) -> String {
        let of_manifest = manifest.and_then(|manifest| manifest.content.name.as_deref());
        if let Some(name) = self.name.as_deref().or(of_manifest) {
            return name.to_string();
        }
        self.memories.first().map(MemoryOption::name).unwrap_or_default()
    }

    /// Resolves the output, or returns `None` if a dry run has none.
    fn output(
        &self,
        name: &str,
        manifest: Option<&ManifestFile>,
    ) -> Result<Option<Output>, Failure> {
        let output = match (&self.output, self.fd, &self.to) {
            (Some(path), ..) => {
                let filled = pattern::Values::now(name).fill(path);
                let failed = |why| Failure::usage(format!("-o {}: {why}", path.display()));
                Output::resolve(&filled.map_err(failed)?, self.force, self.sync)?
            }
            (_, Some(fd), _) => Output::descriptor(fd, self.force, self.sync)?,
            (.., Some(peer)) => Output::peer(peer.clone()),
            _ => return Ok(None),
        };
        let mut inputs: Vec<PathBuf> = self.memories.iter().map(|m| m.image.clone()).collect();
        if let Some(manifest) = manifest {
            inputs.push(match manifest.path.as_path() {
                path if path == Path::new("-") => "/dev/stdin".into(),
                path => path.into(),
            });
            inputs.extend(manifest.content.images(manifest.directory()).into_iter().flatten());
        }
        output.check_inputs(&inputs)?;
        Ok(Some(output))
    }

    /// Returns the path of the image of each memory, in the order of [`guest`](Self::guest).
    fn images(&self, manifest: Option<&ManifestFile>) -> Vec<Option<PathBuf>> {
        let of_manifest = manifest.map(|manifest| manifest.content.images(manifest.directory()));
        let images = self.memories.iter().map(|option| Some(option.image.clone()));
        of_manifest.into_iter().flatten().chain(images).collect()
    }

    /// Creates the guest: first the content of the manifest, then the images of the command line. Applies the excluded
    /// ranges.
    fn guest(
        &self,
        name: String,
        manifest: Option<ManifestFile>,
    ) -> Result<CoreDump<'static>, Failure> {
        let mut dump = match manifest {
            Some(manifest) => manifest.into_dump()?,
            None => CoreDump::new(""),
        };
        for option in &self.memories {
            dump.add_memory(option.memory()?);
        }
        if !self.exclude.is_empty() || !self.only.is_empty() {
            ranges::apply(&mut dump, &self.exclude, &self.only)?;
        }
        dump.name = name;
        Ok(dump)
    }
}

/// Returns the failure for the first mapped image that could not be read. `watches` are in the order of the memories.
fn unread_image(dump: &CoreDump<'_>, watches: &[Option<Watch>]) -> Option<Failure> {
    dump.memories.iter().zip(watches).find_map(|(memory, watch)| {
        let lost = sigbus::lost_ranges(memory.image.as_slice()?);
        watch.as_ref()?.failure(&lost, "dumped")
    })
}

/// Returns the warning for an image that is empty or ends within a page.
fn odd_length(memory: &Memory<'_>, image: &Path) -> Option<String> {
    let (len, page) = (memory.image.len(), u64::from(memory.ty.page_size.max(1)));
    let image = image.display();
    if len == 0 {
        return Some(format!("warning: {image}: the image is empty; the memory has no data"));
    }
    (len % page != 0).then(|| {
        let bytes = report::bytes(len);
        format!(
            "warning: {image}: its length of {bytes} is not a multiple of the page size of {page}; the \
             rest of the last page is zero"
        )
    })
}

/// Warns about images that were, or may have been, modified while they were read. `images` are the paths of the guest's
/// images.
fn warn_of_changes(plan: &Plan<'_>, images: &[Option<PathBuf>]) {
    for (memory, change) in plan.changes().filter(|(_, change)| *change != Change::Assumed) {
        let path = images.get(memory.0 as usize).and_then(Option::as_deref);
        let path = path.unwrap_or(Path::new("")).display();
        // A dump without room for all memories renumbers them.
        let number = (0..).zip(plan.memories()).find(|(_, index)| *index == memory);
        let renumbered = match number {
            Some((number, _)) if number != memory.0 => format!(" (memory {number} of the dump)"),
            _ => String::new(),
        };
        report::line(&format!(
            "warning: {path}: {change}; the dump may contain old and new bytes, and marks memory \
             {memory}{renumbered} as changing"
        ));
    }
}

/// Writes a dump to its output. `progress` shows what the dump waits for.
///
/// # Errors
/// Returns an error if the dump cannot be written, if an image cannot be read, if a stream accepts no byte for
/// `timeout`, or if the receiver does not keep the dump.
pub fn write(
    plan: &Plan<'_>,
    output: &Output,
    timeout: Option<Duration>,
    interrupt: &Interrupt,
    progress: &ProgressDisplay,
) -> Result<(), Failure> {
    let open = || output.open(interrupt, timeout);
    let opened = match output.waits_for() {
        Some(other_side) => progress.while_waiting_for(other_side, open),
        None => open(),
    };
    // Blocking writes are faster. A signal during a blocked write ends the process. Between writes, the library checks
    // the cancel flag, which is also set if an image cannot be read.
    let stream = plan.writer().may_block(true).stall_timeout(timeout);
    match opened? {
        OpenOutput::File(path, options) => {
            plan.write_file_with(path, options)?;
            warn_if_not_private(path);
            return Ok(());
        }
        OpenOutput::Regular(file) => plan.write_to(&mut FileSink::new(file)),
        OpenOutput::Socket(socket) => stream.write_to(&mut SocketSink::new(socket)),
        OpenOutput::Peer(peer) => {
            let exchange = Exchange::new(peer.as_fd());
            let mut sink = SocketSink::new(peer.as_fd());
            let sent = exchange.send_until_reply(|| stream.write_to(&mut sink));
            let sent = sent.map_err(Failure::from);
            return progress.while_waiting_for("the receiver's reply", || {
                output.conclude(&exchange, sent, timeout, interrupt)
            });
        }
        OpenOutput::Pipe(pipe) => stream.write_to(&mut PipeSink::new(pipe)),
    }
    .map_err(|error| Failure::from(error).at(output.name()))?;
    output.sync()
}

/// Reads a whole manifest.
fn read_all(file: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        let message =
            format!("the manifest is larger than the limit of {MAX_MANIFEST_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// Parses a manifest.
///
/// # Errors
/// Returns a message if the bytes are not a manifest. A likely mistake is to name a memory image instead.
fn parse_manifest(bytes: &[u8]) -> Result<Manifest<'static>, String> {
    if bytes.is_empty() {
        return Err("is empty, not a JSON manifest".into());
    }
    // JSON contains no null byte, and an image nearly always does.
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&0) => Manifest::parse(text),
        _ => Err("is not a JSON manifest; use --memory for a memory image".into()),
    }
}

/// A manifest and its path.
struct ManifestFile {
    path: PathBuf,
    content: Manifest<'static>,
}

impl ManifestFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let (name, bytes) = if path == Path::new("-") {
            if is_placeholder(std::io::stdin()) {
                return Err(Failure::new("standard input: is closed"));
            }
            ("standard input".into(), read_all(BlockingStream(std::io::stdin())))
        } else {
            (path.display().to_string(), File::open(path).and_then(read_all))
        };
        let bytes = bytes.map_err(|e| Failure::new(format!("{name}: cannot read: {e}")))?;
        let content =
            parse_manifest(&bytes).map_err(|why| Failure::new(format!("{name}: {why}")))?;
        Ok(Self { path: path.into(), content })
    }

    /// Returns the directory to which the paths of its images are relative.
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn into_dump(self) -> Result<CoreDump<'static>, Failure> {
        let failed = |why: String| Failure::new(format!("{}: {why}", self.path.display()));
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let open = |name: &str, changing| {
            image::open(&directory.join(name), changing).map_err(|e| e.to_string())
        };
        let dump = self.content.into_dump(&open).map_err(failed)?;
        dump.validate().map_err(|error| failed(error.to_string()))?;
        Ok(dump)
    }
}
