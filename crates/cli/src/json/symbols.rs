//! The symbols of a frame.

use corestream_symbols::Resolved;
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};

use super::number::{Address, Number};
use super::present;

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

/// A variable with its value, or with its address if it is not a number.
#[derive(Debug, Serialize, Deserialize)]
struct Variable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    name: String,
    parameter: bool,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    value: Option<VariableValue>,
}

/// The value of a variable.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum VariableValue {
    Boolean(bool),
    Number(Number),
    /// `null`.
    Unknown,
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
        use corestream_symbols::Known;

        let number = |number| (None, Some(VariableValue::Number(number)));
        let (address, value) = match variable.known {
            Known::LiesAt(address) => (Some(Address(address)), None),
            Known::Signed(x) => number(x.into()),
            Known::Unsigned(x) | Known::Pointer(x) => number(x.into()),
            Known::Boolean(x) => (None, Some(VariableValue::Boolean(x))),
            Known::F32(bits) => number(Number::from_f32(bits)),
            Known::F64(bits) => number(Number::from_f64(bits)),
            // An unknown value, or a kind of a later version.
            _ => (None, Some(VariableValue::Unknown)),
        };
        let (name, parameter) = (variable.name.clone(), variable.parameter);
        Self { address, name, parameter, value }
    }
}
