//! How a finished dump gets its name where the usual ways are closed: by sandboxes, by file systems without links,
//! modes or renames with flags, in directories that may not be read. It is whole under its name, or else kept under a
//! partial name that the message says. What existed is never overwritten.
#![allow(clippy::print_stdout, reason = "a test says what it could not try")]

use crate::{environment, fuse, strace, tool};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corestream::{ErrorKind, FileOptions, UnnamedFile};
use fuse::{Faults, Fuse};
use rustix::io::Errno;
use tempfile::TempDir;
use tool::{names, stderr};

const LEN: usize = 5 * 65_536;

/// A directory with `guest.mem` and its dump `guest.core`, and what they hold.
struct Guest {
    directory: TempDir,
    dump: Vec<u8>,
    image: Vec<u8>,
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = vec![6; LEN];
        fs::write(directory.path().join("guest.mem"), &image).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("corestream"));
        command.args(["dump", "--memory", "guest.mem", "-o", "guest.core"]);
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let dump = fs::read(directory.path().join("guest.core")).unwrap();
        Self { directory, dump, image }
    }

    /// Runs a line of the shell in which the tool is `$0` and `target` is `$1`.
    fn shell(&self, target: &Path, line: &str) -> Output {
        let mut command = Command::new("sh");
        command.current_dir(self.directory.path()).args(["-c", line]);
        command.arg(assert_cmd::cargo::cargo_bin!("corestream")).arg(target).output().unwrap()
    }

    /// Writes to new files in `target`, and over old ones, in every way; each must be whole.
    fn check_target(&self, target: &Path, warning: &str) {
        let new = target.join("new");
        for (writer, expected) in [
            ("dump --memory guest.mem", &self.dump),
            ("extract guest.core --memory 0", &self.image),
        ] {
            for options in ["", "--force"] {
                let line = format!("exec \"$0\" {writer} -o $1/new {options}");
                let output = self.shell(target, &line);
                let said = stderr(&output);
                assert!(output.status.success(), "{line}: {said}");
                let is_expected =
                    if warning.is_empty() { said.is_empty() } else { said.contains(warning) };
                assert!(is_expected && said.lines().count() <= 1, "{line}: {said}");
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

#[test]
fn a_dump_is_whole_whatever_a_file_system_lacks() {
    let guest = Guest::new();
    for tmpfile in [false, true] {
        for link in [None, Some(Errno::PERM)] {
            for rename_flags in [None, Some(Errno::INVAL)] {
                for rename_open in [None, Some(Errno::BUSY)] {
                    let faults =
                        Faults { tmpfile, link, rename_flags, rename_open, ..Faults::default() };
                    println!("{faults:?}");
                    let Some(fuse) = Fuse::mount(faults) else { return };
                    guest.check_target(&fuse.path(), "");
                }
            }
        }
    }
}

#[test]
fn a_file_system_without_modes_gets_a_warning() {
    let guest = Guest::new();
    for tmpfile in [false, true] {
        for chmod in [None, Some(Errno::PERM), Some(Errno::OPNOTSUPP)] {
            let faults = Faults { tmpfile, chmod, mode: Some(0o755), ..Faults::default() };
            let Some(fuse) = Fuse::mount(faults) else { return };
            guest.check_target(&fuse.path(), "has mode 0755 instead of 0600");
        }
    }
    // Nobody else can read these.
    let faults = Faults { chmod: Some(Errno::PERM), mode: Some(0o700), ..Faults::default() };
    let Some(fuse) = Fuse::mount(faults) else { return };
    guest.check_target(&fuse.path(), "");
}

/// A file system made and mounted for the test.
struct Mounted(TempDir);

impl Mounted {
    /// Mounts what `mkfs` has made of a file of 32 MiB; needs the `capability` of that name.
    fn new(capability: &str, mkfs: &[&str], options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(directory.path().join("mount")).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            environment::skip(capability, format_args!("{} cannot be run", mkfs[0]));
            return None;
        }
        let mut command = Command::new("mount");
        command.args(["-o", options]).arg(&image).arg(directory.path().join("mount"));
        match command.output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            Ok(output) => {
                let why = stderr(&output).trim_end().replace('\n', "; ");
                environment::skip(capability, why);
                None
            }
            Err(error) => {
                environment::skip(capability, error);
                None
            }
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
fn a_dump_to_vfat_is_whole() {
    let Some(mounted) = Mounted::new("vfat", &["/usr/sbin/mkfs.vfat"], "loop") else { return };
    Guest::new().check_target(&mounted.path(), "has mode 0755 instead of 0600");
    let Some(mounted) = Mounted::new("vfat", &["/usr/sbin/mkfs.vfat"], "loop,umask=077") else {
        return;
    };
    Guest::new().check_target(&mounted.path(), "");
}

/// An overlay, as in containers: its unnamed files are those of the layer below.
#[test]
fn a_dump_to_an_overlay_is_whole() {
    let Some(mounted) = Mounted::new("mount", &["/usr/sbin/mkfs.ext4", "-q"], "loop") else {
        return;
    };
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
    if !output.status.success() {
        return environment::skip("overlay", stderr(&output).trim_end().replace('\n', "; "));
    }
    let guest = Guest::new();
    let checked = std::panic::catch_unwind(|| guest.check_target(&over, ""));
    Command::new("umount").arg("-l").arg(&over).status().unwrap();
    checked.unwrap();
}

#[test]
fn a_dump_to_ext4_is_whole() {
    let Some(mounted) = Mounted::new("mount", &["/usr/sbin/mkfs.ext4", "-q"], "loop") else {
        return;
    };
    fs::remove_dir(mounted.path().join("lost+found")).unwrap();
    Guest::new().check_target(&mounted.path(), "");
}

/// Runs the tool with faults: the dump must be whole, and nothing else may be there.
fn check_injected(guest: &Guest, line: &str, injections: &[String], is_called: bool) {
    let directory = tempfile::tempdir().unwrap();
    let (work, log) = (directory.path().join("work"), directory.path().join("log"));
    fs::create_dir(&work).unwrap();
    let calls = "linkat,renameat2,fchmod,openat,pidfd_getfd,link,unlink,unlinkat,fcntl";
    let mut command = strace::traced(&log, calls, injections);
    command.current_dir(&work).args(["sh", "-c", line]);
    command.arg(assert_cmd::cargo::cargo_bin!("corestream"));
    let output = command.arg(guest.directory.path().join("guest.mem")).output().unwrap();
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{line} {injections:?}");
    assert!(!is_called || strace::faults(&log) > 0, "{line} {injections:?}");
    assert!(fs::read(work.join("new")).unwrap() == guest.dump, "{line} {injections:?}");
    assert_eq!(names(&work), ["new"], "{line} {injections:?}");
    assert_eq!(work.join("new").metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_dump_is_whole_where_a_sandbox_refuses_links() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    let dump = "exec \"$0\" dump --memory \"$1\" -o new";
    for options in ["", " --sync", " --force", " --force --sync"] {
        let line = format!("{dump}{options}");
        for errno in ["ENOENT", "EPERM", "EOPNOTSUPP", "EACCES", "EXDEV", "ENOSYS"] {
            let link = format!("linkat:error={errno}");
            check_injected(&guest, &line, std::slice::from_ref(&link), true);
            // The trial succeeds, and the link of the finished dump does not: it is copied.
            check_injected(&guest, &line, &[format!("{link}:when=2+")], true);
            // Neither hard links nor RENAME_NOREPLACE.
            check_injected(&guest, &line, &[link, "renameat2:error=EINVAL".into()], true);
        }
    }
}

#[test]
fn a_dump_is_whole_where_its_mode_cannot_be_set() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    let dump = "exec \"$0\" dump --memory \"$1\" -o new";
    // The mode fits already.
    check_injected(&guest, dump, &["fchmod:error=EPERM".into()], false);
    check_injected(&guest, &format!("umask 077; {dump}"), &["fchmod:error=EPERM".into()], false);
}

#[test]
fn a_dump_is_whole_where_descriptors_cannot_be_duplicated() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    for errno in ["EPERM", "EACCES", "ENOSYS", "EINVAL", "EMFILE"] {
        let line = "exec \"$0\" dump --memory \"$1\" -o new";
        check_injected(&guest, line, &[format!("fcntl:error={errno}")], true);
    }
}

/// The name of the trial, which stays, becomes that of the dump.
#[test]
fn a_dump_has_one_name_where_none_can_be_removed() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    for options in ["", " --force"] {
        let line = format!("exec \"$0\" dump --memory \"$1\" -o new{options}");
        check_injected(&guest, &line, &["unlink,unlinkat:error=EPERM".into()], true);
    }
    // Nor be renamed.
    let directory = tempfile::tempdir().unwrap();
    let (work, log) = (directory.path().join("work"), directory.path().join("log"));
    fs::create_dir(&work).unwrap();
    let calls = "unlink,unlinkat,rename,renameat,renameat2";
    let mut command = strace::traced(&log, calls, &[format!("{calls}:error=EPERM")]);
    command.current_dir(&work).arg(assert_cmd::cargo::cargo_bin!("corestream"));
    command.args(["dump", "-o", "new", "--memory"]).arg(guest.directory.path().join("guest.mem"));
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    let kept = work.join(kept(&said));
    assert!(fs::read(&kept).unwrap() == guest.dump);
    assert_eq!((kept.metadata().unwrap().nlink(), names(&work).len()), (1, 1));
}

#[test]
fn a_second_name_that_cannot_be_removed_is_reported() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    let faults = Faults { rename_flags: Some(Errno::INVAL), ..Faults::default() };
    let Some(fuse) = Fuse::mount(faults) else { return };
    let log = guest.directory.path().join("log");
    let calls = "unlink,unlinkat";
    let mut command = strace::traced(&log, calls, &[format!("{calls}:error=EPERM")]);
    command.arg(assert_cmd::cargo::cargo_bin!("corestream")).current_dir(guest.directory.path());
    let new = fuse.path().join("new");
    let output = command.args(["dump", "--memory", "guest.mem", "-o"]).arg(&new).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the dump is complete, but its second name "), "{said}");
    assert!(fs::read(&new).unwrap() == guest.dump);
    assert_eq!(names(&fuse.path()).len(), 2);
}

/// A rename that is carried out although it reports an error, whether or not the kernel still remembers the old names.
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
                println!("{faults:?}");
                let Some(fuse) = Fuse::mount(faults) else { return };
                for (line, file, expected) in [
                    ("dump --memory guest.mem -o $1/new", "new", &guest.dump),
                    ("dump --memory guest.mem -o $1/new --force", "new", &guest.dump),
                    ("extract guest.core --memory 0 -o $1/image", "image", &guest.image),
                    ("extract guest.core --all $1/all", "all/memory-0.mem", &guest.image),
                ] {
                    let output = guest.shell(&fuse.path(), &format!("exec \"$0\" {line}"));
                    let said = stderr(&output);
                    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{line}");
                    // Not by the kernel, which may remember another file.
                    assert!(fuse.contents(file) == *expected, "{line}");
                }
                assert_eq!(names(&fuse.path()), ["all", "image", "new"]);
            }
        }
    }
}

/// Where nothing can take the place of the empty file that reserves a name, other names are of no use either.
#[test]
fn a_rename_that_replaces_nothing_is_not_taken_for_a_taken_name() {
    let faults = Faults {
        link: Some(Errno::NOSYS),
        rename_flags: Some(Errno::INVAL),
        rename_over: Some(Errno::EXIST),
        ..Faults::default()
    };
    for tmpfile in [false, true] {
        let Some(fuse) = Fuse::mount(Faults { tmpfile, ..faults.clone() }) else { return };
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
        // `commit` looks at the first name in advance.
        assert!(asked <= 2, "{asked}");
    }
}

#[test]
fn an_inherited_descriptor_is_written_to_where_pidfd_getfd_is_forbidden() {
    if !strace::works() {
        return;
    }
    let guest = Guest::new();
    for errno in ["EPERM", "ENOSYS"] {
        for fd in ["--fd 3", "-o /dev/fd/3", "-o /proc/self/fd/3"] {
            let line = format!("umask 077; exec \"$0\" dump --memory \"$1\" {fd} 3> new");
            check_injected(&guest, &line, &[format!("pidfd_getfd:error={errno}")], false);
        }
    }
}

/// The position of the descriptor is shared: it is the same file, not the same path.
#[test]
fn an_inherited_descriptor_is_written_from_its_position_on() {
    if !strace::works() {
        return;
    }
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
    command.arg(assert_cmd::cargo::cargo_bin!("corestream"));
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
    command.arg(assert_cmd::cargo::cargo_bin!("corestream"));
    command.arg(guest.directory.path().join("guest.mem"));
    command.stdout(std::os::fd::OwnedFd::from(writer));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(bytes == guest.dump);
}

/// Directories that a user may write to but not read, where `fsync` of the directory is impossible.
#[test]
fn a_dump_to_a_directory_that_may_not_be_read_is_whole_and_synced() {
    let guest = Guest::new();
    let directory = guest.directory.path();
    let is_root = rustix::process::getuid().is_root();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(directory.join("guest.mem"), Permissions::from_mode(0o644)).unwrap();
    fs::copy(assert_cmd::cargo::cargo_bin!("corestream"), directory.join("corestream")).unwrap();
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
fn a_finished_file_that_cannot_be_named_is_kept() {
    let guest = Guest::new();
    let refused = || Faults {
        link: Some(Errno::PERM),
        rename: Some(Errno::IO),
        rename_flags: Some(Errno::INVAL),
        ..Faults::default()
    };
    for tmpfile in [false, true] {
        for force in ["", "--force"] {
            let Some(fuse) = Fuse::mount(Faults { tmpfile, ..refused() }) else { return };
            let new = fuse.path().join("new");
            if !force.is_empty() {
                fs::write(&new, "old").unwrap();
            }
            let line = format!("exec \"$0\" dump --memory guest.mem -o $1/new {force}");
            let output = guest.shell(&fuse.path(), &line);
            let said = stderr(&output);
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            let kept = kept(&said);
            assert!(fs::read(&kept).unwrap() == guest.dump);
            assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
            let expected = format!(
                "corestream: {}: cannot name the finished dump, which is kept as {}: ",
                new.display(),
                kept.display()
            );
            assert!(said.starts_with(&expected), "{said}");
            assert!(said.ends_with("Input/output error (os error 5)\n"), "{said}");
            match force.is_empty() {
                true => assert_eq!(names(&fuse.path()).len(), 1),
                false => assert_eq!(fs::read(&new).unwrap(), b"old"),
            }
            fs::remove_file(kept).unwrap();
        }
    }
}

/// What `extract --all` has made is finished when everything is in it, and its directory can only be renamed.
#[test]
fn a_finished_directory_that_cannot_be_named_is_kept() {
    let guest = Guest::new();
    let Some(fuse) = Fuse::mount(Faults { rename: Some(Errno::IO), ..Faults::default() }) else {
        return;
    };
    let output = guest.shell(&fuse.path(), "exec \"$0\" extract guest.core --all $1/all");
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    let kept = kept(&said);
    assert_eq!(names(&fuse.path()), [kept.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(names(&kept), ["manifest.json", "memory-0.mem"]);
    assert!(fs::read(kept.join("memory-0.mem")).unwrap() == guest.image);
}

/// The partial name of a finished file in a message.
fn kept(said: &str) -> PathBuf {
    let (_, rest) = said.split_once(", which is kept as ").expect(said);
    rest.split_once(": ").unwrap().0.into()
}

/// The library, where the ways are closed only after the file was begun.
#[test]
fn a_way_that_is_closed_meanwhile_does_not_lose_the_file() {
    let Some(fuse) = Fuse::mount(Faults::default()) else { return };
    let new = fuse.path().join("new");
    for tmpfile in [false, true] {
        for replace in [false, true] {
            let options = FileOptions::new().replace(replace);
            // A file whose middle is a hole, which the copy does not fill.
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

/// Whatever way is left, a file that somebody else has made meanwhile stays as it is.
#[test]
fn a_file_that_appears_meanwhile_is_never_overwritten() {
    let Some(fuse) = Fuse::mount(Faults::default()) else { return };
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
