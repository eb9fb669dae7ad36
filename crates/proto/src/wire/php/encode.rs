//! `serialize`: a value, or the parts of one, to bytes.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Iter, Value};

/// Appends a value as PHP 8.2's `serialize` prints it.
pub fn serialize(value: &Value, out: &mut Vec<u8>) {
    let mut open: Vec<Iter<'_>> = Vec::new();
    let mut next = Some(value);
    loop {
        match next {
            Some(Value::Null) => write::null(out),
            Some(Value::Bool(bool)) => write::bool(*bool, out),
            Some(Value::Int(int)) => write::int(*int, out),
            Some(Value::Double(double)) => write::double(*double, out),
            Some(Value::Str(bytes)) => write::string(bytes, out),
            Some(Value::Array(array)) => {
                write::array_open(array.len(), out);
                open.push(array.iter());
            }
            None => {
                write::array_close(out);
                open.pop();
            }
        }
        let Some(innermost) = open.last_mut() else { return };
        next = innermost.next().map(|(key, value)| {
            write::key(key, out);
            value
        });
    }
}

/// The parts of `serialize` output, each appended to `out`.
///
/// An array is [`array_open`](write::array_open) with the number of entries, then a key and a value for each, then
/// [`array_close`](write::array_close). That keys differ and that the count is right is the caller's promise.
pub mod write {
    use alloc::vec::Vec;

    use super::super::{Key, canonical_int};
    use super::digits_of;

    /// `N;`
    pub fn null(out: &mut Vec<u8>) {
        out.extend_from_slice(b"N;");
    }

    /// `b:1;` or `b:0;`
    pub fn bool(bool: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(if bool { b"b:1;" } else { b"b:0;" });
    }

    /// `i:42;`
    pub fn int(int: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"i:");
        decimal(int, out);
        out.push(b';');
    }

    /// `d:0.5;`, with the fewest digits that read back as the same number (`serialize_precision = -1`).
    pub fn double(double: f64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"d:");
        if double.is_nan() {
            out.extend_from_slice(b"NAN");
        } else if double.is_infinite() {
            out.extend_from_slice(if double > 0.0 { b"INF" } else { b"-INF" });
        } else {
            digits_of(double, 'E', out);
        }
        out.push(b';');
    }

    /// `s:3:"abc";`
    pub fn string(bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"s:");
        decimal(bytes.len(), out);
        out.extend_from_slice(b":\"");
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\";");
    }

    /// `a:2:{`
    pub fn array_open(entry_count: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"a:");
        decimal(entry_count, out);
        out.extend_from_slice(b":{");
    }

    /// `}`
    pub fn array_close(out: &mut Vec<u8>) {
        out.push(b'}');
    }

    /// A key, in front of its value.
    pub fn key(key: &Key, out: &mut Vec<u8>) {
        match key {
            Key::Int(number) => int(*number, out),
            Key::Str(bytes) => string(bytes, out),
        }
    }

    /// A string as a key: an integer when it spells one ([`Key::from_php_string`]).
    pub fn key_bytes(bytes: &[u8], out: &mut Vec<u8>) {
        match canonical_int(bytes) {
            Some(number) => int(number, out),
            None => string(bytes, out),
        }
    }

    fn decimal(number: impl itoa::Integer, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// A finite number as PHP prints it: plain while the point is at most 17 digits right and 3 zeros left of the first digit,
/// else `1.0E+25` with the given mark (`zend_gcvt` with 17 digits).
pub(super) fn digits_of(double: f64, exponent_mark: char, out: &mut Vec<u8>) {
    let text = shortest(double);
    let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an e");
    let exponent: i32 = exponent.parse().expect("the exponent is a small integer");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut append = |text: &str| out.extend_from_slice(text.as_bytes());
    append(sign);
    match usize::try_from(exponent) {
        Ok(shift) if shift < PLAIN_DIGITS_MAX => {
            append(first);
            if rest.len() > shift {
                append(&rest[..shift]);
                append(".");
                append(&rest[shift..]);
            } else {
                append(rest);
                append(&"0000000000000000"[..shift - rest.len()]);
            }
        }
        Err(_) if exponent >= -PLAIN_ZEROS_MAX => {
            append("0.");
            (1..-exponent).for_each(|_| append("0"));
            append(first);
            append(rest);
        }
        _ => {
            append(first);
            append(".");
            append(if rest.is_empty() { "0" } else { rest });
            append(&alloc::format!("{exponent_mark}{exponent:+}"));
        }
    }
}

/// The fewest digits that read back as the number, in Rust's exponent form: `-1.25e-7`.
///
/// Where two such numbers are equally near, Rust takes the larger and `zend_dtoa` the even one.
fn shortest(double: f64) -> String {
    let text = alloc::format!("{double:e}");
    let at = text.find('e').expect("the exponent form has an e") - 1;
    let last = text.as_bytes()[at];
    if last.is_multiple_of(2) {
        return text;
    }
    let mut even = text.clone();
    even.replace_range(at..=at, core::str::from_utf8(&[last - 1]).expect("a digit is ASCII"));
    if even.parse() != Ok(double) {
        return text;
    }
    // Every digit the number has: half-way means a five after the even digit, then nothing.
    let exact = alloc::format!("{double:.EXACT_DIGITS_MAX$e}");
    let exact = exact.split('e').next().expect("split yields a first part").trim_end_matches('0');
    let is_tie = exact.strip_prefix(&even[..=at]).is_some_and(|rest| matches!(rest, "5" | ".5"));
    if is_tie { even } else { text }
}

/// Digits after the first that no finite double exceeds.
const EXACT_DIGITS_MAX: usize = 767;

/// Digits before the point up to which a number is printed without an exponent.
const PLAIN_DIGITS_MAX: usize = 17;
/// Place of the first digit after the point up to which a number is printed without an exponent.
const PLAIN_ZEROS_MAX: i32 = 4;

const _: () = assert!(PLAIN_DIGITS_MAX == "0000000000000000".len() + 1);
