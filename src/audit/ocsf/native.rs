//! A record that is taken apart: what was taken is gone from it, so that what
//! is left is what nobody has mapped.

use serde_json::{Map, Value};

pub(super) struct Native(Map<String, Value>);

impl Native {
    pub(super) fn parse(line: &str) -> Option<Self> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Some(Self(fields)),
            _ => None,
        }
    }

    /// What stands at a path such as `caller.uid`; unknown is nothing.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let mut at = self.0.get(keys.next()?)?;
        for key in keys {
            at = at.get(key)?;
        }
        Some(at).filter(|it| !it.is_null())
    }

    /// A text that stands there.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// Takes what stands there.
    pub(super) fn take(&mut self, path: &str) -> Option<Value> {
        let (folder, key) = match path.rsplit_once('.') {
            None => (&mut self.0, path),
            Some((folder, key)) => {
                let mut at = &mut self.0;
                for step in folder.split('.') {
                    at = at.get_mut(step)?.as_object_mut()?;
                }
                (at, key)
            }
        };
        folder.remove(key).filter(|it| !it.is_null())
    }

    /// Takes a text, or a number as one.
    pub(super) fn take_text(&mut self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(_) | Value::Number(_) => {}
            _ => return None,
        }
        match self.take(path)? {
            Value::String(text) => Some(text),
            number => Some(number.to_string()),
        }
    }

    /// Takes a number, where it is one that counts.
    pub(super) fn take_count(&mut self, path: &str) -> Option<u64> {
        let count = self.get(path)?.as_u64()?;
        self.take(path);
        Some(count)
    }

    /// What nobody took, and says something.
    pub(super) fn left(self) -> Option<Value> {
        said(Value::Object(self.0))
    }
}

fn said(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let fields: Map<_, _> = fields
                .filter_map(|(key, value)| Some((key, said(value)?)))
                .collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        Value::Array(items) if items.is_empty() => None,
        value => Some(value),
    }
}

/// An object of the fields that are known; nothing, where none is.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let fields = fields.into_iter();
    let fields: Map<_, _> = fields
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}
