//! What tells a module from all others.

/// What tells a module from all others, as far as it is known: a name says little, and after an update the module of that
/// name is another one.
///
/// ```
/// use corestream::{CoreDump, CoreDumpFile, Dumper, ModuleIdentity};
///
/// let mut dump = CoreDump::new("guest.wasm");
/// let module = dump.add_module("guest.wasm");
/// dump.modules[0].identity = ModuleIdentity::new().with_build_id([0x12, 0x34]);
/// let bytes = Dumper::new().plan(&dump)?.to_vec()?;
/// let read = CoreDumpFile::from_slice(&bytes)?;
/// assert_eq!(read.module_identity(module)?, dump.modules[0].identity);
/// # Ok::<(), corestream::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[must_use]
pub struct ModuleIdentity {
    /// The content of its custom section `build_id`
    /// ([tool-conventions](https://github.com/WebAssembly/tool-conventions/blob/main/BuildId.md)). An empty one is none.
    ///
    /// A dump holds it if it has at most [`MAX_BUILD_ID_BYTES`](crate::limits::MAX_BUILD_ID_BYTES).
    pub build_id: Option<Vec<u8>>,
    /// The SHA-256 of its bytes, in the binary format.
    pub sha256: Option<[u8; 32]>,
}

impl ModuleIdentity {
    /// Returns an identity of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the same identity with this build id.
    pub fn with_build_id(mut self, build_id: impl Into<Vec<u8>>) -> Self {
        self.build_id = Some(build_id.into());
        self
    }

    /// Returns the same identity with this SHA-256 of the module's bytes.
    pub fn with_sha256(mut self, sha256: [u8; 32]) -> Self {
        self.sha256 = Some(sha256);
        self
    }

    /// Returns whether anything is known.
    pub fn is_known(&self) -> bool {
        self.sha256.is_some() || self.build_id.as_ref().is_some_and(|build_id| !build_id.is_empty())
    }
}
