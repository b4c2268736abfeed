//! The symbols of frames, static variables, and verdicts about symbol files.

use corestream::InstanceIndex;
use corestream_symbols::{Resolved, Statics, Unknown, Value, VariableKind, Verdict};
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;

use super::number::{Address, Number};

/// The function of a frame and its position in the source.
#[derive(Debug, Serialize, Deserialize)]
pub struct Symbols {
    // This field is required: it distinguishes a frame with symbols from one without.
    #[serde(deserialize_with = "Option::deserialize")]
    name: Option<String>,
    /// The position in the function of the frame itself, not in an inlined function.
    #[serde(flatten)]
    position: Option<Position>,
    /// The calls inlined into the function, innermost first.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "sorted")]
    inlined: Option<Vec<Inlined>>,
    /// The reason why symbols are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A position in the source, and the variables in scope there.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    variables: Vec<Variable>,
}

/// An inlined call.
#[derive(Debug, Serialize, Deserialize)]
struct Inlined {
    name: Option<String>,
    #[serde(flatten)]
    position: Position,
}

/// A variable with its value.
#[derive(Debug, Serialize, Deserialize)]
pub struct Variable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    name: String,
    parameter: bool,
    #[serde(rename = "type")]
    type_name: String,
    value: serde_json::Value,
}

/// The static variables of a compile unit in an instance.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnitStatics {
    instance: u32,
    file: Option<String>,
    variables: Vec<Variable>,
    /// The reason why variables are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl UnitStatics {
    /// Describes the static variables of a compile unit. `file` is the unit's source file.
    pub fn new(instance: InstanceIndex, file: Option<String>, statics: &Statics) -> Self {
        let variables = statics.variables.iter().map(Variable::from).collect();
        Self { instance: instance.0, file, variables, problem: statics.problem.clone() }
    }
}

/// Whether a symbol file is from the build that ran.
#[derive(Debug, Serialize, Deserialize)]
pub struct SymbolMatch {
    module: u32,
    verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&corestream_symbols::ModuleMatch> for SymbolMatch {
    fn from(found: &corestream_symbols::ModuleMatch) -> Self {
        let (verdict, reason) = match &found.verdict {
            Verdict::Certain => ("certain", None),
            Verdict::Plausible => ("plausible", None),
            Verdict::Mismatch(mismatch) => ("mismatch", Some(mismatch.to_string())),
            _ => ("unknown", None),
        };
        Self { module: found.module.0, verdict: verdict.into(), reason }
    }
}

/// Serializes a value with its keys in alphabetical order, because programs that compare the text rely on this order.
fn sorted<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::to_value(value).map_err(S::Error::custom)?.serialize(serializer)
}

impl From<&Resolved> for Symbols {
    fn from(resolved: &Resolved) -> Self {
        let split = resolved.positions.split_last();
        let inlined = |(_, inlined): (_, &[corestream_symbols::Position])| {
            let inlined = inlined
                .iter()
                .map(|at| Inlined { name: at.function.clone(), position: Position::from(at) });
            inlined.collect()
        };
        Self {
            name: resolved.name.clone(),
            position: split.map(|(outermost, _)| Position::from(outermost)),
            inlined: split.map(inlined),
            problem: resolved.problem.clone(),
        }
    }
}

impl From<&corestream_symbols::Position> for Position {
    fn from(at: &corestream_symbols::Position) -> Self {
        Self {
            file: at.file.clone(),
            line: at.line,
            column: at.column,
            variables: at.variables.iter().map(Variable::from).collect(),
        }
    }
}

impl From<&corestream_symbols::Variable> for Variable {
    fn from(variable: &corestream_symbols::Variable) -> Self {
        Self {
            address: variable.address.map(Address),
            name: variable.name.clone(),
            parameter: variable.kind == VariableKind::Parameter,
            type_name: variable.type_name.clone(),
            value: value(&variable.value),
        }
    }
}

/// Returns a value in JSON. Integers and booleans are JSON numbers and booleans; every other value is an object whose
/// keys tell its kind.
fn value(of: &Value) -> serde_json::Value {
    let float = |text: String, bits: Number| json!({ "float": text, "bits": bits });
    match of {
        Value::Unknown(reason) => unknown(reason),
        Value::Signed(x) => integer(*x),
        Value::Unsigned(x) => match i128::try_from(*x) {
            Ok(x) => integer(x),
            Err(_) => json!(x.to_string()),
        },
        Value::Boolean(x) => json!(x),
        Value::Character(c) => json!({ "character": c.to_string(), "value": u32::from(*c) }),
        Value::Byte(byte) => {
            json!({ "character": String::from_utf8_lossy(&[*byte]), "value": byte })
        }
        Value::F32(bits) => float(of.to_string(), Number::from_f32(*bits)),
        Value::F64(bits) => float(of.to_string(), Number::from_f64(*bits)),
        Value::F16(bits) => json!({ "float": of.to_string(), "bits": format!("{bits:#06x}") }),
        Value::F80(bits) => json!({ "float": of.to_string(), "bits": format!("{bits:#022x}") }),
        Value::F128(bits) => json!({ "float": of.to_string(), "bits": format!("{bits:#034x}") }),
        Value::Complex(parts) => {
            let [real, imaginary] = &**parts;
            json!({ "real": value(real), "imaginary": value(imaginary) })
        }
        Value::Enumerator { name, number } => {
            json!({ "enumerator": name, "value": integer(*number) })
        }
        Value::Pointer { address, target: None } => json!({ "pointer": Address(*address) }),
        Value::Pointer { address, target: Some(target) } => {
            json!({ "pointer": Address(*address), "target": value(target) })
        }
        Value::Text(text) => {
            // The text alone would not tell which bytes are not UTF-8.
            let is_utf8 = std::str::from_utf8(&text.bytes).is_ok();
            let bytes = if is_utf8 { None } else { Some(super::hex(&text.bytes)) };
            let (address, length) = (text.address.map(Address), text.length.map(Number::from));
            let unread = text.unread.as_deref().map(unknown);
            let text = String::from_utf8_lossy(&text.bytes);
            json!({
                "text": text,
                "address": address,
                "length": length,
                "bytes": bytes,
                "unread": unread,
            })
        }
        Value::Sequence { elements, length } => {
            let elements: Vec<_> = elements.iter().map(value).collect();
            json!({ "elements": elements, "length": Number::from(*length) })
        }
        Value::Record { members, omitted } => {
            let members: Vec<_> = members
                .iter()
                .map(|member| json!({ "name": member.name, "value": value(&member.value) }))
                .collect();
            json!({ "members": members, "omitted": omitted })
        }
        Value::Tuple { members, omitted } => {
            let members: Vec<_> = members.iter().map(value).collect();
            json!({ "tuple": members, "omitted": omitted })
        }
        Value::Variant { name, data } => {
            json!({ "variant": name, "data": data.as_deref().map(value) })
        }
        Value::Null => json!(null),
        Value::Omitted => json!({ "omitted": true }),
        // A kind of a later version.
        other => json!({ "unknown": other.to_string() }),
    }
}

/// Returns the reason why a value is not known: in words, by its kind, and with what the reason refers to.
fn unknown(reason: &Unknown) -> serde_json::Value {
    let text = reason.to_string();
    let of_kind = |kind: &str| json!({ "unknown": text, "reason": kind });
    let at = |kind: &str, address: &u64| json!({ "unknown": text, "reason": kind, "address": Address(*address) });
    let of_index =
        |kind: &str, index: &u32| json!({ "unknown": text, "reason": kind, "index": index });
    match reason {
        Unknown::OptimizedOut => of_kind("optimized-out"),
        Unknown::Removed => of_kind("removed"),
        Unknown::Local(index) => of_index("local-not-recorded", index),
        Unknown::Operand(index) => of_index("operand-not-recorded", index),
        Unknown::Global(index) => of_index("global-not-recorded", index),
        Unknown::ChangedGlobal(index) => of_index("global-may-have-changed", index),
        Unknown::Reused { place, value: held } => json!({
            "unknown": text,
            "reason": "reused",
            "place": place.to_string(),
            "holds": value(held),
        }),
        Unknown::Renumbered => of_kind("renumbered"),
        Unknown::WrongType(_) => of_kind("wrong-type"),
        Unknown::Excluded(address) => at("excluded", address),
        Unknown::Lost(address) => at("lost", address),
        Unknown::OutOfBounds(address) => at("out-of-bounds", address),
        Unknown::NoMemory => of_kind("no-memory"),
        Unknown::NoFrameBase => of_kind("no-frame-base"),
        Unknown::FrameBaseNotSet => of_kind("frame-base-not-set"),
        Unknown::NoAddress => of_kind("no-address"),
        Unknown::Unsupported(_) => of_kind("unsupported"),
        Unknown::TooMuchWork => of_kind("too-much-work"),
        Unknown::Malformed(_) => of_kind("malformed"),
        // A reason of a later version.
        _ => of_kind("other"),
    }
}

/// Returns an integer, as a string where not every program reads such a number exactly.
fn integer(x: i128) -> serde_json::Value {
    match i64::try_from(x) {
        Ok(x) => json!(Number::from(x)),
        Err(_) => json!(x.to_string()),
    }
}
