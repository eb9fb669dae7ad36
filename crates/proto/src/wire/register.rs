//! The register's lines: one JSON object, then `\n` (docs/protocol.md#register).

mod links;
pub mod topology;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::extension::VERSION;
use super::json;
use crate::secret::ShownKey;

pub use links::{
    LINKED_GATEWAYS_MAX, LINKED_WORKERS_MAX, LINKS_BYTES_MAX, LinkedGateway, LinkedWorker, Links,
    WORKER_KEY_BYTES_MAX,
};

/// A line to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToRegister<'a> {
    /// A gateway announces its inner address.
    GatewayConnect {
        /// `IP:PORT`, never empty.
        address: Cow<'a, str>,
        /// The key it shows.
        secret_key: ShownKey<'a>,
    },
    /// A gateway of tengate that serves dispatchers announces its inner address and asks for proc_ids.
    DispatchedGatewayConnect {
        /// `IP:PORT`, never empty.
        address: Cow<'a, str>,
        /// The key it shows.
        secret_key: ShownKey<'a>,
        /// What it asks for.
        wanted: Wanted,
    },
    /// A dispatcher announces its address; workers take it for a gateway's.
    DispatcherConnect {
        /// `IP:PORT`, never empty.
        address: Cow<'a, str>,
        /// The key it shows.
        secret_key: ShownKey<'a>,
    },
    /// A worker or an outside client asks for the gateways' addresses, now and on each change.
    WorkerConnect {
        /// The key it shows.
        secret_key: ShownKey<'a>,
    },
    /// A dispatcher tells its links.
    Links(Links),
    /// Anyone asks for the whole graph; the answer is a [`topology::Topology`].
    Topology {
        /// The key it shows.
        secret_key: ShownKey<'a>,
    },
    /// Keeps an idle connection alive.
    Ping,
}

/// The proc_ids a gateway asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Wanted {
    /// How many, in a row: one for each shard. From 1 to 2^(32 - `number_bits`).
    pub shards: u16,
    /// Bits of a connection_id that number a client within its shard: one of [`NUMBER_BITS`].
    pub number_bits: u8,
    /// The first of those it uses already.
    #[serde(default)]
    pub first_proc_id: Option<u16>,
}

/// proc_ids in a row that belong to one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Block {
    /// The proc_id of the gateway's first shard.
    pub first_proc_id: u16,
    /// How many there are, from 1.
    pub shards: u16,
    /// Bits of a connection_id that number a client within its shard: one of [`NUMBER_BITS`].
    pub number_bits: u8,
}

/// Bits of a connection_id that may number a client within its shard, so that a proc_id has 16 bits at most.
pub const NUMBER_BITS: RangeInclusive<u8> = 16..=31;

/// Bytes of a gateway's or dispatcher's address; a longer one is refused like a missing one.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Why a register refuses a line; always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToRegisterError {
    /// No JSON object with an event, or a field that is not text.
    BadRequest,
    /// An event that no register knows.
    UnknownEvent,
    /// A gateway or dispatcher without an address, or with one beyond [`ADDRESS_BYTES_MAX`].
    NoAddress,
    /// A line of tengate's own with fields that it cannot have.
    BadFields,
}

/// A line from a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromRegister {
    /// Every gateway's inner address, in the order they were announced.
    BroadcastAddresses(Vec<String>),
    /// To a dispatched gateway: these proc_ids are its own.
    Lease {
        /// The proc_id of its first shard.
        first_proc_id: u16,
        /// How many there are.
        shards: u16,
    },
    /// To a dispatched gateway: it gets no proc_ids, and why. A lease may follow when the reason is gone.
    Refused(String),
    /// To a dispatched gateway: the address of the dispatcher that is to be its home, if there is any.
    Home(Option<String>),
    /// To a dispatcher: the inner addresses of the dispatched gateways.
    Gateways(Vec<String>),
}

/// Why a line from a register cannot be used; the register's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRegisterError {
    /// No JSON object with an event.
    BadLine,
    /// An event that is not for clients of a register.
    UnknownEvent,
    /// `broadcast_addresses` without a list of at most [`ADDRESS_COUNT_MAX`] texts.
    BadAddresses,
    /// A line of tengate's own with fields that it cannot have.
    BadFields,
}

/// Addresses that one line may announce.
pub const ADDRESS_COUNT_MAX: usize = 1 << 16;

impl<'a> ToRegister<'a> {
    /// Decodes a line, with or without its end.
    ///
    /// # Errors
    /// The line is to be answered by closing the connection; see [`ToRegisterError`].
    pub fn decode(line: &'a [u8]) -> Result<Self, ToRegisterError> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            event: Option<Cow<'a, str>>,
            #[serde(borrow)]
            address: Option<Cow<'a, str>>,
            #[serde(borrow)]
            secret_key: Option<ShownKey<'a>>,
        }
        let text: Text<'a> = object(line).ok_or(ToRegisterError::BadRequest)?;
        let secret_key = text.secret_key.unwrap_or_default();
        let address = text.address.filter(|address| {
            !matches!(&**address, "" | "0") && address.len() <= ADDRESS_BYTES_MAX
        });
        match text.event.as_deref() {
            None | Some("" | "0") => Err(ToRegisterError::BadRequest),
            Some("gateway_connect") => {
                let address = address.ok_or(ToRegisterError::NoAddress)?;
                Ok(match Wanted::decode(line)? {
                    None => Self::GatewayConnect { address, secret_key },
                    Some(wanted) => Self::DispatchedGatewayConnect { address, secret_key, wanted },
                })
            }
            Some("dispatcher_connect") => {
                let address = address.ok_or(ToRegisterError::NoAddress)?;
                Ok(Self::DispatcherConnect { address, secret_key })
            }
            Some("worker_connect") => Ok(Self::WorkerConnect { secret_key }),
            Some("links") => {
                let links: Links = object(line).ok_or(ToRegisterError::BadFields)?;
                Ok(Self::Links(links))
            }
            Some("topology") => Ok(Self::Topology { secret_key }),
            Some("ping") => Ok(Self::Ping),
            Some(_) => Err(ToRegisterError::UnknownEvent),
        }
    }

    /// Appends the line with its end, spaced as GatewayWorker spaces it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::GatewayConnect { address, secret_key } => {
                encode_gateway_connect(address, secret_key, out);
            }
            Self::DispatchedGatewayConnect { address, secret_key, wanted } => {
                encode_gateway_connect(address, secret_key, out);
                wanted.encode(out);
            }
            Self::DispatcherConnect { address, secret_key } => {
                out.extend_from_slice(b"{\"event\":\"dispatcher_connect\",\"address\":");
                json::string(address, out);
                out.extend_from_slice(b",\"secret_key\":");
                json::string(secret_key.expose(), out);
                out.extend_from_slice(b",\"tengate\":{\"version\":");
                number(VERSION.into(), out);
                out.push(b'}');
            }
            Self::WorkerConnect { secret_key } => {
                out.extend_from_slice(b"{\"event\":\"worker_connect\",\"secret_key\":");
                json::string(secret_key.expose(), out);
            }
            Self::Links(links) => links.encode(out),
            Self::Topology { secret_key } => {
                out.extend_from_slice(b"{\"event\":\"topology\",\"secret_key\":");
                json::string(secret_key.expose(), out);
            }
            Self::Ping => out.extend_from_slice(b"{\"event\":\"ping\""),
        }
        out.extend_from_slice(b"}\n");
    }
}

impl Wanted {
    /// The part of `gateway_connect` that only tengate writes; `None` for a gateway that serves workers itself.
    fn decode(line: &[u8]) -> Result<Option<Self>, ToRegisterError> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            tengate: Option<Extension<'a>>,
        }
        #[derive(Deserialize)]
        struct Extension<'a> {
            #[serde(borrow)]
            mode: Option<Cow<'a, str>>,
        }
        #[derive(Deserialize)]
        struct Dispatched {
            tengate: Wanted,
        }
        let line_of: Line<'_> = object(line).ok_or(ToRegisterError::BadFields)?;
        match line_of.tengate.and_then(|extension| extension.mode).as_deref() {
            None | Some("direct") => Ok(None),
            Some("dispatched") => match object(line) {
                Some(Dispatched { tengate }) if tengate.is_possible() => Ok(Some(tengate)),
                _ => Err(ToRegisterError::BadFields),
            },
            Some(_) => Err(ToRegisterError::BadFields),
        }
    }

    /// Whether connection ids have room for them.
    fn is_possible(&self) -> bool {
        let Self { shards, number_bits, first_proc_id } = *self;
        Block { first_proc_id: first_proc_id.unwrap_or(0), shards, number_bits }.is_possible()
    }

    /// Appends the part that only tengate writes.
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"tengate\":{\"version\":");
        number(VERSION.into(), out);
        out.extend_from_slice(b",\"mode\":\"dispatched\",\"shards\":");
        number(self.shards.into(), out);
        out.extend_from_slice(b",\"number_bits\":");
        number(self.number_bits.into(), out);
        if let Some(first_proc_id) = self.first_proc_id {
            out.extend_from_slice(b",\"first_proc_id\":");
            number(first_proc_id.into(), out);
        }
        out.push(b'}');
    }
}

impl Block {
    /// Whether connection ids have room for them.
    pub fn is_possible(&self) -> bool {
        NUMBER_BITS.contains(&self.number_bits)
            && self.shards > 0
            && self.end() <= 1 << (32 - self.number_bits)
    }

    /// The number behind the last proc_id.
    pub fn end(&self) -> u32 {
        u32::from(self.first_proc_id) + u32::from(self.shards)
    }

    /// Appends the fields, without braces.
    fn encode_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"first_proc_id\":");
        number(self.first_proc_id.into(), out);
        out.extend_from_slice(b",\"shards\":");
        number(self.shards.into(), out);
        out.extend_from_slice(b",\"number_bits\":");
        number(self.number_bits.into(), out);
    }
}

impl fmt::Display for Block {
    /// `4` or `4–5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first_proc_id.fmt(f)?;
        if self.shards > 1 {
            write!(f, "–{}", self.end() - 1)?;
        }
        Ok(())
    }
}

impl FromRegister {
    /// Decodes a line, with or without its end. Addresses may be the values of an object: PHP's register sends one when
    /// two gateways announced the same address.
    ///
    /// # Errors
    /// The line says nothing we can use; PHP workers note it and go on.
    pub fn decode(line: &[u8]) -> Result<Self, FromRegisterError> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            event: Option<Cow<'a, str>>,
        }
        #[derive(Deserialize)]
        struct Broadcast {
            addresses: Addresses,
        }
        #[derive(Deserialize)]
        struct Lease {
            first_proc_id: u16,
            shards: u16,
        }
        #[derive(Deserialize)]
        struct Refused {
            reason: String,
        }
        #[derive(Deserialize)]
        struct Home {
            address: Option<String>,
        }
        let text: Text<'_> = object(line).ok_or(FromRegisterError::BadLine)?;
        match text.event.as_deref() {
            None => Err(FromRegisterError::BadLine),
            Some("broadcast_addresses") => match object(line) {
                Some(Broadcast { addresses }) => Ok(Self::BroadcastAddresses(addresses.0)),
                None => Err(FromRegisterError::BadAddresses),
            },
            Some("lease") => match object(line) {
                Some(Lease { first_proc_id, shards }) => Ok(Self::Lease { first_proc_id, shards }),
                None => Err(FromRegisterError::BadFields),
            },
            Some("refused") => match object(line) {
                Some(Refused { reason }) => Ok(Self::Refused(reason)),
                None => Err(FromRegisterError::BadFields),
            },
            Some("home") => match object(line) {
                Some(Home { address }) => Ok(Self::Home(address)),
                None => Err(FromRegisterError::BadFields),
            },
            Some("gateways") => match object(line) {
                Some(Broadcast { addresses }) => Ok(Self::Gateways(addresses.0)),
                None => Err(FromRegisterError::BadFields),
            },
            Some(_) => Err(FromRegisterError::UnknownEvent),
        }
    }
}

/// Appends a `broadcast_addresses` line with its end, as PHP's `json_encode` writes it.
///
/// Always a list. PHP sends an object when it left out a repeated address from the middle; its workers and clients go
/// through the values, so they cannot tell.
pub fn encode_broadcast_addresses<'a>(
    addresses: impl IntoIterator<Item = &'a str>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"event\":\"broadcast_addresses\",\"addresses\":[");
    json::separated(addresses, out, json::string);
    out.extend_from_slice(b"]}\n");
}

/// Appends a `lease` line with its end.
pub fn encode_lease(block: Block, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"lease\",\"first_proc_id\":");
    number(block.first_proc_id.into(), out);
    out.extend_from_slice(b",\"shards\":");
    number(block.shards.into(), out);
    out.extend_from_slice(b"}\n");
}

/// Appends a `refused` line with its end.
pub fn encode_refused(reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"refused\",\"reason\":");
    json::string(reason, out);
    out.extend_from_slice(b"}\n");
}

/// Appends a `home` line with its end.
pub fn encode_home(address: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"home\",\"address\":");
    match address {
        Some(address) => json::string(address, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n");
}

/// Appends a `gateways` line with its end.
pub fn encode_gateways<'a>(addresses: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"gateways\",\"addresses\":[");
    json::separated(addresses, out, json::string);
    out.extend_from_slice(b"]}\n");
}

/// Appends the beginning of every `gateway_connect` line, spaced as GatewayWorker spaces it.
fn encode_gateway_connect(address: &str, secret_key: &ShownKey<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event\":\"gateway_connect\", \"address\":");
    json::string(address, out);
    out.extend_from_slice(b", \"secret_key\":");
    json::string(secret_key.expose(), out);
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

impl fmt::Display for ToRegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "not a JSON object with an event",
            Self::UnknownEvent => "an unknown event",
            Self::NoAddress => "a gateway without an address",
            Self::BadFields => "a line of tengate's own with fields that it cannot have",
        })
    }
}

impl core::error::Error for ToRegisterError {}

impl fmt::Display for FromRegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadLine => "the register's line is not a JSON object with an event",
            Self::UnknownEvent => "the register sent an unknown event",
            Self::BadAddresses => "the register sent no usable list of addresses",
            Self::BadFields => {
                "the register sent a line of tengate's own with fields that it cannot have"
            }
        })
    }
}

impl core::error::Error for FromRegisterError {}

/// Decodes an object. Serde alone would take a list of the values as well.
fn object<'de, T: Deserialize<'de>>(line: &'de [u8]) -> Option<T> {
    let line = line.trim_ascii();
    if !line.starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(line).ok()
}

struct Addresses(Vec<String>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressesVisitor).map(Self)
    }
}

struct AddressesVisitor;

impl<'de> Visitor<'de> for AddressesVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of addresses")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut addresses = Vec::new();
        while let Some(address) = seq.next_element()? {
            add(&mut addresses, address)?;
        }
        Ok(addresses)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
        let mut addresses = Vec::new();
        while let Some((IgnoredAny, address)) = map.next_entry()? {
            add(&mut addresses, address)?;
        }
        Ok(addresses)
    }
}

fn add<E: Error>(addresses: &mut Vec<String>, address: String) -> Result<(), E> {
    if addresses.len() == ADDRESS_COUNT_MAX {
        return Err(E::custom("too many addresses"));
    }
    addresses.push(address);
    Ok(())
}

#[cfg(test)]
mod tests;
