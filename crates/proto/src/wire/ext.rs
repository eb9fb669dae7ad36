//! What commands carry beside their payload: JSON in the extra data, or in the body when a link opens
//! (docs/protocol.md#commands).
//!
//! Decoders take what PHP's gateway takes, including lists where objects are usual and the reverse. Where PHP would warn
//! and go on with nothing they give an [`ExtError`], and the gateway decides: a query still has to be answered, because
//! replies are matched by their order.
//!
//! Uids and groups are array keys in PHP, where `42` and `"42"` are the same. They become a [`Name`], whose bytes are the
//! same for both.

mod name;

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use foldhash::quality::RandomState;
use hashbrown::HashSet;
use serde::Deserialize;

use super::extension::Offer;
use super::json;
use crate::secret::ShownKey;
use name::{Conditions, IdKeys, IdValues, Names};

pub use name::Name;

/// Why extra data cannot be used; always the worker's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtError {
    /// Not JSON.
    Syntax,
    /// JSON, but not of the shape this command carries, or beyond [`NAME_COUNT_MAX`] or [`FIELD_COUNT_MAX`].
    Shape,
}

/// Uids, groups or connection ids that one list may hold.
pub const NAME_COUNT_MAX: usize = 1 << 20;

/// Fields that one SELECT may ask for.
pub const FIELD_COUNT_MAX: usize = 64;

/// Who gets a SEND_TO_ALL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendToAll {
    /// Every client.
    All,
    /// These, in this order, once for each time they are named.
    Only(Vec<u32>),
    /// Every client but these.
    Except(ConnectionIds),
}

/// Who gets a SEND_TO_GROUP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendToGroup<'a> {
    /// Members of these; of two of them, twice.
    pub groups: Vec<Name<'a>>,
    /// But not these.
    pub exclude: ConnectionIds,
}

/// A set of connection ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionIds(Vec<u32>);

/// What a SELECT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select<'a> {
    /// Fields of each client found, in the order of the answer, each once.
    pub fields: Vec<Field<'a>>,
    /// Which clients, in the order of the answer: those of the first condition, then those of the next. `None`: all.
    /// An empty list comes of conditions that no client can meet.
    pub conditions: Option<Vec<Condition<'a>>>,
}

/// A field of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// The session's bytes.
    Session,
    /// The uid.
    Uid,
    /// The groups.
    Groups,
    /// A field that no client has: null in the answer.
    Other(Name<'a>),
}

/// One condition of a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// These connections.
    ConnectionId(Vec<u32>),
    /// Clients of these uids.
    Uid(Vec<Name<'a>>),
    /// Members of these groups.
    Groups(Vec<Name<'a>>),
}

/// The body of WORKER_CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkerConnect<'a> {
    /// `name:id` of the worker process.
    #[serde(borrow)]
    pub worker_key: Cow<'a, str>,
    /// The key it shows.
    #[serde(borrow)]
    pub secret_key: ShownKey<'a>,
    /// What it can do beyond GatewayWorker, if it is one of tengate's own.
    #[serde(borrow, default)]
    pub tengate: Option<Offer<'a>>,
}

/// The body of GATEWAY_CLIENT_CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GatewayClientConnect<'a> {
    /// The key it shows.
    #[serde(borrow)]
    pub secret_key: ShownKey<'a>,
}

impl SendToAll {
    /// Decodes the extra data of SEND_TO_ALL. Empty means every client, and so does `0`, which PHP takes for empty.
    ///
    /// # Errors
    /// PHP would send to every client then; we send to nobody.
    pub fn decode(ext: &[u8]) -> Result<Self, ExtError> {
        #[derive(Deserialize)]
        struct Text {
            connections: Option<IdValues>,
            exclude: Option<IdKeys>,
        }
        if matches!(ext, b"" | b"0" | b"[]") {
            return Ok(Self::All);
        }
        Ok(match object(ext)? {
            Text { connections: Some(ids), .. } => Self::Only(ids.0),
            Text { connections: None, exclude: Some(ids) } if !ids.0.is_empty() => {
                Self::Except(ids.0)
            }
            Text { connections: None, .. } => Self::All,
        })
    }

    /// Appends the extra data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (key, ids) = match self {
            Self::All => return,
            Self::Only(ids) => ("{\"connections\":", ids),
            Self::Except(ids) => ("{\"exclude\":", &ids.0),
        };
        out.extend_from_slice(key.as_bytes());
        encode_ids(ids, out);
        out.push(b'}');
    }
}

impl<'a> SendToGroup<'a> {
    /// Decodes the extra data of SEND_TO_GROUP.
    ///
    /// # Errors
    /// Not JSON, or no list of groups.
    pub fn decode(ext: &'a [u8]) -> Result<Self, ExtError> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            group: Names<'a>,
            exclude: Option<IdKeys>,
        }
        let text: Text<'a> = object(ext)?;
        Ok(Self {
            groups: text.group.0,
            exclude: text.exclude.map(|ids| ids.0).unwrap_or_default(),
        })
    }

    /// Appends the extra data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"group\":");
        encode_names(&self.groups, out);
        out.extend_from_slice(b",\"exclude\":");
        if self.exclude.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            encode_ids(&self.exclude.0, out);
        }
        out.push(b'}');
    }
}

/// Decodes the extra data of SEND_TO_UID: uids, in order; one named twice gets the message twice.
///
/// # Errors
/// Not JSON, or no list of scalars.
pub fn decode_names(ext: &[u8]) -> Result<Vec<Name<'_>>, ExtError> {
    Ok(decode::<Names<'_>>(ext)?.0)
}

/// Decodes the extra data of BATCH_GET_CLIENT_ID_BY_UID and BATCH_GET_CLIENT_COUNT_BY_GROUP: names in the order of the
/// answer, each once.
///
/// # Errors
/// Not JSON, or no list of scalars; PHP answers an empty array then.
pub fn decode_batch(ext: &[u8]) -> Result<Vec<Name<'_>>, ExtError> {
    let mut names = decode_names(ext)?;
    let mut seen = HashSet::with_capacity_and_hasher(names.len(), RandomState::default());
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// Appends a list of uids or groups: the extra data of SEND_TO_UID and of the BATCH commands.
pub fn encode_names(names: &[Name<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    json::separated(names, out, Name::encode);
    out.push(b']');
}

impl<'a> Select<'a> {
    /// Decodes the extra data of SELECT.
    ///
    /// # Errors
    /// Not JSON, or not of the right shape; PHP answers an empty array then.
    pub fn decode(ext: &'a [u8]) -> Result<Self, ExtError> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            fields: Names<'a>,
            #[serde(borrow, default, rename = "where")]
            conditions: Conditions<'a>,
        }
        let text: Text<'a> = object(ext)?;
        if text.fields.0.len() > FIELD_COUNT_MAX {
            return Err(ExtError::Shape);
        }
        let mut fields = Vec::with_capacity(text.fields.0.len());
        for name in text.fields.0 {
            let field = Field::from(name);
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        Ok(Self { fields, conditions: text.conditions.0 })
    }

    /// Appends the extra data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"fields\":[");
        json::separated(&self.fields, out, |field, out| match field {
            Field::Other(name) => name.encode(out),
            Field::Session | Field::Uid | Field::Groups => json::string(field.name(), out),
        });
        out.extend_from_slice(b"],\"where\":");
        match self.conditions.as_deref() {
            None => out.extend_from_slice(b"[]"),
            // An empty list would ask for every client; a condition nobody knows finds nobody.
            Some([]) => out.extend_from_slice(b"{\"\":[]}"),
            Some(conditions) => {
                out.push(b'{');
                json::separated(conditions, out, Condition::encode);
                out.push(b'}');
            }
        }
        out.push(b'}');
    }
}

impl Condition<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ConnectionId(ids) => {
                out.extend_from_slice(b"\"connection_id\":");
                encode_ids(ids, out);
            }
            Self::Uid(names) => {
                out.extend_from_slice(b"\"uid\":");
                encode_names(names, out);
            }
            Self::Groups(names) => {
                out.extend_from_slice(b"\"groups\":");
                encode_names(names, out);
            }
        }
    }
}

impl Field<'_> {
    /// The field's name, which is its key in the answer.
    pub fn name(&self) -> &str {
        match self {
            Self::Session => "session",
            Self::Uid => "uid",
            Self::Groups => "groups",
            Self::Other(name) => name.as_str(),
        }
    }
}

impl<'a> From<Name<'a>> for Field<'a> {
    fn from(name: Name<'a>) -> Self {
        match name.as_str() {
            "session" => Self::Session,
            "uid" => Self::Uid,
            "groups" => Self::Groups,
            _ => Self::Other(name),
        }
    }
}

impl<'a> WorkerConnect<'a> {
    /// Decodes the body of WORKER_CONNECT.
    ///
    /// # Errors
    /// Not JSON, or a key is missing or not a string; the link is to be closed.
    pub fn decode(body: &'a [u8]) -> Result<Self, ExtError> {
        object(body)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"worker_key\":");
        json::string(&self.worker_key, out);
        out.extend_from_slice(b",\"secret_key\":");
        json::string(self.secret_key.expose(), out);
        if let Some(offer) = &self.tengate {
            out.extend_from_slice(b",\"tengate\":");
            offer.encode(out);
        }
        out.push(b'}');
    }
}

impl<'a> GatewayClientConnect<'a> {
    /// Decodes the body of GATEWAY_CLIENT_CONNECT.
    ///
    /// # Errors
    /// Not JSON, or the key is missing or not a string; the connection is to be closed.
    pub fn decode(body: &'a [u8]) -> Result<Self, ExtError> {
        object(body)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"secret_key\":");
        json::string(self.secret_key.expose(), out);
        out.push(b'}');
    }
}

impl ConnectionIds {
    /// Whether the id is in the set; takes a binary search.
    pub fn contains(&self, id: u32) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids, ascending.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }
}

impl FromIterator<u32> for ConnectionIds {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }
}

impl fmt::Display for ExtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "the command's data is not JSON",
            Self::Shape => "the command's data is not what the command takes",
        })
    }
}

impl core::error::Error for ExtError {}

impl From<serde_json::Error> for ExtError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_data() { Self::Shape } else { Self::Syntax }
    }
}

/// Appends ids as PHP encodes an array of id ⇒ id. No id is 0, so PHP never makes a list of it.
fn encode_ids(ids: &[u32], out: &mut Vec<u8>) {
    out.push(b'{');
    json::separated(ids, out, |id, out| {
        out.extend_from_slice(alloc::format!("\"{id}\":{id}").as_bytes())
    });
    out.push(b'}');
}

fn decode<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, ExtError> {
    Ok(serde_json::from_slice(json)?)
}

/// Decodes an object. Serde alone would take a list of the values as well.
fn object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, ExtError> {
    let value = decode(json);
    match json.trim_ascii_start().first() {
        Some(b'{') => value,
        _ => Err(value.err().unwrap_or(ExtError::Shape)),
    }
}

#[cfg(test)]
mod tests;
