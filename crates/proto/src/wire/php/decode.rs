//! `unserialize`: bytes to a value.

use alloc::vec::Vec;
use core::fmt;

use super::{Array, Key, Value};

/// How large a value may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arrays inside each other; 0 allows scalars only. A value is dropped and compared recursively, so keep it under a
    /// few thousand.
    pub depth_max: usize,
    /// Entries of all arrays together. An entry takes some 80 bytes of memory and as little as 6 of the input.
    pub entry_count_max: usize,
}

/// Why bytes are not a value; always the fault of who sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnserializeError {
    /// The input ends inside a value.
    Truncated,
    /// PHP would not read it either.
    Syntax {
        /// Offset of the item that cannot be read.
        at: usize,
    },
    /// An object, a reference, an enum or an `S:` string.
    Refused {
        /// Offset of the item.
        at: usize,
    },
    /// More arrays inside each other than [`Limits::depth_max`].
    Depth,
    /// More entries than [`Limits::entry_count_max`].
    EntryCount,
}

/// Reads one value as PHP 8.2's `unserialize` does, which ignores whatever follows the value.
///
/// # Errors
/// PHP would answer `false`, or the value is one we refuse, or it exceeds the limits.
pub fn unserialize(bytes: &[u8], limits: &Limits) -> Result<Value, UnserializeError> {
    let mut reader = Reader { bytes, at: 0 };
    let mut entries_left = limits.entry_count_max;
    let mut open: Vec<Open> = Vec::new();
    loop {
        let value = match open.last_mut() {
            Some(innermost) if innermost.entries_left == 0 => {
                reader.expect(b'}')?;
                Value::Array(core::mem::take(&mut innermost.array))
            }
            innermost => {
                if let Some(innermost) = innermost {
                    innermost.entries_left -= 1;
                    innermost.key = reader.key()?;
                }
                match reader.item()? {
                    Item::Scalar(value) => value,
                    Item::Array { entry_count } => {
                        if open.len() == limits.depth_max {
                            return Err(UnserializeError::Depth);
                        }
                        entries_left = entries_left
                            .checked_sub(entry_count)
                            .ok_or(UnserializeError::EntryCount)?;
                        open.push(Open::new(entry_count));
                        continue;
                    }
                }
            }
        };
        // A value is complete. An array whose entries have all been read leaves the stack with it.
        if matches!(value, Value::Array(_)) {
            open.pop();
        }
        let Some(outer) = open.last_mut() else { return Ok(value) };
        let key = core::mem::replace(&mut outer.key, Key::Int(0));
        outer.array.insert(key, value);
    }
}

impl Default for Limits {
    /// As deep as PHP's `json_decode` goes, and a million entries.
    fn default() -> Self {
        Self { depth_max: 512, entry_count_max: 1 << 20 }
    }
}

impl fmt::Display for UnserializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the serialized value ends early"),
            Self::Syntax { at } => write!(f, "not PHP serialize output at offset {at}"),
            Self::Refused { at } => {
                write!(f, "an object or reference at offset {at}; only plain values are taken")
            }
            Self::Depth => f.write_str("arrays are nested too deeply"),
            Self::EntryCount => f.write_str("too many array entries"),
        }
    }
}

impl core::error::Error for UnserializeError {}

/// An array of which entries are still to come.
struct Open {
    array: Array,
    entries_left: usize,
    /// The key of the entry whose value is being read.
    key: Key,
}

enum Item {
    Scalar(Value),
    Array { entry_count: usize },
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Open {
    fn new(entry_count: usize) -> Self {
        // The count is the sender's claim: memory follows the entries that really come.
        let array = Array::with_capacity(entry_count.min(RESERVE_LEN_MAX));
        Self { array, entries_left: entry_count, key: Key::Int(0) }
    }
}

impl Reader<'_> {
    /// A scalar, or the opening of an array.
    fn item(&mut self) -> Result<Item, UnserializeError> {
        let start = self.at;
        let syntax = UnserializeError::Syntax { at: start };
        let tag = self.byte()?;
        if tag == b'N' {
            self.expect(b';')?;
            return Ok(Item::Scalar(Value::Null));
        }
        match tag {
            b'b' | b'i' | b'd' | b's' | b'a' => self.expect(b':')?,
            b'O' | b'C' | b'E' | b'R' | b'r' | b'S' => {
                return Err(UnserializeError::Refused { at: start });
            }
            _ => return Err(syntax),
        }
        let value = match tag {
            b'b' => match self.until_semicolon()? {
                b"0" => Value::Bool(false),
                b"1" => Value::Bool(true),
                _ => return Err(syntax),
            },
            b'i' => Value::Int(int(self.until_semicolon()?).ok_or(syntax)?),
            b'd' => Value::Double(double(self.until_semicolon()?).ok_or(syntax)?),
            b's' => Value::Str(self.string()?.to_vec()),
            _ => {
                let entry_count = self.length()?;
                self.expect(b'{')?;
                return Ok(Item::Array { entry_count });
            }
        };
        Ok(Item::Scalar(value))
    }

    /// A key: an integer, or a string under the array-key rule.
    fn key(&mut self) -> Result<Key, UnserializeError> {
        let start = self.at;
        match self.byte()? {
            b'i' => {
                self.expect(b':')?;
                int(self.until_semicolon()?)
                    .map(Key::Int)
                    .ok_or(UnserializeError::Syntax { at: start })
            }
            b's' => {
                self.expect(b':')?;
                Ok(Key::from_php_string(self.string()?))
            }
            _ => Err(UnserializeError::Syntax { at: start }),
        }
    }

    /// What follows `s:`, up to and with the semicolon.
    fn string(&mut self) -> Result<&[u8], UnserializeError> {
        let len = self.length()?;
        self.expect(b'"')?;
        let start = self.at;
        let end = start.checked_add(len).filter(|end| *end <= self.bytes.len());
        self.at = end.ok_or(UnserializeError::Truncated)?;
        self.expect(b'"')?;
        self.expect(b';')?;
        Ok(&self.bytes[start..start + len])
    }

    /// A length and its colon.
    fn length(&mut self) -> Result<usize, UnserializeError> {
        let start = self.at;
        let mut len = 0usize;
        loop {
            match self.byte()? {
                digit @ b'0'..=b'9' => {
                    len = len.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
                }
                b':' if self.at > start + 1 => return Ok(len),
                _ => return Err(UnserializeError::Syntax { at: start }),
            }
        }
    }

    /// The bytes before the next semicolon, which is consumed too.
    fn until_semicolon(&mut self) -> Result<&[u8], UnserializeError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b';').ok_or(UnserializeError::Truncated)?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    fn expect(&mut self, wanted: u8) -> Result<(), UnserializeError> {
        let at = self.at;
        if self.byte()? == wanted { Ok(()) } else { Err(UnserializeError::Syntax { at }) }
    }

    fn byte(&mut self) -> Result<u8, UnserializeError> {
        let byte = *self.bytes.get(self.at).ok_or(UnserializeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }
}

/// An optional sign and digits; beyond `i64` PHP takes the nearest integer, with a warning.
fn int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = digits.iter().map(|digit| i64::from(digit - b'0'));
    Some(if negative {
        digits.fold(0i64, |int, digit| int.saturating_mul(10).saturating_sub(digit))
    } else {
        digits.fold(0i64, |int, digit| int.saturating_mul(10).saturating_add(digit))
    })
}

/// A decimal number, or one of PHP's three names.
fn double(text: &[u8]) -> Option<f64> {
    match text {
        b"NAN" => Some(f64::NAN),
        b"INF" => Some(f64::INFINITY),
        b"-INF" => Some(f64::NEG_INFINITY),
        // Rust's grammar is PHP's plus the words for infinity and NaN, which this set of characters cannot spell.
        _ if text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) =>
        {
            core::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Entries an array reserves memory for at once.
const RESERVE_LEN_MAX: usize = 16;
