//! The FUSE file system of the tests: an ordinary file system without faults, and each fault fails the right system
//! call.

use crate::fuse;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use crate::environment::require;
use fuse::{Faults, Fuse};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.unwrap_err())
}

#[test]
fn works_as_a_file_system_without_faults() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let [a, b, directory] = ["a", "b", "directory"].map(|name| fuse.path().join(name));
    let bytes: Vec<u8> = (0..700_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    fs::write(&a, &bytes).unwrap();
    assert!(fs::read(&a).unwrap() == bytes);
    assert_eq!(a.metadata().unwrap().len(), 700_000);
    fs::set_permissions(&a, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(a.metadata().unwrap().mode() & 0o777, 0o640);
    fs::hard_link(&a, &b).unwrap();
    assert_eq!(a.metadata().unwrap().nlink(), 2);
    fs::create_dir(&directory).unwrap();
    assert_eq!(fs::remove_dir(fuse.path()).unwrap_err().kind(), ErrorKind::ResourceBusy);
    let inner = directory.join("inner");
    assert_eq!(renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    renameat_with(CWD, &a, CWD, &inner, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(errno(fs::remove_dir(&directory)), Some(Errno::NOTEMPTY));
    // `rename` does nothing if both names are the same file.
    fs::remove_file(&b).unwrap();
    fs::write(&b, "replaced").unwrap();
    fs::rename(&inner, &b).unwrap();
    let file = File::options().write(true).open(&b).unwrap();
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    File::open(fuse.path()).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(&b).unwrap(), bytes[..5]);
    let mut names: Vec<_> =
        fs::read_dir(fuse.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "directory"]);
    fs::remove_file(&b).unwrap();
    fs::remove_dir(&directory).unwrap();
    assert_eq!(fs::read_dir(fuse.path()).unwrap().count(), 0);
}

#[test]
fn fails_the_system_call_of_each_fault() {
    let fuse = require!("fuse", Fuse::new(Faults::default()));
    let [a, b] = ["a", "b"].map(|name| fuse.path().join(name));
    let unnamed = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        rustix::fs::open(fuse.path(), flags, Mode::RUSR | Mode::WUSR)
    };
    fs::write(&a, vec![1; 100_000]).unwrap();
    assert_eq!(unnamed().unwrap_err(), Errno::OPNOTSUPP);

    fuse.set(Faults { tmpfile: true, link: Some(Errno::PERM), ..Faults::default() });
    let file = File::from(unnamed().unwrap());
    file.write_all_at(b"unnamed", 0).unwrap();
    assert_eq!(fs::read_dir(fuse.path()).unwrap().count(), 1);
    assert_eq!(errno(fs::hard_link(&a, &b)), Some(Errno::PERM));

    fuse.set(Faults { chmod: Some(Errno::PERM), mode: Some(0o755), ..Faults::default() });
    assert_eq!(errno(fs::set_permissions(&a, Permissions::from_mode(0o600))), Some(Errno::PERM));
    assert_eq!(a.metadata().unwrap().mode() & 0o777, 0o755);

    fuse.set(Faults { rename_flags: Some(Errno::INVAL), ..Faults::default() });
    assert_eq!(renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE), Err(Errno::INVAL));
    fuse.set(Faults { rename_open: Some(Errno::BUSY), ..Faults::default() });
    let open = File::open(&a).unwrap();
    assert_eq!(errno(fs::rename(&a, &b)), Some(Errno::BUSY));
    drop(open);
    fs::rename(&a, &b).unwrap();
    fuse.set(Faults { rename: Some(Errno::IO), ..Faults::default() });
    assert_eq!(errno(fs::rename(&b, &a)), Some(Errno::IO));

    fuse.set(Faults { read: std::iter::once(40_000..40_001).collect(), ..Faults::default() });
    let file = File::open(&b).unwrap();
    assert_eq!(errno(file.read_exact_at(&mut [0; 100], 39_990)), Some(Errno::IO));
    file.read_exact_at(&mut [0; 100], 0).unwrap();
    file.read_exact_at(&mut [0; 100], 90_000).unwrap();

    fuse.set(Faults { write: Some((5, Errno::DQUOT)), ..Faults::default() });
    let mut file = File::create(&a).unwrap();
    file.write_all(b"12345").unwrap();
    assert_eq!(errno(file.write_all(b"6")), Some(Errno::DQUOT));
    fuse.set(Faults { capacity: Some(150_000), ..Faults::default() });
    file.write_all(&[0; 10_000]).unwrap();
    assert_eq!(errno(file.write_all(&[0; 50_000])), Some(Errno::NOSPC));

    fuse.set(Faults {
        fsync: Some(Errno::IO),
        fsync_directory: Some(Errno::IO),
        flush: Some(Errno::NOSPC),
        all_hole: true,
        ..Faults::default()
    });
    assert_eq!(errno(file.sync_all()), Some(Errno::IO));
    assert_eq!(errno(File::open(fuse.path()).unwrap().sync_all()), Some(Errno::IO));
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)), Err(Errno::NXIO));
    // std ignores errors of `close`. The fault applies to files that are opened from here on.
    drop(file);
    assert_ne!(a.metadata().unwrap().len(), 0);
    drop(File::options().write(true).open(&a).unwrap());
    assert_eq!(a.metadata().unwrap().len(), 0);
    assert_eq!(b.metadata().unwrap().len(), 100_000);
}
