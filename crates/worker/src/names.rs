//! Arguments of calls: names of users and groups, and messages.

use std::borrow::Cow;

use tengate_proto::worker::Body;

/// A uid or the name of a group. PHP takes strings and integers for both and holds `"7"` and `7` for the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(crate) String);

/// One name or several, where PHP takes a string or an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub(crate) Vec<Name>);

/// What is sent to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    bytes: Cow<'a, [u8]>,
    encoding: Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    ByGateway,
    Done,
}

impl<'a> Payload<'a> {
    /// Bytes that the gateway sends as they are, without its client protocol's encoding (PHP's `$raw = true`): they must
    /// be, for example, a whole websocket frame. Everything else converts into an ordinary payload by itself.
    pub fn raw(bytes: impl Into<Self>) -> Self {
        Self { encoding: Encoding::Done, ..bytes.into() }
    }

    pub(crate) fn body(&self) -> Body<'_> {
        match self.encoding {
            Encoding::ByGateway => Body::Plain(&self.bytes),
            Encoding::Done => Body::Raw(&self.bytes),
        }
    }

    fn plain(bytes: Cow<'a, [u8]>) -> Self {
        Self { bytes, encoding: Encoding::ByGateway }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::plain(Cow::Borrowed(bytes))
    }
}

impl<'a, const LEN: usize> From<&'a [u8; LEN]> for Payload<'a> {
    fn from(bytes: &'a [u8; LEN]) -> Self {
        Self::plain(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Self::plain(Cow::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for Payload<'a> {
    fn from(text: &'a String) -> Self {
        Self::plain(Cow::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::plain(Cow::Borrowed(bytes))
    }
}

impl From<String> for Payload<'_> {
    fn from(text: String) -> Self {
        Self::plain(Cow::Owned(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Payload<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::plain(Cow::Owned(bytes))
    }
}

impl<'a> From<&'a Self> for Payload<'a> {
    fn from(payload: &'a Self) -> Self {
        payload.clone()
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Conversions of one kind of name, into a [`Name`] and into [`Names`].
macro_rules! name_from {
    ($($source:ty),*) => {$(
        impl From<$source> for Name {
            fn from(name: $source) -> Self {
                Self(name.to_string())
            }
        }

        impl From<$source> for Names {
            fn from(name: $source) -> Self {
                Self(vec![name.into()])
            }
        }
    )*};
}

name_from!(&str, String, &String, i64, u64, i32, u32);

impl From<&Self> for Name {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

impl From<&Name> for Names {
    fn from(name: &Name) -> Self {
        Self(vec![name.clone()])
    }
}

impl From<Name> for Names {
    fn from(name: Name) -> Self {
        Self(vec![name])
    }
}

impl<T: Clone + Into<Name>> From<&[T]> for Names {
    fn from(names: &[T]) -> Self {
        names.iter().cloned().collect()
    }
}

impl<T: Into<Name>> From<Vec<T>> for Names {
    fn from(names: Vec<T>) -> Self {
        names.into_iter().collect()
    }
}

impl<T: Into<Name>, const LEN: usize> From<[T; LEN]> for Names {
    fn from(names: [T; LEN]) -> Self {
        names.into_iter().collect()
    }
}

impl<T: Into<Name>> FromIterator<T> for Names {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}
