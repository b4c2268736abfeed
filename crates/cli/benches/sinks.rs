//! Dumps to pipes, sockets and files compared with the machine's limits, as ratios.
//!
//! The limits of pipes are `cat` and a bare `vmsplice` loop. The limit of sockets and files is `write_all` of the same
//! bytes. Each round runs everything once, one after the other. The tables compare the medians over the rounds.

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
        // Close the file. The image of a file that is open for writing counts as changing.
        let path = file.into_temp_path();
        pipes(rounds, &image, &path);
        sockets(rounds, &image, &path);
        files(rounds, &image, &path);
    }
}

/// The reader's and the writer's end of a stream.
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

/// Runs `work` with the writer's end while a thread reads and discards all bytes.
fn drain((reader, writer): Ends, work: impl FnOnce(File)) {
    let mut reader = File::from(reader);
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while reader.read(&mut buffer).unwrap() > 0 {}
    });
    work(writer.into());
    reading.join().unwrap();
}

/// Returns the checksum of the bytes that a reader receives from `work`.
fn received_crc((reader, writer): Ends, work: impl FnOnce(File)) -> u32 {
    let mut reader = File::from(reader);
    let reading = thread::spawn(move || {
        let (mut buffer, mut hasher) = (vec![0; 1 << 20], Hasher::new());
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return hasher.finalize(),
                n => hasher.update(&buffer[..n]),
            }
        }
    });
    work(writer.into());
    reading.join().unwrap()
}

fn to_pipe(dump: &CoreDump<'_>, pipe: &File) {
    Dumper::new().plan(dump).unwrap().write_to(&mut PipeSink::new(pipe)).unwrap();
}

fn to_socket(dump: &CoreDump<'_>, socket: &File) {
    Dumper::new().plan(dump).unwrap().write_to(&mut SocketSink::new(socket)).unwrap();
}

/// Returns a guest whose memories are all mapped from the file.
fn guest_of_file(path: &Path, memories: usize) -> CoreDump<'static> {
    let mut dump = CoreDump::new("guest");
    for _ in 0..memories {
        let image = mapped::open(path);
        dump.add_memory(Memory::new(MemoryType::wasm32(image.len() / 65_536), image));
    }
    dump
}

/// Returns the same guest with a sealed file, which cannot change.
fn guest_of_sealed_file(path: &Path, memories: usize) -> CoreDump<'static> {
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

/// Runs a program that writes to the pipe.
fn run(command: &mut Command, pipe: File) {
    let status = command.stdin(Stdio::null()).stdout(pipe).status().unwrap();
    assert!(status.success());
}

/// The machine's limit for bytes in memory: lends their pages to the pipe.
fn vmsplice_all(bytes: &[u8], pipe: &File) {
    fcntl_setpipe_size(pipe, 1 << 20).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let slices = [IoSliceRaw::from_slice(rest)];
        // SAFETY: nothing writes to the bytes, neither now nor while the pipe is read.
        let lent = unsafe { vmsplice(pipe, &slices, SpliceFlags::empty()) }.unwrap();
        rest = &rest[lent..];
    }
}

fn pipes(rounds: usize, image: &Image, path: &Path) {
    let bytes = &image.bytes[..];
    let (live, file) = (guest(bytes), guest_of_file(path, 1));
    let sealed = guest_of_sealed_file(path, 1);
    let planned = Dumper::new().plan(&sealed).unwrap();
    let expected = crc32fast::hash(&planned.to_vec().unwrap());
    assert_eq!(received_crc(pipe(), |pipe| to_pipe(&sealed, &pipe)), expected);
    assert_eq!(received_crc(pipe(), |pipe| to_pipe(&live, &pipe)), expected);
    assert_eq!(received_crc(pipe(), |pipe| to_pipe(&file, &pipe)), expected);
    let mapped = sealed.memories[0].image.as_slice().unwrap();
    let tool = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corestream"));
        command.args(["dump", "--name", "guest", "-o", "-", "--memory"]).arg(path);
        command
    };
    assert_eq!(received_crc(pipe(), |pipe| run(&mut tool(), pipe)), expected);
    let works: Vec<Work<'_>> = vec![
        ("cat image", Box::new(|| drain(pipe(), |pipe| run(Command::new("cat").arg(path), pipe)))),
        ("corestream dump", Box::new(|| drain(pipe(), |pipe| run(&mut tool(), pipe)))),
        ("library, image file", Box::new(|| drain(pipe(), |pipe| to_pipe(&file, &pipe)))),
        ("library, sealed image", Box::new(|| drain(pipe(), |pipe| to_pipe(&sealed, &pipe)))),
        (
            "library, sealed, planned",
            Box::new(|| {
                drain(pipe(), |pipe| planned.write_to(&mut PipeSink::new(&pipe)).unwrap());
            }),
        ),
        (
            "the same, without lending",
            Box::new(|| {
                drain(pipe(), |pipe| {
                    planned.write_to(&mut PipeSink::new(&pipe).lend(false)).unwrap();
                });
            }),
        ),
        ("bare vmsplice", Box::new(|| drain(pipe(), |pipe| vmsplice_all(mapped, &pipe)))),
        ("library, live guest", Box::new(|| drain(pipe(), |pipe| to_pipe(&live, &pipe)))),
        (
            "write_all, default pipe size",
            Box::new(|| drain(pipe(), |mut pipe| pipe.write_all(bytes).unwrap())),
        ),
        (
            "write_all, pipe of 1 MiB",
            Box::new(|| {
                drain(pipe(), |mut pipe| {
                    fcntl_setpipe_size(&pipe, 1 << 20).unwrap();
                    pipe.write_all(bytes).unwrap();
                });
            }),
        ),
    ];
    let ms = table(&format!("{} to a pipe", image.name), rounds, &works);
    ratio("cat / corestream dump", ms("cat image") / ms("corestream dump"));
    ratio("planned / bare vmsplice", ms("library, sealed, planned") / ms("bare vmsplice"));
    ratio("copied / lent", ms("library, image file") / ms("library, sealed image"));
    ratio("live guest / write_all", ms("library, live guest") / ms("write_all, pipe of 1 MiB"));
}

fn sockets(rounds: usize, image: &Image, path: &Path) {
    // Two memories with the same bytes, 2 GiB in total.
    let bytes = &image.bytes[..];
    let mut live = guest(bytes);
    let second = MemoryImage::from_slice(bytes);
    live.add_memory(Memory::new(MemoryType::wasm32(second.len() / 65_536), second));
    let (file, sealed) = (guest_of_file(path, 2), guest_of_sealed_file(path, 2));
    let mut expected = HashWriter(Hasher::new());
    let planned = Dumper::new().plan(&live).unwrap();
    planned.write_to(&mut expected).unwrap();
    let expected = expected.0.finalize();
    for ends in [tcp, unix] {
        assert_eq!(received_crc(ends(), |socket| to_socket(&live, &socket)), expected);
        assert_eq!(received_crc(ends(), |socket| to_socket(&file, &socket)), expected);
        assert_eq!(received_crc(ends(), |socket| to_socket(&sealed, &socket)), expected);
    }
    for (name, ends) in [("TCP", tcp as fn() -> Ends), ("Unix", unix)] {
        let works: Vec<Work<'_>> = vec![
            (
                "write_all",
                Box::new(move || {
                    drain(ends(), |mut socket| {
                        socket.write_all(bytes).unwrap();
                        socket.write_all(bytes).unwrap();
                    });
                }),
            ),
            ("live guest", Box::new(|| drain(ends(), |socket| to_socket(&live, &socket)))),
            (
                "live guest, planned",
                Box::new(|| {
                    drain(ends(), |socket| {
                        planned.write_to(&mut SocketSink::new(&socket)).unwrap()
                    });
                }),
            ),
            ("image file", Box::new(|| drain(ends(), |socket| to_socket(&file, &socket)))),
            ("sealed image", Box::new(|| drain(ends(), |socket| to_socket(&sealed, &socket)))),
            (
                "sealed image, no lending",
                Box::new(|| {
                    drain(ends(), |socket| {
                        let plan = Dumper::new().plan(&sealed).unwrap();
                        plan.write_to(&mut SocketSink::new(&socket).lend(false)).unwrap();
                    });
                }),
            ),
        ];
        let ms = table(&format!("{} twice, over {name}", image.name), rounds, &works);
        ratio("write_all / live guest", ms("write_all") / ms("live guest"));
        ratio("write_all / planned", ms("write_all") / ms("live guest, planned"));
        ratio("write_all / image file", ms("write_all") / ms("image file"));
        ratio("copied / lent", ms("image file") / ms("sealed image"));
    }
}

/// Measures the cost of vectored writes of many small pieces, compared with one contiguous write. Also measures the
/// cost of copying an image that may change.
fn files(rounds: usize, image: &Image, path: &Path) {
    let (file, sealed) = (guest_of_file(path, 1), guest_of_sealed_file(path, 1));
    let to_file = |dump: &CoreDump<'_>| {
        let plan = Dumper::new().plan(dump).unwrap();
        plan.write_to(&mut FileSink::new(&common::fresh_file())).unwrap();
    };
    let live = guest(&image.bytes);
    let plan = Dumper::new().checksums(false).plan(&live).unwrap();
    let bytes = plan.to_vec().unwrap();
    let works: Vec<Work<'_>> = vec![
        ("write_all of the dump", Box::new(|| common::write_all_fresh(&bytes))),
        (
            "pieces, planned",
            Box::new(|| plan.write_to(&mut FileSink::new(&common::fresh_file())).unwrap()),
        ),
        ("slices of 4 KiB and 8 bytes", Box::new(|| write_vectored(&bytes))),
        ("image file", Box::new(|| to_file(&file))),
        ("sealed image", Box::new(|| to_file(&sealed))),
    ];
    let ms = table(&format!("{} to a file", image.name), rounds, &works);
    ratio("write_all / pieces", ms("write_all of the dump") / ms("pieces, planned"));
    ratio("copied / in place", ms("image file") / ms("sealed image"));
}

/// Writes the worst case of pieces: a header before every page.
fn write_vectored(bytes: &[u8]) {
    let mut file = common::fresh_file();
    for batch in bytes.chunks(256 * 4104) {
        let mut slices: Vec<_> = batch
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

/// A writer that computes the checksum of the bytes.
struct HashWriter(Hasher);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Measures `works` and prints a table. Returns a function from a row's name to its milliseconds.
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
