//! Tests that all inputs agree, and how each of them reads.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stream::BlockSums;
use super::*;
use crate::read::read_at::ReadAt;

/// A reader of `.0` that returns at most `.1` bytes per call.
struct ShortReads<'b>(&'b [u8], usize);

impl Read for ShortReads<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buffer.len());
        self.0.read(&mut buffer[..n])
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect()
}

/// A source that lends no bytes, and counts the reads and the bytes read.
struct CountingSource<'b> {
    bytes: &'b [u8],
    reads: AtomicUsize,
    read: AtomicUsize,
}

impl ReadAt for CountingSource<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read.fetch_add(buffer.len(), Ordering::Relaxed);
        self.bytes.read_exact_at(buffer, offset)
    }
}

#[test]
fn window_reads_ahead_only_in_sequential_access() {
    let bytes = bytes(8 << 20);
    let source =
        CountingSource { bytes: &bytes, reads: AtomicUsize::new(0), read: AtomicUsize::new(0) };
    let mut window = Window::new(&source, bytes.len() as u64, 0);
    for i in 0..8 {
        assert_eq!(window.take(10).unwrap(), &bytes[i << 20..][..10]);
        window.skip((1 << 20) - 10).unwrap();
    }
    assert_eq!(
        (source.reads.swap(0, Ordering::Relaxed), source.read.load(Ordering::Relaxed)),
        (8, 8 << 12)
    );
    assert!(window.at_end().unwrap());
    let mut window = Window::new(&source, bytes.len() as u64, 0);
    for byte in &bytes {
        assert_eq!(window.take(1).unwrap(), [*byte]);
    }
    let reads = source.reads.load(Ordering::Relaxed);
    assert!(reads < 40, "{reads}");
    assert_eq!(window.take(1).unwrap_err().kind, crate::ErrorKind::Truncated);
}

#[test]
fn window_reports_a_source_that_has_shrunk() {
    let bytes = bytes(100);
    let shorter = &bytes[..50];
    let mut window = Window::new(&shorter, 100, 0);
    assert_eq!(window.take(10).unwrap_err().kind, crate::ErrorKind::Input);
    assert_eq!(window.offset(), 0);
}

/// Takes, skips and checksums bytes. Returns everything that the input returned.
fn drive(input: &mut impl Input) -> Vec<(u64, Vec<u8>)> {
    let mut seen = Vec::new();
    for i in 0..40 {
        let taken = input.take(i * 997 % 5000).unwrap().to_vec();
        seen.push((input.offset(), taken));
        if i == 20 {
            input.start_crc(Hasher::new());
        }
        input.skip((i * 7919 % 30_000) as u64).unwrap();
    }
    seen.push((input.finish_crc().into(), Vec::new()));
    let error = input.skip(1 << 40).unwrap_err();
    seen.push((error.range.start, error.line().into_bytes()));
    seen.push((input.drain().unwrap(), vec![input.at_end().unwrap().into()]));
    seen
}

#[test]
fn all_inputs_return_the_same_bytes_and_errors() {
    let bytes = bytes(1 << 20);
    let expected = drive(&mut Slice::new(&bytes, 0));
    let counting =
        CountingSource { bytes: &bytes, reads: AtomicUsize::new(0), read: AtomicUsize::new(0) };
    assert!(drive(&mut Window::new(&counting, bytes.len() as u64, 0)) == expected);
    for step in [1 << 20, 4096, 61] {
        assert!(drive(&mut Stream::new(ShortReads(&bytes, step)).unwrap()) == expected, "{step}");
    }
}

#[test]
fn rejects_a_length_past_the_largest_offset() {
    let bytes = bytes(100);
    let (mut slice, mut stream) = (Slice::new(&bytes, 0), Stream::new(&bytes[..]).unwrap());
    let inputs: [&mut dyn Input; 2] = [&mut slice, &mut stream];
    for input in inputs {
        input.take(10).unwrap();
        let fault = input.skip(u64::MAX - 9).unwrap_err();
        assert_eq!(fault.kind, crate::ErrorKind::Damaged);
        assert!(fault.line().ends_with("reaches past the largest file offset"), "{}", fault.line());
    }
    let fault = Slice::new(&bytes, 10).skip(u64::MAX - 10).unwrap_err();
    assert_eq!((fault.kind, fault.range), (crate::ErrorKind::Truncated, 100..u64::MAX));
}

#[test]
fn stream_rejects_a_source_that_reports_too_many_bytes() {
    struct OverReporting;
    impl Read for OverReporting {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 1)
        }
    }
    let fault = Stream::new(OverReporting).unwrap().take(1).map(<[u8]>::len).unwrap_err();
    assert_eq!(fault.kind, crate::ErrorKind::Input);
    let error = crate::Error::from(fault).to_string();
    assert!(error.ends_with("the source reported more bytes than were requested"), "{error}");
}

#[test]
fn stream_sums_each_block_up_to_the_index() {
    let bytes = bytes(10_000);
    for (log2, end, before) in [(10, 10_000, 0), (10, 9_216, 3), (12, 9_217, 5000), (63, 77, 9)] {
        let mut stream = Stream::new(ShortReads(&bytes, 700)).unwrap();
        stream.take(before).unwrap();
        stream.sum_blocks(end, log2).unwrap();
        stream.drain().unwrap();
        let blocks = bytes[..usize::try_from(end).unwrap()].chunks(1 << log2);
        let expected: Vec<_> = blocks.map(crc32fast::hash).collect();
        assert_eq!(stream.take_block_crcs(), expected, "2^{log2} to {end}");
    }
    // Without a header early in the dump, the stream stops keeping bytes and computes no checksums.
    let mut stream = Stream::new(&bytes[..]).unwrap();
    stream.drain().unwrap();
    assert!(matches!(&stream.blocks, BlockSums::SizeUnknown(kept) if kept.len() == 10_000));
    let mut stream = Stream::new(io::repeat(1).take(1 << 20)).unwrap();
    stream.drain().unwrap();
    assert!(matches!(stream.blocks, BlockSums::Off));
}
