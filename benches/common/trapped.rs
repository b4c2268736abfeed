//! Wasmtime guests that trapped, dumped by corestream and by the reference (`WasmCoreDump::serialize` and `write_all`).
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs::File;
use std::io::Write;

use corestream::{Dumper, FileSink};
use corestream_wasmtime::capture;
use wasmtime::{Config, Engine, Error, Instance, Module, Store, WasmCoreDump};

use super::common::{Random, fresh_file};
use super::decoded;

/// A Wasmtime guest that trapped.
pub struct Guest {
    store: Store<()>,
    error: Error,
}

pub fn random() -> Random {
    Random(88_172_645_463_325_252)
}

impl Guest {
    /// Runs a guest with one memory of `len` bytes, which `fill` fills before the guest traps. A memory over 4 GiB is a
    /// memory64.
    pub fn new(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let engine = Engine::new(Config::new().coredump_on_trap(true)).unwrap();
        let (index, pages) = (if len > 4 << 30 { "i64" } else { "" }, len / 65_536);
        let text = format!(
            r#"(module $guest (memory (export "memory") {index} {pages}) (func (export "run") unreachable))"#
        );
        let module = Module::new(&engine, text).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        fill(instance.get_memory(&mut store, "memory").unwrap().data_mut(&mut store));
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call(&mut store, ()).unwrap_err();
        Self { store, error }
    }

    /// Dumps the guest to a fresh file with corestream.
    pub fn dump(&mut self) -> File {
        let file = fresh_file();
        let captured = capture(&mut self.store, "guest", &self.error).unwrap();
        let plan = Dumper::new().plan(&captured.dump).unwrap();
        plan.write_to(&mut FileSink::new(&file)).unwrap();
        file
    }

    /// Returns the length of the dump in bytes.
    pub fn dump_len(&mut self) -> u64 {
        let captured = capture(&mut self.store, "guest", &self.error).unwrap();
        Dumper::new().plan(&captured.dump).unwrap().len()
    }

    /// Dumps the guest to a fresh file with the reference.
    pub fn reference(&mut self) -> File {
        let mut file = fresh_file();
        file.write_all(&self.serialize()).unwrap();
        file
    }

    fn serialize(&mut self) -> Vec<u8> {
        self.error.downcast_ref::<WasmCoreDump>().unwrap().serialize(&mut self.store, "guest")
    }

    /// Checks that corestream's dump is valid and contains exactly `len` bytes, all equal to the memory's, before
    /// anything is timed.
    ///
    /// For guests with `len` non-zero bytes. It reads nothing else of the memory.
    ///
    /// # Panics
    /// Panics if the dump is wrong.
    pub fn check_data(&mut self, len: usize) {
        let captured = capture(&mut self.store, "guest", &self.error).unwrap();
        let bytes = captured.to_vec().unwrap();
        let image = captured.dump.memories[0].image.as_slice().unwrap();
        let mut sum = 0;
        for segment in decoded::decode(&bytes).segments {
            let address = usize::try_from(segment.address).unwrap();
            assert!(image[address..][..segment.data.len()] == *segment.data);
            sum += segment.data.len();
        }
        assert_eq!(sum, len);
    }

    /// Checks that corestream's dump is valid and restores the memory. Returns whether the reference's dump is valid.
    ///
    /// It reads untouched pages and so makes them resident: measure before.
    ///
    /// # Panics
    /// Panics if corestream's dump is wrong.
    pub fn check(&mut self) -> bool {
        let captured = capture(&mut self.store, "guest", &self.error).unwrap();
        let bytes = captured.to_vec().unwrap();
        let image = captured.dump.memories[0].image.as_slice().unwrap();
        let (mut end, segments) = (0, decoded::decode(&bytes).segments);
        let table = 20 * segments.len();
        for segment in segments {
            let address = usize::try_from(segment.address).unwrap();
            assert!(image[end..address].iter().all(|byte| *byte == 0));
            end = address + segment.data.len();
            assert!(image[address..end] == *segment.data);
        }
        assert!(image[end..].iter().all(|byte| *byte == 0));
        let len = bytes.len() - table;
        drop(bytes);
        let reference = self.serialize();
        let valid = wasmparser::Validator::new().validate_all(&reference).is_ok();
        // Apart from the table of segments, the dump is at most one percent and a few bytes longer than the data.
        assert!(!valid || len <= reference.len() / 100 * 101 + 4096);
        valid
    }
}
