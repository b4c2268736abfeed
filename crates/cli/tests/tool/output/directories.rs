//! Directories that are moved, replaced or removed while a file is written in them, and append-only directories. A finished
//! file is where its path leads, or the error says where it is, and nothing else is left.

use std::fs::{self, File};
use std::io::ErrorKind::AlreadyExists;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use corestream::{
    CoreDump, Dumper, Error, ErrorKind, FileOptions, Memory, MemoryImage, MemoryType, Stage,
    UnnamedFile,
};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

use super::guest;
use crate::environment::{self, require};
use crate::fuse::{Faults, Fuse};
use crate::receiver::Receiver;
use crate::tool::{names, run, stderr};

/// A file in `at/d` that is written but has no name yet.
struct Begun {
    at: PathBuf,
    file: UnnamedFile,
    replace: bool,
}

impl Begun {
    fn new(at: &Path, replace: bool) -> Self {
        let _ = fs::remove_dir_all(at.join("d"));
        let _ = fs::remove_dir_all(at.join("moved"));
        fs::create_dir(at.join("d")).unwrap();
        let options = FileOptions::new().replace(replace).sync(true);
        let file = UnnamedFile::create_in(at.join("d"), options).unwrap();
        file.file().write_all_at(b"finished", 0).unwrap();
        Self { at: at.into(), file, replace }
    }

    fn move_directory(&self) {
        fs::rename(self.at.join("d"), self.at.join("moved")).unwrap();
    }

    fn commit(self) -> Result<(), Error> {
        let name = self.at.join("d/file");
        assert_eq!(self.file.commit([name.clone()])?, name);
        assert_eq!(fs::read(&name).unwrap(), b"finished");
        assert_eq!(names(&self.at.join("d")), ["file"], "replace: {}", self.replace);
        Ok(())
    }
}

/// Calls `test` with a directory of each file system, and with whether files replace others.
fn each(test: impl Fn(&Path, bool)) {
    let directory = tempfile::tempdir().unwrap();
    for replace in [false, true] {
        test(directory.path(), replace);
    }
    for tmpfile in [false, true] {
        let fuse = match Fuse::new(Faults { tmpfile, ..Faults::default() }) {
            Ok(fuse) => fuse,
            // The test has run in the ordinary file system.
            Err(why) => return environment::report_missing("fuse", why),
        };
        for replace in [false, true] {
            test(&fuse.path(), replace);
        }
    }
}

#[test]
fn names_a_file_in_a_directory_that_was_moved() {
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
        let error = begun.commit().unwrap_err();
        let file = at.canonicalize().unwrap().join("moved/file");
        let expected = format!(
            "{}: the file is complete, but its directory was moved while it was written: the file is now {}",
            at.join("d/file").display(),
            file.display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!((error.kind(), error.kept_file()), (ErrorKind::Output, Some(&*file)));
        assert_eq!(fs::read(file).unwrap(), b"finished");
        assert_eq!(names(&at.join("moved")), ["file"]);
    });
}

/// No path leads to a detached file system, so the error names none.
#[test]
fn reports_a_file_system_that_was_unmounted() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("d");
    fs::create_dir(&directory).unwrap();
    let call = |command: &str, args: &[&str]| {
        let output = Command::new(command).args(args).arg(&directory).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
    };
    require!("mount", call("mount", &["-t", "tmpfs", "none"]));
    let file = UnnamedFile::create_in(&directory, FileOptions::new()).unwrap();
    call("umount", &["-l"]).unwrap();
    let name = directory.join("file");
    let error = file.commit([name.clone()]).unwrap_err();
    let expected = format!(
        "{}: the file is complete, but its file system was unmounted while it was written: the file is on \
         that file system",
        name.display()
    );
    assert_eq!((error.to_string(), error.kept_file()), (expected, None));
    assert!(names(&directory).is_empty());
}

#[test]
fn a_finished_file_is_where_its_path_leads() {
    each(|at, replace| {
        // The directory is moved, and a new one is made.
        let begun = Begun::new(at, replace);
        begun.move_directory();
        fs::create_dir(at.join("d")).unwrap();
        begun.commit().unwrap();
        assert!(names(&at.join("moved")).is_empty());

        // The same directory has another path.
        let begun = Begun::new(at, replace);
        begun.move_directory();
        // The FUSE file system has no symbolic links.
        if symlink(at.join("moved"), at.join("d")).is_ok() {
            begun.commit().unwrap();
            fs::remove_file(at.join("d")).unwrap();
        }

        // The directory is removed with its contents, and a new one is made.
        let begun = Begun::new(at, replace);
        fs::remove_dir_all(at.join("d")).unwrap();
        fs::create_dir(at.join("d")).unwrap();
        begun.commit().unwrap();
    });
}

#[test]
fn keeps_an_existing_file_in_a_new_directory() {
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
        fs::create_dir(at.join("d")).unwrap();
        fs::write(at.join("d/file"), "theirs").unwrap();
        if replace {
            return begun.commit().unwrap();
        }
        let error = begun.commit().unwrap_err();
        assert_eq!(error.io_error().unwrap().kind(), AlreadyExists);
        assert_eq!(fs::read(at.join("d/file")).unwrap(), b"theirs");
        let kept = error.kept_file().unwrap();
        assert_eq!(kept.parent().unwrap(), at.canonicalize().unwrap().join("moved"));
        assert_eq!(fs::read(kept).unwrap(), b"finished");
        assert_eq!((names(&at.join("d")).len(), names(&at.join("moved")).len()), (1, 1));
    });
}

/// The new directory is on another file system, to which no hard link is possible.
#[test]
fn keeps_the_file_in_the_old_directory_if_the_new_one_is_elsewhere() {
    let other = require!("fuse", Fuse::new(Faults::default()));
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
        // The FUSE file system has no symbolic links.
        if symlink(other.path(), at.join("d")).is_err() {
            return;
        }
        let error = begun.commit().unwrap_err();
        fs::remove_file(at.join("d")).unwrap();
        let file = at.canonicalize().unwrap().join("moved/file");
        assert_eq!(error.kept_file(), Some(&*file), "{error}");
        assert_eq!(fs::read(file).unwrap(), b"finished");
        assert_eq!(names(&at.join("moved")), ["file"]);
        assert!(names(&other.path()).is_empty());
    });
}

#[test]
fn reports_a_directory_that_was_removed() {
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        fs::remove_dir_all(at.join("d")).unwrap();
        let error = begun.commit().unwrap_err();
        let expected = format!(
            "{}: the file is lost, because its directory was removed while it was written",
            at.join("d/file").display()
        );
        assert_eq!((error.to_string(), error.kept_file()), (expected, None));
    });
}

#[test]
fn a_dropped_file_leaves_nothing_in_a_directory_that_was_moved() {
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
        drop(begun);
        assert!(names(&at.join("moved")).is_empty());
    });
}

/// The directory is moved when the first byte of a dump is written.
#[test]
fn completes_a_dump_in_a_directory_that_was_moved() {
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["d", "moved"].map(|name| directory.path().join(name));
    fs::create_dir(&old).unwrap();
    let bytes = vec![7; 65_536];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    let (from, to, is_moved) = (old.clone(), new.clone(), AtomicBool::new(false));
    let dumper = Dumper::new().progress(move |progress| {
        if progress.stage == Stage::Write && !is_moved.swap(true, Ordering::Relaxed) {
            fs::rename(&from, &to).unwrap();
        }
    });
    let plan = dumper.plan(&dump).unwrap();
    let error = plan.write_file(old.join("core")).unwrap_err();
    let core = new.canonicalize().unwrap().join("core");
    assert_eq!(error.kept_file(), Some(&*core));
    assert!(fs::read(core).unwrap() == plan.to_vec().unwrap());
    assert_eq!(names(&new), ["core"]);
}

/// A directory in which names can only be added.
struct AppendOnly(TempDir);

impl AppendOnly {
    fn new() -> rustix::io::Result<Self> {
        let this = Self(tempfile::tempdir().unwrap());
        this.set(true)?;
        Ok(this)
    }

    fn set(&self, append_only: bool) -> rustix::io::Result<()> {
        let directory = File::open(self.0.path()).unwrap();
        let mut flags = ioctl_getflags(&directory)?;
        flags.set(IFlags::APPEND, append_only);
        ioctl_setflags(&directory, flags)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes everything in the directory.
    fn clear(&self) {
        self.set(false).unwrap();
        for name in names(self.path()) {
            let path = self.path().join(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(path)).unwrap();
        }
        self.set(true).unwrap();
    }
}

impl Drop for AppendOnly {
    fn drop(&mut self) {
        let _ = self.set(false);
    }
}

#[test]
fn an_append_only_directory_gets_the_file_and_nothing_else() {
    let directory = require!("append-only", AppendOnly::new());
    let guest = guest(5 * 65_536);
    let path = directory.path().join("new");
    let new = path.to_str().unwrap();
    let [core, mem] =
        ["guest.core", "guest.mem"].map(|name| fs::read(guest.path().join(name)).unwrap());
    for (args, expected) in [
        (&["dump", "--memory", "guest.mem", "-o", new][..], &core),
        (&["dump", "--memory", "guest.mem", "-o", new, "--sync"], &core),
        (&["dump", "--memory", "guest.mem", "-o", new, "--force"], &core),
        (&["extract", "guest.core", "-o", new, "--memory", "0"], &mem),
        (&["extract", "guest.core", "-o", new, "--memory", "0", "--force"], &mem),
    ] {
        let output = run(guest.path(), args);
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{args:?}");
        assert!(fs::read(&path).unwrap() == *expected, "{args:?}");
        assert_eq!(names(directory.path()), ["new"], "{args:?}");
        assert_eq!(path.metadata().unwrap().nlink(), 1, "{args:?}");
        directory.clear();
    }
    let pattern = ["-o", new, "--once"];
    let receiver = Receiver::tcp(guest.path(), &pattern);
    receiver.send(&core);
    let (code, message) = receiver.end();
    assert_eq!(code, Some(0), "{message}");
    assert!(fs::read(&path).unwrap() == core);
    assert_eq!(names(directory.path()), ["new"]);
    assert_eq!(path.metadata().unwrap().nlink(), 1);
}

/// In an append-only directory, replacing a file and renaming a directory fail before anything is written.
#[test]
fn rejects_replacements_and_directories_in_an_append_only_directory() {
    let directory = require!("append-only", AppendOnly::new());
    let guest = guest(5 * 65_536);
    let path = directory.path().join("new");
    fs::write(&path, "old").unwrap();
    let new = path.to_str().unwrap();
    let all = directory.path().join("all");
    for (args, cause) in [
        (&["dump", "--memory", "guest.mem", "-o", new, "--force"][..], "no file can be replaced"),
        (
            &["extract", "guest.core", "-o", new, "--memory", "0", "--force"],
            "no file can be replaced",
        ),
        (
            &["extract", "guest.core", "--all", all.to_str().unwrap()],
            "is append-only, so no finished",
        ),
    ] {
        let output = run(guest.path(), args);
        let message = stderr(&output);
        assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
        assert!(message.contains(cause), "{message}");
        assert_eq!(names(directory.path()), ["new"], "{args:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
