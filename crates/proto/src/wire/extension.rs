//! What tengate's own roles say to each other beyond GatewayWorker's wire: offered when a link opens, and used only when
//! both ends have it (docs/protocol.md#extension).

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use serde::Deserialize;

use super::ext::ExtError;
use super::header::{FLAG_SCALAR, Header};
use super::json;

/// The version of the extension that this code speaks.
pub const VERSION: u8 = 1;

/// Flag: the extra data of an event begins with the 16 bytes of the client's IPv6 address; the session follows.
pub const FLAG_IPV6: u8 = 4;

/// A command between tengate's own roles. GatewayWorker has no such numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Extension {
    /// The answer to an [`Offer`]; the body is a [`Welcome`].
    Welcome = 220,
    /// Gateway: this link's dispatcher is the gateway's home from now on (body `1`), or no more (body `0`).
    Home = 221,
    /// Gateway: a shard holds a uid or group, or does not any more; the body is a list of [`NameChange`], `connection_id` is
    /// any number of the shard.
    Names = 222,
    /// Gateway: the answer to a query, or to `ListNames` or `Fence`, in the order of the questions on this link.
    Reply = 223,
    /// Worker: so many more events, in the order they came, are handled; the number is `connection_id`.
    Ack = 224,
    /// Gateway: no more events come on this link; give back what you cannot deliver. Dispatcher: that was all.
    Detach = 225,
    /// Dispatcher: it is going away; the gateway is to choose another home.
    Drain = 226,
    /// Dispatcher: read the client `connection_id` no further (body `1`), or again (body `0`).
    Pace = 227,
    /// Dispatcher: a question that says nothing. Its answer follows everything that earlier commands caused.
    Fence = 228,
    /// Dispatcher: which names does the shard of `connection_id` hold? The body is a cursor, the answer a [`NameList`].
    ListNames = 229,
}

impl Extension {
    /// Every command, in number order.
    pub const ALL: [Self; 10] = [
        Self::Welcome,
        Self::Home,
        Self::Names,
        Self::Reply,
        Self::Ack,
        Self::Detach,
        Self::Drain,
        Self::Pace,
        Self::Fence,
        Self::ListNames,
    ];

    /// The command of this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|command| *command as u8 == number)
    }

    /// Appends a frame of this command.
    pub fn encode(self, connection_id: u32, body: &[u8], out: &mut Vec<u8>) {
        let header =
            Header { command: self as u8, connection_id, flag: FLAG_SCALAR, ..Header::default() };
        header.encode(b"", body, out);
    }
}

/// What a peer that opens a link can do beyond GatewayWorker; part of WORKER_CONNECT's body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Offer<'a> {
    /// Its [`VERSION`].
    pub version: u8,
    /// It is the dispatcher that is announced at this address, `IP:PORT`.
    #[serde(borrow)]
    pub dispatcher: Option<Cow<'a, str>>,
    /// It is a worker that acknowledges events.
    pub ack: bool,
    /// It is a worker that understands [`FLAG_IPV6`].
    pub ipv6: bool,
}

/// What the peer that was connected to can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Welcome {
    /// Its [`VERSION`].
    pub version: u8,
    /// It is a gateway, with these shards.
    pub gateway: Option<Shards>,
    /// It is the dispatcher that is announced at this address.
    pub dispatcher: Option<String>,
    /// It wants events acknowledged, as was offered.
    pub ack: bool,
}

/// The shards of a gateway in the cluster's connection ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Shards {
    /// The `proc_id` of its first shard; the others follow.
    pub first_proc_id: u16,
    /// How many there are.
    pub count: u16,
    /// Bits of a connection_id that number a client within its shard.
    pub number_bits: u8,
}

impl Offer<'_> {
    /// Appends the object.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"version\":");
        number(self.version.into(), out);
        if let Some(address) = &self.dispatcher {
            out.extend_from_slice(b",\"dispatcher\":");
            json::string(address, out);
        }
        for (key, value) in [(",\"ack\":true", self.ack), (",\"ipv6\":true", self.ipv6)] {
            if value {
                out.extend_from_slice(key.as_bytes());
            }
        }
        out.push(b'}');
    }
}

impl Welcome {
    /// Decodes the body of [`Extension::Welcome`].
    ///
    /// # Errors
    /// Not JSON, or not an object of these fields; the link is to be closed.
    pub fn decode(body: &[u8]) -> Result<Self, ExtError> {
        Ok(serde_json::from_slice(body)?)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"version\":");
        number(self.version.into(), out);
        if let Some(shards) = &self.gateway {
            out.extend_from_slice(b",\"gateway\":{\"first_proc_id\":");
            number(shards.first_proc_id, out);
            out.extend_from_slice(b",\"count\":");
            number(shards.count, out);
            out.extend_from_slice(b",\"number_bits\":");
            number(shards.number_bits.into(), out);
            out.push(b'}');
        }
        if let Some(address) = &self.dispatcher {
            out.extend_from_slice(b",\"dispatcher\":");
            json::string(address, out);
        }
        if self.ack {
            out.extend_from_slice(b",\"ack\":true");
        }
        out.push(b'}');
    }
}

fn number(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

impl Shards {
    /// The first connection_id of the gateway's shard `index`, which names the shard where no client is meant.
    pub fn first_connection_id(&self, index: u16) -> u32 {
        (u32::from(self.first_proc_id) + u32::from(index)) << self.number_bits
    }
}

/// The shard's `proc_id` in a connection_id.
pub fn proc_id_of(connection_id: u32, number_bits: u8) -> u16 {
    u16::try_from(connection_id >> number_bits).unwrap_or(u16::MAX)
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// Of clients.
    Uid,
    /// Of clients, any number of them for each.
    Group,
}

/// A shard holds a name, or holds it no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameChange<'a> {
    /// What it is.
    pub kind: NameKind,
    /// Whether any client of the shard has it.
    pub held: bool,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> NameChange<'a> {
    /// Appends the change: kind and `held` in a byte, u32 length, the name.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.kind == NameKind::Group) | u8::from(self.held) << 1);
        let len = u32::try_from(self.name.len()).expect("a name is shorter than its frame");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(self.name);
    }

    /// Takes the first change off a list; `None` at its end, and where it is cut short.
    pub fn decode(list: &mut &'a [u8]) -> Option<Self> {
        let kind = *list.split_off_first()?;
        let len = u32::from_be_bytes(*list.split_off(..4)?.first_chunk()?) as usize;
        let name = list.split_off(..len)?;
        let kind_of_name = if kind & 1 == 0 { NameKind::Uid } else { NameKind::Group };
        Some(Self { kind: kind_of_name, held: kind & 2 != 0, name })
    }
}

/// A part of the names a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameList<'a> {
    /// Where to go on; 0 when this was the last part. The first question has 0.
    pub next: u64,
    /// A list of [`NameChange`].
    pub names: &'a [u8],
}

impl<'a> NameList<'a> {
    /// Appends the answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.next.to_be_bytes());
        out.extend_from_slice(self.names);
    }

    /// Decodes the answer; `None` when it is too short.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (next, names) = bytes.split_first_chunk()?;
        Some(Self { next: u64::from_be_bytes(*next), names })
    }
}

/// Parts the extra data of an event with [`FLAG_IPV6`]: address and session.
pub fn split_ipv6(ext: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    let (address, session) = ext.split_first_chunk::<16>()?;
    Some((Ipv6Addr::from_octets(*address), session))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::InnerFrame;

    #[test]
    fn offers_and_welcomes_survive_the_wire() {
        let offers = [
            Offer { version: 1, dispatcher: Some("127.0.0.1:3900".into()), ..Offer::default() },
            Offer { version: 1, ack: true, ipv6: true, dispatcher: None },
        ];
        for offer in offers {
            let mut bytes = Vec::new();
            offer.encode(&mut bytes);
            assert_eq!(serde_json::from_slice::<Offer<'_>>(&bytes).unwrap(), offer);
        }
        let shards = Shards { first_proc_id: 3, count: 2, number_bits: 22 };
        let welcomes = [
            Welcome { version: 1, gateway: Some(shards), ..Welcome::default() },
            Welcome {
                version: 1,
                dispatcher: Some("10.0.0.1:3900".into()),
                ack: true,
                gateway: None,
            },
        ];
        for welcome in welcomes {
            let mut bytes = Vec::new();
            welcome.encode(&mut bytes);
            assert_eq!(Welcome::decode(&bytes), Ok(welcome));
        }
        assert_eq!(shards.first_connection_id(1), 4 << 22);
        assert_eq!(proc_id_of(shards.first_connection_id(1) + 7, 22), 4);
    }

    #[test]
    fn lists_of_names_survive_the_wire_and_end_where_they_are_cut() {
        let changes = [
            NameChange { kind: NameKind::Uid, held: true, name: b"u1" },
            NameChange { kind: NameKind::Group, held: false, name: b"" },
            NameChange { kind: NameKind::Group, held: true, name: b"room" },
        ];
        let mut bytes = Vec::new();
        changes.iter().for_each(|change| change.encode(&mut bytes));
        let mut list = bytes.as_slice();
        for change in changes {
            assert_eq!(NameChange::decode(&mut list), Some(change));
        }
        assert_eq!(NameChange::decode(&mut list), None);
        let mut cut = &bytes[..bytes.len() - 1];
        assert_eq!(core::iter::from_fn(|| NameChange::decode(&mut cut)).count(), 2);
        let mut answer = Vec::new();
        NameList { next: 9, names: &bytes }.encode(&mut answer);
        assert_eq!(NameList::decode(&answer), Some(NameList { next: 9, names: &bytes }));
        assert_eq!(NameList::decode(b"1234567"), None);
    }

    #[test]
    fn commands_have_numbers_of_their_own_and_become_frames() {
        for command in Extension::ALL {
            assert_eq!(Extension::from_number(command as u8), Some(command));
            assert_eq!(crate::wire::header::Command::from_number(command as u8), None);
        }
        let mut bytes = Vec::new();
        Extension::Ack.encode(12, b"", &mut bytes);
        let (frame, _) = InnerFrame::decode(&bytes, 100).unwrap().unwrap();
        assert_eq!((frame.header.command, frame.header.connection_id), (224, 12));
    }
}
