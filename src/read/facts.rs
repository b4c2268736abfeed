//! The sections `corestream.trap` and `corestream.modules`: why and when the guest stopped, and the identity of each
//! module.
//!
//! Each section begins with its version. The reader skips a section of an unknown version, so a later version can say
//! more without this reader refusing the dump.

use super::decode::Decoder;
use super::fault::{Fault, Result};
use super::file::{CoreDumpFile, no_such};
use super::input::Input;
use super::item::Item;
use super::items::{List, UntilError};
use crate::error;
use crate::format::{
    HAS_SHA256, IDENTITIES_VERSION, IdentitiesHead, IdentityHead, SHA256_BYTES, TRAP_VERSION,
    TrapHead,
};
use crate::limits::{MAX_BUILD_ID_BYTES, MAX_LISTED, MAX_TRAP_BYTES};
use crate::model::{ModuleIdentity, ModuleIndex, UnixTime};

/// Why and when a guest stopped, as far as the dump records it.
#[derive(Debug, Default)]
pub(super) struct Trap {
    message: Option<String>,
    captured_at: Option<UnixTime>,
}

/// Decodes the version of a section, and returns whether it is `version`.
fn has_version<I: Input>(body: &mut Decoder<'_, I>, version: u32) -> Result<bool> {
    Ok(body.array()? == version.to_le_bytes())
}

/// Decodes the body of the section `corestream.trap`. Returns `None` if its version is unknown.
pub(super) fn decode_trap<I: Input>(body: &mut Decoder<'_, I>) -> Result<Option<Trap>> {
    if !has_version(body, TRAP_VERSION)? {
        return Ok(None);
    }
    let start = body.offset();
    let TrapHead { captured_at, message_len } =
        zerocopy::transmute!(body.array::<{ size_of::<TrapHead>() }>()?);
    let len = message_len.get();
    if len as usize > MAX_TRAP_BYTES {
        let message = format!("a message of {len} bytes is over the limit of {MAX_TRAP_BYTES}");
        return Err(Fault::damaged(body.since(start), message));
    }
    let start = body.offset();
    let message = String::from_utf8(body.take(len as usize)?.to_vec());
    let message =
        message.map_err(|_| Fault::damaged(body.since(start), "the message is not UTF-8"))?;
    body.finish()?;
    Ok(Some(Trap {
        message: Some(message).filter(|message| !message.is_empty()),
        captured_at: UnixTime::from_nanoseconds(captured_at.get()),
    }))
}

/// Decodes the number of identities in the section `corestream.modules`. Returns `None` if its version is unknown.
pub(super) fn decode_identity_count<I: Input>(body: &mut Decoder<'_, I>) -> Result<Option<u32>> {
    if !has_version(body, IDENTITIES_VERSION)? {
        return Ok(None);
    }
    let start = body.offset();
    let IdentitiesHead { modules } =
        zerocopy::transmute!(body.array::<{ size_of::<IdentitiesHead>() }>()?);
    let modules = modules.get();
    if modules as usize > MAX_LISTED {
        let message = format!("{modules} identities are over the limit of {MAX_LISTED}");
        return Err(Fault::damaged(body.since(start), message));
    }
    Ok(Some(modules))
}

impl Item for ModuleIdentity {
    type Value = Self;

    fn decode<I: Input>(from: &mut Decoder<'_, I>) -> Result<Self> {
        let start = from.offset();
        let IdentityHead { flags, build_id_len } =
            zerocopy::transmute!(from.array::<{ size_of::<IdentityHead>() }>()?);
        let (flags, len) = (flags.get(), build_id_len.get() as usize);
        if flags & !HAS_SHA256 != 0 {
            let message = format!("unknown flags {flags:#x} of a module identity");
            return Err(Fault::damaged(from.since(start), message));
        }
        if len > MAX_BUILD_ID_BYTES {
            let message =
                format!("a build id of {len} bytes is over the limit of {MAX_BUILD_ID_BYTES}");
            return Err(Fault::damaged(from.since(start), message));
        }
        let mut identity = Self::new();
        if flags & HAS_SHA256 != 0 {
            identity.sha256 = Some(from.array::<SHA256_BYTES>()?);
        }
        if len > 0 {
            identity.build_id = Some(from.take(len)?.to_vec());
        }
        Ok(identity)
    }
}

impl CoreDumpFile<'_> {
    /// Returns the message of the trap that stopped the guest ([`CoreDump::trap`](crate::CoreDump::trap)), or `None` if
    /// the dump does not record it.
    pub fn trap(&self) -> Option<&str> {
        self.opened.items.trap.message.as_deref()
    }

    /// Returns the time at which the guest was captured ([`CoreDump::captured_at`](crate::CoreDump::captured_at)), or
    /// `None` if the dump does not record it.
    pub fn captured_at(&self) -> Option<UnixTime> {
        self.opened.items.trap.captured_at
    }

    /// Returns the identity of each module, in the order of the modules. An identity is empty if the dump does not
    /// record it.
    ///
    /// # Errors
    /// An item is an error in the same cases as in [`modules`](Self::modules).
    pub fn module_identities(
        &self,
    ) -> impl ExactSizeIterator<Item = error::Result<ModuleIdentity>> {
        let items = &self.opened.items;
        let mut identities = List::<ModuleIdentity>::new(self.source(), &items.identities);
        let identities = (0..items.modules.len())
            .map(move |_| identities.next().unwrap_or(Ok(ModuleIdentity::new())));
        UntilError::new(identities)
    }

    /// Returns the identity of a module. It is empty if the dump does not record it.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Option`](crate::ErrorKind::Option) if there is no such module, and the errors
    /// of [`modules`](Self::modules).
    pub fn module_identity(&self, index: ModuleIndex) -> error::Result<ModuleIdentity> {
        let items = &self.opened.items;
        if index.0 as usize >= items.modules.len() {
            return Err(no_such("module", index.0, items.modules.len()));
        }
        let identity =
            List::<ModuleIdentity>::item(self.source(), &items.identities, index.0 as usize)?;
        Ok(identity.unwrap_or_default())
    }
}
