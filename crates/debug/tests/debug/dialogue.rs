//! The packets of a session: connecting, stop replies, registers, values and resuming.

use corestream::{
    CoreDump, CoreDumpFile, Global, GlobalValue, Instance, ModuleIdentity, Thread, Value,
};
use corestream_debug::{Options, Session, Status, Target};
use corestream_symbols::SymbolFile;

use super::support::*;

/// The packets of LLDB 22 when it connects, in order.
#[test]
fn answers_the_packets_of_lldb_22_when_it_connects() {
    let module = module();
    let pc = 0x4000_0000_0000_0000 | (body(&module, TRAPS) + u64::from(TRAP));
    let pc = format!("{:016x}", pc.swap_bytes());
    let triple = "7761736d33322d756e6b6e6f776e2d756e6b6e6f776e2d7761736d";
    let stop = format!(
        "T05thread:1;hexname:6d61696e;00:{pc};reason:exception;\
         description:7761736d20747261703a20756e726561636861626c65;"
    );
    let expected = [
        ("QStartNoAckMode", "OK"),
        (
            "qSupported:xmlRegisters=i386,arm,mips,arc;multiprocess+;swbreak+;hwbreak+",
            "PacketSize=20000;qXfer:libraries:read+;QStartNoAckMode+",
        ),
        ("QThreadSuffixSupported", ""),
        ("QListThreadsInStopReply", ""),
        ("qHostInfo", &format!("triple:{triple};endian:little;ptrsize:4;")),
        ("vCont?", "vCont;c;C;s;S"),
        ("qVAttachOrWaitSupported", ""),
        ("QEnableErrorStrings", "OK"),
        ("qProcessInfo", &format!("pid:1;triple:{triple};endian:little;ptrsize:4;")),
        ("qC", "QC1"),
        ("?", &stop),
        (
            "qRegisterInfo0",
            "name:pc;alt-name:pc;bitsize:64;offset:0;encoding:uint;format:hex;\
             set:General Purpose Registers;gcc:16;dwarf:16;generic:pc;",
        ),
        ("qRegisterInfo1", "E45"),
        ("qStructuredDataPlugins", ""),
        ("qShlibInfoAddr", ""),
        ("qSymbol::", ""),
        ("jThreadsInfo", ""),
        ("qfThreadInfo", "m1"),
        ("qsThreadInfo", "l"),
        (
            "qXfer:libraries:read::0,1ffff",
            "l<library-list><library name=\"/dev/null/srv/guest.wasm\"><section \
             address=\"0x4000000000000000\"/></library></library-list>",
        ),
        ("x0,0", "OK"),
        ("Hg1", "OK"),
        ("p0", &pc),
        ("g", &pc),
        ("p1", "E01"),
        ("T1", "OK"),
        ("T2", "E01"),
        ("Hg2", "E01"),
        // The guest cannot run, be written to, or have breakpoints.
        ("c", &stop),
        ("s", &stop),
        ("vCont;c", &stop),
        ("vCont;s:1", &stop),
        ("C05", &stop),
        ("Z0,4000000000000000,1", "E01"),
        ("M0,1:00", ""),
        ("X0,1:a", ""),
        ("G00", ""),
        ("_M1000,rwx", ""),
        // Nothing gives access to files.
        ("vFile:open:2f6574632f706173737764,0,0", ""),
        ("qPlatform_shell:6c73,1", ""),
        ("", ""),
        ("qMemoryRegionInfo:", "E01"),
        ("qMemoryRegionInfo:+1", "E01"),
        ("x0", "E01"),
        ("x0,-1", "E01"),
    ];
    with_client(small_dump(), &module, &Options::new(), |client, target| {
        assert_eq!(target.warnings().len(), 0, "{:?}", target.warnings().collect::<Vec<_>>());
        for (packet, reply) in expected {
            assert_eq!(client.ask(packet), reply, "{packet}");
            assert_eq!(client.status, Status::Replied);
        }
        let mut output = Vec::new();
        assert_eq!(client.session.receive(&mut &b"\x03"[..], &mut output), Status::Replied);
        assert_eq!(unframe(&output), stop.as_bytes());
        assert_eq!(client.ask("D"), "OK");
        assert_eq!(client.status, Status::Closed);
        let mut input = &b"$?#3f"[..];
        assert_eq!(client.session.receive(&mut input, &mut Vec::new()), Status::Closed);
        assert_eq!(input.len(), 5);
    });
    with_client(small_dump(), &module, &Options::new(), |client, _| {
        assert_eq!(client.ask("k"), "X09");
        assert_eq!(client.status, Status::Closed);
    });
}

#[test]
fn a_long_list_of_libraries_comes_in_parts() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let memory = guest.instances[0].memories[0].unwrap();
    for _ in 0..20 {
        guest.add_instance(instance_with(memory));
    }
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        let whole = client.ask("qXfer:libraries:read::0,1ffff");
        let mut parts = String::new();
        loop {
            let part = client.ask(&format!("qXfer:libraries:read::{:x},40", parts.len()));
            parts += &part[1..];
            match part.starts_with('m') {
                true => assert_eq!(part.len(), 0x41),
                false => break,
            }
        }
        assert_eq!(parts, whole[1..]);
        assert_eq!(client.libraries().len(), 21);
        let names: std::collections::HashSet<_> = client.libraries().into_iter().collect();
        assert_eq!(names.len(), 21);
        assert_eq!(client.ask("qXfer:libraries:read::fffffffffffffff,ffffffffffff"), "l");
    });
}

#[test]
fn escapes_names_in_xml_and_in_packets() {
    let wasm = module();
    let bytes = small_dump();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let files = [SymbolFile::new("/srv/a#\"<&>}*\n☃.wasm", &wasm)];
    let target = Target::new(&dump, &files, &Options::new()).unwrap();
    let libraries = Client::new(&target).libraries();
    assert_eq!(libraries[0].0, "/dev/null/srv/a#&#34;&#60;&#38;&#62;}*?&#9731;.wasm");
    // No name is that of a file, which could be another build by now.
    for (path, name) in [("guest.wasm", "/dev/null/guest.wasm"), (PATH, "/dev/null/srv/guest.wasm")]
    {
        let files = [SymbolFile::new(path, &wasm)];
        let target = Target::new(&dump, &files, &Options::new()).unwrap();
        assert_eq!(Client::new(&target).libraries()[0].0, name);
    }
}

#[test]
fn values_are_little_endian_or_an_error() {
    with_client(small_dump(), &module(), &Options::new(), |client, _| {
        for (packet, reply) in [
            ("qWasmLocal:0;0", "feffffff"),
            ("qWasmLocal:0;1", "4433221100000000"),
            ("qWasmLocal:0;2", "0000000000000440"),
            ("qWasmLocal:0;3", "E01"),
            ("qWasmLocal:1;0", "E01"),
            ("qWasmLocal:2;0", "E01"),
            // From the bottom.
            ("qWasmStackValue:1;0", "07000000"),
            ("qWasmStackValue:1;1", "E01"),
            ("qWasmStackValue:1;2", "01000000"),
            ("qWasmStackValue:0;0", "E01"),
            ("qWasmGlobal:0;0", "00100000"),
            ("qWasmGlobal:0;1", "000000000000f83f"),
            ("qWasmGlobal:0;2", "E01"),
            ("qWasmGlobal:0;1073741823", "E01"),
            // The function that was called may have changed a mutable global.
            ("qWasmGlobal:1;0", "E01"),
            ("qWasmGlobal:1;1", "000000000000f83f"),
            // Back to an earlier frame.
            ("qWasmLocal:0;0", "feffffff"),
            ("qWasmLocal:", "E01"),
            ("qWasmLocal:0", "E01"),
            ("qWasmLocal:0;x", "E01"),
            ("qWasmLocal:99999999999999999999;0", "E01"),
        ] {
            assert_eq!(client.ask(packet), reply, "{packet}");
        }
    });
}

#[test]
fn locals_are_unknown_when_the_guest_has_just_entered_a_function() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let mut frame = trap(instance);
    frame.offset = 0;
    guest.add_thread(Thread::new("main").with_frames([frame, call(instance, CALLS)]));
    let module = module();
    with_client(to_vec(&guest), &module, &Options::new(), |client, target| {
        assert_eq!(
            target.stop_reason(),
            "probably wasm trap: call stack exhausted (no trap is recorded)"
        );
        assert_eq!(client.ask("qWasmLocal:0;0"), "E01");
        assert_eq!(client.ask("qWasmStackValue:1;0"), "07000000");
        assert_eq!(client.call_stack(1)[0], 0x4000_0000_0000_0000 | body(&module, TRAPS));
    });
}

#[test]
fn global_values_of_all_types() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let values = [
        GlobalValue::I64(-1),
        GlobalValue::F32(1),
        GlobalValue::V128(0xff),
        GlobalValue::Ref(corestream::RefType::Func),
    ];
    let globals = values.map(|value| guest.add_global(Global::mutable(value)));
    guest.instances[0].globals = globals.map(Some).to_vec();
    guest.instances[0].globals.push(None);
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, _| {
        let replies = [0, 1, 2, 3, 4].map(|index| client.ask(&format!("qWasmGlobal:0;{index}")));
        let v128 = format!("ff{}", "0".repeat(30));
        assert_eq!(replies, ["ffffffffffffffff", "01000000", &v128, "E01", "E01"]);
    });
}

#[test]
fn the_recorded_trap_is_the_stop_reason() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.trap = Some("wasm trap: integer divide by zero".into());
    guest.add_thread(Thread::new("main").with_frames([trap(instance)]));
    guest.add_thread(Thread::new("worker"));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, target| {
        assert_eq!(target.stop_reason(), "wasm trap: integer divide by zero");
        let stop = client.ask("?");
        let description = stop.split_once("description:").unwrap().1.strip_suffix(';').unwrap();
        assert_eq!(from_hex(description), target.stop_reason());
        // The other thread has not stopped by itself.
        assert_eq!(
            client.ask("qThreadStopInfo2"),
            "T00thread:2;hexname:776f726b6572;00:00000000ffffff7f;"
        );
        assert_eq!(client.ask("qThreadStopInfo3"), "E01");
    });
}

#[test]
fn a_dump_without_threads_has_one_for_the_client() {
    let bytes = to_vec(&CoreDump::new("guest"));
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let target = Target::new(&dump, &[], &Options::new()).unwrap();
    let mut client = Client::new(&target);
    assert_eq!(client.ask("qfThreadInfo"), "m1");
    assert!(client.ask("?").starts_with("T05thread:1;hexname:6e6f2074687265616473;"));
    assert_eq!(client.ask("qWasmCallStack:1"), "");
    assert_eq!(client.ask("qWasmLocal:0;0"), "E01");
    assert_eq!(client.regions(), [(0, u64::MAX, String::new())]);
}

#[test]
fn rejects_files_of_another_build_and_missing_threads() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let mut frame = trap(instance);
    frame.function = 9;
    guest.add_thread(Thread::new("main").with_frames([frame]));
    let bytes = to_vec(&guest);
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let wasm = module();
    let files = [SymbolFile::new(PATH, &wasm)];
    let error = Target::new(&dump, &files, &Options::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/srv/guest.wasm is not module 0 of the dump: frame 0 of thread 0: has no function 9, only 4 functions"
    );
    let error = Target::new(&dump, &[], &Options::new().with_thread(3)).unwrap_err();
    assert_eq!(error.to_string(), "there is no thread 3; the dump has 1");
}

/// The transport sends the reply to a packet before the next packet is taken.
#[test]
fn takes_one_packet_at_a_time() {
    let bytes = small_dump();
    let dump = CoreDumpFile::from_slice(&bytes).unwrap();
    let target = Target::new(&dump, &[], &Options::new()).unwrap();
    let mut session = Session::new(&target);
    let stream = frame(b"QEnableErrorStrings").repeat(3);
    let mut input = &stream[..];
    for left in [2, 1, 0] {
        let mut output = Vec::new();
        assert_eq!(session.receive(&mut input, &mut output), Status::Replied);
        assert_eq!((&output[..], input.len()), (&b"+$OK#9a"[..], stream.len() / 3 * left));
    }
    assert_eq!(session.receive(&mut input, &mut Vec::new()), Status::NeedsInput);
}

#[test]
fn warns_of_a_dump_without_locals_and_of_modules_without_files() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    let host = guest.add_module("host.wasm");
    let other = guest.add_instance(Instance::new(host));
    let mut frame = trap(instance);
    frame.locals.clear();
    let outside = call(other, CALLS).with_stack([Value::I32(1)].into_iter().take(0));
    guest.add_thread(Thread::new("main").with_frames([frame, outside]));
    with_client(to_vec(&guest), &module(), &Options::new(), |client, target| {
        let warnings: Vec<_> = target.warnings().collect();
        assert_eq!(
            warnings,
            [
                "the dump has no locals, so LLDB shows only static variables; dump with --locals",
                "module 1 (host.wasm) has no file, so its frames show addresses only; pass --symbols \
                 1=FILE",
            ]
        );
        // The frame has an address outside of all images, and the stack goes on.
        assert_eq!(client.call_stack(1)[1], 0x4000_0001_0000_0000 | u64::from(CALL));
        assert_eq!(client.libraries().len(), 1);
    });
}

/// The module without a file may also be one of an embedder, which records identities for some modules only.
#[test]
fn a_module_without_an_identity_may_be_an_adapter() {
    let bytes = bytes();
    let (mut guest, instance) = guest(&bytes);
    guest.modules[0].identity = ModuleIdentity::new().with_sha256([7; 32]);
    let other = guest.add_module("host.wasm");
    let other = guest.add_instance(Instance::new(other));
    guest.add_thread(Thread::new("main").with_frames([trap(instance), call(other, CALLS)]));
    let advice = |guest: &CoreDump<'_>| {
        let mut advice = String::new();
        with_client(to_vec(guest), &module(), &Options::new(), |_, target| {
            let found = target.warnings().find_map(|warning| warning.split_once("; pass "));
            advice = found.unwrap().1.to_owned();
        });
        advice
    };
    assert_eq!(advice(&guest), "--symbols 1=FILE, unless it is an adapter of a component");
    guest.modules[1].identity = ModuleIdentity::new().with_sha256([8; 32]);
    assert_eq!(advice(&guest), "--symbols 1=FILE");
}
