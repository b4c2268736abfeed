//! Traits of public types that users build on, asserted when this file is compiled.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::fs::File;
use std::hash::Hash;
use std::net::TcpStream;
use std::str::FromStr;

use corestream::*;

/// A type that threads may pass on and share.
const fn shared<T: Send + Sync>() {}

/// A plain value.
const fn value<T: Clone + Debug + Eq + Hash + Send + Sync + 'static>() {}

/// An index or a number, as text too.
const fn number<T: Copy + Default + Display + FromStr + Ord>() {}

/// An index, as text too.
const fn index<T: Copy + Display + From<u32> + FromStr + Ord + Into<u32>>() {}

/// A value that text stands for.
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

/// A sink is chosen when the program runs, and borrowed.
#[test]
fn a_sink_can_be_a_trait_object() {
    let plan = CoreDump::new("guest.wasm");
    let plan = Dumper::new().plan(&plan).unwrap();
    let mut bytes = Vec::new();
    let sink: &mut dyn Sink = &mut bytes;
    plan.write_to(sink).unwrap();
    assert_eq!(bytes, plan.to_vec().unwrap());
}
