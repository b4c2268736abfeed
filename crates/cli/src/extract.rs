//! `corestream extract`: writes memories of a dump as raw images, and with `--all` also a manifest.

mod directory;
mod done;
mod meter;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use corestream::read::{OpenOptions, Verdict, Verifier};
use corestream::{Cancel, CoreDumpFile, ErrorKind, MemoryIndex, check_close};

use self::directory::Directory;
use self::done::{DamagedDump, Extraction};
use self::meter::Meter;
use crate::blocking_stream::BlockingStream;
use crate::input::Input;
use crate::number_option::{memory_index, within};
use crate::output::{OpenOutput, Output, warn_if_not_private};
use crate::progress::{ProgressDisplay, ProgressMode};
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

/// The interval between two checks whether the dump has changed.
const CHANGE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Write memories of a dump as raw images, with holes for zeros
///
/// It checks the dump first and refuses a damaged dump, unless `--salvage` is given. Ranges that were excluded
/// from the dump on purpose become zeros in the image, and a message says so.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct Extract {
    /// Path of the dump
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Index of the memory to extract
    #[arg(long, value_name = "I", group = "what", value_parser = memory_index,
          allow_negative_numbers = true)]
    memory: Option<u32>,

    /// Path of the image, or - for standard output
    #[arg(short, long, value_name = "IMAGE", default_value = "-", conflicts_with = "all")]
    output: PathBuf,

    /// Extract everything to a new directory: memory-N.mem for each memory, and manifest.json, from which
    /// `dump --manifest` makes the same dump
    #[arg(long, value_name = "DIR", group = "what")]
    all: Option<PathBuf>,

    /// Overwrite an existing file, or write to a terminal; not with --all, which never overwrites anything
    #[arg(long, conflicts_with = "all")]
    force: bool,

    /// Extract the readable parts of a damaged dump, and report the missing parts
    #[arg(long)]
    salvage: bool,

    /// Number of threads that check the dump and write images, or 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within(0..=u16::MAX),
          allow_negative_numbers = true)]
    threads: u16,

    /// When to show progress on standard error, for an extraction that takes longer than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressMode,
}

impl Extract {
    pub fn run(self) -> Result<(), Failure> {
        let interrupt = Interrupt::watch();
        let stop = (!self.salvage).then(|| interrupt.cancel());
        let input = Input::open(&self.dump, stop)?;
        let target = match &self.all {
            Some(directory) => Target::Directory(Directory::new(directory, self.salvage)?),
            None => {
                let output = Output::resolve(&self.output, self.force, false)?;
                output.check_inputs(std::slice::from_ref(&self.dump))?;
                Target::Image(output)
            }
        };
        let progress = ProgressDisplay::start(self.progress, &input.name());
        let damage = self.check(&input, &interrupt, &progress)?;
        let meter = Arc::new(Meter::new(progress.step_callback()));
        let (watch, shared_meter, cancel) = (input.watch(), Arc::clone(&meter), interrupt.cancel());
        let last_check = Mutex::new(Instant::now());
        let options = OpenOptions::new()
            .threads(self.threads.into())
            .cancel(Some(Cancel::from(interrupt.cancel())))
            .progress(move |progress| {
                shared_meter.show(progress);
                if let Ok(mut last_check) = last_check.try_lock()
                    && last_check.elapsed() > CHANGE_CHECK_INTERVAL
                {
                    *last_check = Instant::now();
                    if watch.has_changed() {
                        cancel.store(true, Ordering::Relaxed);
                    }
                }
            });
        let dump = input.dump(&options)?;
        let damage = match dump.damage() {
            // The dump is intact, but a reader does not support all of it: for example, it exceeds the reader's limits.
            Some(error) if damage.is_none() && !self.salvage => return Err(input.failure(error)),
            Some(error) if damage.is_none() => {
                let (failure, cause) = (input.failure(error), error.to_string());
                Some(DamagedDump { failure, cause, damage: None, is_verified: true })
            }
            _ => damage,
        };
        let extraction = match target {
            Target::Image(output) => {
                self.extract_image(&input, &dump, damage.as_ref(), &output, &interrupt, &meter)
            }
            Target::Directory(directory) => {
                directory.fill(&input, &dump, &interrupt, &meter, || self.check_read(&input))
            }
        };
        // The root cause may be a signal, a changed dump, or an I/O error: report that instead.
        let extraction = extraction.map_err(|failure| {
            let cause = || self.check_read(&input).err();
            interrupt.failure().or_else(cause).unwrap_or(failure)
        })?;
        progress.finish();
        if dump.is_rewritten() {
            report::line(
                "warning: another tool has rewritten the dump, so checksums cannot show whether anything \
                 is missing or wrong",
            );
        }
        extraction.warn_of_sizes(&dump);
        extraction.warn_of_missing_ranges(&dump);
        let lost = input.lost();
        let damage = match (damage, input.describe_unreadable(&lost)) {
            (damage, Some(cause)) => {
                extraction.warn_of_unread_ranges(&input, &dump, &lost);
                // The zeros in place of unreadable pages cause most of the damage that was found.
                let failure =
                    input.damaged(format!("only the readable parts were extracted: {cause}"));
                let is_verified = damage.is_none();
                let damage = damage.and_then(|damaged| damaged.damage);
                Some(DamagedDump { failure, cause, damage, is_verified })
            }
            (damage, None) => damage,
        };
        if let Some(damage) = damage {
            damage.warn_of_doubtful_data(&extraction, !lost.is_empty());
            // The readable parts are written, but an incomplete extraction is still a failure.
            return Err(damage.failure);
        }
        Ok(())
    }

    /// Verifies the dump. With `--salvage`, returns the damage to report at the end.
    ///
    /// # Errors
    /// Returns an error if the dump is damaged, unless `--salvage` is given, or if it cannot be read.
    fn check(
        &self,
        input: &Input,
        interrupt: &Interrupt,
        progress: &ProgressDisplay,
    ) -> Result<Option<DamagedDump>, Failure> {
        let verifier = Verifier::new()
            .threads(self.threads.into())
            .cancel(Some(Cancel::from(interrupt.cancel())))
            .progress(progress.callback());
        let verdict = verifier.verify(input.source());
        self.check_read(input)?;
        let (cause, damage) = match verdict {
            Ok(Verdict::Intact(_)) => return Ok(None),
            Ok(Verdict::Damaged(damage)) => (damage.to_string(), Some(damage)),
            Err(error) if self.salvage && error.kind() == ErrorKind::Format => {
                // Perhaps only the first bytes are damaged.
                let dump = input.dump(&OpenOptions::new())?;
                (dump.damage().unwrap_or(&error).to_string(), None)
            }
            // An unsupported dump may still have parts that can be extracted.
            Err(error) if self.salvage && error.kind() == ErrorKind::Unsupported => {
                let (failure, cause) = (input.failure(&error), error.to_string());
                let damage = DamagedDump { failure, cause, damage: None, is_verified: false };
                return Ok(Some(damage));
            }
            Err(error) => return Err(input.failure(&error)),
        };
        let message = if self.salvage {
            format!("only the readable parts were extracted: {cause}")
        } else {
            format!("{cause}; --salvage extracts the readable parts")
        };
        let failure = input.damaged(message);
        match self.salvage {
            true => Ok(Some(DamagedDump { failure, cause, damage, is_verified: false })),
            false => Err(failure),
        }
    }

    /// Checks that the dump has not changed, and, without `--salvage`, that all of it could be read.
    ///
    /// # Errors
    /// Returns an error if the dump has changed, or if a part of it could not be read.
    fn check_read(&self, input: &Input) -> Result<(), Failure> {
        if self.salvage {
            return input.check_unchanged();
        }
        input.check_read().map_err(|failure| match sigbus::has_lost_pages() {
            true => failure.with_hint("--salvage extracts the readable parts"),
            false => failure,
        })
    }

    /// Extracts one memory to `output`.
    fn extract_image(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        damage: Option<&DamagedDump>,
        output: &Output,
        interrupt: &Interrupt,
        meter: &Meter,
    ) -> Result<Extraction, Failure> {
        let memory = MemoryIndex(self.memory.unwrap_or_default());
        let memory = dump.memory(memory).map_err(|error| match damage {
            // The memory may be missing because of the damage.
            Some(DamagedDump { failure, cause, .. }) => {
                let name = input.name();
                Failure::with_code(format!("{name}: {error}; {cause}"), failure.code)
            }
            None => input.failure(&error),
        })?;
        meter.begin(std::iter::once(memory));
        let restored = match output.open(interrupt, None)? {
            OpenOutput::File(path, options) => {
                let restored = memory.restore(path, options)?;
                warn_if_not_private(path);
                restored
            }
            OpenOutput::Regular(mut file) => {
                let restored = memory.write_to(&mut file);
                let restored = restored.map_err(|error| output.failure(error))?;
                check_close(file).map_err(|error| output.failure(error))?;
                restored
            }
            OpenOutput::Socket(stream) | OpenOutput::Peer(stream) | OpenOutput::Pipe(stream) => {
                memory.write_to(BlockingStream(stream)).map_err(|error| output.failure(error))?
            }
        };
        self.check_read(input)?;
        Ok(Extraction {
            memories: vec![(memory.index(), restored)],
            skipped: Vec::new(),
            manifest: false,
        })
    }
}

/// The destination of the extraction.
enum Target {
    Image(Output),
    Directory(Directory),
}
