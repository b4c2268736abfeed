//! `corestream extract`: memories of a dump as raw images, and with `--all` a manifest beside them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::{ArgGroup, Args};
use corestream::read::{Content, Damage, Restored, Verdict, verify_slice};
use corestream::{
    CoreDumpFile, ErrorKind, FileOptions, Global, GlobalValue, MemoryIndex, MemoryType,
    UnnamedFile, check_close,
};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::input::Input;
use crate::json::Manifest;
use crate::output::{
    Opened, Output, check_directory, folder_of, is_append_only, warn_if_not_private,
};
use crate::patient::Patient;
use crate::report::{self, Failure};
use crate::sigbus;
use crate::signals::Interrupt;
use crate::verify::threads;

/// Tries for a name that nobody has.
const TRIES: u32 = 1000;
/// The name of the manifest beside the images.
const MANIFEST: &str = "manifest.json";
/// Bytes of an image without data that every file system takes as a hole.
const MAX_EMPTY_IMAGE: u64 = 1 << 40;

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

    /// Extract everything to a new folder: memory-N.mem for each memory, and manifest.json, from
    /// which `dump --manifest` makes the same dump
    #[arg(long, value_name = "DIR", group = "what")]
    all: Option<PathBuf>,

    /// Replace a file that exists, write to a terminal
    #[arg(long)]
    force: bool,

    /// Go on with a damaged dump: extract the readable parts, and say what is missing
    #[arg(long)]
    salvage: bool,

    /// Threads that check the dump first; by default one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

impl Extract {
    pub fn run(self) -> Result<(), Failure> {
        let input = Input::open(&self.dump)?;
        let target = match &self.all {
            Some(folder) => Target::Folder(Folder::new(folder, self.salvage)?),
            None => {
                let output = Output::resolve(&self.output, self.force, false)?;
                output.check_inputs(std::slice::from_ref(&self.dump))?;
                Target::Image(output)
            }
        };
        let interrupt = Interrupt::watch();
        let damage = self.check(&input)?;
        let (watch, cancel) = (input.watch(), interrupt.cancel());
        let salvage = self.salvage;
        let stop = move || {
            let unread = !salvage && sigbus::has_lost();
            cancel.load(Ordering::Relaxed) || unread || watch.has_changed()
        };
        let dump = input.dump()?.stop_if(stop);
        let done = match target {
            Target::Image(output) => self.one(&input, &dump, &output, &interrupt),
            Target::Folder(folder) => {
                folder.fill(&input, &dump, &interrupt, || self.check_read(&input))
            }
        };
        // The root cause may be a signal, a changed dump, or an I/O error: report that instead.
        let done = done.map_err(|failure| {
            let cause = || self.check_read(&input).err();
            interrupt.failure().or_else(cause).unwrap_or(failure)
        })?;
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
                Some(Damaged { failure, damage, is_verified })
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
    fn check(&self, input: &Input) -> Result<Option<Damaged>, Failure> {
        let verdict = verify_slice(input.bytes(), threads(self.threads));
        self.check_read(input)?;
        let (why, damage) = match verdict {
            Ok(Verdict::Whole(_)) => return Ok(None),
            Ok(Verdict::Damaged(damage)) => (damage.to_string(), Some(damage)),
            Err(error) if self.salvage && error.kind() == ErrorKind::Format => {
                // Its first bytes may be all that is wrong.
                let dump = input.dump()?;
                (dump.damage().unwrap_or(&error).to_string(), None)
            }
            // What is not known here may still leave something that is.
            Err(error) if self.salvage && error.kind() == ErrorKind::Unsupported => {
                let failure = input.failed(&error);
                return Ok(Some(Damaged { failure, damage: None, is_verified: false }));
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
            true => Ok(Some(Damaged { failure, damage, is_verified: false })),
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
        output: &Output,
        interrupt: &Interrupt,
    ) -> Result<Done, Failure> {
        let memory = MemoryIndex(self.memory.unwrap_or_default());
        dump.contents(memory).map_err(|error| match dump.damage() {
            Some(damage) if damage.kind() != ErrorKind::Unsupported => {
                input.damaged(format!("{error}; {damage}"))
            }
            _ => input.failed(&error),
        })?;
        let restored = match output.open(interrupt, None)? {
            Opened::File(path, options) => {
                let restored = dump.restore(memory, path, options)?;
                warn_if_not_private(path);
                restored
            }
            Opened::Regular(mut file) => {
                let restored = dump.write_memory(memory, &mut file);
                let restored = restored.map_err(|error| output.failed(error))?;
                check_close(file).map_err(|error| output.failed(error))?;
                restored
            }
            Opened::Socket(stream) | Opened::Peer(stream) | Opened::Pipe(stream) => {
                dump.write_memory(memory, Patient(stream)).map_err(|error| output.failed(error))?
            }
        };
        self.check_read(input)?;
        Ok(Done { memories: vec![(memory, restored)], skipped: Vec::new(), manifest: false })
    }
}

/// Where everything goes.
enum Target {
    Image(Output),
    Folder(Folder),
}

/// A damaged dump whose readable parts were extracted.
struct Damaged {
    failure: Failure,
    damage: Option<Damage>,
    /// Whether nothing was wrong when it was verified.
    is_verified: bool,
}

impl Damaged {
    /// A line for each thing that was extracted and may not be what it was. The checksum of a block does not hold
    /// either if a page of it could not be read.
    fn say_doubtful(&self, done: &Done, unread: bool) {
        let compared = self.damage.as_ref().filter(|damage| damage.checksums);
        let Some(damage) = compared else {
            if !self.is_verified {
                report::line(
                    "warning: no checksums can be compared: nothing tells whether the rest is right",
                );
            }
            return;
        };
        let from = match unread {
            true => "from blocks that are damaged or could not be read as a whole",
            false => "from blocks that are damaged",
        };
        if damage.guest {
            report::line(&format!("warning: {} {from}", done.described()));
        }
        for range in damage.all_memory.iter().filter(|range| done.has(range.memory)) {
            report::line(&format!("warning: {range} is {from}"));
        }
        if damage.more_memory > 0 {
            let more = report::count(damage.more_memory as u64, "more range");
            report::line(&format!("warning: and {more} {from}"));
        }
    }
}

/// What was extracted.
struct Done {
    memories: Vec<(MemoryIndex, Restored)>,
    /// Memories of a damaged dump whose images no file system takes.
    skipped: Vec<MemoryIndex>,
    /// Whether a manifest has all else.
    manifest: bool,
}

impl Done {
    fn has(&self, memory: MemoryIndex) -> bool {
        self.memories.iter().any(|(done, _)| *done == memory)
    }

    /// What came from the sections before the memory.
    fn described(&self) -> String {
        match (self.manifest, self.memories.first()) {
            (false, Some((memory, _))) => format!("the size of memory {memory} is"),
            _ => format!("{MANIFEST} (names, sizes of memories, globals, frames) is"),
        }
    }

    /// Reports ranges that are zero because the dump could not be read there: a line for each range of
    /// the dump, and for each of a memory.
    fn say_unread(&self, input: &Input, dump: &CoreDumpFile<'_>, lost: &[Range<u64>]) {
        let name = input.name();
        for Range { start, end } in lost {
            report::line(&format!("warning: {name}: bytes {start:#x}..{end:#x} can't be read"));
        }
        for (memory, _) in &self.memories {
            let contents = dump.contents(*memory).into_iter().flatten();
            let mut left = lost;
            // Parts are in the order of addresses, which is mostly that of the dump.
            for (address, part) in contents.filter_map(|content| match content {
                Content::Data { address, bytes } => Some((address, input.place(bytes))),
                _ => None,
            }) {
                if left.first().is_none_or(|range| range.start > part.start) {
                    left = lost;
                }
                let passed = left.partition_point(|range| range.end <= part.start);
                left = &left[passed..];
                for range in left.iter().take_while(|range| range.start < part.end) {
                    let first = address + (range.start.max(part.start) - part.start);
                    let last = address + (range.end.min(part.end) - part.start - 1);
                    report::line(&format!(
                        "warning: memory {memory}: {first:#x}..={last:#x} can't be read, the image has \
                         zeros there"
                    ));
                }
            }
        }
    }

    /// A line for each memory of a damaged dump whose size is not known.
    fn say_sizes(&self, dump: &CoreDumpFile<'_>) {
        if dump.damage().is_none() {
            return;
        }
        for (memory, _) in &self.memories {
            let line = match dump.declared_pages(*memory) {
                Some(0) => {
                    "the size of the memory is lost, the image ends with the last page that has data"
                }
                Some(_) => {
                    "the size of the memory is damaged, the image ends with the last page that has data"
                }
                None => continue,
            };
            report::line(&format!("warning: memory {memory}: {line}"));
        }
    }

    /// What is zero in an image only because the dump does not have it: a line for what was left out on
    /// purpose, or one for each range that may be lost.
    fn say_missing(&self, dump: &CoreDumpFile<'_>) {
        let missing = self.memories.iter().filter(|(_, restored)| restored.left_out > 0);
        let ranges = |memory| dump.left_out(memory).into_iter().flatten();
        if dump.has_index() {
            let of = |(memory, restored): &(MemoryIndex, Restored)| {
                (*memory, restored.left_out, ranges(*memory).count() as u64)
            };
            if let Some(partial) = report::partial(missing.map(of)) {
                report::line(&format!("{partial}: zeros stand there in the image"));
            }
            return;
        }
        for (memory, _) in missing {
            for range in ranges(*memory) {
                let (first, last) = range.into_inner();
                report::line(&format!(
                    "warning: memory {memory}: {first:#x}..={last:#x} is not in the dump, the image \
                     has zeros there"
                ));
            }
        }
    }
}

/// A folder that appears under its name when all is in it.
struct Folder {
    path: PathBuf,
    /// Whether what can't be extracted of a damaged dump is left out.
    salvage: bool,
}

/// The same under another name, until all is in it; removed when dropped before. It is named, renamed and removed by
/// open descriptors: if the directory in which it is gets another name, it is removed there, or finished there if all is
/// in it.
struct Partial {
    parent: OwnedFd,
    /// `None` once the folder is finished.
    name: Option<String>,
    folder: OwnedFd,
    path: PathBuf,
    /// What is in it, as far as it was begun.
    names: Vec<String>,
}

impl Partial {
    /// Makes a folder beside `path`, under a name that nobody has.
    fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(folder_of(path), flags, Mode::empty())?;
        for i in 0..TRIES {
            let name = format!(".corestream.{}-{i}.partial", std::process::id());
            match rustix::fs::mkdirat(&parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let flags = flags | OFlags::NOFOLLOW;
            let opened = rustix::fs::openat(&parent, &name, flags, Mode::empty());
            let folder = opened.inspect_err(|_| {
                let _ = rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
            })?;
            let path = path.with_file_name(&name);
            let this = Self { parent, name: Some(name), folder, path, names: Vec::new() };
            this.make_private()?;
            return Ok(this);
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes it accessible for its owner only, whatever the umask is. A file system without modes may refuse that:
    /// the images are worth more than their mode then.
    fn make_private(&self) -> io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let chmod = || rustix::fs::chmodat(&self.parent, name, Mode::RWXU, AtFlags::empty());
        match rustix::io::retry_on_intr(chmod) {
            Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// The path of a new file in it.
    fn add(&mut self, name: String) -> PathBuf {
        let path = self.path.join(&name);
        self.names.push(name);
        path
    }

    /// Gives it its name; an empty folder of that name is replaced. Everything is in it, so if it can't be renamed
    /// it stays, and the error says where.
    fn rename(mut self, path: &Path) -> Result<(), Failure> {
        let Some(partial) = self.name.take() else { return Ok(()) };
        let failed = |what: String| Failure::new(format!("{}: {what}", path.display()));
        let name = path.file_name().unwrap_or_default();
        if self.is_gone(&partial) {
            let hidden = self.parent_path(path).join(partial);
            let hidden = hidden.display();
            return Err(failed(format!("somebody has taken away the finished folder {hidden}")));
        }
        let renamed = rustix::fs::renameat(&self.parent, &partial, &self.parent, name);
        if let Err(errno) = renamed
            && !self.was_renamed(&partial, name, path)
        {
            let kept = self.parent_path(path).join(partial);
            let kept = kept.display();
            let error = io::Error::from(errno);
            let what = format!("cannot name the finished folder, which is kept as {kept}: {error}");
            return Err(failed(what));
        }
        if self.is_in(folder_of(path)) {
            return Ok(());
        }
        Err(failed(match self.place() {
            Some(place) => format!(
                "the folder is whole, but its directory was moved while it was written: the folder is now {}",
                place.join(name).display()
            ),
            None => "the folder is whole, but its file system was unmounted while it was written: the folder \
                     is on that file system"
                .into(),
        }))
    }

    /// Whether a rename that failed was carried out all the same, because only its reply was lost.
    fn was_renamed(&self, partial: &str, name: &OsStr, path: &Path) -> bool {
        let Ok(entries) = fs::read_dir(self.parent_path(path)) else { return false };
        let names: io::Result<Vec<_>> =
            entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.ino()))).collect();
        let (Ok(names), Ok(own)) = (names, rustix::fs::fstat(&self.folder)) else { return false };
        let inode =
            |name: &OsStr| names.iter().find(|(entry, _)| entry == name).map(|entry| entry.1);
        inode(OsStr::new(partial)).is_none() && inode(name) == Some(own.st_ino)
    }

    /// Returns whether this name is no longer that of the folder. A network client may give a folder a new inode number, so
    /// a different number alone does not count: the time must differ too, or the folder must have been removed.
    fn is_gone(&self, name: impl AsRef<OsStr>) -> bool {
        let number = |stat: &rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let time = |stat: &rustix::fs::Stat| (stat.st_mtime, stat.st_mtime_nsec);
        let there = rustix::fs::statat(&self.parent, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW);
        match (there, rustix::fs::fstat(&self.folder)) {
            (Ok(there), Ok(own)) => {
                let is_other = own.st_nlink == 0 || time(&there) != time(&own);
                number(&there) != number(&own) && is_other
            }
            (Err(Errno::NOENT), _) => true,
            _ => false,
        }
    }

    /// Whether `directory` leads to the directory in which it was made.
    fn is_in(&self, directory: &Path) -> bool {
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let own = rustix::fs::fstat(&self.parent).map(identity);
        own.is_ok() && own == rustix::fs::stat(directory).map(identity)
    }

    /// A path that leads to the directory in which it was made for `path`.
    fn parent_path(&self, path: &Path) -> PathBuf {
        let path = folder_of(path);
        if self.is_in(path) { path.into() } else { self.place().unwrap_or_else(|| path.into()) }
    }

    /// The path that leads to the directory in which it was made, if there is one.
    fn place(&self) -> Option<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        fs::read_link(link).ok().filter(|place| self.is_in(place))
    }

    /// What to say of an image that could not be written to it: it has the name that it was to get, and nothing that is
    /// named in it is left.
    fn failed(&self, error: &corestream::Error, name: &str, path: &Path) -> Failure {
        if !self.is_in(folder_of(path)) {
            let what =
                "the directory was moved or removed while the folder was written, nothing is kept";
            return Failure::new(format!("{}: {what}", path.display()));
        }
        let (hidden, shown) = (self.path.join(name), path.join(name));
        let message = error.to_string();
        Failure::new(message.replace(&*hidden.to_string_lossy(), &shown.to_string_lossy()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(partial) = &self.name else { return };
        // There is nobody to tell, and nothing else to do.
        for name in &self.names {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(&self.parent, partial, AtFlags::REMOVEDIR);
    }
}

impl Folder {
    /// Looks at the path, so that what can't be done is said at once.
    fn new(path: &Path, salvage: bool) -> Result<Self, Failure> {
        let failed = |why: String| Err(Failure::new(format!("{}: {why}", path.display())));
        if path.file_name().is_none() {
            return failed("names no folder".into());
        }
        if path.is_symlink() {
            return failed("is a symbolic link, name a new folder".into());
        }
        match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return failed("is not empty, name a new folder".into()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return failed("is no folder, name a new one".into());
            }
            Err(error) => return failed(format!("cannot look into it: {error}")),
        }
        let parent = folder_of(path);
        if let Err(why) = check_directory(parent) {
            return failed(why);
        }
        if is_append_only(parent) {
            return failed(format!(
                "{} is append-only, where no finished folder can be renamed: name a folder elsewhere",
                parent.display()
            ));
        }
        Ok(Self { path: path.into(), salvage })
    }

    /// Extracts everything.
    fn fill(
        &self,
        input: &Input,
        dump: &CoreDumpFile<'_>,
        interrupt: &Interrupt,
        check: impl Fn() -> Result<(), Failure>,
    ) -> Result<Done, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(format!("{}: {what}: {error}", self.path.display()))
        };
        interrupt.begin_clean_up();
        let mut partial =
            Partial::new(&self.path).map_err(|error| failed("cannot make it", error))?;
        let mut done = Done { memories: Vec::new(), skipped: Vec::new(), manifest: true };
        for i in (0..).take(dump.memories().len()) {
            let memory = MemoryIndex(i);
            if has_no_image(dump, memory) {
                continue;
            }
            let name = image_name(i);
            let restored = dump.restore(memory, partial.add(name.clone()), FileOptions::new());
            if self.salvage
                && let Err(error) = &restored
                && error.io_error().is_some_and(is_too_large)
            {
                // Its size may be what is damaged; the other memories are worth more than an error.
                let why = partial.failed(error, &name, &self.path).message;
                report::line(&format!("warning: memory {i} is not extracted: {why}"));
                done.skipped.push(memory);
                continue;
            }
            let restored = restored.map_err(|error| match error.kind() {
                ErrorKind::Output => partial.failed(&error, &name, &self.path),
                _ => input.failed(&error),
            });
            done.memories.push((memory, restored?));
        }
        write_manifest(&partial.add(MANIFEST.into()), dump, &done.skipped)
            .map_err(|failure| failure.at(self.path.display()))?;
        if interrupt.cancel().load(Ordering::Relaxed) {
            // The caller reports the signal.
            return Err(failed("cannot finish it", io::ErrorKind::Interrupted.into()));
        }
        check()?;
        partial.rename(&self.path)?;
        warn_if_not_private(&self.path);
        let unknown = |global: &Global| matches!(global.value, GlobalValue::Missing(_));
        if let Some(index) = dump.globals().iter().position(unknown) {
            report::line(&format!(
                "warning: {}: global {index} has no value in the dump: add one before `dump --manifest`",
                self.path.join(MANIFEST).display()
            ));
        }
        Ok(done)
    }
}

/// A memory that holds no data, and is larger than file systems take, has none: what the manifest
/// says of it is all there is.
fn has_no_image(dump: &CoreDumpFile<'_>, memory: MemoryIndex) -> bool {
    let len = dump.memories().get(memory.0 as usize).and_then(MemoryType::byte_len);
    let empty = dump.coverage(memory).is_ok_and(|coverage| coverage.data_bytes == 0);
    empty && len.is_none_or(|len| len > MAX_EMPTY_IMAGE)
}

/// Whether a file can't be as long as it is to be: for its file system, or for any.
fn is_too_large(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput)
}

/// The name of the image of a memory.
fn image_name(memory: u32) -> String {
    format!("memory-{memory}.mem")
}

fn write_manifest(
    path: &Path,
    dump: &CoreDumpFile<'_>,
    skipped: &[MemoryIndex],
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot write the manifest: {error}"));
    let file = UnnamedFile::create_in(folder_of(path), FileOptions::new())?;
    let mut writer = io::BufWriter::new(file.file());
    let image = |memory| {
        let is_missing =
            has_no_image(dump, MemoryIndex(memory)) || skipped.contains(&MemoryIndex(memory));
        (!is_missing).then(|| image_name(memory))
    };
    let manifest = Manifest::new(dump, &image);
    serde_json::to_writer_pretty(&mut writer, &manifest).map_err(|error| failed(error.into()))?;
    writer.write_all(b"\n").and_then(|()| writer.flush()).map_err(failed)?;
    drop(writer);
    file.commit([path.to_path_buf()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody takes away the finished folder before it gets its name, or puts another in its place.
    #[test]
    fn a_folder_of_others_is_not_taken_for_the_finished_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("out");
        for (case, expected) in [
            ("is left alone", Ok(())),
            ("is removed", Err("somebody has taken away the finished folder")),
            ("is replaced", Err("somebody has taken away the finished folder")),
        ] {
            let mut partial = Partial::new(&path).unwrap();
            fs::write(partial.add("file".into()), "content").unwrap();
            let hidden = partial.path.clone();
            if case != "is left alone" {
                fs::remove_dir_all(&hidden).unwrap();
            }
            if case == "is replaced" {
                fs::create_dir(&hidden).unwrap();
            }
            match (partial.rename(&path), expected) {
                (Ok(()), Ok(())) => assert_eq!(fs::read(path.join("file")).unwrap(), b"content"),
                (Err(failure), Err(expected)) => {
                    let said = failure.message;
                    assert!(said.contains(expected), "{case}: {said}");
                }
                (renamed, _) => panic!("{case}: {}", renamed.is_ok()),
            }
            let _ = fs::remove_dir_all(&path);
        }
    }
}
