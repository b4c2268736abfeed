//! `corestream dump`: images of memories, and a manifest if there is one, become a core dump.

mod options;
mod stats;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use corestream::{CoreDump, Dumper, FileSink, MemoryImage, Plan};

use self::options::MemoryOption;
use self::stats::{PeakAnon, StatsFormat};
use crate::manifest::{self, Manifest};
use crate::report::{self, Failure};

/// Writes the core dump of a stopped guest.
#[derive(Args)]
pub struct Dump {
    /// Name of the process; by default the manifest's, else the first image's file name
    #[arg(long)]
    name: Option<String>,

    /// Image of a memory, with options: PATH[,memory64][,page-size=1][,maximum=PAGES][,shared]
    #[arg(long = "memory", value_name = "IMAGE")]
    memories: Vec<MemoryOption>,

    /// Description of the guest as JSON; its images count from its folder
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Where the dump goes; - is standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,

    /// Data segments that the dump may have
    #[arg(long, value_name = "N", default_value_t = corestream::limits::MAX_DATA_SEGMENTS)]
    max_segments: u32,

    /// Threads that scan; by default one a core
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Replace a file that exists, write to a terminal
    #[arg(long)]
    force: bool,

    /// Print what was done to standard error
    #[arg(long, value_name = "FORMAT")]
    stats: Option<StatsFormat>,
}

impl Dump {
    pub fn run(self) -> Result<(), Failure> {
        if self.manifest.is_none() && self.memories.is_empty() {
            return Err(Failure::usage(
                "there is nothing to dump: give an image with --memory, or a --manifest",
            ));
        }
        let output = Output::resolve(&self.output, self.force)?;
        let peak = self.stats.map(|_| PeakAnon::watch());
        let dump = self.guest()?;
        let plan = self.dumper().plan(&dump)?;
        for shortfall in plan.shortfalls() {
            report::line(&format!("warning: {shortfall}"));
        }
        let start = Instant::now();
        output.write(&plan)?;
        if let (Some(format), Some(peak)) = (self.stats, peak) {
            let peak = peak.finish();
            report::raw(&stats::render(format, plan.stats(), start.elapsed(), peak));
        }
        Ok(())
    }

    fn dumper(&self) -> Dumper {
        let dumper = Dumper::new().max_segments(self.max_segments);
        match self.threads {
            Some(threads) => dumper.threads(threads),
            None => dumper,
        }
    }

    /// The guest: what the manifest says, then the images of the command line.
    fn guest(&self) -> Result<CoreDump<'static>, Failure> {
        let mut dump = match &self.manifest {
            Some(path) => read_manifest(path)?,
            None => CoreDump::new(""),
        };
        for option in &self.memories {
            let image = MemoryImage::open(&option.image)?;
            dump.add_memory(manifest::memory(image, None, option.ty));
        }
        if let Some(name) = &self.name {
            dump.name.clone_from(name);
        } else if let (true, Some(first)) = (dump.name.is_empty(), self.memories.first()) {
            let file_name = first.image.file_name().unwrap_or_default();
            dump.name = file_name.to_string_lossy().into_owned();
        }
        Ok(dump)
    }
}

fn read_manifest(path: &Path) -> Result<CoreDump<'static>, Failure> {
    let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| failed(format!("cannot read: {e}")))?;
    let manifest = Manifest::parse(&text).map_err(failed)?;
    manifest.into_dump(path.parent().unwrap_or(Path::new(""))).map_err(failed)
}

/// Where a dump goes.
enum Output<'o> {
    /// A name for a new file.
    File { path: &'o Path, replace: bool },
    /// Something that is open and stays where it is: standard output, a FIFO, a device.
    Stream { name: String, file: File },
}

impl<'o> Output<'o> {
    /// Looks at the path before anything is read, so that what can't be done is said at once.
    fn resolve(path: &'o Path, force: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let stdout = std::io::stdout();
            if stdout.is_terminal() && !force {
                return Err(Failure::usage(
                    "standard output is a terminal: redirect it, name a file with -o, or --force",
                ));
            }
            let file = stdout.as_fd().try_clone_to_owned();
            let file = file.map_err(|e| Failure::new(format!("standard output: {e}")))?;
            return Ok(Self::Stream { name: "standard output".into(), file: file.into() });
        }
        let name = path.display();
        // Follows links: /dev/stdout is one.
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                Err(Failure::new(format!("{name}: is a folder, name a file in it")))
            }
            Ok(metadata) if !metadata.is_file() => {
                if metadata.file_type().is_socket() {
                    return Err(Failure::new(format!("{name}: a socket can't be opened by name")));
                }
                let file = File::options().write(true).open(path);
                let file = file.map_err(|e| Failure::new(format!("{name}: cannot open: {e}")))?;
                if file.is_terminal() && !force {
                    return Err(Failure::usage(format!("{name}: is a terminal, use --force")));
                }
                Ok(Self::Stream { name: name.to_string(), file })
            }
            Ok(_) if !force => {
                Err(Failure::new(format!("{name}: exists, use --force to replace it")))
            }
            _ => Ok(Self::File { path, replace: force }),
        }
    }

    fn write(self, plan: &Plan<'_>) -> Result<(), Failure> {
        match self {
            Self::File { path, replace: true } => Ok(plan.replace_file(path)?),
            Self::File { path, replace: false } => Ok(plan.write_file(path)?),
            Self::Stream { name, mut file } => {
                let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
                let result = match regular {
                    true => plan.write_to(&mut FileSink::new(&file)),
                    false => plan.write_to(&mut file),
                };
                result.map_err(|error| Failure::new(format!("{name}: {error}")))
            }
        }
    }
}
