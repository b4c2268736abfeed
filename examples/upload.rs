//! Sends a dump to a server from an asynchronous runtime, which pulls it part by part.
//!
//! ```sh
//! corestream receive tcp:127.0.0.1:4000 --once -o guest.core &
//! cargo run --example upload -- examples/guest.mem 127.0.0.1:4000
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::Read;

use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The number of bytes pulled at once. Pulling blocks the runtime, so this is small enough to take well under a
/// millisecond.
const PART: usize = 256 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(image), Some(server)) = (args.next(), args.next()) else {
        return Err("usage: upload IMAGE HOST:PORT".into());
    };
    let image = MemoryImage::open(image)?;
    let mut dump = CoreDump::new("guest");
    dump.add_memory(Memory::new(MemoryType::wasm64(image.len().div_ceil(65_536)), image));
    // Planning reads all of the memory, on several cores. In a service, plan where the guest may pause.
    let plan = Dumper::new().plan(&dump)?;

    let mut socket = TcpStream::connect(server).await?;
    let mut reader = plan.reader()?;
    let mut part = vec![0; PART];
    loop {
        let len = reader.read(&mut part)?;
        if len == 0 {
            break;
        }
        socket.write_all(&part[..len]).await?;
    }
    socket.shutdown().await?;

    let mut reply = String::new();
    socket.read_to_string(&mut reply).await?;
    println!("sent {} bytes, the receiver says: {}", plan.len(), reply.trim_end());
    if reply == "ok\n" { Ok(()) } else { Err("the receiver did not keep the dump".into()) }
}
