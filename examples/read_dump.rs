//! Reads a core dump: prints its backtraces, and the first non-zero bytes of each memory.
//!
//! `cargo run --example read_dump -- orders.core`
#![allow(clippy::print_stdout, reason = "an example shows what it reads")]

use corestream::CoreDumpFile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    // If the dump has an index, opening it reads no memory contents.
    let dump = CoreDumpFile::open(path)?;
    println!("core dump of {}", dump.name());
    for thread in dump.threads() {
        let thread = thread?;
        println!("thread {}", thread.name());
        for frame in thread.frames() {
            let frame = frame?;
            let locals: Vec<_> = frame.locals.iter().map(|value| value.to_string()).collect();
            println!("  function {} at {:#x}: {}", frame.function, frame.offset, locals.join(", "));
        }
    }
    for memory in dump.memories() {
        println!("memory {}: {}", memory.index(), memory.ty());
        // The segment with the lowest address.
        if let Some(segment) = memory.segments().next() {
            let mut buffer = [0; 16];
            let len = segment.addresses.clone().take(buffer.len()).count();
            let address = *segment.addresses.start();
            memory.read(address, &mut buffer[..len])?;
            println!("  {address:#x}: {:02x?}", &buffer[..len]);
        }
    }
    Ok(())
}
