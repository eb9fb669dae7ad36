//! A client's session during one event: decoded when first looked at, stored back when the handler changed it.

use std::sync::OnceLock;

use bytes::Bytes;
use tengate_proto::wire::php::{Array, Limits, Value, serialize, unserialize};
use tracing::warn;

/// The session an event came with, and what the handler made of it.
#[derive(Debug)]
pub(crate) struct Session {
    /// `serialize` output, or empty when nothing was ever stored.
    carried: Bytes,
    decoded: OnceLock<Array>,
    touched: Touched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touched {
    No,
    /// Handed out to be changed; whether it was is found by comparing.
    Perhaps,
    /// Set to PHP's null, which is stored as nothing at all.
    Cleared,
}

impl Session {
    pub(crate) fn new(carried: Bytes) -> Self {
        Self { carried, decoded: OnceLock::new(), touched: Touched::No }
    }

    pub(crate) fn array(&self) -> &Array {
        self.decoded.get_or_init(|| decode(&self.carried))
    }

    pub(crate) fn array_mut(&mut self) -> &mut Array {
        self.touched = Touched::Perhaps;
        if self.decoded.get().is_none() {
            self.decoded = OnceLock::from(decode(&self.carried));
        }
        self.decoded.get_mut().expect("decoded above")
    }

    pub(crate) fn clear(&mut self) {
        self.touched = Touched::Cleared;
        self.decoded = OnceLock::from(Array::new());
    }

    /// What the session was before the handler.
    pub(crate) fn before(&self) -> Bytes {
        self.carried.clone()
    }

    /// What must be stored now, if anything: PHP compares the session before and after the handler, too.
    pub(crate) fn changed(self) -> Option<Vec<u8>> {
        let now = match (self.touched, self.decoded.into_inner()) {
            (Touched::No, _) | (Touched::Perhaps, None) => return None,
            (Touched::Cleared, _) => Vec::new(),
            (Touched::Perhaps, Some(array)) if array.is_empty() && self.carried.is_empty() => {
                return None;
            }
            (Touched::Perhaps, Some(array)) => {
                let mut bytes = Vec::new();
                serialize(&Value::Array(array), &mut bytes);
                bytes
            }
        };
        (now != self.carried).then_some(now)
    }
}

fn decode(carried: &[u8]) -> Array {
    if carried.is_empty() {
        return Array::new();
    }
    match unserialize(carried, &Limits::default()) {
        Ok(Value::Array(array)) => array,
        Ok(_) => {
            warn!("a session is no array; it is taken for empty");
            Array::new()
        }
        Err(error) => {
            warn!(%error, "a session cannot be read; it is taken for empty");
            Array::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tengate_proto::wire::php::Key;

    const ANN: &[u8] = br#"a:1:{s:4:"name";s:3:"ann";}"#;

    #[test]
    fn a_session_that_is_only_read_is_not_stored() {
        let session = Session::new(Bytes::from_static(ANN));
        assert_eq!(session.array().get(&Key::from("name")), Some(&Value::from("ann")));
        assert_eq!(session.changed(), None);
    }

    #[test]
    fn a_session_changed_and_changed_back_is_not_stored() {
        let mut session = Session::new(Bytes::from_static(ANN));
        session.array_mut().insert(Key::from("name"), Value::from("bob"));
        session.array_mut().insert(Key::from("name"), Value::from("ann"));
        assert_eq!(session.changed(), None);
    }

    #[test]
    fn a_changed_session_is_stored_as_php_prints_it() {
        let mut session = Session::new(Bytes::new());
        session.array_mut().insert(Key::from("name"), Value::from("ann"));
        assert_eq!(session.changed().as_deref(), Some(ANN));
    }

    #[test]
    fn a_cleared_session_is_stored_as_nothing() {
        for (carried, expected) in [(ANN, Some(Vec::new())), (b"", None)] {
            let mut session = Session::new(Bytes::from_static(carried));
            session.clear();
            assert!(session.array().is_empty());
            assert_eq!(session.changed(), expected);
        }
    }

    #[test]
    fn touching_an_empty_session_stores_nothing() {
        let mut session = Session::new(Bytes::new());
        session.array_mut();
        assert_eq!(session.changed(), None);
    }

    #[test]
    fn an_unreadable_session_is_empty() {
        for carried in [&b"a:1:{"[..], b"i:7;", b"nonsense"] {
            assert!(Session::new(Bytes::from_static(carried)).array().is_empty());
        }
    }
}
