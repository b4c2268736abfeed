//! The report of `inspect --json`.

use std::borrow::Cow;

use corestream::{CoreDumpFile, Frame, Result};
use serde::{Deserialize, Serialize};

use super::frame::InspectedFrame;
use super::global::Global;
use super::identity::Identity;
use super::instance::Instance;
use super::memory::InspectedMemory;
use super::thread::Thread;
use super::{List, SymbolMatch, Symbols, UnitStatics, manifest};

/// Resolves the symbols of a frame. The number is the index of the frame in its thread. Fails if the dump cannot be read.
type Resolve<'d> = dyn Fn(&Frame, usize) -> Result<Option<Symbols>> + 'd;

/// Returns the static variables of the compile unit with an index. Fails if the dump cannot be read.
type ReadStatics<'d> = dyn Fn(usize) -> Result<UnitStatics> + 'd;

/// The contents of a dump: the lists of a manifest, with lengths, coverage and offsets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspection<'d> {
    name: Cow<'d, str>,
    producer: Producer,
    rewritten: bool,
    frame_layout: Cow<'d, str>,
    bytes: u64,
    index: bool,
    checksums: bool,
    partial: bool,
    degraded: bool,
    damage: Option<String>,
    modules: List<'d, Option<Cow<'d, str>>>,
    memories: List<'d, InspectedMemory<'d>>,
    globals: List<'d, Global<'d>>,
    instances: List<'d, Instance>,
    threads: List<'d, Thread<'d, InspectedFrame>>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    notes: List<'d, Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trap: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    captured_at: Option<Cow<'d, str>>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    module_identities: List<'d, Identity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    symbol_files: Vec<SymbolMatch>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    statics: List<'d, UnitStatics>,
}

/// The writer of a dump.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Producer {
    Corestream,
    Other,
}

impl From<corestream::read::Producer> for Producer {
    fn from(producer: corestream::read::Producer) -> Self {
        match producer {
            corestream::read::Producer::Corestream => Self::Corestream,
            corestream::read::Producer::Other => Self::Other,
        }
    }
}

impl<'d> Inspection<'d> {
    /// Describes a dump. `resolve` returns the symbols of each frame.
    pub fn new(dump: &'d CoreDumpFile<'d>, resolve: &'d Resolve<'d>) -> Self {
        Self {
            name: dump.name().into(),
            producer: dump.producer().into(),
            rewritten: dump.is_rewritten(),
            frame_layout: dump.frame_layout().name().into(),
            bytes: dump.len(),
            index: dump.has_index(),
            checksums: dump.has_checksums(),
            partial: dump.is_partial(),
            degraded: dump.is_degraded(),
            damage: dump.damage().map(ToString::to_string),
            modules: manifest::modules(dump),
            memories: List::lazy(move || {
                dump.memories().map(move |memory| Ok(InspectedMemory::new(dump, memory)))
            }),
            globals: manifest::globals(dump),
            instances: manifest::instances(dump, None),
            threads: List::lazy(move || {
                let frame = move |i, frame: Frame| {
                    let symbols = resolve(&frame, i)?;
                    Ok(InspectedFrame::new(frame, symbols))
                };
                dump.threads().map(move |thread| Ok(Thread::new(thread?, frame)))
            }),
            notes: manifest::notes(dump),
            trap: dump.trap().map(Cow::Borrowed),
            captured_at: manifest::captured_at(dump),
            module_identities: manifest::identities(dump),
            symbol_files: Vec::new(),
            statics: List::default(),
        }
    }

    /// Adds the verdicts about symbol files, and the static variables of each of `units` compile units, which
    /// `read_statics` returns.
    pub fn with_symbols(
        self,
        matches: &[corestream_symbols::ModuleMatch],
        units: usize,
        read_statics: &'d ReadStatics<'d>,
    ) -> Self {
        let symbol_files = matches.iter().map(SymbolMatch::from).collect();
        let statics = match units {
            0 => List::default(),
            _ => List::lazy(move || (0..units).map(read_statics)),
        };
        Self { symbol_files, statics, ..self }
    }
}
