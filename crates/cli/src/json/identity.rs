//! The identity of a module, in hexadecimal as other tools print it.

use corestream::ModuleIdentity;
use serde::{Deserialize, Serialize};

/// The known parts of the identity of a module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl From<ModuleIdentity> for Identity {
    fn from(identity: ModuleIdentity) -> Self {
        Self {
            build_id: identity.build_id.as_deref().map(hex),
            sha256: identity.sha256.as_ref().map(|sha256| hex(sha256)),
        }
    }
}

impl Identity {
    /// Converts to the library's identity.
    ///
    /// # Errors
    /// Returns a message if a text is not hexadecimal or has the wrong length.
    pub fn into_identity(self) -> Result<ModuleIdentity, String> {
        let mut identity = ModuleIdentity::new();
        if let Some(build_id) = self.build_id {
            let bytes = bytes(&build_id);
            identity.build_id = Some(
                bytes.ok_or("invalid build id; expected an even number of hexadecimal digits")?,
            );
        }
        if let Some(sha256) = self.sha256 {
            let bytes = bytes(&sha256).and_then(|bytes| bytes.try_into().ok());
            identity.sha256 = Some(bytes.ok_or("invalid SHA-256; expected 64 hexadecimal digits")?);
        }
        Ok(identity)
    }
}

/// Formats bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses hexadecimal digits.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}
