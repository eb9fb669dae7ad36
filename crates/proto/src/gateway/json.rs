//! PHP's `json_encode(…, JSON_UNESCAPED_UNICODE)` of a value: what a websocket client gets for a message that is not a
//! string (Workerman's `Websocket::encode`).

use alloc::format;
use alloc::vec::Vec;

use crate::wire::php::{Key, Value};

/// Appends the JSON text. Strings that are not UTF-8 become `null`; PHP sends an empty message for the whole value then.
pub(super) fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
        Value::Int(int) => out.extend_from_slice(format!("{int}").as_bytes()),
        Value::Double(double) if double.is_finite() => {
            out.extend_from_slice(format!("{double:?}").as_bytes())
        }
        Value::Double(_) => out.push(b'0'),
        Value::Str(bytes) => string(bytes, out),
        Value::Array(array) => {
            let is_list = array.iter().zip(0..).all(|((key, _), index)| *key == Key::Int(index));
            out.push(if is_list { b'[' } else { b'{' });
            for (at, (key, value)) in array.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                if !is_list {
                    match key {
                        Key::Int(int) => string(format!("{int}").as_bytes(), out),
                        Key::Str(bytes) => string(bytes, out),
                    }
                    out.push(b':');
                }
                encode(value, out);
            }
            out.push(if is_list { b']' } else { b'}' });
        }
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let Ok(text) = core::str::from_utf8(bytes) else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    for char in text.chars() {
        match char {
            '"' | '\\' | '/' => out.extend_from_slice(&[b'\\', char as u8]),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..' ' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", char as u32).as_bytes())
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::php::{Limits, unserialize};

    #[test]
    fn values_become_the_json_php_makes_of_them() {
        for (serialized, json) in [
            ("a:2:{i:0;i:1;i:1;s:3:\"a/b\";}", r#"[1,"a\/b"]"#),
            ("a:2:{i:1;b:1;s:1:\"k\";N;}", r#"{"1":true,"k":null}"#),
            ("a:1:{s:1:\"x\";d:1.5;}", r#"{"x":1.5}"#),
            ("s:4:\"é\n\u{1}\";", "\"é\\n\\u0001\""),
            ("a:0:{}", "[]"),
        ] {
            let value = unserialize(serialized.as_bytes(), &Limits::default()).unwrap();
            let mut out = Vec::new();
            encode(&value, &mut out);
            assert_eq!(core::str::from_utf8(&out), Ok(json));
        }
    }
}
