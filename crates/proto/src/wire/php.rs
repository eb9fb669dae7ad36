//! PHP's `serialize` format: sessions, query replies and handshake data (docs/protocol.md#php-values).
//!
//! Arrays, strings of bytes and the other scalars, as PHP 8.2 reads and writes them. Objects, references, enums and the
//! long-gone `S:` strings are refused: no GatewayWorker program needs them, and refusing them keeps values plain trees.
//! A reply made of parts goes out through [`mod@write`], without a [`Value`] in between.

mod array;
mod decode;
mod encode;
mod json;
mod query;
mod handshake;

use alloc::vec::Vec;

pub use array::{Array, ArrayFull, IntoIter, Iter, array_replace_recursive};
pub use decode::{Limits, UnserializeError, unserialize};
pub use encode::{serialize, write};
pub use handshake::{HandshakeRequest, on_websocket_connect_body};
pub use json::{NotJson, json_encode};

/// A key of a PHP array.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An integer.
    Int(i64),
    /// Bytes that do not spell an integer; see [`Key::from_php_string`].
    Str(Vec<u8>),
}

/// A PHP value without identity: no objects, no references.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` and `false`
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// A string: any bytes.
    Str(Vec<u8>),
    /// An array, which is PHP's list and its map.
    Array(Array),
}

impl Key {
    /// The key PHP uses when a program indexes an array with this string: a decimal integer exactly as PHP would print
    /// it (`42`, `-5`, but not `042`, `-0`, `+1` or one beyond `i64`) becomes an integer.
    pub fn from_php_string(bytes: &[u8]) -> Self {
        canonical_int(bytes).map_or_else(|| Self::Str(bytes.to_vec()), Self::Int)
    }
}

impl From<i64> for Key {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<&[u8]> for Key {
    /// The same as [`Key::from_php_string`].
    fn from(bytes: &[u8]) -> Self {
        Self::from_php_string(bytes)
    }
}

impl From<&str> for Key {
    /// The same as [`Key::from_php_string`].
    fn from(text: &str) -> Self {
        Self::from_php_string(text.as_bytes())
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Str(bytes.to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.as_bytes().to_vec())
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

/// The integer that these bytes spell the way PHP prints integers, if they do.
pub(super) fn canonical_int(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= INT_DIGITS_MAX => {}
        _ => return None,
    }
    // Going down from zero reaches i64::MIN, which going up and negating does not.
    let mut int = 0i64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        int = int.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(int) } else { int.checked_neg() }
}

/// Digits of `i64::MAX` and of `i64::MIN`.
const INT_DIGITS_MAX: usize = 19;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
