//! What a frame is called in the source, as fields of its JSON.

use corestream_symbols::{Known, Position, Resolved, Variable};
use serde_json::{Value, json};

use crate::describe::{Field, Int, Scalar, Signed};

/// The fields of a frame.
pub fn fields(named: &Resolved) -> Vec<Field> {
    let mut fields = vec![("name", json!(named.name))];
    if let Some((own, inlined)) = named.positions.split_last() {
        fields.extend(position(own));
        let inlined = inlined.iter().map(|at| {
            let name = ("name", json!(at.function));
            object([name].into_iter().chain(position(at)))
        });
        fields.push(("inlined", inlined.collect()));
    }
    fields.extend(named.problem.iter().map(|problem| ("problem", json!(problem))));
    fields
}

fn position(at: &Position) -> [Field; 4] {
    [
        ("file", json!(at.file)),
        ("line", json!(at.line)),
        ("column", json!(at.column)),
        ("variables", at.variables.iter().map(variable).collect()),
    ]
}

fn variable(variable: &Variable) -> Value {
    let known = match variable.known {
        Known::Signed(x) => ("value", json!(Signed(x))),
        Known::Unsigned(x) | Known::Pointer(x) => ("value", json!(Int(x))),
        Known::Boolean(x) => ("value", json!(x)),
        Known::F32(bits) => ("value", json!(Scalar::Bits32(bits))),
        Known::F64(bits) => ("value", json!(Scalar::Bits64(bits))),
        Known::LiesAt(x) => ("address", json!(Int(x))),
        // Nothing, or what a later version knows.
        _ => ("value", Value::Null),
    };
    object([("name", json!(variable.name)), ("parameter", json!(variable.parameter)), known])
}

fn object(fields: impl IntoIterator<Item = Field>) -> Value {
    Value::Object(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}
