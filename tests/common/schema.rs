//! Holds records against deploy/schema/record.json, and more strictly than a
//! reader may: a field that it does not name is a fault. Knows the words of
//! JSON Schema that the file uses, and no others.

use std::sync::OnceLock;

use serde_json::Value;

static SCHEMA: OnceLock<Value> = OnceLock::new();

pub(crate) fn schema() -> &'static Value {
    SCHEMA.get_or_init(|| {
        serde_json::from_str(include_str!("../../deploy/schema/record.json")).unwrap()
    })
}

/// What of a record is not as the schema says.
pub(crate) fn faults(record: &Value) -> Vec<String> {
    let mut found = Vec::new();
    hold(schema(), record, "", &mut found);
    found
}

#[track_caller]
pub(crate) fn must_hold(record: &Value) {
    let found = faults(record);
    assert!(found.is_empty(), "{found:?}: {record}");
}

fn hold(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let holds = |schema: &Value| {
        let mut found = Vec::new();
        hold(schema, value, at, &mut found);
        found.is_empty()
    };
    let fields = value.as_object();
    for (word, says) in schema.as_object().unwrap() {
        match word.as_str() {
            "title" | "description" | "$schema" | "$id" | "$defs" | "then" | "else" => {}
            "type" if !is_of(says, value) => found.push(format!("{at}: {value} is no {says}")),
            "const" if says != value => found.push(format!("{at}: {value} is not {says}")),
            "enum" if !says.as_array().unwrap().contains(value) => {
                found.push(format!("{at}: {value} is none of {says}"));
            }
            "minimum" if value.as_i64() < says.as_i64() && value.is_number() => {
                found.push(format!("{at}: {value} is below {says}"));
            }
            "maximum" if value.as_i64() > says.as_i64() => {
                found.push(format!("{at}: {value} is above {says}"));
            }
            "maxItems" if value.as_array().is_some_and(|it| it.len() > number(says)) => {
                found.push(format!("{at}: {value} is longer than {says}"));
            }
            "format" => {
                assert_eq!(says, "date-time");
                let text = value.as_str().unwrap_or_default();
                if humantime::parse_rfc3339(text).is_err() {
                    found.push(format!("{at}: {value} is no time"));
                }
            }
            "pattern" => {
                assert_eq!(says, "^sha256:[0-9a-f]{64}$");
                let is_digit = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
                let digits = value.as_str().map(|it| it.strip_prefix("sha256:"));
                if digits.is_some_and(|it| {
                    !it.is_some_and(|it| it.len() == 64 && it.bytes().all(is_digit))
                }) {
                    found.push(format!("{at}: {value} is no hash"));
                }
            }
            "type" | "const" | "enum" | "minimum" | "maximum" | "maxItems" => {}
            "required" => {
                for name in says.as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    if fields.is_some_and(|it| !it.contains_key(name)) {
                        found.push(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, value) in fields.into_iter().flatten() {
                    match says.get(name) {
                        Some(schema) => hold(schema, value, &format!("{at}/{name}"), found),
                        // Conditions speak of a few of the fields.
                        None if schema.get("type").is_some() => {
                            found.push(format!("{at}: {name} is not in the schema"));
                        }
                        None => {}
                    }
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    hold(says, item, &format!("{at}/{number}"), found);
                }
            }
            "$ref" => {
                let name = says.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                let meant = &self::schema()["$defs"][name];
                hold(meant, value, at, found);
            }
            "anyOf" => {
                if !says.as_array().unwrap().iter().any(holds) {
                    found.push(format!("{at}: {value} is none of {says}"));
                }
            }
            "allOf" => {
                for schema in says.as_array().unwrap() {
                    hold(schema, value, at, found);
                }
            }
            "if" => {
                let follows = if holds(says) { "then" } else { "else" };
                if let Some(schema) = schema.get(follows) {
                    hold(schema, value, at, found);
                }
            }
            other => panic!("the schema says {other}, which nothing here knows"),
        }
    }
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn is_of(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the schema says {other}"),
    };
    match types {
        Value::Array(any) => any.iter().any(is),
        one => is(one),
    }
}
