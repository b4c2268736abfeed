//! Objects that are read from objects alone.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::List;

/// A value that is read from a JSON object. The derived code of a structure would take an array too, with the fields in
/// the order of their declaration: nobody writes such a file on purpose, and what it means would change with that order.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Reads an object.
struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Reads a list of objects.
///
/// # Errors
/// Returns an error if it is no array, or an item is no such object.
pub fn list<'de, 'd, D, T>(deserializer: D) -> Result<List<'d, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(List::Read(objects.into_iter().map(|object| object.0).collect()))
}

/// Reads an object from all of a text.
///
/// # Errors
/// Returns what is wrong, with line and column.
pub fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> serde_json::Result<T> {
    serde_json::from_str::<Object<T>>(text).map(|object| object.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        one: u8,
        #[serde(default)]
        other: u8,
    }

    #[test]
    fn an_array_is_no_object() {
        let pair: Pair = parse(r#"{ "one": 1, "other": 2 }"#).unwrap();
        assert_eq!((pair.one, pair.other), (1, 2));
        for (text, expected) in [
            ("[1, 2]", "invalid type: sequence, expected an object at line 1 column 0"),
            ("{}", "missing field `one` at line 1 column 2"),
            (r#"{ "one": 300 }"#, "invalid value: integer `300`, expected u8 at line 1 column 12"),
            (
                r#"{ "two": 2 }"#,
                "unknown field `two`, expected `one` or `other` at line 1 column 7",
            ),
        ] {
            assert_eq!(parse::<Pair>(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
