//! An asynchronous upload: a task pulls the dump from a reader and sends it to a server.

use std::error::Error;
use std::io::Read;

use corestream::read::Verifier;
use corestream::{CoreDump, Dumper, Memory, MemoryImage, MemoryType, Plan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The number of bytes written to the socket at once.
const PART: usize = 256 << 10;

/// Sends a dump.
///
/// Pulling a part copies it and computes its checksum, which blocks the runtime for about 50 µs.
async fn upload(plan: &Plan<'_>, socket: &mut TcpStream) -> Result<u64, Box<dyn Error>> {
    let mut reader = plan.reader()?;
    let mut part = vec![0; PART];
    let mut sent = 0;
    // The length is known before the first byte, which uploads require.
    socket.write_all(format!("content-length: {}\n", plan.len()).as_bytes()).await?;
    loop {
        match reader.read(&mut part)? {
            0 => return Ok(sent),
            len => {
                socket.write_all(&part[..len]).await?;
                sent += len as u64;
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut bytes = vec![0; 64 << 20];
    for (i, page) in bytes.chunks_mut(4096).enumerate().step_by(3) {
        page[..3000].fill(u8::try_from(i % 255)? + 1);
    }
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(Memory::new(MemoryType::wasm32(1024), MemoryImage::from_slice(&bytes)));
    let plan = Dumper::new().plan(&dump)?;

    let server = TcpListener::bind("127.0.0.1:0").await?;
    let mut socket = TcpStream::connect(server.local_addr()?).await?;
    let received = tokio::spawn(async move {
        let (mut peer, _) = server.accept().await?;
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await?;
        Ok::<_, std::io::Error>(received)
    });
    let sent = upload(&plan, &mut socket).await?;
    drop(socket);

    let received = received.await??;
    let head = received.iter().position(|byte| *byte == b'\n').ok_or("no head")?;
    let body = &received[head + 1..];
    assert_eq!(received[..head], *format!("content-length: {sent}").as_bytes());
    assert_eq!((sent, body.len() as u64), (plan.len(), plan.len()));
    assert!(Verifier::new().threads(2).verify(body)?.is_intact());
    assert!(body == plan.to_vec()?);
    Ok(())
}
