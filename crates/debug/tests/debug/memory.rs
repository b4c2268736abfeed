//! Reading memory, and the regions of the address space.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use corestream::read::ReadAt;
use corestream::{Memory, MemoryImage, MemoryIndex, MemoryType, Thread};
use corestream_debug::{Options, Session};

use super::support::*;

#[test]
fn reads_memory_and_images_as_bytes_and_as_digits() {
    let wasm = module();
    with_client(small_dump(), &wasm, &Options::new(), |client, _| {
        let bytes = bytes();
        assert_eq!(client.ask_bytes(b"x0,200"), &bytes[..0x200]);
        // With all bytes that need an escape.
        assert_eq!(client.ask_bytes(b"x1234,1ff00"), &bytes[0x1234..]);
        assert_eq!(client.ask("m10,3"), "101112");
        assert_eq!(client.ask("mfffe,10"), format!("{:02x}{:02x}", bytes[0xfffe], bytes[0xffff]));
        assert_eq!(client.ask_bytes(b"x10000,1"), b"E02");
        assert_eq!(client.ask("m10000,1"), "E02");
        assert_eq!(client.ask_bytes(b"x4000000000000000,4"), b"\0asm");
        let end = 0x4000_0000_0000_0000 | wasm.len() as u64;
        assert_eq!(
            client.ask_bytes(format!("x{:x},100", end - 2).as_bytes()),
            &wasm[wasm.len() - 2..]
        );
        for nowhere in [
            format!("x{end:x},1"),
            "x8000000000000000,200".into(),
            "xffffffffffffffff,1".into(),
            "x7fffffffffffffff,8".into(),
        ] {
            assert_eq!(client.ask(&nowhere), "E02");
        }
        // A longer read than a reply can have.
        assert_eq!(client.ask("m0,ffffffffffffffff").len(), 0x2_0000);
    });
}

/// LLDB would take some bytes of memory for a status.
#[test]
fn memory_does_not_read_like_a_status() {
    let mut bytes = vec![0; 65_536];
    bytes[..2].copy_from_slice(b"OK");
    bytes[16..19].copy_from_slice(b"E02");
    bytes[32..38].copy_from_slice(b"E01;61");
    let (mut guest, instance) = guest(&bytes);
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        for (packet, read) in [
            ("x0,2", "O"),
            ("x1,1", "K"),
            ("x10,3", "E0"),
            ("x12,1", "2"),
            ("x20,6", "E01;6"),
            ("x20,2", "E0"),
            ("m0,2", "4f4b"),
        ] {
            assert_eq!(client.ask(packet), read);
        }
    });
}

#[test]
fn excluded_ranges_are_errors_and_have_regions() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.memories[0].exclude(0x100..0x200);
    guest.memories[0].exclude(0xff00..);
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    let wasm = module();
    with_client(to_vec(&guest), &wasm, &Options::new(), |client, target| {
        assert!(
            target.warnings().any(|warning| warning.starts_with("parts of the memory are not"))
        );
        assert_eq!(client.ask_bytes(b"x0,200"), &bytes[..0x100]);
        assert_eq!(client.ask_bytes(b"xff,2"), &bytes[0xff..0x100]);
        for address in ["100", "1ff", "ff00", "ffff", "10000"] {
            assert_eq!(client.ask(&format!("x{address},1")), "E02");
        }
        assert_eq!(client.ask_bytes(b"x200,2"), &bytes[0x200..0x202]);
        let images = 0x4000_0000_0000_0000;
        let len = wasm.len() as u64;
        let expected = [
            (0, 0x100, "rw memory 0"),
            (0x100, 0x100, " memory 0, excluded"),
            (0x200, 0xfd00, "rw memory 0"),
            (0xff00, 0x100, " memory 0, excluded"),
            (0x1_0000, images - 0x1_0000, ""),
            (images, len, "rx /dev/null/srv/guest.wasm"),
            (images + len, u64::MAX - images - len, ""),
        ];
        assert_eq!(
            client.regions(),
            expected.map(|(start, size, what)| (start, size, what.to_string()))
        );
    });
}

#[test]
fn lost_ranges_are_errors_and_have_regions() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    let whole = to_vec(&guest);
    let dump = corestream::CoreDumpFile::salvage_slice(&whole[..20_000]).unwrap();
    let target = corestream_debug::Target::new(&dump, &[], &Options::new()).unwrap();
    let mut client = Client::new(&target);
    let regions = client.regions();
    let (start, _, name) = &regions[1];
    assert_eq!(name, " memory 0, lost");
    assert_eq!(client.ask(&format!("x{start:x},1")), "E02");
    let last = usize::try_from(start - 1).unwrap();
    assert_eq!(client.ask_bytes(format!("x{last:x},5").as_bytes()), [bytes[last]]);
}

#[test]
fn many_excluded_ranges_have_regions() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    for i in 0..8000 {
        guest.memories[0].exclude(i * 8 + 1..i * 8 + 3);
    }
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(client.regions().len(), 16_000 + 1 + 3);
        assert_eq!(client.ask("x9,1"), "E02");
        assert_eq!(client.ask_bytes(b"xb,6"), &bytes[0xb..0x11]);
    });
}

#[test]
fn further_memories_have_ids_after_the_instances() {
    let (first, second) = (bytes(), vec![2; 65_536]);
    let (mut guest, instance) = guest(&first);
    let image = MemoryImage::from_slice(&second);
    let further = guest.add_memory(Memory::new(MemoryType::wasm32(1), image));
    guest.instances[0].memories.push(Some(further));
    guest.add_instance(instance_with(MemoryIndex(0)));
    let frames = [trap(instance), call(instance, CALLS), call(instance, CALLS)];
    guest.add_thread(Thread::new("main").with_frames(frames));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
        assert_eq!(client.ask_bytes(b"x100000001,2"), [1, 2]);
        assert_eq!(client.ask_bytes(b"x200000001,2"), [2, 2]);
        let regions = client.regions();
        assert_eq!(regions[4], (0x2_0000_0000, 0x1_0000, "rw memory 1".into()));
        // Copies come after the memories.
        let addresses: Vec<_> =
            client.libraries().iter().map(|(_, at)| at >> 32 & 0xffff).collect();
        assert_eq!(addresses, [0, 1, 3]);
    });
}

#[test]
fn a_memory64_is_flat_and_the_ids_of_others_are_above_it() {
    let (first, second) = (bytes(), vec![2; 65_536]);
    let (mut guest, instance) = guest(&first);
    // 16 GiB and a page.
    guest.memories[0] =
        Memory::new(MemoryType::wasm64((16 << 14) + 1), MemoryImage::from_slice(&first));
    let image = MemoryImage::from_slice(&second);
    let other = guest.add_memory(Memory::new(MemoryType::wasm32(1), image));
    let other = guest.add_instance(instance_with(other));
    guest.add_thread(Thread::new("main").with_frames([trap(instance), call(other, CALLS)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, target| {
        assert_eq!(client.ask_bytes(b"x1,2"), [1, 2]);
        assert_eq!(client.ask_bytes(b"x400000000,3"), [0, 0, 0]);
        assert_eq!(client.ask_bytes(b"x40000ffff,3"), [0]);
        assert_eq!(client.ask("x400010000,3"), "E02");
        assert_eq!(client.ask_bytes(b"x500000000,1"), [2]);
        assert_eq!(client.call_stack(1)[1] >> 32, 0x4000_0005);
        let regions = client.regions();
        assert_eq!(regions[0], (0, (16 << 30) + 0x1_0000, "rw memory 0".into()));
        assert!(target.warnings().any(|warning| warning.contains("64-bit addresses")));
    });
}

#[test]
fn serves_the_start_of_a_memory_that_does_not_fit() {
    let first = bytes();
    let (mut guest, instance) = guest(&first);
    guest.memories[0] = Memory::new(MemoryType::wasm64(1 << 48), MemoryImage::from_slice(&first));
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, target| {
        assert_eq!(client.regions()[0], (0, 1 << 52, "rw memory 0".into()));
        assert!(
            target
                .warnings()
                .any(|warning| warning.starts_with("memory 0 is not served as a whole"))
        );
    });
}

/// A dump in memory that can be made to fail.
struct Source {
    bytes: Vec<u8>,
    fails: AtomicBool,
}

impl ReadAt for &Source {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.bytes.as_slice().read_exact_at(buffer, offset)
    }
}

#[test]
fn an_error_of_the_source_is_the_answer_to_one_packet() {
    let source = Source { bytes: small_dump(), fails: AtomicBool::new(false) };
    with_client(&source, &module(), &Options::new(), |client, target| {
        source.fails.store(true, Ordering::Relaxed);
        for packet in ["x0,10", "m0,10", "qWasmLocal:0;0", "qWasmGlobal:0;0"] {
            assert_eq!(client.ask(packet), "E03", "{packet}");
        }
        assert_eq!(client.call_stack(1).len(), 2);
        source.fails.store(false, Ordering::Relaxed);
        assert_eq!(client.ask("m0,4"), "00010203");
        assert_eq!(client.ask("qWasmLocal:0;0"), "feffffff");
        let _ = Session::new(target);
    });
}
