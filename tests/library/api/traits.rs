//! Traits that the public types implement. Most are asserted when this file is compiled.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::fs::File;
use std::hash::Hash;
use std::net::TcpStream;
use std::str::FromStr;

use corestream::*;

/// Asserts that threads can send and share a type.
const fn shared<T: Send + Sync>() {}

/// Asserts the traits of a plain value.
const fn value<T: Clone + Debug + Eq + Hash + Send + Sync + 'static>() {}

/// Asserts the traits of a number.
const fn number<T: Copy + Default + Display + FromStr + Ord>() {}

/// Asserts the traits of an index.
const fn index<T: Copy + Display + From<u32> + FromStr + Ord + Into<u32>>() {}

/// Asserts that a type converts to and from text.
const fn text<T: Display + FromStr>() {}

const _: () = {
    shared::<CoreDump<'static>>();
    shared::<Memory<'static>>();
    shared::<MemoryImage<'static>>();
    shared::<Dumper>();
    shared::<Plan<'static>>();
    shared::<Writer<'static>>();
    shared::<Pieces<'static>>();
    shared::<Reader<'static>>();
    shared::<Piece<'static>>();
    shared::<Stats>();
    shared::<Cancel>();
    shared::<FileSink<File>>();
    shared::<PipeSink<File>>();
    shared::<SocketSink<TcpStream>>();
    shared::<NewDirectory>();
    shared::<UnnamedFile>();
    shared::<CoreDumpFile<'static>>();
    shared::<read::OpenOptions>();
    shared::<read::Verifier>();
    shared::<read::MemoryView<'static>>();
    shared::<read::Contents<'static>>();
    shared::<read::ThreadView<'static>>();
    shared::<read::Frames<'static>>();
    shared::<read::MappedFile>();
    shared::<&dyn read::ReadAt>();

    value::<read::Content>();
    value::<read::Coverage>();
    value::<read::DamageReport>();
    value::<read::FrameLayout>();
    value::<read::Excluded>();
    value::<read::MemoryRange>();
    value::<read::Producer>();
    value::<read::Restored>();
    value::<read::SegmentView>();
    value::<read::Verdict>();
    value::<read::IntactDump>();
    value::<AddressRange>();
    value::<AddressRanges>();
    value::<ByteSize>();
    value::<DumpMemoryIndex>();
    value::<ErrorKind>();
    value::<FileOptions>();
    value::<Frame>();
    value::<Global>();
    value::<GlobalIndex>();
    value::<GlobalValue>();
    value::<Instance>();
    value::<InstanceIndex>();
    value::<MemoryIndex>();
    value::<MemoryType>();
    value::<Module>();
    value::<ModuleIndex>();
    value::<NumberType>();
    value::<Progress>();
    value::<RefType>();
    value::<Segment>();
    value::<Shortfall>();
    value::<Stage>();
    value::<Thread>();
    value::<Value>();
    value::<Visible<String>>();

    number::<ByteSize>();
    index::<DumpMemoryIndex>();
    index::<GlobalIndex>();
    index::<InstanceIndex>();
    index::<MemoryIndex>();
    index::<ModuleIndex>();
    text::<AddressRange>();
    text::<GlobalValue>();
    text::<MemoryType>();
    text::<NumberType>();
    text::<RefType>();
    text::<Value>();
};

#[test]
fn an_error_can_be_boxed_and_passed_through_io() {
    let error = Error::new(ErrorKind::Guest, "the guest has no frames");
    let boxed: Box<dyn StdError + Send + Sync> = error.into();
    assert_eq!(boxed.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Guest);
    let through_io = std::io::Error::from(*boxed.downcast::<Error>().unwrap());
    assert_eq!(through_io.to_string(), "the guest has no frames");
    assert_eq!(through_io.downcast::<Error>().unwrap().kind(), ErrorKind::Guest);
}

/// `Debug` of a large object says what it is, and not its contents.
#[test]
fn debug_output_is_short() {
    let bytes = vec![7; 65_536];
    let mut dump = CoreDump::new("guest.wasm");
    dump.add_memory(Memory::new(MemoryType::wasm32(1), MemoryImage::from_slice(&bytes)));
    dump.add_thread(Thread::new("main"));
    let plan = Dumper::new().plan(&dump).unwrap();
    let shown = format!("{plan:?}");
    assert!(shown.starts_with("Plan { len: ") && shown.contains(", segments: 1,"), "{shown}");
    assert!(shown.len() < 200, "{shown}");
    let written = plan.to_vec().unwrap();
    let file = CoreDumpFile::from_slice(&written).unwrap();
    let memory = file.memory(MemoryIndex(0)).unwrap();
    let thread = file.threads().next().unwrap().unwrap();
    for shown in [format!("{file:?}"), format!("{memory:?}"), format!("{thread:?}")] {
        assert!(!shown.is_empty() && shown.len() < 1000, "{shown}");
    }
    assert_eq!(memory.excluded().count(), 0);
}

/// The default options open a dump as `new` does.
#[test]
fn default_options_and_verifiers_work() {
    let dump = CoreDump::new("guest.wasm");
    let written = Dumper::default().plan(&dump).unwrap().to_vec().unwrap();
    let file = read::OpenOptions::default().open_source(&written).unwrap();
    assert_eq!(file.name(), "guest.wasm");
    let verdict = read::Verifier::default().verify(&written).unwrap();
    assert!(matches!(verdict, read::Verdict::Intact(_)));
    assert_eq!(read::ReadAt::len(&written).unwrap(), written.len() as u64);
}

/// A program can choose a sink at run time.
#[test]
fn a_sink_can_be_a_trait_object() {
    let plan = CoreDump::new("guest.wasm");
    let plan = Dumper::new().plan(&plan).unwrap();
    let mut bytes = Vec::new();
    let sink: &mut dyn Sink = &mut bytes;
    plan.write_to(sink).unwrap();
    assert_eq!(bytes, plan.to_vec().unwrap());
}
