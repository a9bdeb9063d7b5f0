//! JSON for programs: `"format": 1` first, and numbers that JSON does not have as strings.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// The version of all keys that are printed.
const FORMAT: u64 = 1;

/// A float: `"NaN"`, `"Infinity"` and `"-Infinity"` are strings, where serde_json would write null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            x if x.is_finite() => to.serialize_f64(x),
            x if x.is_nan() => to.serialize_str("NaN"),
            x if x > 0.0 => to.serialize_str("Infinity"),
            _ => to.serialize_str("-Infinity"),
        }
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Value {
        serde_json::to_value(number).expect("a number or a string is always JSON")
    }
}

/// An object with `"format"` before its own keys; pretty for people, one line for programs.
pub(crate) fn document(body: &impl Serialize, pretty: bool) -> treering::Result<String> {
    let bug = |e: serde_json::Error| treering::Error::Bug(format!("this cannot be printed as JSON: {e}"));
    let mut document = Map::new();
    document.insert("format".into(), FORMAT.into());
    match serde_json::to_value(body).map_err(bug)? {
        Value::Object(keys) => document.extend(keys),
        _ => return Err(treering::Error::Bug("what is printed as JSON is always an object".into())),
    }
    let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
    text.map_err(bug)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn format_comes_first_and_nothing_is_lost() {
        let body = json!({"loss": Number(f64::NAN), "up": Number(f64::INFINITY), "down": Number(f64::NEG_INFINITY), "x": Number(0.1)});
        assert_eq!(
            document(&body, false).unwrap(),
            r#"{"format":1,"loss":"NaN","up":"Infinity","down":"-Infinity","x":0.1}"#
        );
        assert!(document(&body, true).unwrap().starts_with("{\n  \"format\": 1,\n"));
    }
}
