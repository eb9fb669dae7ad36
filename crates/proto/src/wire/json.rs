//! JSON text the way PHP's `json_encode` writes it by default: compact, ASCII only, slashes escaped.

use alloc::vec::Vec;

/// Appends a string with its quotes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    quoted(text, char::is_ascii, out);
}

/// Appends a string with its quotes under PHP's JSON_UNESCAPED_UNICODE: only the two line separators, which JavaScript
/// does not take in strings, are escaped beyond ASCII.
pub(super) fn string_unescaped_unicode(text: &str, out: &mut Vec<u8>) {
    quoted(text, |char| !matches!(char, '\u{2028}' | '\u{2029}'), out);
}

fn quoted(text: &str, is_plain: impl Fn(&char) -> bool, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in text.chars() {
        match char {
            '"' | '\\' | '/' => out.extend_from_slice(&[b'\\', char as u8]),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            ' '.. if is_plain(&char) => {
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes())
            }
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(b"\\u");
                    out.extend(NIBBLE_SHIFTS.map(|shift| HEX[usize::from(*unit >> shift & 0xf)]));
                }
            }
        }
    }
    out.push(b'"');
}

/// Appends items with commas in between.
pub(super) fn separated<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>),
) {
    for (index, next) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item(next, out);
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";
const NIBBLE_SHIFTS: [u32; 4] = [12, 8, 4, 0];

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    #[test]
    fn strings_are_escaped_as_php_does_by_default() {
        for (text, json) in [
            ("plain", r#""plain""#),
            ("a/b\\c\"d", r#""a\/b\\c\"d""#),
            ("\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}", "\"\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}\""),
            ("é你😀", r#""\u00e9\u4f60\ud83d\ude00""#),
        ] {
            let mut out = Vec::new();
            string(text, &mut out);
            assert_eq!(core::str::from_utf8(&out), Ok(json));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
