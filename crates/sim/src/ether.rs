//! A simulated Ethernet between all clients and the gateways, for runs in which clients come past the kernel: frames take their
//! time, are lost, doubled and overtaken.
//!
//! A gateway that is dead, or cut off, gets and sends nothing. A frame comes to the queue of some shard; the shard that owns
//! its connection gets it from there, in memory, as [`flow_hash`] says: the rule of software steering, without its threads.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use tengate_base::{CloseCause, ConnId, Door, Instant, ShardId};
use tengate_io::streams::Streams;
use tengate_netstack::{Address, Config, Keepalive, MacAddr, Secret, Stack, Stats, flow_hash};

use crate::client::Phase;
use crate::host::Host;
use crate::network::{Owner, Server};
use crate::plan::past::{Link, OfDead, SYN_BACKLOG_MAX, Spread};
use crate::rng::Rng;
use crate::shell::{Handed, Outbox, Place, STREAMS_FIRST};
use crate::watched::{Call, Newcomer, Plant, What};
use crate::world::{Event, World};

/// The link and who is on it.
#[derive(Debug)]
pub(crate) struct Ether {
    pub(crate) link: Link,
    /// The host of all clients.
    pub(crate) host: Host,
    /// Frames on their way, by number.
    flights: BTreeMap<u64, Flight>,
    flight_count: u64,
    /// When the last frame that was not overtaken arrives, by sender and receiver.
    last: BTreeMap<(Node, Node), Instant>,
    /// What each gateway's machine answers with while the gateway is dead.
    kernels: Vec<Stack>,
    /// When each gateway is reachable again.
    parted_until: Vec<Instant>,
}

/// Frames that arrive together.
#[derive(Debug)]
struct Flight {
    to: Destination,
    frames: Vec<Vec<u8>>,
}

/// Where frames arrive.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// At a station of the link.
    Node(Node),
    /// At a shard, from another one of the same process.
    Shard(Server, ShardId),
}

/// A station of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// All clients.
    Clients,
    /// A gateway.
    Gateway(usize),
}

impl Node {
    fn mac(self) -> MacAddr {
        let number = match self {
            Self::Clients => 0,
            Self::Gateway(index) => u8::try_from(index + 1).expect("few gateways"),
        };
        MacAddr([2, 0, 0, 0, 0, number])
    }

    fn addresses(self) -> Vec<Address> {
        let number = match self {
            Self::Clients => 1,
            Self::Gateway(index) => u8::try_from(index + 10).expect("few gateways"),
        };
        let v4 = IpAddr::V4(Ipv4Addr::new(192, 168, 0, number));
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()));
        vec![Address { addr: v4, prefix_len: 24 }, Address { addr: v6, prefix_len: 64 }]
    }

    /// The address that a peer with this one talks to.
    pub(crate) fn address(self, peer: IpAddr) -> IpAddr {
        let addresses = self.addresses();
        addresses[usize::from(peer.is_ipv6())].addr
    }
}

impl Link {
    /// The stack of a station.
    pub(crate) fn stack(&self, node: Node, rng: &mut Rng) -> Config {
        let mut secret = [0; 32];
        secret.fill_with(|| rng.number().to_le_bytes()[0]);
        let mut config = Config::new(node.mac(), node.addresses(), Secret(secret));
        config.mtu = self.mtu;
        config.congestion = self.congestion;
        config.recv_window_bytes = self.window_bytes;
        config.send_buffer_bytes = self.send_buffer_bytes;
        config.time_wait = Duration::from_secs(1);
        config.linger = LINGER;
        if node != Node::Clients {
            config.syn_backlog_max = self.syn_backlog_max;
            // What tells that a client is gone whose reset was lost. It outlasts every interruption.
            config.keepalive = Some(Keepalive {
                idle: Duration::from_secs(1),
                interval: Duration::from_millis(300),
                probes_max: 8,
            });
        }
        config
    }
}

impl Ether {
    /// A link without frames.
    pub(crate) fn new(link: Link, gateway_count: usize, rng: &mut Rng, now: Instant) -> Self {
        let host = Host::new(link.stack(Node::Clients, rng), link.queue_room, now);
        let kernel = |index| {
            Stack::new(link.stack(Node::Gateway(index), rng), now).expect("a good configuration")
        };
        let kernels = (0..gateway_count).map(kernel).collect();
        Self {
            link,
            host,
            kernels,
            flights: BTreeMap::new(),
            flight_count: 0,
            last: BTreeMap::new(),
            parted_until: vec![now; gateway_count],
        }
    }

    fn is_parted(&self, node: Node, now: Instant) -> bool {
        match node {
            Node::Clients => false,
            Node::Gateway(index) => self.parted_until[index] > now,
        }
    }

    /// Puts frames on their way; returns their number.
    fn launch(&mut self, to: Destination, frames: Vec<Vec<u8>>) -> u64 {
        self.flight_count += 1;
        self.flights.insert(self.flight_count, Flight { to, frames });
        self.flight_count
    }
}

impl World {
    /// Gives the shards of a gateway that starts their streams.
    pub(crate) fn attach_streams(&mut self, server: Server) {
        let now = self.now;
        let Self { ether, rng, gateways, .. } = self;
        let (Some(ether), gate) = (ether, &mut gateways[server.index]) else { return };
        let Some(life) = &mut gate.life else { return };
        let config = ether.link.stack(Node::Gateway(server.index), rng);
        let listeners = gate.config.listeners.iter().zip(0..);
        let doors: Vec<_> = listeners.map(|(listener, door)| (listener.port, Door(door))).collect();
        for shard in 0..gate.config.shards {
            let device = Outbox::new(ether.link.queue_room);
            let first = ConnId(STREAMS_FIRST);
            let streams = Streams::new(config.clone(), doors.clone(), device, first, u32::MAX, now);
            life.process.shell.attach(ShardId(shard), streams.expect("a good configuration"));
        }
    }

    /// A station sends a frame.
    pub(crate) fn transmit(&mut self, from: Node, frame: &[u8]) {
        let mut receivers = vec![Node::Clients];
        receivers.extend((0..self.gateways.len()).map(Node::Gateway));
        let is_group = frame.first().is_some_and(|first| first & 1 == 1);
        for to in receivers {
            if to != from && (is_group || frame.starts_with(&to.mac().0)) {
                self.transmit_to(from, to, frame);
            }
        }
    }

    fn transmit_to(&mut self, from: Node, to: Node, frame: &[u8]) {
        let now = self.now;
        let (least, most) = self.plan.latency_micros;
        let Self { ether, rng, calm, plant, totals, .. } = self;
        let Some(ether) = ether else { return };
        let is_lost = !*calm && rng.below(1000) < ether.link.loss_permille;
        let is_swallowed = *plant == Some(Plant::SwallowFrames)
            && to == Node::Clients
            && receiving_port(frame).is_some_and(|port| port.is_multiple_of(5));
        totals.frames += 1;
        if is_lost || is_swallowed || ether.is_parted(from, now) || ether.is_parted(to, now) {
            totals.frames_lost += 1;
            self.note(|_| format!("lost: {from:?} to {to:?} {}", in_short(frame)));
            return;
        }
        let copies = 1 + usize::from(rng.below(1000) < ether.link.duplicate_permille);
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            let mut at = now + rng.micros(least, most);
            if !rng.percent(ether.link.reorder_percent) {
                let last = ether.last.entry((from, to)).or_insert(at);
                at = at.max(*last);
                *last = at;
            }
            let number = ether.launch(Destination::Node(to), vec![frame.to_vec()]);
            arrivals.push((at, number));
        }
        for (at, number) in arrivals {
            self.note(|_| {
                let micros = (at - now).as_micros();
                format!("{from:?} to {to:?} in {micros} us: {}", in_short(frame))
            });
            self.schedule(at, Event::Frames(number));
        }
    }

    /// Frames arrive.
    pub(crate) fn frames_arrive(&mut self, number: u64) {
        let Some(ether) = &mut self.ether else { return };
        let Some(flight) = ether.flights.remove(&number) else { return };
        let spread = ether.link.spread;
        let (server, shard, handed) = match flight.to {
            Destination::Node(Node::Clients) => {
                for frame in flight.frames {
                    self.host_receives(&frame);
                }
                return;
            }
            Destination::Node(Node::Gateway(index)) => {
                let server = self.gateways[index].server;
                let Some(count) = self.process(server).map(|process| process.shards().len()) else {
                    return self.kernel_answers(index, &flight.frames);
                };
                let owner = flow_hash(&flight.frames[0]).map(|hash| hash as usize % count);
                let shard = match (spread, owner) {
                    (Spread::One, _) => 0,
                    (Spread::Device, Some(owner)) => owner,
                    (Spread::Device, None) | (Spread::Any, _) => self.rng.below(count),
                };
                let is_kept = self.plant == Some(Plant::MissteerFrame) && number.is_multiple_of(50);
                let handed = if is_kept { Handed::Over } else { Handed::No };
                (server, ShardId(u16::try_from(shard).expect("few shards")), handed)
            }
            Destination::Shard(server, shard) => (server, shard, Handed::Over),
        };
        let Some(process) = self.process(server) else { return };
        for frame in flight.frames {
            process.receive_frame(shard, frame, handed);
        }
        self.touch(server, shard);
    }

    /// Frames come to a gateway that is dead.
    fn kernel_answers(&mut self, index: usize, frames: &[Vec<u8>]) {
        let now = self.now;
        let Some(ether) = &mut self.ether else { return };
        if ether.link.of_dead == OfDead::Vanish {
            return;
        }
        let mut outbox = Outbox::new(usize::MAX);
        for frame in frames {
            ether.kernels[index].handle_frame(now, frame, &mut outbox);
        }
        for frame in outbox.take() {
            self.transmit(Node::Gateway(index), &frame);
        }
    }

    /// Before a shard's turn.
    pub(crate) fn prepare_streams(&mut self, server: Server, shard: ShardId) {
        let Some(ether) = &self.ether else { return };
        let is_congested = self.rng.percent(ether.link.congested_percent);
        if let Some(process) = self.process(server) {
            process.set_congested(shard, is_congested);
        }
    }

    /// After a shard was called: its frames leave, and clients that its app has no more are noted.
    pub(crate) fn follow_streams(&mut self, server: Server, shard: ShardId) {
        if self.ether.is_none() {
            return;
        }
        let Some(process) = self.process(server) else { return };
        let (ended, frames) = (process.take_ended(shard), process.take_frames(shard));
        let (handed, is_restless) = (process.take_handed(shard), process.is_restless(shard));
        for conn in ended {
            self.note(|_| format!("connection {conn}: gone for its server"));
            self.conns[conn].server_open = false;
        }
        for frame in frames {
            self.transmit(Node::Gateway(server.index), &frame);
        }
        for (owner, frames) in handed {
            let most = if self.rng.percent(10) { 2000 } else { 30 };
            let at = self.now + self.rng.micros(0, most);
            let Some(ether) = &mut self.ether else { return };
            self.totals.frames_handed += frames.len() as u64;
            let number = ether.launch(Destination::Shard(server, owner), frames);
            self.schedule(at, Event::Frames(number));
        }
        if is_restless {
            self.touch(server, shard);
        }
    }

    /// A client came to a shard: says which one it is.
    pub(crate) fn newcomer_arrives(&mut self, server: Server, shard: ShardId, what: &What) {
        let (newcomer, id) = match *what {
            What::Opened(id, newcomer) => (newcomer, Some(id)),
            What::TurnedAway(newcomer) => (newcomer, None),
            What::LinkOpened
            | What::Frames(_)
            | What::Bytes(_)
            | What::Closed(_)
            | What::Batch(_)
            | What::Timeout
            | What::Wish
            | What::Drained => return,
        };
        let Newcomer { conn: stream, port } = newcomer;
        if self.ether.is_none() || stream.0 < STREAMS_FIRST {
            return;
        }
        let conn = usize::from(port);
        let Some(Owner::Client(index)) = self.conns.get(conn).map(|conn| conn.owner) else {
            return self.fail(format!("nobody connects from port {port}"));
        };
        let (mut index, mut conn) = (index, conn);
        if self.clients[index].id.is_some() || self.clients[index].turned_away {
            if !self.uses_cookies() {
                return self.fail(format!("client {index} was accepted twice"));
            }
            // A cookie can be used again: by a segment that came late, when its connection is over.
            (index, conn) = self.ghost_joins(index);
        }
        self.note(|_| {
            format!("connection {conn} of client {index}: opened at {server:?} {shard} id {id:?}")
        });
        // A gateway that was started again may take the SYN that the one before did not get.
        self.clients[index].server = server;
        self.clients[index].id = id;
        self.clients[index].turned_away = id.is_none();
        self.conns[conn].server = server;
        self.conns[conn].place = Place::of_stream(shard, stream);
        if let Some(id) = id {
            self.by_id.insert((server, id), index);
            self.conns[conn].server_open = true;
            if let Some(process) = self.process(server) {
                process.note_stream(shard, stream, conn);
            }
        }
    }

    /// Past the kernel a stack decides when a connection has failed: only those may that a client or the network ended.
    pub(crate) fn check_cut(&mut self, server: Server, call: &Call) {
        let What::Closed(cause) = call.what else { return };
        if self.ether.is_none() || cause == CloseCause::Flushed {
            return;
        }
        for id in &call.gone {
            let Some(index) = self.by_id.get(&(server, *id)) else { continue };
            let client = &self.clients[*index];
            if cause == CloseCause::Shell || !(client.cut || client.phase == Phase::Gone) {
                self.fail(format!("client {index} was lost ({cause:?}), and nobody cut it"));
            }
        }
    }

    /// Whether gateways may accept clients by SYN cookies.
    fn uses_cookies(&self) -> bool {
        self.ether.as_ref().is_some_and(|ether| ether.link.syn_backlog_max < SYN_BACKLOG_MAX)
    }

    /// At rest every client that waits for nothing but a living gateway is known to it.
    pub(crate) fn check_admitted(&mut self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let (server, conn) = (client.server, client.conn);
        let waits = self.ether.is_some()
            && client.id.is_none()
            && !client.turned_away
            && self.conns[conn].peer_open;
        // Accepted by a cookie, only the client knows, until it says something.
        if waits && !self.uses_cookies() && self.is_running(server) {
            return Err(format!("client {index} never came to {server:?}"));
        }
        Ok(())
    }

    /// Nothing reaches a gateway's clients or comes from them for a while.
    pub(crate) fn part_gateway(&mut self) {
        let index = self.rng.below(self.gateways.len());
        let until = self.now + self.rng.millis(1, 800);
        self.note(|_| format!("gateway {index} is cut off from its clients until {until:?}"));
        if let Some(ether) = &mut self.ether {
            ether.parted_until[index] = until;
        }
    }

    /// What a gateway's stacks still have although everybody left.
    pub(crate) fn streams_leftover(&self, gateway: usize) -> Option<String> {
        let (ether, life) = (self.ether.as_ref()?, self.gateways[gateway].life.as_ref()?);
        let shards = (0..self.gateways[gateway].config.shards).map(ShardId);
        let stacks = shards.filter_map(|shard| life.process.shell.streams(shard));
        let stacks = stacks.map(Streams::stack).chain([ether.host.stack()]);
        let left: Vec<_> = stacks
            .map(|stack| (stack.conn_count(), stack.pool_used_bytes(), refused(stack.stats())))
            .collect();
        let is_empty = left.iter().all(|left| *left == (0, 0, 0));
        (!is_empty).then(|| {
            format!(
                "stacks, the last one its clients', have connections, bytes, bad frames {left:?}"
            )
        })
    }
}

/// Frames that a stack took for broken, on a link that breaks none.
fn refused(stats: &Stats) -> u64 {
    stats.drop_frame_malformed
        + stats.drop_arp_malformed
        + stats.drop_ip_malformed
        + stats.drop_ip_checksum
        + stats.drop_icmp_malformed
        + stats.drop_tcp_malformed
        + stats.drop_tcp_checksum
}

/// Where the segment in a frame begins, and its header.
fn segment(frame: &[u8]) -> Option<(usize, &[u8])> {
    let at = if frame.get(12..14) == Some(&[0x86, 0xdd]) { 54 } else { 34 };
    flow_hash(frame)?;
    Some((at, frame.get(at..at + 20)?))
}

fn receiving_port(frame: &[u8]) -> Option<u16> {
    segment(frame).map(|(_, header)| u16::from_be_bytes([header[2], header[3]]))
}

/// A frame as the trace shows it: the ports, numbers and flags of a segment.
fn in_short(frame: &[u8]) -> String {
    let Some((at, header)) = segment(frame) else {
        return format!("{} bytes, no segment", frame.len());
    };
    let ports = [0, 2].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let number =
        |at: usize| header[at..at + 4].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let letters = "FSRPA".chars().enumerate();
    let flags: String =
        letters.filter(|(bit, _)| header[13] >> bit & 1 == 1).map(|(_, letter)| letter).collect();
    let len = frame.len() - at - usize::from(header[12] >> 4) * 4;
    format!("{ports:?} {flags} seq {} ack {} len {len}", number(4), number(8))
}

/// How long a connection that was closed waits for its peer.
const LINGER: Duration = Duration::from_secs(2);
