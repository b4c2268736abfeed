//! Each stage by itself: the scan (with a plain read of the same memory for comparison), the plan, encoding to a sink
//! that discards everything, and whole dumps to a file and a pipe.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod common;

use std::hint::black_box;
use std::io;
use std::time::Duration;

use common::{drained_pipe, fresh_file, guest, images, plain_read};
use corestream::internals::Scanner;
use corestream::{Dumper, FileSink, Piece, Sink};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// A sink that counts bytes and discards them.
struct Null;

impl Sink for Null {
    fn put(&mut self, pieces: &[Piece<'_>]) -> io::Result<usize> {
        Ok(black_box(pieces).iter().map(|piece| piece.bytes.len()).sum())
    }
}

/// Checks that every backend finds the same runs as a byte-by-byte scan, before anything is timed.
///
/// # Panics
/// Panics if one does not.
fn check(bytes: &[u8], scanners: &[Scanner]) {
    for scanner in scanners {
        let mut end = 0;
        scanner.runs(bytes, 13, |run| {
            assert!(bytes[end..run.start].iter().all(|b| *b == 0));
            assert!(bytes[run.start] != 0 && bytes[run.end - 1] != 0);
            end = run.end;
        });
        assert!(bytes[end..].iter().all(|b| *b == 0));
    }
}

fn stages(c: &mut Criterion) {
    let scanners: Vec<_> =
        [Some(Scanner::scalar()), Scanner::avx2()].into_iter().flatten().collect();
    for image in images() {
        let bytes = &image.bytes[..];
        check(bytes, &scanners);
        let dump = guest(bytes);
        let mut group = c.benchmark_group(image.name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.sample_size(10).warm_up_time(Duration::from_millis(500));
        for threads in [1, 2] {
            group.bench_function(format!("plain read/{threads}"), |b| {
                b.iter(|| plain_read(bytes, threads));
            });
            for scanner in &scanners {
                let dumper = Dumper::new().scanner(*scanner).threads(threads);
                group.bench_function(format!("scan and plan/{}/{threads}", scanner.name()), |b| {
                    b.iter(|| dumper.plan(&dump).unwrap().len());
                });
            }
        }
        let plan = Dumper::new().plan(&dump).unwrap();
        group.bench_function("encode", |b| b.iter(|| plan.write_to(&mut Null).unwrap()));
        group.bench_function("dump to a file", |b| {
            let dump_to = |file| {
                let plan = Dumper::new().plan(&dump).unwrap();
                plan.write_to(&mut FileSink::new(&file)).unwrap();
                file
            };
            b.iter_batched(fresh_file, dump_to, BatchSize::PerIteration);
        });
        group.bench_function("dump to a pipe", |b| {
            b.iter(|| {
                drained_pipe(|pipe| Dumper::new().plan(&dump).unwrap().write_to(pipe).unwrap())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
