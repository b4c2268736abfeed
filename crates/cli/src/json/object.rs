//! Deserializes structures from JSON objects only.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::List;

/// A value that is deserialized from a JSON object.
///
/// The code that serde derives for a structure also accepts an array, with the fields in the order of their declaration.
/// Such an array is certainly a mistake, and its meaning would change with the order of the declaration.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// The visitor that accepts an object.
struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Deserializes a list of objects.
///
/// # Errors
/// Returns an error if the value is not an array, or if an item is not an object of this type.
pub fn list<'de, 'd, D, T>(deserializer: D) -> Result<List<'d, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(List::InMemory(objects.into_iter().map(|object| object.0).collect()))
}

/// Parses a text as an object.
///
/// # Errors
/// Returns an error with line and column if the text is not an object of this type.
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
    fn rejects_an_array_in_place_of_an_object() {
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
