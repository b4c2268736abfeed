//! A core dump is read back: its backtrace, and the first bytes of each memory that are not zero.
//!
//! `cargo run --example read_dump -- orders.core`
#![allow(clippy::print_stdout, reason = "an example shows what it reads")]

use corestream::read::Content;
use corestream::{CoreDumpFile, MemoryIndex, Result};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of the dump is missing")?;
    // Mapped: nothing of the memories is copied, and with an index nothing of them is touched.
    let dump = CoreDumpFile::open(path)?;
    println!("core dump of {}", dump.name());
    for thread in dump.threads() {
        println!("thread {}", thread.name());
        for frame in thread.frames() {
            let locals: Vec<_> = frame.locals().map(|value| value.to_string()).collect();
            println!("  function {} at {:#x}: {}", frame.function, frame.offset, locals.join(", "));
        }
    }
    for (i, ty) in (0..).zip(dump.memories()) {
        println!("memory {i}: {ty}");
        show(&dump, MemoryIndex(i))?;
    }
    Ok(())
}

/// Looks at the first segment, then reads the same bytes by their address.
fn show(dump: &CoreDumpFile<'_>, memory: MemoryIndex) -> Result<()> {
    for content in dump.contents(memory)? {
        if let Content::Data { address, bytes } = content {
            let mut buffer = vec![0; bytes.len().min(16)];
            dump.read(memory, address, &mut buffer)?;
            println!("  {address:#x}: {buffer:02x?}");
            break;
        }
    }
    Ok(())
}
