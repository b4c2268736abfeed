//! Dumps to pipes and sockets beside the machine's limits, as ratios: `cat` and a bare `vmsplice` loop
//! for an image file to a pipe, and a plain copy of the same bytes for sockets. In each round everything
//! runs once, one after the other, and the medians over the rounds are compared.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(unsafe_code, reason = "the machine's limit for pipes is a loop of vmsplice")]

#[path = "../../../benches/common/mod.rs"]
mod common;
#[path = "../../../tests/common/ends.rs"]
mod ends;
#[path = "../../../tests/common/mapped.rs"]
mod mapped;

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use common::{Image, Work, guest, images, medians};
use corestream::{
    CoreDump, Dumper, FileSink, Memory, MemoryImage, MemoryType, PipeSink, SocketSink,
};
use crc32fast::Hasher;
use rustix::pipe::{IoSliceRaw, SpliceFlags, fcntl_setpipe_size, vmsplice};

fn main() {
    let rounds = if common::test_mode() { 1 } else { 5 };
    println!("milliseconds, medians of {rounds} rounds, {} MiB", common::image_len() >> 20);
    for image in images().filter(|image| ["dense", "heap", "one page in ten"].contains(&image.name))
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(&image.bytes).unwrap();
        // Nobody has it open for writing.
        let path = file.into_temp_path();
        pipes(rounds, &image, &path);
        sockets(rounds, &image, &path);
        files(rounds, &image, &path);
    }
}

/// The two ends of something that is read in order.
type Ends = (OwnedFd, OwnedFd);

fn pipe() -> Ends {
    ends::ends("pipe")
}

fn tcp() -> Ends {
    ends::ends("tcp")
}

fn unix() -> Ends {
    ends::ends("unix")
}

/// Gives the writer's end to `work` while a thread reads all there is and drops it.
fn drained((reader, writer): Ends, work: impl FnOnce(File)) {
    let mut reader = File::from(reader);
    let drain = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while reader.read(&mut buffer).unwrap() > 0 {}
    });
    work(writer.into());
    drain.join().unwrap();
}

/// The checksum of all that `work` writes, as its reader gets it.
fn sum((reader, writer): Ends, work: impl FnOnce(File)) -> u32 {
    let mut reader = File::from(reader);
    let sum = thread::spawn(move || {
        let (mut buffer, mut hasher) = (vec![0; 1 << 20], Hasher::new());
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return hasher.finalize(),
                n => hasher.update(&buffer[..n]),
            }
        }
    });
    work(writer.into());
    sum.join().unwrap()
}

fn to_pipe(dump: &CoreDump<'_>, pipe: &File) {
    Dumper::new().plan(dump).unwrap().write_to(&mut PipeSink::new(pipe)).unwrap();
}

fn to_socket(dump: &CoreDump<'_>, socket: &File) {
    Dumper::new().plan(dump).unwrap().write_to(&mut SocketSink::new(socket)).unwrap();
}

fn of_file(path: &Path, memories: usize) -> CoreDump<'static> {
    let mut dump = CoreDump::new("guest");
    for _ in 0..memories {
        let image = mapped::open(path);
        dump.add_memory(Memory::new(MemoryType::wasm32(image.len() / 65_536), image));
    }
    dump
}

/// The same bytes in a file that cannot change.
fn of_sealed(path: &Path, memories: usize) -> CoreDump<'static> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let sealed = File::from(memfd_create("guest", MemfdFlags::ALLOW_SEALING).unwrap());
    io::copy(&mut File::open(path).unwrap(), &mut &sealed).unwrap();
    fcntl_add_seals(&sealed, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
    let mut dump = CoreDump::new("guest");
    for _ in 0..memories {
        let image = mapped::from_file(sealed.try_clone().unwrap());
        dump.add_memory(Memory::new(MemoryType::wasm32(image.len() / 65_536), image));
    }
    dump
}

/// A program that writes to the pipe.
fn run(command: &mut Command, pipe: File) {
    let done = command.stdin(Stdio::null()).stdout(pipe).status().unwrap();
    assert!(done.success());
}

/// The machine's limit for bytes in memory: lends all of them to the pipe, page by page.
fn vmsplice_all(bytes: &[u8], pipe: &File) {
    fcntl_setpipe_size(pipe, 1 << 20).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let slices = [IoSliceRaw::from_slice(rest)];
        // SAFETY: nobody writes to the bytes, neither now nor while the pipe is read.
        let lent = unsafe { vmsplice(pipe, &slices, SpliceFlags::empty()) }.unwrap();
        rest = &rest[lent..];
    }
}

fn pipes(rounds: usize, image: &Image, path: &Path) {
    let bytes = &image.bytes[..];
    let (live, file) = (guest(bytes), of_file(path, 1));
    let sealed = of_sealed(path, 1);
    let planned = Dumper::new().plan(&sealed).unwrap();
    let expected = crc32fast::hash(&planned.to_vec().unwrap());
    assert_eq!(sum(pipe(), |pipe| to_pipe(&sealed, &pipe)), expected);
    assert_eq!(sum(pipe(), |pipe| to_pipe(&live, &pipe)), expected);
    assert_eq!(sum(pipe(), |pipe| to_pipe(&file, &pipe)), expected);
    let mapped = sealed.memories[0].image.as_slice().unwrap();
    let tool = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corestream"));
        command.args(["dump", "--name", "guest", "-o", "-", "--memory"]).arg(path);
        command
    };
    assert_eq!(sum(pipe(), |pipe| run(&mut tool(), pipe)), expected);
    let works: Vec<Work<'_>> = vec![
        (
            "cat image",
            Box::new(|| drained(pipe(), |pipe| run(Command::new("cat").arg(path), pipe))),
        ),
        ("corestream dump", Box::new(|| drained(pipe(), |pipe| run(&mut tool(), pipe)))),
        ("library, image file", Box::new(|| drained(pipe(), |pipe| to_pipe(&file, &pipe)))),
        ("library, sealed image", Box::new(|| drained(pipe(), |pipe| to_pipe(&sealed, &pipe)))),
        (
            "library, sealed, planned",
            Box::new(|| {
                drained(pipe(), |pipe| planned.write_to(&mut PipeSink::new(&pipe)).unwrap());
            }),
        ),
        (
            "the same, nothing lent",
            Box::new(|| {
                drained(pipe(), |pipe| {
                    planned.write_to(&mut PipeSink::new(&pipe).lend(false)).unwrap();
                });
            }),
        ),
        ("bare vmsplice", Box::new(|| drained(pipe(), |pipe| vmsplice_all(mapped, &pipe)))),
        ("library, live guest", Box::new(|| drained(pipe(), |pipe| to_pipe(&live, &pipe)))),
        (
            "write_all, pipe as it is",
            Box::new(|| drained(pipe(), |mut pipe| pipe.write_all(bytes).unwrap())),
        ),
        (
            "write_all, pipe of 1 MiB",
            Box::new(|| {
                drained(pipe(), |mut pipe| {
                    fcntl_setpipe_size(&pipe, 1 << 20).unwrap();
                    pipe.write_all(bytes).unwrap();
                });
            }),
        ),
    ];
    let of = table(&format!("{} to a pipe", image.name), rounds, &works);
    ratio("cat / corestream dump", of("cat image") / of("corestream dump"));
    ratio("planned / bare vmsplice", of("library, sealed, planned") / of("bare vmsplice"));
    ratio("copied / lent", of("library, image file") / of("library, sealed image"));
    ratio("live guest / write_all", of("library, live guest") / of("write_all, pipe of 1 MiB"));
}

fn sockets(rounds: usize, image: &Image, path: &Path) {
    // 2 GiB: the same bytes as two memories.
    let bytes = &image.bytes[..];
    let mut live = guest(bytes);
    let again = MemoryImage::from_slice(bytes);
    live.add_memory(Memory::new(MemoryType::wasm32(again.len() / 65_536), again));
    let (file, sealed) = (of_file(path, 2), of_sealed(path, 2));
    let mut expected = Sum(Hasher::new());
    let planned = Dumper::new().plan(&live).unwrap();
    planned.write_to(&mut expected).unwrap();
    let expected = expected.0.finalize();
    for ends in [tcp, unix] {
        assert_eq!(sum(ends(), |socket| to_socket(&live, &socket)), expected);
        assert_eq!(sum(ends(), |socket| to_socket(&file, &socket)), expected);
        assert_eq!(sum(ends(), |socket| to_socket(&sealed, &socket)), expected);
    }
    for (name, ends) in [("TCP", tcp as fn() -> Ends), ("Unix", unix)] {
        let works: Vec<Work<'_>> = vec![
            (
                "write_all",
                Box::new(move || {
                    drained(ends(), |mut socket| {
                        socket.write_all(bytes).unwrap();
                        socket.write_all(bytes).unwrap();
                    });
                }),
            ),
            ("live guest", Box::new(|| drained(ends(), |socket| to_socket(&live, &socket)))),
            (
                "live guest, planned",
                Box::new(|| {
                    drained(ends(), |socket| {
                        planned.write_to(&mut SocketSink::new(&socket)).unwrap()
                    });
                }),
            ),
            ("image file", Box::new(|| drained(ends(), |socket| to_socket(&file, &socket)))),
            ("sealed image", Box::new(|| drained(ends(), |socket| to_socket(&sealed, &socket)))),
            (
                "sealed image, nothing lent",
                Box::new(|| {
                    drained(ends(), |socket| {
                        let plan = Dumper::new().plan(&sealed).unwrap();
                        plan.write_to(&mut SocketSink::new(&socket).lend(false)).unwrap();
                    });
                }),
            ),
        ];
        let of = table(&format!("{} twice, over {name}", image.name), rounds, &works);
        ratio("write_all / live guest", of("write_all") / of("live guest"));
        ratio("write_all / planned", of("write_all") / of("live guest, planned"));
        ratio("write_all / image file", of("write_all") / of("image file"));
        ratio("copied / lent", of("image file") / of("sealed image"));
    }
}

/// Whether one vectored write of many small pieces costs more than one of the same bytes in a row, and what
/// the copy of an image that may change costs.
fn files(rounds: usize, image: &Image, path: &Path) {
    let (file, sealed) = (of_file(path, 1), of_sealed(path, 1));
    let to_file = |dump: &CoreDump<'_>| {
        let plan = Dumper::new().plan(dump).unwrap();
        plan.write_to(&mut FileSink::new(&common::fresh_file())).unwrap();
    };
    let live = guest(&image.bytes);
    let plan = Dumper::new().checksums(false).plan(&live).unwrap();
    let whole = plan.to_vec().unwrap();
    let works: Vec<Work<'_>> = vec![
        ("write_all of the dump", Box::new(|| common::write_all_fresh(&whole))),
        (
            "pieces, planned",
            Box::new(|| plan.write_to(&mut FileSink::new(&common::fresh_file())).unwrap()),
        ),
        ("slices of 4 KiB and 8 bytes", Box::new(|| vectored(&whole))),
        ("image file", Box::new(|| to_file(&file))),
        ("sealed image", Box::new(|| to_file(&sealed))),
    ];
    let of = table(&format!("{} to a file", image.name), rounds, &works);
    ratio("write_all / pieces", of("write_all of the dump") / of("pieces, planned"));
    ratio("copied / in place", of("image file") / of("sealed image"));
}

/// What `pieces` are at worst: a header before every page.
fn vectored(bytes: &[u8]) {
    let mut file = common::fresh_file();
    for part in bytes.chunks(256 * 4104) {
        let mut slices: Vec<_> = part
            .chunks(4104)
            .flat_map(|pair| pair.split_at_checked(8).map(|(a, b)| [a, b]))
            .flatten()
            .map(IoSlice::new)
            .collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let n = file.write_vectored(rest).unwrap();
            IoSlice::advance_slices(&mut rest, n);
        }
    }
}

/// Sums up what is written to it.
struct Sum(Hasher);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Measures and prints; gives the milliseconds of a row.
fn table<'w>(name: &str, rounds: usize, works: &'w [Work<'_>]) -> impl Fn(&str) -> f64 + 'w {
    let medians = medians(rounds, works);
    println!("\n{name}");
    for ((row, _), median) in works.iter().zip(&medians) {
        println!("  {row:<30} {:>9.2}", median.as_secs_f64() * 1000.0);
    }
    move |row| {
        let found = works.iter().position(|(name, _)| *name == row).expect("a row of the table");
        medians[found].as_secs_f64() * 1000.0
    }
}

fn ratio(name: &str, value: f64) {
    println!("  {name:<30} {value:>9.2}");
}
