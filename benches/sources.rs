//! The cost of the safe constructors: reading a dump or an image, compared with mapping the same file.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod common;
#[path = "../tests/common/mapped.rs"]
mod mapped;

use common::{Work, fresh_file, images, medians, write_all_fresh};
use corestream::read::MappedFile;
use corestream::{
    CoreDump, CoreDumpFile, Dumper, FileOptions, FileSink, Memory, MemoryImage, MemoryIndex,
    MemoryType,
};

fn main() {
    let rounds = if common::test_mode() { 1 } else { 7 };
    println!("milliseconds, medians of {rounds} rounds, {} MiB", common::image_len() >> 20);
    let directory = tempfile::tempdir().unwrap();
    // Restores to tmpfs if it has room: on a disk, removing the old file takes longer than writing the new one.
    let output = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for image in images().filter(|image| ["dense", "heap"].contains(&image.name)) {
        let bytes = &image.bytes[..];
        let plan_of = guest_of(MemoryImage::from_slice(bytes));
        let dumped = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        let plan = Dumper::new().plan(&plan_of).unwrap();
        plan.write_to(&mut FileSink::new(dumped.as_file())).unwrap();
        let image_file = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        std::fs::write(image_file.path(), bytes).unwrap();

        let read = CoreDumpFile::open(dumped.path()).unwrap();
        // SAFETY: this bench created the temporary file, and nothing writes to it any more.
        #[allow(unsafe_code, reason = "maps a file of its own")]
        let source = unsafe { MappedFile::new(dumped.as_file()) };
        let mapped = CoreDumpFile::from_source(source.unwrap()).unwrap();
        let mapped_image = guest_of(mapped::open(image_file.path()));
        let read_image = guest_of(MemoryImage::open(image_file.path()).unwrap());
        let restored = output.path().join("restored");
        for dump in [&mapped, &read] {
            assert!(dump.verify().unwrap().is_intact());
            restore(dump, &restored);
            assert!(std::fs::read(&restored).unwrap() == bytes);
        }
        for guest in [&mapped_image, &read_image] {
            let again = Dumper::new().plan(guest).unwrap().to_vec().unwrap();
            let mut contents = vec![0; bytes.len()];
            let again = CoreDumpFile::from_slice(&again).unwrap();
            again.memory(MemoryIndex(0)).unwrap().read(0, &mut contents).unwrap();
            assert!(contents == bytes);
        }
        let dump_bytes = mapped::open(dumped.path());
        println!("\n{}", image.name);
        table(
            rounds,
            &[
                ("crc32fast, 2 threads", Box::new(|| crc(dump_bytes.as_slice().unwrap()))),
                ("verify, mapped", Box::new(|| _ = mapped.verify().unwrap())),
                ("verify, read", Box::new(|| _ = read.verify().unwrap())),
            ],
        );
        table(
            rounds,
            &[
                ("write", Box::new(|| std::fs::write(&restored, bytes).unwrap())),
                ("restore, mapped", Box::new(|| restore(&mapped, &restored))),
                ("restore, read", Box::new(|| restore(&read, &restored))),
            ],
        );
        table(
            rounds,
            &[
                ("write_all to a fresh file", Box::new(|| write_all_fresh(bytes))),
                ("dump to a file, image mapped", Box::new(|| to_file(&mapped_image))),
                ("dump to a file, image read", Box::new(|| to_file(&read_image))),
            ],
        );
    }
}

/// Prints the times of a limit, of the work on a mapped file, and of the same work on a file that is read.
fn table(rounds: usize, works: &[Work<'_>; 3]) {
    let medians = medians(rounds, works);
    for ((row, _), median) in works.iter().zip(&medians) {
        println!("  {row:<30} {:>9.2}", median.as_secs_f64() * 1000.0);
    }
    let ratio = medians[2].as_secs_f64() / medians[1].as_secs_f64();
    println!("  read / mapped                  {ratio:>9.2}");
}

/// Computes the CRC-32 of all bytes with two threads: the machine's limit for verifying.
fn crc(bytes: &[u8]) {
    std::thread::scope(|scope| {
        for part in bytes.chunks(bytes.len().div_ceil(2)) {
            scope.spawn(move || std::hint::black_box(crc32fast::hash(part)));
        }
    });
}

fn guest_of(image: MemoryImage<'_>) -> CoreDump<'_> {
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm64(image.len() / 65_536), image));
    dump
}

fn restore(dump: &CoreDumpFile<'_>, path: &std::path::Path) {
    let memory = dump.memory(MemoryIndex(0)).unwrap();
    memory.restore(path, FileOptions::new().replace(true)).unwrap();
}

fn to_file(dump: &CoreDump<'_>) {
    let plan = Dumper::new().plan(dump).unwrap();
    plan.write_to(&mut FileSink::new(&fresh_file())).unwrap();
}
