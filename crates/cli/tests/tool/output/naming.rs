//! How a finished dump gets its name if the usual ways fail: in sandboxes, on file systems without links, modes or renames
//! with flags, and in directories that may not be read. The dump is complete under its name, or is kept under a partial
//! name that the message says. An existing file is never overwritten.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corestream::{ErrorKind, FileOptions, UnnamedFile};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::environment::require;
use crate::fuse::{Faults, Fuse};
use crate::strace;
use crate::tool::{self, kept_path, names, stderr, tool_path};

const LEN: usize = 5 * 65_536;

/// A directory with `guest.mem` and its dump `guest.core`, and their contents.
struct Guest {
    directory: TempDir,
    dump: Vec<u8>,
    image: Vec<u8>,
}

impl Guest {
    fn new() -> Self {
        let directory = super::guest(LEN);
        let dump = fs::read(directory.path().join("guest.core")).unwrap();
        Self { directory, dump, image: vec![6; LEN] }
    }

    /// Runs a line of the shell in which the tool is `$0` and `target` is `$1`.
    fn shell(&self, target: &Path, line: &str) -> Output {
        tool::shell(self.directory.path(), line, [target])
    }

    /// Writes new files to `target`, and replaces old ones, in every way. Each file must be complete.
    fn check_target(&self, target: &Path, warning: &str) {
        let new = target.join("new");
        for (writer, expected) in [
            ("dump --memory guest.mem", &self.dump),
            ("extract guest.core --memory 0", &self.image),
        ] {
            for options in ["", "--force"] {
                let line = format!("exec \"$0\" {writer} -o $1/new {options}");
                let output = self.shell(target, &line);
                let message = stderr(&output);
                assert!(output.status.success(), "{line}: {message}");
                let is_expected =
                    if warning.is_empty() { message.is_empty() } else { message.contains(warning) };
                assert!(is_expected && message.lines().count() <= 1, "{line}: {message}");
                assert!(fs::read(&new).unwrap() == *expected, "{line}");
                assert_eq!(names(target), ["new"], "{line}");
            }
            let output = self.shell(target, &format!("exec \"$0\" {writer} -o $1/new"));
            assert!(stderr(&output).contains("exists; use --force to overwrite it"));
            fs::remove_file(&new).unwrap();
        }
        let sync = "exec \"$0\" dump --memory guest.mem -o $1/new --sync --force";
        for _ in 0..2 {
            let output = self.shell(target, sync);
            assert!(output.status.success(), "{}", stderr(&output));
            assert!(fs::read(&new).unwrap() == self.dump);
        }
        fs::remove_file(&new).unwrap();
        let output = self.shell(target, "exec \"$0\" extract guest.core --all $1/all");
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(names(&target.join("all")), ["manifest.json", "memory-0.mem"]);
        assert!(fs::read(target.join("all/memory-0.mem")).unwrap() == self.image);
        fs::remove_dir_all(target.join("all")).unwrap();
        assert!(names(target).is_empty());
    }
}

/// Returns every combination of what a file system can lack for giving a file its name.
fn lacks() -> Vec<Faults> {
    let mut all = Vec::new();
    for tmpfile in [false, true] {
        for link in [None, Some(Errno::PERM)] {
            for rename_flags in [None, Some(Errno::INVAL)] {
                for rename_open in [None, Some(Errno::BUSY)] {
                    let faults =
                        Faults { tmpfile, link, rename_flags, rename_open, ..Faults::default() };
                    all.push(faults);
                }
            }
        }
    }
    all
}

#[test]
fn completes_a_dump_whatever_a_file_system_lacks() {
    let guest = Guest::new();
    // The usual file system, one with limited renames, one with nothing, and one with `O_TMPFILE` but without links.
    for i in [0, 3, 7, 12] {
        let fuse = require!("fuse", Fuse::new(lacks()[i].clone()));
        guest.check_target(&fuse.path(), "");
    }
}

#[test]
#[ignore = "slow: 2 s"]
fn completes_a_dump_on_every_kind_of_file_system() {
    let guest = Guest::new();
    for faults in lacks() {
        let fuse = require!("fuse", Fuse::new(faults));
        guest.check_target(&fuse.path(), "");
    }
}

#[test]
fn warns_of_a_file_system_without_modes() {
    let guest = Guest::new();
    for tmpfile in [false, true] {
        for chmod in [None, Some(Errno::PERM), Some(Errno::OPNOTSUPP)] {
            let faults = Faults { tmpfile, chmod, mode: Some(0o755), ..Faults::default() };
            let fuse = require!("fuse", Fuse::new(faults));
            guest.check_target(&fuse.path(), "has mode 0755 instead of 0600");
        }
    }
    // Only the owner can read this file.
    let faults = Faults { chmod: Some(Errno::PERM), mode: Some(0o700), ..Faults::default() };
    let fuse = require!("fuse", Fuse::new(faults));
    guest.check_target(&fuse.path(), "");
}

/// A file system that is mounted while this exists.
struct Mounted(TempDir);

impl Mounted {
    /// Mounts a file system of 32 MiB.
    ///
    /// # Errors
    /// Returns the reason if it cannot be made and mounted here.
    fn new(mkfs: &[&str], options: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(directory.path().join("mount")).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            return Err(format!("{} cannot be run", mkfs[0]));
        }
        let mut command = Command::new("mount");
        command.args(["-o", options]).arg(&image).arg(directory.path().join("mount"));
        match command.output() {
            Ok(output) if output.status.success() => Ok(Self(directory)),
            Ok(output) => Err(stderr(&output).trim_end().replace('\n', "; ")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// vfat has no modes, no links and no unnamed files.
#[test]
fn completes_a_dump_on_vfat() {
    let mounted = require!("vfat", Mounted::new(&["/usr/sbin/mkfs.vfat"], "loop"));
    Guest::new().check_target(&mounted.path(), "has mode 0755 instead of 0600");
    let mounted = require!("vfat", Mounted::new(&["/usr/sbin/mkfs.vfat"], "loop,umask=077"));
    Guest::new().check_target(&mounted.path(), "");
}

/// An overlay, as in containers, makes unnamed files in the layer below.
#[test]
fn completes_a_dump_on_an_overlay() {
    let mounted = require!("mount", Mounted::new(&["/usr/sbin/mkfs.ext4", "-q"], "loop"));
    let [lower, upper, work, over] =
        ["lower", "upper", "work", "over"].map(|name| mounted.path().join(name));
    for directory in [&lower, &upper, &work, &over] {
        fs::create_dir(directory).unwrap();
    }
    let [lowerdir, upperdir, workdir] =
        [&lower, &upper, &work].map(|directory| directory.display());
    let options = format!("lowerdir={lowerdir},upperdir={upperdir},workdir={workdir}");
    let mut command = Command::new("mount");
    command.args(["-t", "overlay", "-o", &options, "none"]).arg(&over);
    let output = command.output().unwrap();
    let why = stderr(&output).trim_end().replace('\n', "; ");
    require!("overlay", output.status.success().then_some(()).ok_or(why));
    let guest = Guest::new();
    let checked = std::panic::catch_unwind(|| guest.check_target(&over, ""));
    Command::new("umount").arg("-l").arg(&over).status().unwrap();
    checked.unwrap();
}

#[test]
fn completes_a_dump_on_ext4() {
    let mounted = require!("mount", Mounted::new(&["/usr/sbin/mkfs.ext4", "-q"], "loop"));
    fs::remove_dir(mounted.path().join("lost+found")).unwrap();
    Guest::new().check_target(&mounted.path(), "");
}

/// Runs the tool with faults. The dump must be complete, and nothing else may be left.
fn check_injected(guest: &Guest, line: &str, injections: &[String], is_called: bool) {
    let directory = tempfile::tempdir().unwrap();
    let (work, log) = (directory.path().join("work"), directory.path().join("log"));
    fs::create_dir(&work).unwrap();
    let calls = "linkat,renameat2,fchmod,openat,pidfd_getfd,link,unlink,unlinkat,fcntl";
    let mut command = strace::traced(&log, calls, injections);
    command.current_dir(&work).args(["sh", "-c", line]);
    command.arg(tool_path());
    let output = command.arg(guest.directory.path().join("guest.mem")).output().unwrap();
    let message = stderr(&output);
    assert_eq!((output.status.code(), message.as_str()), (Some(0), ""), "{line} {injections:?}");
    assert!(!is_called || strace::faults(&log) > 0, "{line} {injections:?}");
    assert!(fs::read(work.join("new")).unwrap() == guest.dump, "{line} {injections:?}");
    assert_eq!(names(&work), ["new"], "{line} {injections:?}");
    assert_eq!(work.join("new").metadata().unwrap().mode() & 0o777, 0o600);
}

/// A sandbox refuses links.
fn check_refused_links(options: &[&str], errnos: &[&str]) {
    let guest = Guest::new();
    let dump = "exec \"$0\" dump --memory \"$1\" -o new";
    for options in options {
        let line = format!("{dump}{options}");
        for errno in errnos {
            let link = format!("linkat:error={errno}");
            check_injected(&guest, &line, std::slice::from_ref(&link), true);
            // The trial succeeds, but the link of the finished dump does not, so the dump is copied.
            check_injected(&guest, &line, &[format!("{link}:when=2+")], true);
            // Neither hard links nor RENAME_NOREPLACE.
            check_injected(&guest, &line, &[link, "renameat2:error=EINVAL".into()], true);
        }
    }
}

#[test]
fn completes_a_dump_if_a_sandbox_refuses_links() {
    require!(strace);
    check_refused_links(&["", " --force --sync"], &["ENOENT", "EPERM"]);
}

#[test]
#[ignore = "slow: 2 s"]
fn completes_a_dump_if_a_sandbox_refuses_links_with_any_error() {
    require!(strace);
    check_refused_links(
        &["", " --sync", " --force", " --force --sync"],
        &["ENOENT", "EPERM", "EOPNOTSUPP", "EACCES", "EXDEV", "ENOSYS"],
    );
}

#[test]
fn completes_a_dump_if_its_mode_cannot_be_set() {
    require!(strace);
    let guest = Guest::new();
    let dump = "exec \"$0\" dump --memory \"$1\" -o new";
    // The file already has the right mode.
    check_injected(&guest, dump, &["fchmod:error=EPERM".into()], false);
    check_injected(&guest, &format!("umask 077; {dump}"), &["fchmod:error=EPERM".into()], false);
}

#[test]
fn completes_a_dump_if_descriptors_cannot_be_duplicated() {
    require!(strace);
    let guest = Guest::new();
    for errno in ["EPERM", "EACCES", "ENOSYS", "EINVAL", "EMFILE"] {
        let line = "exec \"$0\" dump --memory \"$1\" -o new";
        check_injected(&guest, line, &[format!("fcntl:error={errno}")], true);
    }
}

/// The trial file cannot be removed, so its name becomes the name of the dump.
#[test]
fn a_dump_has_one_name_if_none_can_be_removed() {
    require!(strace);
    let guest = Guest::new();
    for options in ["", " --force"] {
        let line = format!("exec \"$0\" dump --memory \"$1\" -o new{options}");
        check_injected(&guest, &line, &["unlink,unlinkat:error=EPERM".into()], true);
    }
    // Names cannot be changed either.
    let directory = tempfile::tempdir().unwrap();
    let (work, log) = (directory.path().join("work"), directory.path().join("log"));
    fs::create_dir(&work).unwrap();
    let calls = "unlink,unlinkat,rename,renameat,renameat2";
    let mut command = strace::traced(&log, calls, &[format!("{calls}:error=EPERM")]);
    command.current_dir(&work).arg(tool_path());
    command.args(["dump", "-o", "new", "--memory"]).arg(guest.directory.path().join("guest.mem"));
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    let kept = work.join(kept_path(&message).unwrap());
    assert!(fs::read(&kept).unwrap() == guest.dump);
    assert_eq!((kept.metadata().unwrap().nlink(), names(&work).len()), (1, 1));
}

#[test]
fn reports_a_second_name_that_cannot_be_removed() {
    require!(strace);
    let guest = Guest::new();
    let faults = Faults { rename_flags: Some(Errno::INVAL), ..Faults::default() };
    let fuse = require!("fuse", Fuse::new(faults));
    let log = guest.directory.path().join("log");
    let calls = "unlink,unlinkat";
    let mut command = strace::traced(&log, calls, &[format!("{calls}:error=EPERM")]);
    command.arg(tool_path()).current_dir(guest.directory.path());
    let new = fuse.path().join("new");
    let output = command.args(["dump", "--memory", "guest.mem", "-o"]).arg(&new).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the dump is complete, but its second name "), "{message}");
    assert!(fs::read(&new).unwrap() == guest.dump);
    assert_eq!(names(&fuse.path()).len(), 2);
}

/// The rename is carried out but reports an error, whether or not the kernel still remembers the old names.
#[test]
fn a_rename_whose_reply_is_lost_does_not_lose_the_dump() {
    let guest = Guest::new();
    for remembered in [0, 3600] {
        for (link, rename_flags) in [
            (Some(Errno::NOSYS), Some(Errno::INVAL)),
            (Some(Errno::NOSYS), None),
            (None, Some(Errno::INVAL)),
        ] {
            for tmpfile in [false, true] {
                let faults = Faults {
                    tmpfile,
                    link,
                    rename_flags,
                    rename_lost: Some(Errno::IO),
                    remembered,
                    ..Faults::default()
                };
                let fuse = require!("fuse", Fuse::new(faults));
                for (line, file, expected) in [
                    ("dump --memory guest.mem -o $1/new", "new", &guest.dump),
                    ("dump --memory guest.mem -o $1/new --force", "new", &guest.dump),
                    ("extract guest.core --memory 0 -o $1/image", "image", &guest.image),
                    ("extract guest.core --all $1/all", "all/memory-0.mem", &guest.image),
                ] {
                    let output = guest.shell(&fuse.path(), &format!("exec \"$0\" {line}"));
                    let message = stderr(&output);
                    assert_eq!((output.status.code(), message.as_str()), (Some(0), ""), "{line}");
                    // Not read through the kernel, which can remember another file.
                    assert!(fuse.contents(file) == *expected, "{line}");
                }
                assert_eq!(names(&fuse.path()), ["all", "image", "new"]);
            }
        }
    }
}

/// If nothing can replace the empty file that reserves a name, other names do not help.
#[test]
fn a_rename_that_cannot_replace_does_not_mean_that_the_name_is_taken() {
    let faults = Faults {
        link: Some(Errno::NOSYS),
        rename_flags: Some(Errno::INVAL),
        rename_over: Some(Errno::EXIST),
        ..Faults::default()
    };
    for tmpfile in [false, true] {
        let fuse = require!("fuse", Fuse::new(Faults { tmpfile, ..faults.clone() }));
        let file = unnamed(&fuse, FileOptions::new());
        let mut asked = 0;
        let paths = (0..9).map(|i| fuse.path().join(i.to_string())).inspect(|_| asked += 1);
        let error = file.commit(paths).unwrap_err();
        let kept = error.kept_file().unwrap();
        assert_eq!(fs::read(kept).unwrap(), b"finished");
        assert_eq!(names(&fuse.path()), [kept.file_name().unwrap().to_str().unwrap()]);
        assert!(
            error.to_string().ends_with("neither hard links nor a rename that replaces a file")
        );
        // `commit` checks the first name in advance.
        assert!(asked <= 2, "{asked}");
    }
}

#[test]
fn writes_to_an_inherited_descriptor_without_pidfd_getfd() {
    require!(strace);
    let guest = Guest::new();
    for errno in ["EPERM", "ENOSYS"] {
        for fd in ["--fd 3", "-o /dev/fd/3", "-o /proc/self/fd/3"] {
            let line = format!("umask 077; exec \"$0\" dump --memory \"$1\" {fd} 3> new");
            check_injected(&guest, &line, &[format!("pidfd_getfd:error={errno}")], false);
        }
    }
}

/// The position of the descriptor is shared with its other owners.
#[test]
fn writes_to_an_inherited_descriptor_from_its_position_on() {
    require!(strace);
    let guest = Guest::new();
    let directory = tempfile::tempdir().unwrap();
    let mut command = strace::traced(
        &directory.path().join("log"),
        "pidfd_getfd",
        &["pidfd_getfd:error=EPERM".into()],
    );
    let line =
        "{ printf before >&3; \"$0\" dump --memory \"$1\" --fd 3; printf after >&3; } 3> new";
    command.current_dir(directory.path()).args(["sh", "-c", line]);
    command.arg(tool_path());
    let output = command.arg(guest.directory.path().join("guest.mem")).output().unwrap();
    assert_eq!(stderr(&output), "");
    let expected = [b"before", &guest.dump[..], b"after"].concat();
    assert!(fs::read(directory.path().join("new")).unwrap() == expected);
    // A socket, which cannot be opened by a path.
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = strace::traced(
        &directory.path().join("log"),
        "pidfd_getfd",
        &["pidfd_getfd:error=EPERM".into()],
    );
    command.args(["sh", "-c", "exec \"$0\" dump --memory \"$1\" --fd 3 3>&1"]);
    command.arg(tool_path());
    command.arg(guest.directory.path().join("guest.mem"));
    command.stdout(std::os::fd::OwnedFd::from(writer));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(bytes == guest.dump);
}

/// A user may write to the directory but not read it, so `fsync` of the directory is impossible.
#[test]
fn completes_and_syncs_a_dump_in_a_directory_that_may_not_be_read() {
    let guest = Guest::new();
    let directory = guest.directory.path();
    let is_root = rustix::process::getuid().is_root();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory.join("guest.mem"), Permissions::from_mode(0o644)).unwrap();
    // Copied by another process. Otherwise a process forked meanwhile would hold the copy open for writing.
    let copied = Command::new("cp").arg(tool_path()).arg(directory.join("corestream")).status();
    assert!(copied.unwrap().success());
    let sub = directory.join("sub");
    fs::create_dir(&sub).unwrap();
    if is_root {
        std::os::unix::fs::chown(&sub, Some(65_534), Some(65_534)).unwrap();
    }
    for options in [&["--sync"][..], &["--sync", "--force"], &["--force"]] {
        fs::set_permissions(&sub, Permissions::from_mode(0o300)).unwrap();
        let mut command = Command::new("./corestream");
        command.current_dir(directory).args(["dump", "--memory", "guest.mem", "-o", "sub/new"]);
        command.args(options);
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().unwrap();
        fs::set_permissions(&sub, Permissions::from_mode(0o700)).unwrap();
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{options:?}");
        assert!(fs::read(sub.join("new")).unwrap() == guest.dump);
        assert_eq!(names(&sub), ["new"]);
    }
}

fn unnamed(fuse: &Fuse, options: FileOptions) -> UnnamedFile {
    let file = UnnamedFile::create_in(fuse.path(), options).unwrap();
    file.file().write_all_at(b"finished", 0).unwrap();
    file
}

#[test]
fn keeps_a_finished_file_that_cannot_be_named() {
    let guest = Guest::new();
    let refused = || Faults {
        link: Some(Errno::PERM),
        rename: Some(Errno::IO),
        rename_flags: Some(Errno::INVAL),
        ..Faults::default()
    };
    for tmpfile in [false, true] {
        for force in ["", "--force"] {
            let fuse = require!("fuse", Fuse::new(Faults { tmpfile, ..refused() }));
            let new = fuse.path().join("new");
            if !force.is_empty() {
                fs::write(&new, "old").unwrap();
            }
            let line = format!("exec \"$0\" dump --memory guest.mem -o $1/new {force}");
            let output = guest.shell(&fuse.path(), &line);
            let message = stderr(&output);
            assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
            let kept = kept_path(&message).unwrap();
            assert!(fs::read(&kept).unwrap() == guest.dump);
            assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
            let expected = format!(
                "corestream: {}: cannot name the finished dump, which is kept as {}: ",
                new.display(),
                kept.display()
            );
            assert!(message.starts_with(&expected), "{message}");
            assert!(message.ends_with("Input/output error (os error 5)\n"), "{message}");
            match force.is_empty() {
                true => assert_eq!(names(&fuse.path()).len(), 1),
                false => assert_eq!(fs::read(&new).unwrap(), b"old"),
            }
            fs::remove_file(kept).unwrap();
        }
    }
}

/// `extract --all` renames its directory when everything is in it.
#[test]
fn keeps_a_finished_directory_that_cannot_be_named() {
    let guest = Guest::new();
    let faults = Faults { rename: Some(Errno::IO), ..Faults::default() };
    let fuse = require!("fuse", Fuse::new(faults));
    let output = guest.shell(&fuse.path(), "exec \"$0\" extract guest.core --all $1/all");
    let message = stderr(&output);
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    let kept = kept_path(&message).unwrap();
    assert_eq!(names(&fuse.path()), [kept.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(names(&kept), ["manifest.json", "memory-0.mem"]);
    assert!(fs::read(kept.join("memory-0.mem")).unwrap() == guest.image);
}

/// The usual ways fail only after the library has begun the file.
#[test]
fn a_way_that_fails_meanwhile_does_not_lose_the_file() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let new = fuse.path().join("new");
    for tmpfile in [false, true] {
        for replace in [false, true] {
            let options = FileOptions::new().replace(replace);
            // The middle of the file is a hole, which the copy does not fill.
            fuse.set(Faults { tmpfile, ..Faults::default() });
            let file = unnamed(&fuse, options);
            file.file().write_all_at(b"end", 5 << 20).unwrap();
            let link = Some(Errno::PERM);
            fuse.set(Faults {
                tmpfile,
                link,
                rename_flags: Some(Errno::INVAL),
                ..Faults::default()
            });
            assert_eq!(file.commit([new.clone()]).unwrap(), new);
            let bytes = fs::read(&new).unwrap();
            assert!(bytes.starts_with(b"finished\0") && bytes.ends_with(b"\0end"));
            assert_eq!((bytes.len(), names(&fuse.path()).len()), ((5 << 20) + 3, 1));

            fuse.set(Faults { tmpfile, ..Faults::default() });
            let file = unnamed(&fuse, options);
            fuse.set(Faults { tmpfile, link, rename: Some(Errno::IO), ..Faults::default() });
            let other = fuse.path().join("other");
            let error = file.commit([other.clone()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Output);
            let kept = error.kept_file().unwrap();
            assert_eq!(fs::read(kept).unwrap(), b"finished");
            fs::remove_file(kept).unwrap();
            fs::remove_file(&new).unwrap();
            assert!(names(&fuse.path()).is_empty());
        }
    }
}

/// Whatever way is left, a file that another process has made meanwhile stays as it is.
#[test]
fn keeps_a_file_that_appears_meanwhile() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let new = fuse.path().join("new");
    for tmpfile in [false, true] {
        for link in [None, Some(Errno::PERM)] {
            for rename_flags in [None, Some(Errno::INVAL)] {
                fuse.set(Faults { tmpfile, link, rename_flags, ..Faults::default() });
                let file = unnamed(&fuse, FileOptions::new());
                fs::write(&new, "theirs").unwrap();
                let error = file.commit([new.clone()]).unwrap_err();
                assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::AlreadyExists);
                assert_eq!(fs::read(&new).unwrap(), b"theirs");
                let kept = error.kept_file().unwrap();
                assert_eq!(fs::read(kept).unwrap(), b"finished");
                assert_eq!(names(&fuse.path()).len(), 2);
                fs::remove_file(kept).unwrap();
                // A second name is free.
                let second = fuse.path().join("second");
                let file = unnamed(&fuse, FileOptions::new());
                assert_eq!(file.commit([new.clone(), second.clone()]).unwrap(), second);
                for path in [&new, &second] {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }
}
