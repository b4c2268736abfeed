//! A value of a local or of an operand stack.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::number::{F32, F64, I32, I64};

/// A value: `"missing"`, or an object with the type as key and a number.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
// With `remote`, serde derives methods instead of implementations. The implementations below call them and add a hint.
#[serde(remote = "Self", rename_all = "lowercase")]
pub enum Value {
    Missing,
    I32(I32),
    I64(I64),
    F32(F32),
    F64(F64),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hint =
            "expected \"missing\" or an object such as {\"i32\": …} with i32, i64, f32 or f64";
        Self::deserialize(deserializer)
            .map_err(|error| D::Error::custom(format!("{hint}: {error}")))
    }
}

impl From<corestream::Value> for Value {
    fn from(value: corestream::Value) -> Self {
        match value {
            corestream::Value::I32(x) => Self::I32(I32(x)),
            corestream::Value::I64(x) => Self::I64(I64(x)),
            corestream::Value::F32(bits) => Self::F32(F32(bits)),
            corestream::Value::F64(bits) => Self::F64(F64(bits)),
            _ => Self::Missing,
        }
    }
}

impl From<Value> for corestream::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Missing => Self::Missing,
            Value::I32(I32(x)) => Self::I32(x),
            Value::I64(I64(x)) => Self::I64(x),
            Value::F32(F32(bits)) => Self::F32(bits),
            Value::F64(F64(bits)) => Self::F64(bits),
        }
    }
}
