//! The register's lines: one JSON object, then `\n` (docs/protocol.md#register).

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json;
use crate::secret::ShownKey;

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
    /// A worker or an outside client asks for the gateways' addresses, now and on each change.
    WorkerConnect {
        /// The key it shows.
        secret_key: ShownKey<'a>,
    },
    /// Keeps an idle connection alive.
    Ping,
}

/// Why a register refuses a line; always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToRegisterError {
    /// No JSON object with an event, or a field that is not text.
    BadRequest,
    /// An event that no register knows.
    UnknownEvent,
    /// A gateway without an address.
    NoAddress,
}

/// A line from a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromRegister {
    /// Every gateway's inner address, in the order they were announced.
    BroadcastAddresses(Vec<String>),
}

/// Why a line from a register cannot be used; the register's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRegisterError {
    /// No JSON object with an event.
    BadLine,
    /// Another event than `broadcast_addresses`.
    UnknownEvent,
    /// `broadcast_addresses` without a list of at most [`ADDRESS_COUNT_MAX`] texts.
    BadAddresses,
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
        match text.event.as_deref() {
            None | Some("" | "0") => Err(ToRegisterError::BadRequest),
            Some("gateway_connect") => match text.address {
                Some(address) if !matches!(&*address, "" | "0") => {
                    Ok(Self::GatewayConnect { address, secret_key })
                }
                _ => Err(ToRegisterError::NoAddress),
            },
            Some("worker_connect") => Ok(Self::WorkerConnect { secret_key }),
            Some("ping") => Ok(Self::Ping),
            Some(_) => Err(ToRegisterError::UnknownEvent),
        }
    }

    /// Appends the line with its end, spaced as GatewayWorker spaces it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::GatewayConnect { address, secret_key } => {
                out.extend_from_slice(b"{\"event\":\"gateway_connect\", \"address\":");
                json::string(address, out);
                out.extend_from_slice(b", \"secret_key\":");
                json::string(secret_key.expose(), out);
            }
            Self::WorkerConnect { secret_key } => {
                out.extend_from_slice(b"{\"event\":\"worker_connect\",\"secret_key\":");
                json::string(secret_key.expose(), out);
            }
            Self::Ping => out.extend_from_slice(b"{\"event\":\"ping\""),
        }
        out.extend_from_slice(b"}\n");
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
        let text: Text<'_> = object(line).ok_or(FromRegisterError::BadLine)?;
        match text.event.as_deref() {
            None => Err(FromRegisterError::BadLine),
            Some("broadcast_addresses") => match object(line) {
                Some(Broadcast { addresses }) => Ok(Self::BroadcastAddresses(addresses.0)),
                None => Err(FromRegisterError::BadAddresses),
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

impl fmt::Display for ToRegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "not a JSON object with an event",
            Self::UnknownEvent => "an unknown event",
            Self::NoAddress => "a gateway without an address",
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
