//! Serves a dump to LLDB: `serve DUMP SOCKET FILE...`, or `serve DUMP 127.0.0.1:PORT FILE...`.
//!
//! Each FILE is a module of the guest or a companion with its debugging information. The environment variable `THREAD`
//! chooses a thread.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example program")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use corestream::CoreDumpFile;
use corestream_debug::{Options, Session, Status, Target};
use corestream_symbols::SymbolFile;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: serve DUMP SOCKET|ADDRESS:PORT FILE...";
    let dump = CoreDumpFile::open(arguments.next().ok_or(usage)?)?;
    let address = arguments.next().ok_or(usage)?;
    let files = arguments
        .map(|path| Ok((std::path::absolute(&path)?, std::fs::read(&path)?)))
        .collect::<Result<Vec<(PathBuf, Vec<u8>)>, std::io::Error>>()?;
    let files: Vec<_> = files.iter().map(|(path, bytes)| SymbolFile::new(path, bytes)).collect();
    let mut options = Options::new();
    if let Ok(thread) = std::env::var("THREAD") {
        options = options.with_thread(thread.parse()?);
    }
    let target = Target::new(&dump, &files, &options)?;
    for warning in target.warnings() {
        eprintln!("serve: {warning}");
    }
    match address.to_str().filter(|address| address.contains(':')) {
        Some(address) => {
            let listener = TcpListener::bind(address)?;
            println!("connect://{}", listener.local_addr()?);
            std::thread::scope(|scope| {
                for client in listener.incoming().flatten() {
                    let target = &target;
                    scope.spawn(move || {
                        report(client.set_nodelay(true).and_then(|()| serve(target, client)))
                    });
                }
            });
        }
        None => {
            let listener = UnixListener::bind(&address)?;
            println!("unix-connect://{}", std::path::absolute(Path::new(&address))?.display());
            std::thread::scope(|scope| {
                for client in listener.incoming().flatten() {
                    let target = &target;
                    scope.spawn(move || report(serve(target, client)));
                }
            });
        }
    }
    Ok(())
}

fn report(served: std::io::Result<()>) {
    if let Err(error) = served {
        eprintln!("serve: {error}");
    }
}

/// Serves one client until it detaches.
fn serve(target: &Target<'_>, mut client: impl Read + Write) -> std::io::Result<()> {
    let log = std::env::var_os("LOG").is_some();
    let mut session = Session::new(target);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = client.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut input = &buffer[..len];
        if log {
            eprintln!("-> {}", input.escape_ascii());
        }
        loop {
            let mut output = Vec::new();
            let status = session.receive(&mut input, &mut output);
            if log {
                eprintln!("<- {}", output[..output.len().min(400)].escape_ascii());
            }
            client.write_all(&output)?;
            match status {
                Status::Replied => {}
                Status::NeedsInput => break,
                Status::Closed => return Ok(()),
            }
        }
    }
}
