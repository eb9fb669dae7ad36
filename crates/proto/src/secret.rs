//! The cluster's secret key: compared in constant time, never printed.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use core::fmt;

use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;

/// The key every gateway, worker and register of a cluster is configured with; empty when the cluster has none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretKey(Box<str>);

/// The key a peer showed, borrowed from its message where possible.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ShownKey<'a>(Cow<'a, str>);

impl SecretKey {
    /// The configured key.
    pub fn new(key: impl Into<Box<str>>) -> Self {
        Self(key.into())
    }

    /// Whether the cluster has no key, so that peers need not show one before other commands.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the peer showed this key. Takes the same time wherever the two differ; only the length can be guessed.
    pub fn matches(&self, shown: &ShownKey<'_>) -> bool {
        self.0.as_bytes().ct_eq(shown.0.as_bytes()).into()
    }

    /// The key, to be shown to a peer.
    pub fn show(&self) -> ShownKey<'_> {
        ShownKey(Cow::Borrowed(&self.0))
    }
}

impl ShownKey<'_> {
    /// The key's text, to be written into a message and nowhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

impl fmt::Debug for ShownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShownKey(redacted)")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ShownKey<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Text::deserialize(deserializer).map(|text| Self(text.0))
    }
}

#[cfg(test)]
mod tests {
    use super::SecretKey;

    #[test]
    fn only_the_whole_key_matches() {
        let key = SecretKey::new("s3cret");
        for (shown, matches) in
            [("s3cret", true), ("s3creT", false), ("s3cre", false), ("s3crets", false), ("", false)]
        {
            assert_eq!(key.matches(&SecretKey::new(shown).show()), matches, "{shown}");
        }
        assert!(SecretKey::default().matches(&SecretKey::default().show()));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = SecretKey::new("s3cret");
        assert!(!alloc::format!("{key:?} {:?}", key.show()).contains("s3cret"));
    }
}
