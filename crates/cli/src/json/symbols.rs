//! What a frame is called in the source.

use corestream_symbols::Resolved;
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};

use super::number::{Address, Number};
use super::present;

/// The function of a frame, and where it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Symbols {
    // Not a field that may be left out: it tells a frame with symbols from one without.
    #[serde(deserialize_with = "Option::deserialize")]
    name: Option<String>,
    /// Where the function of the frame itself is.
    #[serde(flatten)]
    position: Option<Position>,
    /// The calls that are inlined into it, the innermost first.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "sorted")]
    inlined: Option<Vec<Inlined>>,
    /// Why there is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A place in the source, and the variables that are in scope there.
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

/// A variable: its value, or the address of something larger.
#[derive(Debug, Serialize, Deserialize)]
struct Variable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    name: String,
    parameter: bool,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    value: Option<Known>,
}

/// The value of a variable.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Known {
    Boolean(bool),
    Number(Number),
    /// `null`: not known.
    Nothing,
}

/// Writes keys in alphabetical order, which programs that compare text rely on.
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
            position: split.map(|(own, _)| Position::from(own)),
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
        use corestream_symbols::Known as Found;

        let (address, value) = match variable.known {
            Found::LiesAt(address) => (Some(Address(address)), None),
            Found::Signed(x) => (None, Some(Known::Number(x.into()))),
            Found::Unsigned(x) | Found::Pointer(x) => (None, Some(Known::Number(x.into()))),
            Found::Boolean(x) => (None, Some(Known::Boolean(x))),
            Found::F32(bits) => (None, Some(Known::Number(Number::from_f32(bits)))),
            Found::F64(bits) => (None, Some(Known::Number(Number::from_f64(bits)))),
            // Nothing, or a kind of a later version.
            _ => (None, Some(Known::Nothing)),
        };
        let (name, parameter) = (variable.name.clone(), variable.parameter);
        Self { address, name, parameter, value }
    }
}
