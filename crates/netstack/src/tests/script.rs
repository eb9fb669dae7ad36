//! Scripts of packets: one host of ours, and a peer that sends exactly the segments a test gives it.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use tengate_base::{ConnId, Door, Instant};

use super::link::Outbox;
use super::pair::{Host, PORT, Stream, address, config, mac};
use crate::config::{Checksums, Config};
use crate::frame::{Link, Path, Payload};
use crate::seq::Seq;
use crate::wire::ethernet::Ethernet;
use crate::wire::ip::Ip;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};

/// The peer's initial sequence number; near the wrap, so that every script crosses it.
pub(super) const IRS: Seq = Seq(u32::MAX - 1_000);
/// The peer's port.
pub(super) const PEER_PORT: u16 = 40_000;
/// The peer's window.
pub(super) const WINDOW: u16 = 65_535;

/// How far away the peer is.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A segment that our host sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

/// A host under test and the numbers of one connection.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) now: Instant,
    pub(super) host: Host,
    pub(super) conn: ConnId,
    /// What the peer sends next, and what it has received.
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    /// Our first number.
    pub(super) iss: Seq,
    /// The peer's timestamp, if it uses them; it goes up by one with each millisecond.
    pub(super) timestamps: bool,
    pub(super) port: u16,
}

/// Options of a peer that knows everything.
pub(super) fn all_options() -> Options {
    Options { mss: Some(1460), window_scale: Some(0), sack_permitted: true, ..Options::default() }
}

impl Script {
    /// A host that listens.
    pub(super) fn listening(config: Config) -> Self {
        let now = Instant::ZERO + Duration::from_secs(10);
        let mut host = Host::new(config, now);
        host.stack.listen(PORT, Door(1));
        let (seq, ack, iss) = (IRS, Seq(0), Seq(0));
        Self { now, host, conn: ConnId(0), seq, ack, iss, timestamps: false, port: PEER_PORT }
    }

    /// A host with a connection that the peer opened with these options.
    pub(super) fn open(config: Config, options: Options) -> Self {
        let mut script = Self::listening(config);
        script.open_one(options);
        script
    }

    /// A connection as most have it.
    pub(super) fn established() -> Self {
        Self::open(config(0), all_options())
    }

    /// The peer opens a connection.
    pub(super) fn open_one(&mut self, options: Options) {
        self.seq = IRS;
        self.send_with(Flags::SYN, b"", options);
        let syn_ack = self.expect_one();
        assert_eq!(syn_ack.header.flags, Flags::SYN.with(Flags::ACK));
        assert_eq!(syn_ack.header.ack, IRS + 1);
        self.iss = syn_ack.header.seq;
        self.ack = self.iss + 1;
        self.now = self.now + ROUND_TRIP;
        self.send(Flags::ACK, b"");
        self.expect_none();
        self.conn = self.host.accepted.pop().expect("it is open");
    }

    /// The peer sends a segment at its own numbers, which move on.
    pub(super) fn send(&mut self, flags: Flags, payload: &[u8]) {
        self.send_with(flags, payload, Options::default());
    }

    fn send_with(&mut self, flags: Flags, payload: &[u8], options: Options) {
        let header = Header { options, ..self.header(flags) };
        let controls = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        self.seq += u32::try_from(payload.len()).expect("short") + controls;
        self.send_header(header, payload);
    }

    /// A header at the peer's numbers.
    pub(super) fn header(&self, flags: Flags) -> Header {
        Header {
            source_port: self.port,
            destination_port: PORT,
            seq: self.seq,
            ack: if flags.has(Flags::ACK) { self.ack } else { Seq(0) },
            flags,
            window: WINDOW,
            options: Options::default(),
        }
    }

    /// The peer sends exactly this, but for its timestamps.
    pub(super) fn send_header(&mut self, mut header: Header, payload: &[u8]) {
        if self.timestamps && header.options.timestamps.is_none() {
            header.options.timestamps = Some(Timestamps { value: self.peer_clock(), echo: 0 });
        }
        let mut wire = Outbox::default();
        peer_frame(&header, payload, &mut wire);
        self.host.handle_frame(self.now, &wire.frames[0]);
    }

    /// The peer's timestamp clock.
    pub(super) fn peer_clock(&self) -> u32 {
        u32::try_from(self.now.as_nanos() / 1_000_000).expect("a short test")
    }

    /// Time passes; the host's timers expire when they are due.
    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.host.turn(self.now);
        while let Some(at) = self.host.stack.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.host.turn(self.now);
        }
        self.now = end;
        self.host.turn(end);
    }

    /// What the host sent since the last question, TCP only.
    pub(super) fn seen(&mut self) -> Vec<Seen> {
        self.host.turn(self.now);
        let frames = core::mem::take(&mut self.host.outbox.frames);
        frames.iter().map(|frame| decode(frame)).collect()
    }

    /// The one segment it sent.
    pub(super) fn expect_one(&mut self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// It sent nothing.
    pub(super) fn expect_none(&mut self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "{seen:?}");
    }

    /// It sent one acknowledgement, of this number.
    pub(super) fn expect_ack(&mut self, ack: Seq) {
        let seen = self.expect_one();
        assert_eq!((seen.header.flags, seen.header.ack), (Flags::ACK, ack), "{seen:?}");
        assert!(seen.payload.is_empty());
    }

    /// The host's application sends.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let conn = self.conn;
        self.stream(conn).to_send.extend_from_slice(bytes);
        self.host.turn(self.now);
    }

    pub(super) fn stream(&mut self, conn: ConnId) -> &mut Stream {
        self.host.stream(conn)
    }

    /// The stream of the connection.
    pub(super) fn own(&mut self) -> &mut Stream {
        let conn = self.conn;
        self.host.stream(conn)
    }

    /// The host's application opens a connection to the peer; returns its SYN.
    pub(super) fn connect(&mut self) -> Header {
        let remote = SocketAddr::new(IpAddr::V4(address(1)), PORT);
        let local = SocketAddr::new(IpAddr::V4(address(0)), PORT);
        self.port = PORT;
        self.conn = self.host.stack.connect(self.now, remote, Some(local)).expect("free");
        self.host.streams.insert(self.conn, Stream::default());
        let syn = self.expect_one().header;
        self.iss = syn.seq;
        syn
    }
}

/// Puts a segment of the peer's on the wire.
pub(super) fn peer_frame(header: &Header, payload: &[u8], wire: &mut Outbox) {
    let link = Link { mac: mac(1), vlan: None, checksums: Checksums::Software };
    let path = Path {
        mac: mac(0),
        local: address(1).to_ipv6_mapped(),
        remote: address(0).to_ipv6_mapped(),
    };
    let mut parts = Payload::default();
    parts.push(payload);
    link.send_segment(&path, header, &parts, wire).expect("it has room");
}

/// A frame as its receiver reads it, with every checksum right.
pub(super) fn decode(frame: &[u8]) -> Seen {
    let link = Ethernet::decode(frame).expect("a frame");
    let packet = &frame[link.header_len..];
    let ip = Ip::decode_v4(packet, true).expect("a packet");
    let segment = &packet[ip.payload];
    let (header, header_len) = Header::decode(segment).expect("a segment");
    Seen { header, payload: segment[header_len..].to_vec() }
}

/// What a host in scripts is given: it knows where the peer is.
pub(super) fn knowing_config() -> Config {
    Config { neighbors: alloc::vec![(IpAddr::V4(address(1)), mac(1))], ..config(0) }
}
