//! The target that drives a whole gateway: clients and links that come, say anything, read slowly and go.

use core::time::Duration;
use std::sync::Arc;

use tengate_base::{CloseCause, ConnId, Door, Instant, ShardId};
use tengate_proto::gateway::{
    Config, Described, Gateway, Heartbeat, Listener, Ping, Protocol, Routing, SlowClient,
    SlowWorker,
};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::header::{Command, Header};
use tengate_proto::wire::length_field::{Counts, Endian, Layout, LengthField};
use tengate_proto::wire::websocket::{Opcode, encode_masked, encode_request, request_key};
use tengate_proto::worker::{encode_gateway_client_connect, encode_worker_connect};
use tengate_sim::shell::{Place, Shell};

use crate::script::{PEERS_MAX, Script, peer_address};

/// Nothing panics, the shards come to rest, they count what is open, a queue has its limit, outside clients get whole
/// answers, and when everybody has left nothing is kept.
pub fn gateway(data: &[u8]) {
    let mut script = Script(data);
    let Some(config) = config(&mut script) else { return };
    let mut bed = Bed::new(config);
    while bed.act(&mut script).is_some() {
        bed.check();
    }
    bed.rest();
    bed.check();
    bed.check_answers();
    for index in 0..bed.peers.len() {
        bed.shell.cut(bed.peers[index].place, CloseCause::Reset);
        bed.check();
    }
    bed.rest();
    bed.check_empty();
}

/// One gateway and everybody who ever connected to it.
struct Bed {
    config: Arc<Config>,
    shell: Shell<Gateway>,
    peers: Vec<Peer>,
    /// A connection that is gone: changing its window does nothing but let the shell run.
    gone: Place,
}

struct Peer {
    place: Place,
    is_client: bool,
    received: Vec<u8>,
}

impl Bed {
    fn new(config: Config) -> Self {
        let config = Arc::new(config);
        let shards = (0..config.shards)
            .map(|shard| Gateway::new(Arc::clone(&config), ShardId(shard), Instant::ZERO));
        let mut shell = Shell::new(shards);
        let address = peer_address(0);
        let gone = shell.open(ShardId(0), inner_door(&config), address, 1);
        shell.close(gone, CloseCause::Peer);
        Self { config, shell, peers: Vec::new(), gone }
    }

    /// One line of the script; `None` at its end.
    fn act(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 12 {
            0 => self.connect(script)?,
            1 => {
                let bytes = script.bytes()?;
                self.say(script, bytes)?;
            }
            2 => self.command(script)?,
            3 => self.greet(script)?,
            4 => {
                let bits = script.byte()?;
                let opcode = Opcode::from_number(bits & 0xf).unwrap_or(Opcode::Text);
                let mut frame = Vec::new();
                encode_masked(opcode, bits & 0x80 == 0, [1, 2, 3, 4], script.bytes()?, &mut frame);
                self.say(script, &frame)?;
            }
            5 => {
                let (place, window) = (self.peer(script)?.place, script.byte()?);
                self.shell.limit(place, usize::from(window));
            }
            6 => {
                let (place, more) = (self.peer(script)?.place, script.byte()?);
                self.shell.widen(place, 8 * usize::from(more));
            }
            7 => {
                let place = self.peer(script)?.place;
                let cause = script.one_of(&[CloseCause::Peer, CloseCause::Reset])?;
                self.shell.cut(place, cause);
            }
            8 => {
                let shard = self.shard(script)?;
                self.shell.step(shard);
            }
            9 => {
                let (from, to) = (self.shard(script)?, self.shard(script)?);
                self.shell.cross(from, to);
            }
            10 => self.shell.advance(Duration::from_millis(100) * script.byte()?.into()),
            _ => self.rest(),
        }
        Some(())
    }

    fn connect(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (shard, door) = (self.shard(script)?, u16::from(script.byte()?));
        if self.peers.len() == PEERS_MAX {
            return Some(());
        }
        let inner = inner_door(&self.config);
        let door = Door(door % (inner.0 + 1));
        let place = self.shell.accept(shard, door, peer_address(self.peers.len()), 1);
        self.peers.push(Peer { place, is_client: door != inner, received: Vec::new() });
        Some(())
    }

    /// A command to anybody, with anything in it.
    fn command(&mut self, script: &mut Script<'_>) -> Option<()> {
        let number = script.byte()?;
        let header = Header {
            command: Command::ALL.get(usize::from(number)).map_or(number, |known| *known as u8),
            connection_id: u32::from(self.shard(script)?.0) << self.config.number_bits
                | u32::from(script.byte()?),
            flag: script.byte()?,
            ..Header::default()
        };
        let (ext, body) = (script.bytes()?, script.bytes()?);
        let mut frame = Vec::new();
        header.encode(ext, body, &mut frame);
        self.say(script, &frame)
    }

    /// What peers begin with, which a fuzzer would not guess.
    fn greet(&mut self, script: &mut Script<'_>) -> Option<()> {
        let mut greeting = Vec::new();
        let key = &self.config.secret_key;
        match script.byte()? % 5 {
            0 => encode_worker_connect("w:0", key, &mut greeting),
            1 => encode_worker_connect("w:1", key, &mut greeting),
            2 => encode_worker_connect("w:2", key, &mut greeting),
            3 => encode_gateway_client_connect(key, &mut greeting),
            _ => encode_request("h", "/?a=1", &request_key([0; 16]), &[], &mut greeting),
        }
        self.say(script, &greeting)
    }

    fn say(&mut self, script: &mut Script<'_>, bytes: &[u8]) -> Option<()> {
        let place = self.peer(script)?.place;
        self.shell.give(place, bytes);
        Some(())
    }

    fn peer(&self, script: &mut Script<'_>) -> Option<&Peer> {
        let index = usize::from(script.byte()?);
        self.peers.get(index % self.peers.len().max(1))
    }

    fn shard(&self, script: &mut Script<'_>) -> Option<ShardId> {
        Some(ShardId(u16::from(script.byte()?) % self.config.shards))
    }

    /// Lets every shard run until nothing is left to do at this instant. What steps have left on the rings comes first.
    fn rest(&mut self) {
        let shards = || (0..self.config.shards).map(ShardId);
        for (from, to) in shards().flat_map(|from| shards().map(move |to| (from, to))) {
            while self.shell.cross(from, to) {}
        }
        self.shell.set_window(self.gone, None);
    }

    /// What holds at any moment.
    fn check(&mut self) {
        for shard in (0..self.config.shards).map(ShardId) {
            let mut clients = 0;
            for peer in self.peers.iter().filter(|peer| peer.place.shard == shard) {
                if peer.is_client && self.shell.is_open(peer.place) {
                    clients += 1;
                    let queued = self.shell.queued(peer.place);
                    assert!(queued <= CLIENT_QUEUE_BYTES_MAX, "{queued} bytes are queued");
                }
            }
            let open_count = self.shell.open_count(shard) as u64;
            let stats = self.shell.peek(shard).stats();
            assert_eq!((stats.clients, stats.links), (clients, open_count - clients), "{shard}");
            assert!(stats.uids <= clients && stats.timers <= open_count, "{stats:?}");
        }
    }

    /// Who only asks gets answers, each behind its length.
    fn check_answers(&mut self) {
        for peer in &mut self.peers {
            let gateway = self.shell.peek(peer.place.shard);
            let is_outside = gateway.describe(peer.place.conn) == Some(Described::OutsideClient);
            if !is_outside || !self.shell.is_open(peer.place) || self.shell.queued(peer.place) > 0 {
                continue;
            }
            peer.received = self.shell.receive(peer.place);
            let mut rest = &peer.received[..];
            while let Some(len) = rest.split_off(..4) {
                let len = u32::from_be_bytes(len.try_into().expect("four bytes"));
                rest.split_off(..len as usize).expect("answers are whole");
            }
            assert!(rest.is_empty(), "answers are whole");
        }
    }

    /// Everybody has left, and what they said is not kept.
    fn check_empty(&mut self) {
        for shard in (0..self.config.shards).map(ShardId) {
            assert_eq!(self.shell.open_count(shard), 0);
            let gateway = self.shell.peek(shard);
            let stats = gateway.stats();
            let now = [stats.clients, stats.links, stats.uids, stats.groups, stats.timers];
            assert_eq!(now, [0; 5], "{stats:?}");
            assert_eq!(gateway.workers().count(), 0);
            let conns = (0..=PEERS_MAX as u32).map(ConnId);
            assert_eq!(conns.filter_map(|conn| gateway.describe(conn)).count(), 0);
        }
        // Goodbyes wait for a worker, but not for ever.
        self.shell.advance(self.config.no_worker_grace + Duration::from_secs(1));
        assert_eq!(self.shell.next_timeout(), None);
    }
}

/// Small limits, so that short scripts reach them; every client protocol has a door.
fn config(script: &mut Script<'_>) -> Option<Config> {
    let mut config =
        Config::with_defaults(script.one_of(&[[127, 0, 0, 1], [10, 0, 0, 1]])?.into(), 2900);
    config.shards = script.one_of(&[1, 2, 3])?;
    config.slow_worker =
        script.one_of(&[SlowWorker::StopReading, SlowWorker::Drop, SlowWorker::Close])?;
    config.secret_key = SecretKey::new(script.one_of(&["", "k"])?);
    config.routing = script.one_of(&[Routing::LeastConnections, Routing::Random])?;
    config.number_bits = 8;
    config.frame_bytes_max = MESSAGE_BYTES_MAX;
    config.send_to_worker_bytes_max = 600;
    config.no_worker_bytes_max = 600;
    config.pending_queries_max = 4;
    let length_field = LengthField::new(Layout {
        magic: vec![0xff],
        length_offset: 1,
        length_bytes: 1,
        endian: Endian::Big,
        counts: Counts::Body,
        header_bytes: 2,
        frame_bytes_max: MESSAGE_BYTES_MAX,
    })
    .expect("the layout is good");
    let doors = [
        (Protocol::Websocket { binary: false, check_utf8: true }, Ping::Websocket),
        (Protocol::Text, Ping::Data(b"ping".into())),
        (Protocol::Frame, Ping::Nothing),
        (Protocol::Tcp, Ping::Data(b"ping".into())),
        (Protocol::LengthField(length_field), Ping::Nothing),
    ];
    config.listeners = (8282..)
        .zip(doors)
        .map(|(port, (protocol, ping))| {
            let interval = Duration::from_secs(7);
            let not_response_limit = port % 2;
            let policies = [SlowClient::Drop, SlowClient::Close, SlowClient::DropOldest];
            let slow_client = policies[usize::from(port % 3)];
            Listener {
                message_bytes_max: MESSAGE_BYTES_MAX,
                send_to_client_bytes_max: MESSAGE_BYTES_MAX,
                slow_client,
                handshake_bytes_max: MESSAGE_BYTES_MAX,
                heartbeat: Some(Heartbeat { interval, not_response_limit, ping }),
                ..Listener::with_defaults(protocol, port)
            }
        })
        .collect();
    Some(config)
}

/// The inner door is behind those of the listeners.
fn inner_door(config: &Config) -> Door {
    Door(u16::try_from(config.listeners.len()).expect("few listeners"))
}

/// Longest message, frame and handshake, and the queue at which a client is slow, in bytes.
const MESSAGE_BYTES_MAX: usize = 400;

/// What a slow client's queue may hold: one message beyond the limit, and what the gateway itself says last.
const CLIENT_QUEUE_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;
