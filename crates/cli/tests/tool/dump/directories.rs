//! Directories that are moved, replaced or removed while a file is written in them, and directories that are append-only:
//! a finished file is where its path leads, or the error says where it is, and nothing else is left.
#![allow(clippy::print_stdout, reason = "a test says what it could not try")]

use crate::{environment, fuse, receiver, tool};
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
use fuse::{Faults, Fuse};
use receiver::{Receiver, corestream};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;
use tool::{names, stderr};

/// A file in `at/d`, begun and written, with the options of a kind.
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

/// Calls `test` with a directory of each file system, and whether files are to replace others.
fn each(test: impl Fn(&Path, bool)) {
    let directory = tempfile::tempdir().unwrap();
    for replace in [false, true] {
        test(directory.path(), replace);
    }
    for tmpfile in [false, true] {
        let Some(fuse) = Fuse::mount(Faults { tmpfile, ..Faults::default() }) else { return };
        for replace in [false, true] {
            println!("tmpfile: {tmpfile}, replace: {replace}");
            test(&fuse.path(), replace);
        }
    }
}

#[test]
fn a_file_in_a_directory_that_was_moved_is_named_there() {
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

/// No path leads to a file system that was detached: no place is named that is none.
#[test]
fn a_file_in_a_file_system_that_was_unmounted_is_not_said_to_be_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("d");
    fs::create_dir(&directory).unwrap();
    let run = |command: &str, args: &[&str]| {
        let output = Command::new(command).args(args).arg(&directory).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "none"]) {
        return environment::skip("mount", "no tmpfs can be mounted");
    }
    let file = UnnamedFile::create_in(&directory, FileOptions::new()).unwrap();
    assert!(run("umount", &["-l"]));
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
fn a_file_is_where_its_path_leads_when_it_is_finished() {
    each(|at, replace| {
        // Moved, and made anew.
        let begun = Begun::new(at, replace);
        begun.move_directory();
        fs::create_dir(at.join("d")).unwrap();
        begun.commit().unwrap();
        assert!(names(&at.join("moved")).is_empty());

        // The same directory by another path.
        let begun = Begun::new(at, replace);
        begun.move_directory();
        // The FUSE file system has no symbolic links.
        if symlink(at.join("moved"), at.join("d")).is_ok() {
            begun.commit().unwrap();
            fs::remove_file(at.join("d")).unwrap();
        }

        // Removed, with whatever is in it, and made anew.
        let begun = Begun::new(at, replace);
        fs::remove_dir_all(at.join("d")).unwrap();
        fs::create_dir(at.join("d")).unwrap();
        begun.commit().unwrap();
    });
}

#[test]
fn a_file_in_a_new_directory_is_never_overwritten() {
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

/// A new directory on another file system, to which no link leads.
#[test]
fn a_file_that_cannot_get_to_the_new_directory_stays_in_the_old_one() {
    let Some(other) = Fuse::mount(Faults::default()) else { return };
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
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
fn a_directory_that_was_removed_is_an_error_that_says_so() {
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
fn a_file_that_is_dropped_leaves_nothing_in_a_directory_that_was_moved() {
    each(|at, replace| {
        let begun = Begun::new(at, replace);
        begun.move_directory();
        drop(begun);
        assert!(names(&at.join("moved")).is_empty());
    });
}

/// As the tool writes a dump: the directory is moved when the first byte is written.
#[test]
fn a_dump_in_a_directory_that_was_moved_is_whole() {
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

/// A directory to which names can only be added.
struct AppendOnly(TempDir);

impl AppendOnly {
    fn new() -> Option<Self> {
        let this = Self(tempfile::tempdir().unwrap());
        match this.set(true) {
            Ok(()) => Some(this),
            Err(error) => {
                environment::skip("append-only", error);
                None
            }
        }
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

    /// Removes all that is in it.
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

/// An image and a dump of it.
fn guest() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.mem"), vec![6; 5 * 65_536]).unwrap();
    let output = corestream(directory.path())
        .args(["dump", "--memory", "guest.mem", "-o", "guest.core"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    directory
}

#[test]
fn an_append_only_directory_gets_the_file_and_nothing_else() {
    let Some(directory) = AppendOnly::new() else { return };
    let guest = guest();
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
        let output = corestream(guest.path()).args(args).output().unwrap();
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{args:?}");
        assert!(fs::read(&path).unwrap() == *expected, "{args:?}");
        assert_eq!(names(directory.path()), ["new"], "{args:?}");
        assert_eq!(path.metadata().unwrap().nlink(), 1, "{args:?}");
        directory.clear();
    }
    let pattern = ["-o", new, "--once"];
    let receiver = Receiver::tcp(guest.path(), &pattern);
    receiver.send(&core);
    let (code, said) = receiver.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(fs::read(&path).unwrap() == core);
    assert_eq!(names(directory.path()), ["new"]);
    assert_eq!(path.metadata().unwrap().nlink(), 1);
}

/// What cannot be done there fails before anything is written.
#[test]
fn an_append_only_directory_has_no_room_for_replacements_and_new_directories() {
    let Some(directory) = AppendOnly::new() else { return };
    let guest = guest();
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
        let output = corestream(guest.path()).args(args).output().unwrap();
        let said = stderr(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(cause), "{said}");
        assert_eq!(names(directory.path()), ["new"], "{args:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
