//! One client: what the gateway keeps of it, and what its bytes mean.
//!
//! Idle cost: this struct (see `SIZE_MAX`), its hash entry, and what it is bound to; no buffer.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use tengate_base::Door;

use super::config::Protocol;
use super::heartbeat::HEARD;
use super::workers::WorkerRef;
use crate::wire::text;
use crate::wire::websocket::Decoder;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection_id: u32,
    /// IPv4 address, 0 for a client without one: the inner wire has four bytes for it.
    pub(super) ip: u32,
    pub(super) port: u16,
    pub(super) door: Door,
    /// PHP-serialized session; empty when never set.
    pub(super) session: Box<[u8]>,
    pub(super) codec: Codec,
    pub(super) worker: WorkerRef,
    /// Heartbeat count, see `heartbeat::tick`.
    pub(super) silence: i16,
    /// It was in a group once, so that its list of groups is an empty array and not null.
    pub(super) had_group: bool,
    /// Why it is not read: bits of [`Pause`], none while it is.
    pub(super) paused: u8,
    /// It is being closed as soon as its last bytes are written.
    pub(super) closing: bool,
    /// No worker ever took its events, so none hears of its end.
    pub(super) abandoned: bool,
}

/// A reason not to read a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pause {
    /// Its worker is slow or there is none.
    NoWorker = 1,
    /// The gateway's home wants it so.
    Home = 2,
}

/// Where a client is in its protocol.
#[derive(Debug, Default)]
pub(super) enum Codec {
    /// A websocket client that has not finished its handshake.
    Handshake(Box<Handshake>),
    /// A websocket client after it.
    Websocket(Decoder),
    /// Lines.
    Text(text::Decoder),
    /// Anything that needs no memory between messages.
    #[default]
    Stateless,
}

/// What is kept until a websocket handshake is done.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) peer: SocketAddr,
    pub(super) local_port: u16,
    /// Encoded messages sent to the client already; they follow the 101 response.
    pub(super) pending: Vec<u8>,
}

impl Client {
    pub(super) fn new(
        connection_id: u32,
        door: Door,
        peer: SocketAddr,
        local_port: u16,
        protocol: &Protocol,
    ) -> Self {
        let codec = match protocol {
            Protocol::Websocket { .. } => {
                Codec::Handshake(Box::new(Handshake { peer, local_port, pending: Vec::new() }))
            }
            Protocol::Text => Codec::Text(text::Decoder::default()),
            Protocol::Frame | Protocol::Tcp | Protocol::LengthField(_) => Codec::Stateless,
        };
        Self {
            connection_id,
            ip: ipv4_bits(peer.ip()),
            port: peer.port(),
            door,
            session: Box::default(),
            codec,
            worker: WorkerRef::NONE,
            silence: HEARD,
            had_group: false,
            paused: 0,
            closing: false,
            abandoned: false,
        }
    }
}

/// The IPv4 address as the inner wire carries it: 0 when there is none.
fn ipv4_bits(ip: IpAddr) -> u32 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => 0,
    }
}

/// Most bytes a client's own entry may take.
const SIZE_MAX: usize = 72;
const _: () = assert!(size_of::<Client>() <= SIZE_MAX);
