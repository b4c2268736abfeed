//! The identities of modules, from their bytes. Wasmtime does not keep the bytes after compilation.

use corestream::{CoreDump, MergedIndices, ModuleIdentity};
use sha2::{Digest, Sha256};
use wasmparser::{BinaryReader, Parser, Payload};
use wasmtime::Module;

/// The identities of the modules whose bytes the embedder passed.
#[derive(Default)]
pub(super) struct Identities(Vec<(Module, ModuleIdentity)>);

impl Identities {
    /// Records the identity of a module.
    pub(super) fn add(&mut self, module: &Module, identity: ModuleIdentity) {
        self.0.push((module.clone(), identity));
    }

    /// Sets the identities of a dump's modules, and adds a note that lists the modules without one. `modules` are the
    /// modules of the dump, in its order. Skips the modules that are known otherwise. Returns the modules without identity.
    pub(super) fn place(
        &self,
        modules: &[Module],
        is_known: impl Fn(&Module) -> bool,
        dump: &mut CoreDump<'_>,
    ) -> Unidentified {
        let mut unknown = Vec::new();
        for (i, (module, described)) in modules.iter().zip(&mut dump.modules).enumerate() {
            let known = self.0.iter().rev().find(|(known, _)| Module::same(known, module));
            match known {
                Some((_, identity)) => described.identity = identity.clone(),
                None if is_known(module) => {}
                None => unknown.push(i),
            }
        }
        let unidentified = Unidentified(unknown);
        dump.notes.extend(unidentified.note());
        unidentified
    }
}

/// The positions of a dump's modules whose identity is not recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Unidentified(Vec<usize>);

impl Unidentified {
    /// Returns the note of a dump that says so.
    fn note(&self) -> Option<String> {
        let which = match self.0[..] {
            [] => return None,
            [module] => format!("module {module}"),
            [..] => format!("{} modules", self.0.len()),
        };
        Some(format!("no identity was recorded for {which}"))
    }

    /// Merges `other` into `dump`, with one note on the modules of both.
    ///
    /// # Errors
    /// Returns the errors of [`CoreDump::merge`]. `dump` is then as before.
    pub(super) fn merge<'a>(
        &mut self,
        dump: &mut CoreDump<'a>,
        theirs: Self,
        mut other: CoreDump<'a>,
    ) -> Result<MergedIndices, corestream::Error> {
        // The notes have indices and counts, which the merge changes.
        let (note, their_note) = (self.note(), theirs.note());
        let had_note = other
            .notes
            .iter()
            .chain(&dump.notes)
            .any(|other| [&note, &their_note].into_iter().flatten().any(|note| note == other));
        other.notes.retain(|note| Some(note) != their_note.as_ref());
        let merged = dump.merge(other)?;
        dump.notes.retain(|other| Some(other) != note.as_ref());
        let theirs = theirs.0.into_iter().filter_map(|module| merged.modules.get(module));
        self.0.extend(theirs.map(|module| module.0 as usize));
        self.0.sort_unstable();
        self.0.dedup();
        // The other dump may have the identity of a module of this one.
        self.0.retain(|module| {
            dump.modules.get(*module).is_some_and(|module| !module.identity.is_known())
        });
        dump.notes.extend(self.note().filter(|_| had_note));
        Ok(merged)
    }
}

/// Returns the identity of a module from its bytes in the binary format, for
/// [`Capture::module_identity`](crate::Capture::module_identity). This hashes all of them.
///
/// ```
/// let wasm = b"\0asm\x01\0\0\0\0\x0c\x08build_id\x02\x12\x34";
/// let identity = corestream_wasmtime::module_identity(wasm);
/// assert_eq!(identity.build_id.as_deref(), Some(&[0x12, 0x34][..]));
/// ```
pub fn module_identity(wasm: &[u8]) -> ModuleIdentity {
    let mut identity = ModuleIdentity::new().with_sha256(Sha256::digest(wasm).into());
    identity.build_id = build_id(wasm);
    identity
}

/// Returns the build id of a module
/// ([tool-conventions](https://github.com/WebAssembly/tool-conventions/blob/main/BuildId.md)).
fn build_id(wasm: &[u8]) -> Option<Vec<u8>> {
    // Wasmtime compiled the module, so it is valid. Returns `None` for other bytes.
    let payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let mut sections = payloads.filter_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == "build_id" => Some(section),
        _ => None,
    });
    let section = sections.next()?;
    let mut reader = BinaryReader::new(section.data(), section.data_offset());
    let len = reader.read_var_u32().ok()?;
    let build_id = reader.read_bytes(len as usize).ok()?;
    (!build_id.is_empty() && reader.eof()).then(|| build_id.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[&[u8]]) -> Vec<u8> {
        [b"\0asm\x01\0\0\0", &sections.concat()[..]].concat()
    }

    #[test]
    fn a_build_id_is_that_of_its_section() {
        for (sections, expected) in [
            (&[][..], None),
            (&[b"\0\x0c\x08build_id\x02\x12\x34"], Some(vec![0x12, 0x34])),
            (&[b"\0\x02\x01x", b"\0\x0b\x08build_id\x01\xff"], Some(vec![0xff])),
            // An empty build id, a truncated one, and one with trailing bytes.
            (&[b"\0\x0a\x08build_id\0"], None),
            (&[b"\0\x0b\x08build_id\x02\xff"], None),
            (&[b"\0\x0c\x08build_id\x01\xff\xff"], None),
        ] as [(&[&[u8]], _); 6]
        {
            assert_eq!(build_id(&module(sections)), expected, "{sections:?}");
        }
    }

    /// The digest of "abc" in FIPS 180-4.
    #[test]
    fn sha256_is_that_of_the_bytes() {
        let sha256 = module_identity(b"abc").sha256.unwrap();
        assert_eq!(sha256[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(sha256[28..], [0xf2, 0x00, 0x15, 0xad]);
    }
}
