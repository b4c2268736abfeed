//! `corestream extract`: memories of a dump as raw images, and with `--all` a manifest beside them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use corestream::read::{Restored, Verdict};
use corestream::{CoreDumpFile, FileOptions, MemoryIndex};

use crate::describe::Description;
use crate::input::Input;
use crate::output::{Opened, Output};
use crate::report::{self, Failure};
use crate::signals::Interrupt;
use crate::verify::threads;

/// Writes memories of a dump as raw images, sparse where they are zero
#[derive(Args)]
pub struct Extract {
    /// The dump
    #[arg(value_name = "DUMP")]
    dump: PathBuf,

    /// Index of the memory to extract
    #[arg(long, value_name = "I", required_unless_present = "all", conflicts_with = "all")]
    memory: Option<u32>,

    /// Where the image goes, - is standard output
    #[arg(short, long, value_name = "IMAGE", default_value = "-", conflicts_with = "all")]
    output: PathBuf,

    /// Extract everything to a new folder: memory-N.mem for each memory, and manifest.json, from
    /// which `dump --manifest` makes the same dump
    #[arg(long, value_name = "DIR")]
    all: Option<PathBuf>,

    /// Replace a file that exists, write to a terminal
    #[arg(long)]
    force: bool,

    /// Go on with a damaged dump: take what can be had, and say what is missing
    #[arg(long)]
    salvage: bool,

    /// Threads that check the dump first; by default one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

impl Extract {
    pub fn run(self) -> Result<(), Failure> {
        let input = Input::open(&self.dump)?;
        let output = match &self.all {
            Some(folder) => Err(Folder::new(folder)?),
            None => {
                let output = Output::resolve(&self.output, self.force, false)?;
                output.check_inputs(std::slice::from_ref(&self.dump))?;
                Ok(output)
            }
        };
        let damage = self.check(&input)?;
        let dump = input.dump()?;
        let interrupt = Interrupt::watch();
        match output {
            Ok(output) => self.one(&input, &dump, &output, &interrupt)?,
            Err(folder) => {
                interrupt.remove_at_end(&folder.temporary);
                folder.make()?;
                let missing = folder.fill(&dump).map_err(|error| input.failed(error))?;
                input.check_uncut()?;
                folder.finish(&dump)?;
                for (memory, restored) in missing {
                    say_missing(&dump, memory, &restored);
                }
            }
        }
        // What there was is written; that it is not all is still a failure.
        damage.map_or(Ok(()), Err)
    }

    /// Refuses a damaged dump, or gives what is to be said of it at the end.
    fn check(&self, input: &Input) -> Result<Option<Failure>, Failure> {
        let verdict = corestream::read::verify_slice(input.bytes(), threads(self.threads));
        let why = match verdict {
            Ok(Verdict::Whole(_)) => return Ok(None),
            Ok(Verdict::Damaged(damage)) => damage.to_string(),
            Err(error) => return Err(input.failed(error)),
        };
        match self.salvage {
            true => {
                Ok(Some(input.damaged(format_args!("only what can be had was extracted: {why}"))))
            }
            false => Err(input.damaged(format_args!("{why}; --salvage takes what can be had"))),
        }
    }

    fn one(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        output: &Output,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let memory = MemoryIndex(self.memory.unwrap_or_default());
        dump.contents(memory).map_err(|error| input.failed(error))?;
        let restored = match output.open(interrupt, None)? {
            Opened::File(path, options) => {
                let restored = dump.restore(memory, path, options)?;
                // The image holds zeros in place of what was cut away.
                input.check_uncut().inspect_err(|_| drop(fs::remove_file(path)))?;
                restored
            }
            Opened::Regular(mut file) => {
                dump.write_memory(memory, &mut file).map_err(|error| output.failed(error))?
            }
            Opened::Socket(stream) | Opened::Pipe(stream) => {
                dump.write_memory(memory, stream).map_err(|error| output.failed(error))?
            }
        };
        input.check_uncut()?;
        say_missing(dump, memory, &restored);
        Ok(())
    }
}

/// A line for each range that is zero in the image only because the dump does not have it.
fn say_missing(dump: &CoreDumpFile<'_>, memory: MemoryIndex, restored: &Restored) {
    if restored.left_out == 0 {
        return;
    }
    let Ok(ranges) = dump.left_out(memory) else { return };
    for range in ranges {
        let (first, last) = range.into_inner();
        report::line(&format!(
            "warning: memory {memory}: {first:#x}..={last:#x} is not in the dump, the image has zeros \
             there"
        ));
    }
}

/// A folder that appears under its name when all is in it.
struct Folder {
    path: PathBuf,
    temporary: PathBuf,
}

impl Folder {
    fn new(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
        let Some(name) = path.file_name() else {
            return Err(failed("names no folder".into()));
        };
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                return Err(failed("is not empty, name a new folder".into()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(format!("cannot look into it: {error}"))),
            Ok(false) => {}
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.partial", std::process::id()));
        Ok(Self { path: path.into(), temporary: path.with_file_name(temporary) })
    }

    fn make(&self) -> Result<(), Failure> {
        let made = DirBuilder::new().mode(0o700).create(&self.temporary);
        made.map_err(|e| Failure::new(format!("{}: cannot make it: {e}", self.path.display())))
    }

    /// Extracts everything; gives the memories of which something is missing.
    fn fill(&self, dump: &CoreDumpFile<'_>) -> corestream::Result<Vec<(MemoryIndex, Restored)>> {
        let mut missing = Vec::new();
        for i in (0..).take(dump.memories().len()) {
            let path = self.temporary.join(image_name(i));
            let restored = dump.restore(MemoryIndex(i), path, FileOptions::new())?;
            if restored.left_out > 0 {
                missing.push((MemoryIndex(i), restored));
            }
        }
        Ok(missing)
    }

    /// Writes the manifest and gives the folder its name.
    fn finish(&self, dump: &CoreDumpFile<'_>) -> Result<(), Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(format!("{}: {what}: {error}", self.path.display()))
        };
        let manifest = self.temporary.join("manifest.json");
        let file = File::options().write(true).create_new(true).mode(0o600).open(&manifest);
        let file = file.map_err(|error| failed("cannot make the manifest", error))?;
        let mut writer = io::BufWriter::new(file);
        let manifest = Description::manifest(dump, image_name);
        serde_json::to_writer_pretty(&mut writer, &manifest)
            .map_err(io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .and_then(|()| writer.flush())
            .map_err(|error| failed("cannot write the manifest", error))?;
        // An empty folder of that name is replaced.
        fs::rename(&self.temporary, &self.path)
            .map_err(|error| failed("cannot name the finished folder", error))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not there any more if it has its name.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// The name of the image of a memory.
fn image_name(memory: u32) -> String {
    format!("memory-{memory}.mem")
}
