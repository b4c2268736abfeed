//! Pulls a dump piece by piece and writes each piece at its offset.
//!
//! This is for programs that do their own writing, for example with io_uring, an object-store client or several
//! threads.
//!
//! ```sh
//! cargo run --example pull_pieces -- examples/guest.mem guest.core
//! corestream verify guest.core
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, Piece};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(image), Some(output)) = (args.next(), args.next()) else {
        return Err("usage: pull_pieces IMAGE OUTPUT".into());
    };
    let image = MemoryImage::open(image)?;
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm64(image.len().div_ceil(65_536)), image));
    let plan = Dumper::new().plan(&dump)?;

    // Readable by the owner only: the dump contains all of the guest's data.
    let output = OpenOptions::new().write(true).create_new(true).mode(0o600).open(output)?;
    // The length is known before the first byte.
    output.set_len(plan.len())?;
    let mut pieces = plan.pieces()?;
    let (mut batches, mut count) = (0, 0);
    while let Some(batch) = pieces.next_batch()? {
        batches += 1;
        count += batch.len();
        // The pieces of a batch are borrowed until the next batch is pulled. Until then, other threads may use them.
        let (one, other) = batch.split_at(batch.len() / 2);
        thread::scope(|scope| {
            let one = scope.spawn(|| write(&output, one));
            write(&output, other)?;
            one.join().expect("the thread does not panic")
        })?;
    }
    println!("{} bytes in {count} pieces and {batches} batches", plan.len());
    Ok(())
}

fn write(output: &File, pieces: &[Piece<'_>]) -> std::io::Result<()> {
    pieces.iter().try_for_each(|piece| output.write_all_at(piece.bytes, piece.offset))
}
