//! Whole dumps compared with the reference's algorithm and with the machine's limits, as ratios.
//!
//! Each round runs everything once, one after the other. The table compares the medians over the rounds.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod common;
#[path = "../tests/common/mod.rs"]
mod decoded;
#[path = "../tests/common/mapped.rs"]
mod mapped;

use std::io::Write;
use std::os::unix::fs::FileExt;

use common::{
    Work, drained_pipe, fresh_file, guest, images, medians, plain_read, reference, write_all_fresh,
};
use corestream::read::{MappedFile, Verdict};
use corestream::{CoreDump, CoreDumpFile, Dumper, FileSink, Memory, MemoryType};

fn main() {
    let rounds = if common::test_mode() { 1 } else { 5 };
    println!("milliseconds, medians of {rounds} rounds, {} MiB", common::image_len() >> 20);
    for image in images() {
        let bytes = &image.bytes[..];
        let dump = guest(bytes);
        check(&dump, bytes);
        let sparse = sparse_file(bytes);
        let sparse_dump = sparse_guest(&sparse);
        check(&sparse_dump, bytes);
        let dumped = tempfile::NamedTempFile::new().unwrap();
        let plan = Dumper::new().plan(&dump).unwrap();
        plan.write_to(&mut FileSink::new(dumped.as_file())).unwrap();
        // SAFETY: this bench created the temporary file, and nothing writes to it any more.
        #[allow(unsafe_code, reason = "maps a file of its own")]
        let mapped = unsafe { MappedFile::new(dumped.as_file()) };
        let mapped = CoreDumpFile::from_source(mapped.unwrap()).unwrap();
        assert!(matches!(mapped.verify(), Ok(Verdict::Intact(_))));
        let dump_bytes = mapped::open(dumped.path());
        let mut works = works(bytes, &dump, &sparse_dump);
        works.extend::<[Work<'_>; 2]>([
            ("crc32fast of a dump, 2 threads", Box::new(|| crc(dump_bytes.as_slice().unwrap()))),
            ("verify, 2 threads", Box::new(|| _ = mapped.verify().unwrap())),
        ]);
        table(image.name, rounds, &works);
    }
    huge(rounds);
}

/// Compares a huge sparse image with an image of its data alone.
fn huge(rounds: usize) {
    const PLACE: usize = 1 << 20;

    let dense = images().find(|image| image.name == "dense").unwrap();
    let places = dense.bytes.len() / PLACE;
    let (alone, sparse) =
        (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let step = (1 << 40) / places as u64;
    sparse.as_file().set_len(1 << 40).unwrap();
    for (i, place) in dense.bytes.chunks(PLACE).enumerate() {
        alone.as_file().write_all_at(place, (i * PLACE) as u64).unwrap();
        sparse.as_file().write_all_at(place, i as u64 * step).unwrap();
    }
    let guests = [sparse_guest(&alone), sparse_guest(&sparse)];
    let dumped = Dumper::new().plan(&guests[1]).unwrap().to_vec().unwrap();
    let segments = decoded::decode(&dumped).segments;
    assert_eq!(segments.len(), places);
    for (i, segment) in segments.iter().enumerate() {
        assert_eq!(segment.address, i as u64 * step);
        assert!(*segment.data == dense.bytes[i * PLACE..][..PLACE]);
    }
    drop((dumped, dense));
    let works: [Work<'_>; 2] = [
        ("its data alone", Box::new(|| to_file(&guests[0], true))),
        ("1 TiB", Box::new(|| to_file(&guests[1], true))),
    ];
    println!("\nimage of 1 TiB with {places} MiB of data");
    let medians = medians(rounds, &works);
    for ((row, _), median) in works.iter().zip(&medians) {
        println!("  {row:<30} {:>9.2}", median.as_secs_f64() * 1000.0);
    }
    println!(
        "  1 TiB / data alone           {:>9.2}",
        medians[1].as_secs_f64() / medians[0].as_secs_f64()
    );
}

fn to_file(dump: &CoreDump<'_>, checksums: bool) {
    let plan = Dumper::new().checksums(checksums).plan(dump).unwrap();
    plan.write_to(&mut FileSink::new(&fresh_file())).unwrap();
}

/// Checks that the dump is valid and restores the image, before anything is timed.
///
/// # Panics
/// Panics if it is not or does not.
fn check(dump: &CoreDump<'_>, bytes: &[u8]) {
    let dumped = Dumper::new().plan(dump).unwrap().to_vec().unwrap();
    assert!(decoded::decode(&dumped).contents(0, bytes.len()) == bytes);
}

/// Computes the CRC-32 of all bytes with two threads: the machine's limit for verifying.
fn crc(bytes: &[u8]) {
    std::thread::scope(|scope| {
        for part in bytes.chunks(bytes.len().div_ceil(2)) {
            scope.spawn(move || std::hint::black_box(crc32fast::hash(part)));
        }
    });
}

/// Makes a file with holes in place of the image's zero pages.
fn sparse_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes.len() as u64).unwrap();
    for (i, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|b| *b != 0) {
            file.as_file().write_all_at(page, i as u64 * 4096).unwrap();
        }
    }
    file
}

fn sparse_guest(file: &tempfile::NamedTempFile) -> CoreDump<'static> {
    let image = mapped::open(file.path());
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm64(image.len() / 65_536), image));
    dump
}

fn works<'w>(bytes: &'w [u8], dump: &'w CoreDump<'w>, sparse: &'w CoreDump<'w>) -> Vec<Work<'w>> {
    vec![
        ("plain read, 2 threads", Box::new(|| plain_read(bytes, 2))),
        ("scan, 2 threads", Box::new(|| _ = Dumper::new().max_segments(1).plan(dump).unwrap())),
        ("scan and plan, 2 threads", Box::new(|| _ = Dumper::new().plan(dump).unwrap())),
        ("write_all to a fresh file", Box::new(|| write_all_fresh(bytes))),
        ("reference to a file", Box::new(|| write_all_fresh(&reference(bytes)))),
        ("corestream to a file", Box::new(|| to_file(dump, true))),
        ("the same without checksums", Box::new(|| to_file(dump, false))),
        (
            "reference, sparse file",
            Box::new(|| write_all_fresh(&reference(sparse.memories[0].image.as_slice().unwrap()))),
        ),
        ("corestream, sparse file", Box::new(|| to_file(sparse, true))),
        ("write_all to a pipe", Box::new(|| drained_pipe(|pipe| pipe.write_all(bytes).unwrap()))),
        (
            "corestream to a pipe",
            Box::new(|| {
                drained_pipe(|pipe| Dumper::new().plan(dump).unwrap().write_to(pipe).unwrap());
            }),
        ),
    ]
}

fn table(name: &str, rounds: usize, works: &[Work<'_>]) {
    let medians = medians(rounds, works);
    let of = |row: &str| {
        let found = works.iter().position(|(name, _)| *name == row).expect("a row of the table");
        medians[found].as_secs_f64()
    };
    println!("\n{name}");
    for ((row, _), median) in works.iter().zip(&medians) {
        println!("  {row:<30} {:>9.2}", median.as_secs_f64() * 1000.0);
    }
    let (reference, file) = (of("reference to a file"), of("corestream to a file"));
    println!(
        "  scan / plain read            {:>9.2}",
        of("scan, 2 threads") / of("plain read, 2 threads")
    );
    println!("  file / write_all             {:>9.2}", file / of("write_all to a fresh file"));
    println!("  reference / file             {:>9.2}", reference / file);
    println!("  file / without checksums     {:>9.2}", file / of("the same without checksums"));
    println!(
        "  reference / file, sparse     {:>9.2}",
        of("reference, sparse file") / of("corestream, sparse file")
    );
    println!(
        "  pipe / write_all             {:>9.2}",
        of("corestream to a pipe") / of("write_all to a pipe")
    );
    println!(
        "  verify / crc32fast           {:>9.2}",
        of("verify, 2 threads") / of("crc32fast of a dump, 2 threads")
    );
}
