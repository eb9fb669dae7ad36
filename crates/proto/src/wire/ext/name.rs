//! Names and ids in JSON: scalars that PHP uses as array keys.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::json;
use super::super::php::canonical_int;
use super::{Condition, ConnectionIds, NAME_COUNT_MAX};

/// A uid, group or field as PHP's array key, so that `42` and `"42"` are the same name.
///
/// Integers are held inline, strings are borrowed where the JSON text has no escapes.
#[derive(Clone)]
pub struct Name<'a>(Text<'a>);

#[derive(Clone)]
enum Text<'a> {
    Str(Cow<'a, str>),
    /// Came as a number; goes out as one again.
    Int {
        digits: [u8; INT_TEXT_LEN_MAX],
        len: u8,
    },
}

/// The values of a list or object, as connection ids. What cannot be an id is left out: no client has it.
pub(super) struct IdValues(pub(super) Vec<u32>);

/// The keys of an object, or the positions of a list, whose values are not null: what PHP's `isset` finds.
pub(super) struct IdKeys(pub(super) ConnectionIds);

/// The values of a list or object, as names.
pub(super) struct Names<'a>(pub(super) Vec<Name<'a>>);

/// The conditions of a SELECT; `None` for an empty list, an empty object or null.
#[derive(Default)]
pub(super) struct Conditions<'a>(pub(super) Option<Vec<Condition<'a>>>);

impl Name<'_> {
    /// The name's text; a number's decimal digits.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Str(text) => text,
            Text::Int { digits, len } => core::str::from_utf8(&digits[..usize::from(*len)])
                .expect("digits and a sign are ASCII"),
        }
    }

    /// The name's bytes, by which tables know it.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Text::Str(text) => json::string(text, out),
            Text::Int { .. } => out.extend_from_slice(self.as_bytes()),
        }
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(text: &'a str) -> Self {
        Self(Text::Str(Cow::Borrowed(text)))
    }
}

impl From<i64> for Name<'_> {
    fn from(int: i64) -> Self {
        let mut digits = [0; INT_TEXT_LEN_MAX];
        let mut start = digits.len();
        let mut rest = int.unsigned_abs();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(rest % 10).expect("below ten");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if int < 0 {
            start -= 1;
            digits[start] = b'-';
        }
        digits.copy_within(start.., 0);
        let len = u8::try_from(INT_TEXT_LEN_MAX - start).expect("at most 20");
        Self(Text::Int { digits, len })
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name<'_> {}

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Scalar::deserialize(deserializer)? {
            Scalar::Int(int) => Self::from(int),
            Scalar::Str(text) => Self(Text::Str(text)),
        })
    }
}

/// A scalar as PHP's array key, strings not yet looked at.
enum Scalar<'a> {
    Int(i64),
    Str(Cow<'a, str>),
}

impl Scalar<'_> {
    fn connection_id(&self) -> Option<u32> {
        let int = match self {
            Self::Int(int) => *int,
            Self::Str(text) => canonical_int(text.as_bytes())?,
        };
        u32::try_from(int).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

struct ScalarVisitor<'a>(PhantomData<&'a str>);

impl<'de: 'a, 'a> Visitor<'de> for ScalarVisitor<'a> {
    type Value = Scalar<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an integer")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Str(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Str(Cow::Owned(text.into())))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Int(int))
    }

    fn visit_u64<E: Error>(self, int: u64) -> Result<Scalar<'a>, E> {
        i64::try_from(int).map(Scalar::Int).map_err(|_| E::custom("beyond PHP's integers"))
    }

    fn visit_f64<E: Error>(self, double: f64) -> Result<Scalar<'a>, E> {
        // PHP cuts a fraction off a key. Beyond its integers the key would be meaningless.
        if !(-INT_BOUND..INT_BOUND).contains(&double) {
            return Err(E::custom("beyond PHP's integers"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the range was checked; the fraction is to be cut off"
        )]
        let int = double as i64;
        Ok(Scalar::Int(int))
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Int(i64::from(bool)))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Str(Cow::Borrowed("")))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor { keep: Some }).map(Self)
    }
}

impl<'de> Deserialize<'de> for IdValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keep = |scalar: Scalar<'de>| scalar.connection_id();
        deserializer.deserialize_any(ValuesVisitor { keep }).map(Self)
    }
}

/// Collects the values of a list or object, as PHP's `foreach` does. An object that has a key twice counts twice, where
/// PHP keeps the later one; no encoder writes such an object.
struct ValuesVisitor<T, K> {
    keep: fn(T) -> Option<K>,
}

impl<'de, T: Deserialize<'de>, K> Visitor<'de> for ValuesVisitor<T, K> {
    type Value = Vec<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<K>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            add(&mut values, (self.keep)(value))?;
        }
        Ok(values)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<K>, A::Error> {
        let mut values = Vec::new();
        while let Some((IgnoredAny, value)) = map.next_entry()? {
            add(&mut values, (self.keep)(value))?;
        }
        Ok(values)
    }
}

impl<'de> Deserialize<'de> for IdKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeysVisitor).map(|ids| Self(ids.into_iter().collect()))
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u32>, A::Error> {
        let mut ids = Vec::new();
        let mut position = 0u32;
        while let Some(value) = seq.next_element::<Option<IgnoredAny>>()? {
            add(&mut ids, value.map(|_| position))?;
            position = position.saturating_add(1);
        }
        Ok(ids)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u32>, A::Error> {
        let mut ids = Vec::new();
        while let Some((key, value)) = map.next_entry::<Scalar<'de>, Option<IgnoredAny>>()? {
            add(&mut ids, value.and_then(|_| key.connection_id()))?;
        }
        Ok(ids)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Conditions<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConditionsVisitor(PhantomData)).map(Self)
    }
}

struct ConditionsVisitor<'a>(PhantomData<&'a str>);

impl<'de: 'a, 'a> Visitor<'de> for ConditionsVisitor<'a> {
    type Value = Option<Vec<Condition<'a>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of conditions or an empty list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(None),
            Some(_) => Err(A::Error::custom("conditions without names")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut conditions = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let conditions = conditions.get_or_insert_with(Vec::new);
            let condition = match &*key {
                "connection_id" => Condition::ConnectionId(map.next_value::<IdValues>()?.0),
                "uid" => Condition::Uid(map.next_value::<Names<'a>>()?.0),
                "groups" => Condition::Groups(map.next_value::<Names<'a>>()?.0),
                // No client has it, so it finds nobody, but it is a condition: the answer is not "all".
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            add(conditions, Some(condition))?;
        }
        Ok(conditions)
    }
}

fn add<T, E: Error>(values: &mut Vec<T>, value: Option<T>) -> Result<(), E> {
    if values.len() == NAME_COUNT_MAX {
        return Err(E::custom("too many names"));
    }
    values.extend(value);
    Ok(())
}

const INT_TEXT_LEN_MAX: usize = 20;
/// 2^63, the first double beyond PHP's integers.
const INT_BOUND: f64 = 9_223_372_036_854_775_808.0;
