//! The identity of a module.

/// The identity of a module: its build id and its hash, as far as they are known.
///
/// A name does not identify a module, because an update keeps the name and changes the module.
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
    /// The contents of its custom section `build_id`
    /// ([tool-conventions](https://github.com/WebAssembly/tool-conventions/blob/main/BuildId.md)). An empty build id
    /// counts as unknown.
    ///
    /// A dump has it if it is not longer than [`MAX_BUILD_ID_BYTES`](crate::limits::MAX_BUILD_ID_BYTES) bytes.
    pub build_id: Option<Vec<u8>>,
    /// The SHA-256 of the module in the binary format.
    pub sha256: Option<[u8; 32]>,
}

impl ModuleIdentity {
    /// Returns an unknown identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the build id.
    pub fn with_build_id(mut self, build_id: impl Into<Vec<u8>>) -> Self {
        self.build_id = Some(build_id.into());
        self
    }

    /// Sets the SHA-256 of the module in the binary format.
    pub fn with_sha256(mut self, sha256: [u8; 32]) -> Self {
        self.sha256 = Some(sha256);
        self
    }

    /// Returns whether the build id or the SHA-256 is known.
    pub fn is_known(&self) -> bool {
        self.sha256.is_some() || self.build_id.as_ref().is_some_and(|build_id| !build_id.is_empty())
    }
}
