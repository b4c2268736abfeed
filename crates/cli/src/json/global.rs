//! A global.

use std::borrow::Cow;

use corestream::{GlobalValue, RefType};
use serde::{Deserialize, Serialize};

use super::number::Number;
use super::present;

/// A global. A global of a reference type has no value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Global<'d> {
    #[serde(rename = "type")]
    ty: Cow<'d, str>,
    #[serde(default)]
    mutable: bool,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    value: Option<Number>,
}

impl From<&corestream::Global> for Global<'_> {
    fn from(global: &corestream::Global) -> Self {
        let value = match global.value {
            GlobalValue::I32(x) => Some(x.into()),
            GlobalValue::I64(x) => Some(x.into()),
            GlobalValue::F32(bits) => Some(Number::from_f32(bits)),
            GlobalValue::F64(bits) => Some(Number::from_f64(bits)),
            GlobalValue::V128(bits) => Some(Number::from_v128(bits)),
            // References and missing values.
            _ => None,
        };
        Self { ty: global.value.type_name().into(), mutable: global.mutable, value }
    }
}

impl Global<'_> {
    /// Converts to the library's global.
    ///
    /// # Errors
    /// Returns a message if the type is unknown, or if the value does not have this type.
    pub fn to_global(&self) -> Result<corestream::Global, String> {
        let value = self.to_value()?;
        Ok(match self.mutable {
            true => corestream::Global::mutable(value),
            false => corestream::Global::constant(value),
        })
    }

    fn to_value(&self) -> Result<GlobalValue, String> {
        let ty = &*self.ty;
        if let Ok(top) = ty.parse::<RefType>() {
            return match self.value {
                None => Ok(GlobalValue::Ref(top)),
                Some(_) => Err(format!("a {ty} has no value in a dump; remove the value")),
            };
        }
        let number = self.value.as_ref().ok_or_else(|| format!("an {ty} requires a value"));
        let value = match (ty, number) {
            ("i32", number) => number?.to_i32().map(GlobalValue::I32),
            ("i64", number) => number?.to_i64().map(GlobalValue::I64),
            ("f32", number) => number?.to_f32().map(GlobalValue::F32),
            ("f64", number) => number?.to_f64().map(GlobalValue::F64),
            ("v128", Ok(number @ Number::Text(_))) => number.to_v128().map(GlobalValue::V128),
            ("v128", _) => return Err("a v128 requires a value of the form \"0x…\"".into()),
            _ => {
                return Err(format!(
                    "unknown type {ty}; expected i32, i64, f32, f64, v128, funcref, externref, \
                     anyref, exnref or contref"
                ));
            }
        };
        value.ok_or_else(|| format!("not a valid {ty}"))
    }
}
