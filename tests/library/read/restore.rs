//! Restoring a memory as an image file: exact, sparse, and complete or not there at all.

use crate::{common, foreign};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use common::own::Own;
use common::reading::{PAGE, images, small};
use corestream::read::OpenOptions;
use corestream::{
    Cancel, CoreDump, CoreDumpFile, Dumper, ErrorKind, FileOptions, Memory, MemoryImage,
    MemoryIndex, MemoryType,
};
use foreign::{address, foreign};
use wasm_encoder::DataSection;

const FIRST: MemoryIndex = MemoryIndex(0);

#[test]
fn restores_an_exact_and_sparse_image() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory");
    let images = images();
    let own = Own::default().dump(&small());
    let dump = CoreDumpFile::from_slice(&own).unwrap();
    for (i, (_, image)) in (0..).zip(&images) {
        let memory = dump.memory(MemoryIndex(i)).unwrap();
        let restored = memory.restore(&path, FileOptions::new().replace(true)).unwrap();
        assert_eq!(restored.len, image.len() as u64);
        assert!(std::fs::read(&path).unwrap() == *image, "memory {i}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let memory = dump.memory(FIRST).unwrap();
    let error = memory.restore(&path, FileOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Output);
    assert!(dump.memory(MemoryIndex(9)).is_err());
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);

    // One segment of 1 MiB, with data in a few of its blocks.
    let mut image = vec![0; 1 << 20];
    for at in [5_000, 5_001, 300_000, 303_104, (1 << 20) - 1] {
        image[at] = 1;
    }
    for start in [0, 1, 4095, 4096, 10_000] {
        let mut data = DataSection::new();
        data.active(0, &address(start, false), image.iter().copied());
        let bytes = foreign(&[(32, false)], &data);
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let memory = dump.memory(FIRST).unwrap();
        memory.restore(&path, FileOptions::new().replace(true)).unwrap();
        let mut expected = vec![0; 32 * PAGE];
        let start = usize::try_from(start).unwrap();
        expected[start..start + image.len()].copy_from_slice(&image);
        assert!(std::fs::read(&path).unwrap() == expected);
        let blocks = path.metadata().unwrap().blocks() * 512;
        assert!(blocks <= 10 * 4096, "{blocks} bytes on disk");
    }
}

#[test]
fn leaves_nothing_of_a_cancelled_image_without_data() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = CoreDump::new("guest");
    guest.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&[])));
    let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
    let cancel = Cancel::new();
    let dump = OpenOptions::new().cancel(Some(cancel.clone())).open_source(&bytes[..]).unwrap();
    cancel.cancel("the test");
    let path = directory.path().join("memory");
    let error = dump.memory(FIRST).unwrap().restore(&path, FileOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn restores_a_sparse_tib() {
    let mut data = DataSection::new();
    let at = |i: u64| i * (1 << 36) + 77;
    for i in 0..16 {
        data.active(0, &address(at(i), true), vec![5; 9000]);
    }
    let bytes = foreign(&[(1 << 24, true)], &data);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory");
    let restored = dump.memory(FIRST).unwrap().restore(&path, FileOptions::new()).unwrap();
    assert_eq!((restored.len, restored.data), (1 << 40, 16 * 9000));
    let file = File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let mut buffer = vec![0; 9002];
    for i in 0..16 {
        file.read_exact_at(&mut buffer, at(i) - 1).unwrap();
        assert_eq!((buffer[0], buffer[9001]), (0, 0));
        assert!(buffer[1..9001].iter().all(|byte| *byte == 5));
    }
}
