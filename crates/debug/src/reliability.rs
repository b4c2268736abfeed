//! Which locals and operands hold what the debugging information says.
//!
//! **Problem.** Optimizing compilers reuse locals and operands without saying so, and tools renumber locals. LLDB reads
//! the debugging information itself and would show such a value as if it were right.
//!
//! **Idea.** `corestream-symbols` finds these places, and a session answers them as unknown.
//!
//! **Cost.** The debugging information is read when a client asks for the first value, once for all clients.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use corestream::{CoreDumpFile, Error, Frame, Result};
use corestream_symbols::{FramePlace, SymbolFile, Symbols, UnreliablePlaces};

/// The unreliable places of the frames of a thread.
pub(crate) struct Reliability<'b> {
    dump: &'b CoreDumpFile<'b>,
    files: Vec<SymbolFile<'b>>,
    state: Mutex<State<'b>>,
}

#[derive(Default)]
struct State<'b> {
    /// `None` until it is needed.
    symbols: Option<Symbols<'b>>,
    /// The places by the position of the frame. There are at most [`MAX_FRAMES`](crate::limits::MAX_FRAMES).
    places: HashMap<usize, UnreliablePlaces>,
}

impl<'b> Reliability<'b> {
    pub(crate) fn new(dump: &'b CoreDumpFile<'b>, files: &[SymbolFile<'b>]) -> Self {
        Self { dump, files: files.to_vec(), state: Mutex::default() }
    }

    /// Returns whether a place of a frame holds what the debugging information says. `index` is the position of the frame
    /// in its thread.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read.
    pub(crate) fn is_reliable(
        &self,
        frame: &Frame,
        index: usize,
        place: FramePlace,
    ) -> Result<bool> {
        // A thread that panicked has only left a frame out of the cache.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { symbols, places } = &mut *state;
        if let Some(places) = places.get(&index) {
            return Ok(!places.contains(place));
        }
        let symbols = match symbols {
            Some(symbols) => symbols,
            None => {
                let read = Symbols::new(&self.files, self.dump);
                symbols.insert(read.map_err(|error| Error::new(error.kind(), error.to_string()))?)
            }
        };
        let found = symbols.unreliable_places(frame, index)?;
        let is_reliable = !found.contains(place);
        places.insert(index, found);
        Ok(is_reliable)
    }
}

impl fmt::Debug for Reliability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reliability").finish_non_exhaustive()
    }
}
