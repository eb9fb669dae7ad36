//! The target that drives a whole dispatcher: gateways, workers and outside clients that come, say anything, read slowly
//! and go.

use core::time::Duration;
use std::sync::Arc;

use tengate_base::{CloseCause, ConnId, Instant, ShardId};
use tengate_proto::dispatcher::{
    Balance, Config, DIALED, Described, Dispatcher, LISTEN, WorkerGroup,
};
use tengate_proto::gateway::SlowWorker;
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::ext::WorkerConnect;
use tengate_proto::wire::extension::{
    Extension, NameChange, NameKind, Offer, Shards, VERSION, Welcome,
};
use tengate_proto::wire::header::{Command, Header};
use tengate_proto::worker::encode_gateway_client_connect;
use tengate_sim::shell::{Place, Shell};

use crate::script::{PEERS_MAX, Script, peer_address};

/// Nothing panics, the dispatcher comes to rest, it counts who is there, outside clients get whole answers, and when
/// everybody has left nothing is kept.
pub fn dispatcher(data: &[u8]) {
    let mut script = Script(data);
    let Some(config) = config(&mut script) else { return };
    let mut bed = Bed::new(config);
    while bed.act(&mut script).is_some() {
        bed.check();
    }
    bed.rest();
    bed.check_answers();
    for index in 0..bed.peers.len() {
        bed.shell.cut(bed.peers[index].place, CloseCause::Reset);
        bed.check();
    }
    bed.rest();
    bed.check_empty();
}

/// One dispatcher and everybody who ever was connected to it.
struct Bed {
    config: Arc<Config>,
    shell: Shell<Dispatcher>,
    peers: Vec<Peer>,
    /// A connection that is gone: changing its window does nothing but let the shell run.
    gone: Place,
}

struct Peer {
    place: Place,
    is_gateway: bool,
}

const SHARD: ShardId = ShardId(0);

impl Bed {
    fn new(config: Config) -> Self {
        let config = Arc::new(config);
        let mut shell = Shell::new([Dispatcher::new(Arc::clone(&config), Instant::ZERO)]);
        let gone = shell.open(SHARD, LISTEN, peer_address(0), 1);
        shell.close(gone, CloseCause::Peer);
        Self { config, shell, peers: Vec::new(), gone }
    }

    /// One line of the script; `None` at its end.
    fn act(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 13 {
            0 => self.connect(script)?,
            1 => {
                let bytes = script.bytes()?;
                self.say(script, bytes)?;
            }
            2 => self.command(script)?,
            3 => self.greet(script)?,
            4 => self.extension(script)?,
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
                self.shell.step(SHARD);
            }
            9 => self.shell.advance(Duration::from_millis(100) * script.byte()?.into()),
            10 => self.names(script)?,
            11 if script.byte()? == 0 => {
                self.shell.tell(SHARD, |dispatcher, _, sink| dispatcher.drain(sink));
            }
            _ => self.rest(),
        }
        Some(())
    }

    fn connect(&mut self, script: &mut Script<'_>) -> Option<()> {
        let is_gateway = script.byte()? % 2 == 0;
        if self.peers.len() == PEERS_MAX {
            return Some(());
        }
        let door = if is_gateway { DIALED } else { LISTEN };
        let place = self.shell.accept(SHARD, door, peer_address(self.peers.len()), 1);
        self.peers.push(Peer { place, is_gateway });
        Some(())
    }

    /// A client of one of a few shards.
    fn client(script: &mut Script<'_>) -> Option<u32> {
        Some(u32::from(script.byte()? % 6) << BITS | u32::from(script.byte()?))
    }

    /// A command, event or anything else with anything in it.
    fn command(&mut self, script: &mut Script<'_>) -> Option<()> {
        let number = script.byte()?;
        let header = Header {
            command: Command::ALL.get(usize::from(number)).map_or(number, |known| *known as u8),
            connection_id: Self::client(script)?,
            flag: script.byte()?,
            gateway_port: script.one_of(&[8282, 9000])?,
            ..Header::default()
        };
        let (ext, body) = (script.bytes()?, script.bytes()?);
        let mut frame = Vec::new();
        header.encode(ext, body, &mut frame);
        self.say(script, &frame)
    }

    fn extension(&mut self, script: &mut Script<'_>) -> Option<()> {
        let command = script.one_of(&Extension::ALL)?;
        let (client, body) = (Self::client(script)?, script.bytes()?);
        let mut frame = Vec::new();
        command.encode(client, body, &mut frame);
        self.say(script, &frame)
    }

    fn names(&mut self, script: &mut Script<'_>) -> Option<()> {
        let client = Self::client(script)?;
        let change = NameChange {
            kind: script.one_of(&[NameKind::Uid, NameKind::Group])?,
            held: script.byte()? % 2 == 0,
            name: script.bytes()?,
        };
        let (mut body, mut frame) = (Vec::new(), Vec::new());
        change.encode(&mut body);
        Extension::Names.encode(client, &body, &mut frame);
        self.say(script, &frame)
    }

    /// What peers begin with, which a fuzzer would not guess.
    fn greet(&mut self, script: &mut Script<'_>) -> Option<()> {
        let mut greeting = Vec::new();
        let key = &self.config.secret_key;
        match script.byte()? % 4 {
            0 => {
                let shards = Shards {
                    first_proc_id: (script.byte()? % 6).into(),
                    count: (script.byte()? % 4).into(),
                    number_bits: BITS,
                };
                let welcome =
                    Welcome { version: VERSION, gateway: Some(shards), ..Welcome::default() };
                let mut body = Vec::new();
                welcome.encode(&mut body);
                Extension::Welcome.encode(0, &body, &mut greeting);
                if script.byte()? % 2 == 0 {
                    Extension::Home.encode(0, b"1", &mut greeting);
                }
            }
            1 => encode_gateway_client_connect(key, &mut greeting),
            _ => {
                let name = script.one_of(&["chat:0", "chat:1", "game:0"])?;
                let bits = script.byte()?;
                let offer = Offer {
                    version: VERSION,
                    ack: bits & 1 > 0,
                    ipv6: bits & 2 > 0,
                    dispatcher: None,
                };
                let hello = WorkerConnect {
                    worker_key: name.into(),
                    secret_key: key.show(),
                    tengate: (bits & 4 > 0).then_some(offer),
                };
                let mut body = Vec::new();
                hello.encode(&mut body);
                let header =
                    Header { command: Command::WorkerConnect as u8, flag: 1, ..Header::default() };
                header.encode(b"", &body, &mut greeting);
            }
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

    /// Lets it run until nothing is left to do at this instant.
    fn rest(&mut self) {
        self.shell.set_window(self.gone, None);
    }

    /// What holds at any moment.
    fn check(&mut self) {
        let is_open = |shell: &mut Shell<Dispatcher>, is_gateway| {
            let here = self.peers.iter().filter(|peer| peer.is_gateway == is_gateway);
            here.filter(|peer| shell.is_open(peer.place)).count() as u64
        };
        let (gateways, others) = (is_open(&mut self.shell, true), is_open(&mut self.shell, false));
        let dispatcher = self.shell.peek(SHARD);
        let stats = dispatcher.stats();
        assert!(stats.gateways <= gateways && stats.homes <= stats.gateways, "{stats:?}");
        assert!(stats.workers + stats.outside_clients <= others, "{stats:?}");
        let bound: u64 = dispatcher.workers().map(|(_, bound)| u64::from(bound)).sum();
        assert!(bound <= stats.clients, "{bound} of {stats:?}");
    }

    /// Who only asks gets answers, each behind its length.
    fn check_answers(&mut self) {
        for peer in &self.peers {
            let dispatcher = self.shell.peek(SHARD);
            let is_outside = dispatcher.describe(peer.place.conn) == Some(Described::OutsideClient);
            if !is_outside || !self.shell.is_open(peer.place) || self.shell.queued(peer.place) > 0 {
                continue;
            }
            let received = self.shell.receive(peer.place);
            let mut rest = &received[..];
            while let Some(len) = rest.split_off(..4) {
                let len = u32::from_be_bytes(len.try_into().expect("four bytes"));
                rest.split_off(..len as usize).expect("answers are whole");
            }
            assert!(rest.is_empty(), "answers are whole");
        }
    }

    /// Everybody has left, and what they said is not kept.
    fn check_empty(&mut self) {
        assert_eq!(self.shell.open_count(SHARD), 0);
        // Goodbyes wait for a worker, and names of ended lives to be collected, but not for ever.
        self.shell.advance(self.config.no_worker_grace + Duration::from_secs(11));
        assert_eq!(self.shell.next_timeout(), None);
        let dispatcher = self.shell.peek(SHARD);
        let stats = dispatcher.stats();
        let now = [
            stats.gateways,
            stats.homes,
            stats.workers,
            stats.outside_clients,
            stats.clients,
            stats.uids,
            stats.groups,
        ];
        assert_eq!(now, [0; 7], "{stats:?}");
        let conns = (0..=PEERS_MAX as u32).map(ConnId);
        assert_eq!(conns.filter_map(|conn| dispatcher.describe(conn)).count(), 0);
    }
}

/// Small limits, so that short scripts reach them.
fn config(script: &mut Script<'_>) -> Option<Config> {
    let mut config = Config::with_defaults("127.0.0.1:3900".parse().expect("an address"));
    config.slow_worker =
        script.one_of(&[SlowWorker::StopReading, SlowWorker::Drop, SlowWorker::Close])?;
    config.secret_key = SecretKey::new(script.one_of(&["", "k"])?);
    config.default_group.balance = script.one_of(&[
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::Random,
        Balance::HashUid,
        Balance::HashIp,
    ])?;
    config.groups = vec![WorkerGroup {
        ports: vec![9000],
        workers: vec!["game".into()],
        weights: vec![("game".into(), 3)],
        ..WorkerGroup::default()
    }];
    config.frame_bytes_max = 400;
    config.reply_bytes_max = 400;
    config.send_to_worker_bytes_max = 600;
    config.send_to_gateway_bytes_max = 600;
    config.no_worker_bytes_max = 600;
    config.pending_queries_max = 4;
    Some(config)
}

/// Bits of a connection_id that number a client within its shard.
const BITS: u8 = 8;
