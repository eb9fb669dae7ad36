//! What a dispatcher tells its register: the gateways it is linked to, and its workers (docs/protocol.md#dispatched-mode).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::{Block, json, number};

/// A dispatcher's links, in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Links {
    /// Gateways it is linked to; at most [`LINKED_GATEWAYS_MAX`] are told, the rest is left out.
    #[serde(deserialize_with = "at_most::<_, _, LINKED_GATEWAYS_MAX>")]
    pub gateways: Vec<LinkedGateway>,
    /// Workers linked to it; at most [`LINKED_WORKERS_MAX`] are told, and none whose key is longer than
    /// [`WORKER_KEY_BYTES_MAX`].
    #[serde(deserialize_with = "at_most::<_, _, LINKED_WORKERS_MAX>")]
    pub workers: Vec<LinkedWorker>,
    /// Workers that are not in `workers`. Who reports sets 0; encoding counts what it leaves out.
    pub workers_left_out: u64,
}

/// A gateway as a dispatcher sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LinkedGateway {
    /// Its inner address, `IP:PORT`.
    pub address: Box<str>,
    /// Whether this dispatcher is its home.
    #[serde(default)]
    pub home: bool,
    /// Clients of it that the dispatcher knows of.
    #[serde(default)]
    pub clients: u64,
    /// The proc_ids it uses, where the link has told them: so that a register which cannot see the gateway itself gives
    /// them to nobody else.
    #[serde(default)]
    pub block: Option<Block>,
}

/// A worker as a dispatcher sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LinkedWorker {
    /// Its identity, `remote ip:name:id`.
    pub key: Box<str>,
    /// Clients bound to it.
    #[serde(default)]
    pub clients: u64,
}

/// Gateways one report may name. A cluster has fewer: 1024 shards with the usual split of connection ids.
pub const LINKED_GATEWAYS_MAX: usize = 4096;
/// Workers one report may name; they are only shown, so the rest is counted.
pub const LINKED_WORKERS_MAX: usize = 4096;
/// Bytes of a worker's key in a report.
pub const WORKER_KEY_BYTES_MAX: usize = 256;
/// Bytes of a report with its end.
pub const LINKS_BYTES_MAX: usize = 16 << 20;

/// Bytes around an address or key, numbers included.
const ENTRY_BYTES_MAX: usize = 200;
/// An ASCII control character becomes `\u0000`.
const ESCAPED_BYTES_MAX: usize = 6;
const _: () = assert!(
    LINKED_GATEWAYS_MAX * (ESCAPED_BYTES_MAX * super::ADDRESS_BYTES_MAX + ENTRY_BYTES_MAX)
        + LINKED_WORKERS_MAX * (ESCAPED_BYTES_MAX * WORKER_KEY_BYTES_MAX + ENTRY_BYTES_MAX)
        + ENTRY_BYTES_MAX
        < LINKS_BYTES_MAX
);

impl Links {
    /// Appends the line without its last brace and end.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event\":\"links\",\"gateways\":[");
        let gateways = self
            .gateways
            .iter()
            .filter(|gateway| gateway.address.len() <= super::ADDRESS_BYTES_MAX);
        json::separated(gateways.take(LINKED_GATEWAYS_MAX), out, LinkedGateway::encode);
        out.extend_from_slice(b"],\"workers\":[");
        let told = |worker: &&LinkedWorker| worker.key.len() <= WORKER_KEY_BYTES_MAX;
        let told_count = self.workers.iter().filter(told).take(LINKED_WORKERS_MAX).count();
        let workers = self.workers.iter().filter(told).take(told_count);
        json::separated(workers, out, LinkedWorker::encode);
        out.push(b']');
        let left_out = self.workers_left_out + (self.workers.len() - told_count) as u64;
        if left_out > 0 {
            out.extend_from_slice(b",\"workers_left_out\":");
            number(left_out, out);
        }
    }
}

impl LinkedGateway {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"address\":");
        json::string(&self.address, out);
        out.extend_from_slice(b",\"home\":");
        out.extend_from_slice(if self.home { b"true" } else { b"false" });
        out.extend_from_slice(b",\"clients\":");
        number(self.clients, out);
        if let Some(block) = &self.block {
            out.extend_from_slice(b",\"block\":{");
            block.encode_fields(out);
            out.push(b'}');
        }
        out.push(b'}');
    }
}

impl LinkedWorker {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        json::string(&self.key, out);
        out.extend_from_slice(b",\"clients\":");
        number(self.clients, out);
        out.push(b'}');
    }
}

/// Takes a list of at most `MAX` entries.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(AtMost::<T, MAX>(PhantomData))
}

struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::custom("too many entries"));
            }
            items.push(item);
        }
        Ok(items)
    }
}
