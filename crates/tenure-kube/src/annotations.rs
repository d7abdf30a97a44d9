//! Annotations and other fields of an object.

use serde_json::{Map, Value};

/// An annotation of `object`.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// The fields of an object, made one if it is none yet.
pub(crate) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object just now"),
    }
}

/// Sets an annotation of `object`.
pub fn set_annotation(object: &mut Value, name: &str, text: String) {
    fields(&mut object["metadata"]["annotations"]).insert(name.to_owned(), Value::String(text));
}

pub(crate) fn remove_annotation(object: &mut Value, name: &str) {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(name);
    }
}
