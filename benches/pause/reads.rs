//! Compares sending a memory through a buffer with sending it straight from the memory.
//!
//! A frozen page must not be unprotected while it is read. If a system call reads it, that may take minutes. So a dump
//! copies it to a small buffer first. This compares both.

use std::hint::black_box;
use std::io::Write;

use crate::common::{Work, drained_pipe, fresh_file, medians};

/// The sizes in bytes of the buffers.
const BUFFERS: [(usize, [&str; 2]); 3] = [
    (64 << 10, ["file, buffer of 64 KiB", "pipe, buffer of 64 KiB"]),
    (256 << 10, ["file, buffer of 256 KiB", "pipe, buffer of 256 KiB"]),
    (1 << 20, ["file, buffer of 1 MiB", "pipe, buffer of 1 MiB"]),
];

/// Prints the times for a memory.
pub fn table(bytes: &[u8], rounds: usize) {
    let mut works: Vec<Work<'_>> = vec![
        ("file, straight", Box::new(|| straight(bytes, &mut fresh_file()))),
        ("pipe, straight", Box::new(|| drained_pipe(|pipe| straight(bytes, pipe)))),
    ];
    for (size, [file, pipe]) in BUFFERS {
        works.push((file, Box::new(move || buffered(bytes, size, &mut fresh_file()))));
        works.push((pipe, Box::new(move || drained_pipe(|pipe| buffered(bytes, size, pipe)))));
    }
    println!("\nCRC-32 and write of {} MiB, milliseconds", bytes.len() >> 20);
    for ((row, _), median) in works.iter().zip(medians(rounds, &works)) {
        println!("  {row:<26} {:>8.1}", median.as_secs_f64() * 1000.0);
    }
}

/// Reads each MiB for the checksum, and lets the kernel read it again.
fn straight(bytes: &[u8], output: &mut impl Write) {
    let mut crc = crc32fast::Hasher::new();
    for part in bytes.chunks(1 << 20) {
        crc.update(part);
        output.write_all(part).unwrap();
    }
    black_box(crc.finalize());
}

/// Copies each part to a buffer, and reads it there.
fn buffered(bytes: &[u8], size: usize, output: &mut impl Write) {
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; size];
    for part in bytes.chunks(size) {
        let copy = &mut buffer[..part.len()];
        copy.copy_from_slice(part);
        crc.update(copy);
        output.write_all(copy).unwrap();
    }
    black_box(crc.finalize());
}
