//! A host that sends a core dump over TCP when its guest traps, straight from the guest's memory.
//!
//! `nc -l 7070 > orders.core & cargo run -p corestream-wasmtime --example dump_to_socket -- localhost:7070`
#![allow(dead_code, reason = "a test includes this file and does not call main")]

use std::error::Error;
use std::net::{TcpStream, ToSocketAddrs};

use corestream::Dumper;
use wasmtime::{Config, Engine, Instance, Module, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("the address HOST:PORT is missing")?;
    dump_to_socket(address)
}

/// Runs `orders.wat`, which traps, and sends its dump to `address`.
pub fn dump_to_socket(address: impl ToSocketAddrs) -> Result<(), Box<dyn Error>> {
    let engine = Engine::new(Config::new().coredump_on_trap(true))?;
    let module = Module::new(&engine, include_str!("../../../examples/orders.wat"))?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;

    let Err(error) = start.call(&mut store, ()) else { return Ok(()) };
    let captured = corestream_wasmtime::capture(&mut store, "orders.wat", &error)?;
    // `plan.len()` is exact before the first byte is sent, so a protocol can announce it.
    let plan = Dumper::new().plan(&captured.dump)?;
    let mut socket = TcpStream::connect(address)?;
    plan.write_to(&mut socket)?;
    Ok(())
}
