//! What a file may say, as one table of keys: its reader refuses what is not
//! in the table, and JSON Schema for editors is written from it.

use serde_json::{Map, Value, json};

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value may be.
    pub shape: Shape,
    /// For whoever points at it in an editor.
    pub about: &'static str,
    /// Whether it must be there.
    pub required: bool,
}

impl Key {
    /// A key that may be left out.
    pub const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self {
            name,
            shape,
            about,
            required: false,
        }
    }

    /// The same, if it may not.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// What a value may be. What no shape can say, such as that a set exists, only
/// the reader says.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `true` or `false`.
    Boolean,
    /// A whole number, both ends included.
    Integer(u32, u32),
    /// A string that this regular expression finds something in.
    Text(&'static str),
    /// One of these.
    Word(&'static [&'static str]),
    /// A list of at least so many, all of this shape.
    List(usize, &'static Shape),
    /// Of either shape.
    Either(&'static Shape, &'static Shape),
    /// A table of these keys.
    Table(&'static [Key]),
    /// Any number of tables of these keys.
    Tables(&'static [Key]),
    /// A table of keys that the author chooses, found by this expression.
    Names(&'static str, &'static Shape),
}

/// A JSON Schema (draft 7, which editors' TOML tools know) of a file of these
/// keys.
pub fn json_schema(title: &str, keys: &[Key]) -> Value {
    let mut schema = table(keys);
    if let Value::Object(schema) = &mut schema {
        schema.insert(
            "$schema".into(),
            "http://json-schema.org/draft-07/schema#".into(),
        );
        schema.insert("title".into(), title.into());
    }
    schema
}

fn table(keys: &[Key]) -> Value {
    let properties: Map<_, _> = keys
        .iter()
        .map(|key| {
            let mut schema = of_shape(&key.shape);
            if let Value::Object(schema) = &mut schema {
                schema.insert("description".into(), key.about.into());
            }
            (key.name.to_owned(), schema)
        })
        .collect();
    let required = keys.iter().filter(|key| key.required);
    let required: Vec<_> = required.map(|key| key.name).collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer(first, last) => {
            json!({ "type": "integer", "minimum": first, "maximum": last })
        }
        Shape::Text(expression) => json!({ "type": "string", "pattern": expression }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::List(least, shape) => {
            json!({ "type": "array", "minItems": least, "items": of_shape(shape) })
        }
        Shape::Either(one, other) => json!({ "anyOf": [of_shape(one), of_shape(other)] }),
        Shape::Table(keys) => table(keys),
        Shape::Tables(keys) => json!({ "type": "array", "items": table(keys) }),
        Shape::Names(expression, shape) => json!({
            "type": "object",
            "additionalProperties": false,
            "patternProperties": { *expression: of_shape(shape) },
        }),
    }
}
