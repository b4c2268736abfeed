//! `corestream extract`: memories of a dump as raw images, and with `--all` a manifest beside them.

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
use self::done::{Damaged, Done};
use self::meter::Meter;
use crate::input::Input;
use crate::output::{Opened, Output, warn_if_not_private};
use crate::patient::Patient;
use crate::progress::{Display, When};
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;

/// How often it is looked whether the dump was changed meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Writes memories of a dump as raw images, sparse where they are zero
///
/// The dump is checked first: one that is damaged is refused, unless `--salvage` is given. Ranges
/// that were left out of the dump on purpose are zeros in the image, and a line says so.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct Extract {
    /// The dump
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Index of the memory to extract
    #[arg(long, value_name = "I", group = "what")]
    memory: Option<u32>,

    /// Where the image goes, - is standard output
    #[arg(short, long, value_name = "IMAGE", default_value = "-", conflicts_with = "all")]
    output: PathBuf,

    /// Extract everything to a new directory: memory-N.mem for each memory, and manifest.json, from
    /// which `dump --manifest` makes the same dump
    #[arg(long, value_name = "DIR", group = "what")]
    all: Option<PathBuf>,

    /// Replace a file that exists, write to a terminal
    #[arg(long)]
    force: bool,

    /// Go on with a damaged dump: extract the readable parts, and say what is missing
    #[arg(long)]
    salvage: bool,

    /// Threads that check the dump and write images; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,

    /// Show on standard error how far an extraction has come that takes more than a second
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: When,
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
        let progress = Display::start(self.progress, &input.name());
        let damage = self.check(&input, &interrupt, &progress)?;
        let meter = Arc::new(Meter::new(progress.show()));
        let (watch, told, cancel) = (input.watch(), Arc::clone(&meter), interrupt.cancel());
        let looked = Mutex::new(Instant::now());
        let options = OpenOptions::new()
            .threads(self.threads.into())
            .cancel(Some(Cancel::from(interrupt.cancel())))
            .progress(move |progress| {
                told.tell(progress);
                if let Ok(mut looked) = looked.try_lock()
                    && looked.elapsed() > LOOK
                {
                    *looked = Instant::now();
                    if watch.has_changed() {
                        cancel.store(true, Ordering::Relaxed);
                    }
                }
            });
        let dump = input.dump(&options)?;
        let damage = match dump.damage() {
            // It is whole, but has something that only a verifier passes: more than a reader keeps.
            Some(error) if damage.is_none() && !self.salvage => return Err(input.failed(error)),
            Some(error) if damage.is_none() => {
                let (failure, why) = (input.failed(error), error.to_string());
                Some(Damaged { failure, why, damage: None, is_verified: true })
            }
            _ => damage,
        };
        let done = match target {
            Target::Image(output) => {
                self.one(&input, &dump, damage.as_ref(), &output, &interrupt, &meter)
            }
            Target::Directory(directory) => {
                directory.fill(&input, &dump, &interrupt, &meter, || self.check_read(&input))
            }
        };
        // The root cause may be a signal, a changed dump, or an I/O error: report that instead.
        let done = done.map_err(|failure| {
            let cause = || self.check_read(&input).err();
            interrupt.failure().or_else(cause).unwrap_or(failure)
        })?;
        progress.finish();
        if dump.is_rewritten() {
            report::line(
                "warning: another tool has rewritten the dump: no checksums tell whether anything is \
                 missing or wrong",
            );
        }
        done.say_sizes(&dump);
        done.say_missing(&dump);
        let lost = input.lost();
        let damage = match (damage, input.unreadable(&lost)) {
            (damage, Some(why)) => {
                done.say_unread(&input, &dump, &lost);
                // Most damage comes of the zeros that stand where nothing could be read.
                let failure =
                    input.damaged(format!("only the readable parts were extracted: {why}"));
                let is_verified = damage.is_none();
                let damage = damage.and_then(|damaged| damaged.damage);
                Some(Damaged { failure, why, damage, is_verified })
            }
            (damage, None) => damage,
        };
        if let Some(damage) = damage {
            damage.say_doubtful(&done, !lost.is_empty());
            // What there was is written; that it is not all is still a failure.
            return Err(damage.failure);
        }
        Ok(())
    }

    /// Refuses a damaged dump, or gives what is to be said of it at the end.
    fn check(
        &self,
        input: &Input,
        interrupt: &Interrupt,
        progress: &Display,
    ) -> Result<Option<Damaged>, Failure> {
        let verifier = Verifier::new()
            .threads(self.threads.into())
            .cancel(Some(Cancel::from(interrupt.cancel())))
            .progress(progress.watcher());
        let verdict = verifier.verify(input.source());
        self.check_read(input)?;
        let (why, damage) = match verdict {
            Ok(Verdict::Intact(_)) => return Ok(None),
            Ok(Verdict::Damaged(damage)) => (damage.to_string(), Some(damage)),
            Err(error) if self.salvage && error.kind() == ErrorKind::Format => {
                // Its first bytes may be all that is wrong.
                let dump = input.dump(&OpenOptions::new())?;
                (dump.damage().unwrap_or(&error).to_string(), None)
            }
            // What is not known here may still leave something that is.
            Err(error) if self.salvage && error.kind() == ErrorKind::Unsupported => {
                let (failure, why) = (input.failed(&error), error.to_string());
                return Ok(Some(Damaged { failure, why, damage: None, is_verified: false }));
            }
            Err(error) => return Err(input.failed(&error)),
        };
        let hint = if self.salvage {
            format!("only the readable parts were extracted: {why}")
        } else {
            format!("{why}; --salvage extracts the readable parts")
        };
        let failure = input.damaged(hint);
        match self.salvage {
            true => Ok(Some(Damaged { failure, why, damage, is_verified: false })),
            false => Err(failure),
        }
    }

    /// Fails if the dump was changed, or can't be read and is not to be salvaged.
    fn check_read(&self, input: &Input) -> Result<(), Failure> {
        if self.salvage {
            return input.check_unchanged();
        }
        input.check_read().map_err(|failure| match sigbus::has_lost() {
            true => failure.with_hint("--salvage extracts the readable parts"),
            false => failure,
        })
    }

    fn one(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        damage: Option<&Damaged>,
        output: &Output,
        interrupt: &Interrupt,
        meter: &Meter,
    ) -> Result<Done, Failure> {
        let memory = MemoryIndex(self.memory.unwrap_or_default());
        let memory = dump.memory(memory).map_err(|error| match damage {
            // Damage may be why it is not there.
            Some(Damaged { failure, why, .. }) => {
                let name = input.name();
                Failure::with_code(format!("{name}: {error}; {why}"), failure.code)
            }
            None => input.failed(&error),
        })?;
        meter.begin(std::iter::once(memory));
        let restored = match output.open(interrupt, None)? {
            Opened::File(path, options) => {
                let restored = memory.restore(path, options)?;
                warn_if_not_private(path);
                restored
            }
            Opened::Regular(mut file) => {
                let restored = memory.write_to(&mut file);
                let restored = restored.map_err(|error| output.failed(error))?;
                check_close(file).map_err(|error| output.failed(error))?;
                restored
            }
            Opened::Socket(stream) | Opened::Peer(stream) | Opened::Pipe(stream) => {
                memory.write_to(Patient(stream)).map_err(|error| output.failed(error))?
            }
        };
        self.check_read(input)?;
        Ok(Done {
            memories: vec![(memory.index(), restored)],
            skipped: Vec::new(),
            manifest: false,
        })
    }
}

/// Where everything goes.
enum Target {
    Image(Output),
    Directory(Directory),
}
