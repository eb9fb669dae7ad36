//! `json_encode($value, JSON_UNESCAPED_UNICODE)`: what a websocket client gets for a message that is not a string
//! (docs/protocol.md#client-protocols).

use alloc::vec::Vec;

use super::encode::digits_of;
use super::{Array, Key, Value};
use crate::wire::json;

/// The value has no JSON text: a string in it is not UTF-8, or a number is not finite. PHP's `json_encode` says `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// Appends a value's JSON text, as PHP 8.2 prints it.
///
/// # Errors
/// There is none; what was appended until then stays.
pub fn json_encode(value: &Value, out: &mut Vec<u8>) -> Result<(), NotJson> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
        Value::Int(int) => out.extend_from_slice(alloc::format!("{int}").as_bytes()),
        Value::Double(double) if double.is_finite() => digits_of(*double, 'e', out),
        Value::Double(_) => return Err(NotJson),
        Value::Str(bytes) => string(bytes, out)?,
        Value::Array(array) => return array_encode(array, out),
    }
    Ok(())
}

/// An array whose keys count up from zero is a list, any other an object.
fn array_encode(array: &Array, out: &mut Vec<u8>) -> Result<(), NotJson> {
    let is_list = array.iter().zip(0..).all(|((key, _), index)| *key == Key::Int(index));
    out.push(if is_list { b'[' } else { b'{' });
    for (at, (key, value)) in array.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if !is_list {
            match key {
                Key::Int(int) => string(alloc::format!("{int}").as_bytes(), out)?,
                Key::Str(bytes) => string(bytes, out)?,
            }
            out.push(b':');
        }
        json_encode(value, out)?;
    }
    out.push(if is_list { b']' } else { b'}' });
    Ok(())
}

fn string(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotJson> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| NotJson)?;
    json::string_unescaped_unicode(text, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, unserialize};
    use super::*;

    #[test]
    fn values_become_the_json_php_makes_of_them() {
        for (serialized, json) in [
            ("a:2:{i:0;i:1;i:1;s:3:\"a/b\";}", r#"[1,"a\/b"]"#),
            ("a:2:{i:1;b:1;s:1:\"k\";N;}", r#"{"1":true,"k":null}"#),
            (
                "a:3:{s:1:\"x\";d:1.5;s:1:\"y\";d:1.0E+25;s:1:\"z\";d:1;}",
                r#"{"x":1.5,"y":1.0e+25,"z":1}"#,
            ),
            ("s:9:\"é\n\u{1}\u{2028}\"q\";", "\"é\\n\\u0001\\u2028\\\"q\""),
            ("a:0:{}", "[]"),
        ] {
            let value = unserialize(serialized.as_bytes(), &Limits::default()).unwrap();
            let mut out = Vec::new();
            assert_eq!(json_encode(&value, &mut out), Ok(()));
            assert_eq!(core::str::from_utf8(&out), Ok(json));
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for value in [Value::Double(f64::INFINITY), Value::Str(b"\xff".to_vec())] {
            assert_eq!(json_encode(&value, &mut Vec::new()), Err(NotJson));
        }
    }
}
