//! What a seed decides before anything runs: the cluster, its settings, how its network is, and which faults may happen.
//!
//! Swarm testing: each seed leaves some kinds of fault out altogether, so that rare combinations of the others are not
//! drowned, and most limits are small, so that they are reached.

mod dispatched;
pub(crate) mod past;

use core::net::Ipv4Addr;
use core::time::Duration;

use tengate_proto::dispatcher;
use tengate_proto::gateway::{
    Config, Heartbeat, Listener, Ping, Protocol, Routing, SlowClient, SlowWorker,
};
use tengate_proto::secret::SecretKey;

use crate::rng::Rng;

pub use past::Path;

/// Everything a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Gateways: their configurations.
    pub(crate) gateways: Vec<Config>,
    /// How many registers there are.
    pub(crate) register_count: usize,
    /// How many workers.
    pub(crate) worker_count: usize,
    /// How many clients connect in all.
    pub(crate) client_count: usize,
    /// Rounds of trouble followed by rest.
    pub(crate) round_count: usize,
    /// How long a round of trouble takes.
    pub(crate) round: Duration,
    /// Shortest and longest time bytes travel, in microseconds.
    pub(crate) latency_micros: (usize, usize),
    /// Bytes that fit between a gateway and a peer that does not read.
    pub(crate) window_bytes: usize,
    /// Chance of a cut in the middle of what is sent, in percent.
    pub(crate) split_percent: usize,
    /// Chance that an event makes its worker send a command, in percent.
    pub(crate) command_percent: usize,
    /// Longest message of a client, in bytes.
    pub(crate) message_bytes: usize,
    /// How often something fails on average, in milliseconds.
    pub(crate) fault_millis: usize,
    /// Kinds of fault, each as often as it is meant to be chosen; empty for a run without faults.
    pub(crate) faults: Vec<Fault>,
    /// The cluster's key.
    pub(crate) secret: SecretKey,
    /// Dispatchers: their configurations; none in direct mode.
    pub(crate) dispatchers: Vec<dispatcher::Config>,
    /// Workers that acknowledge events, by index.
    pub(crate) acknowledging: Vec<bool>,
    /// The longest time a worker that acknowledges works on an event, in microseconds.
    pub(crate) task_micros: usize,
    /// Clients without an IPv4 address, in percent.
    pub(crate) ipv6_percent: usize,
    /// Time in which the cluster finds together before clients come; `None` when they come at once.
    pub(crate) overture: Option<Duration>,
    /// Time in which everything comes to rest: reconnections, lingering connections, bytes on their way.
    pub(crate) rest: Duration,
}

/// Who takes clients' events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Workers link to every gateway.
    Direct,
    /// Workers link to dispatchers, one of which is each gateway's home.
    Dispatched,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A client's connection is cut.
    CutClient,
    /// A client stops reading for a while.
    StallClient,
    /// A client breaks its protocol.
    BreakClient,
    /// A link between worker and gateway is cut, perhaps in the middle of a frame.
    CutLink,
    /// A worker closes one link in order.
    CloseLink,
    /// A worker loses a link that its gateway believes to be alive, and connects again with the same key.
    HalfOpenLink,
    /// A worker sends what no frame begins with.
    BreakLink,
    /// A worker stops reading for a while.
    StallWorker,
    /// A worker is killed, and started again later.
    KillWorker,
    /// A gateway is killed, and started again later.
    KillGateway,
    /// A register is killed, and started again later.
    KillRegister,
    /// A link between dispatcher and gateway is cut, perhaps in the middle of a frame.
    CutDispatcherLink,
    /// A dispatcher loses a link that its gateway believes to be alive, and connects again.
    HalfOpenDispatcherLink,
    /// A dispatcher is not scheduled, and does not read, for a while.
    StallDispatcher,
    /// A dispatcher stops in order, and is started again later.
    StopDispatcher,
    /// A dispatcher is killed, and started again later.
    KillDispatcher,
    /// Nothing passes between a gateway and its clients for a while; only past the kernel.
    PartGateway,
}

impl Fault {
    /// Whether events that were written to a link may be lost by it.
    pub(crate) fn loses(self) -> bool {
        match self {
            Self::CutLink
            | Self::CloseLink
            | Self::HalfOpenLink
            | Self::KillWorker
            | Self::KillGateway
            | Self::CutDispatcherLink
            | Self::HalfOpenDispatcherLink
            | Self::KillDispatcher => true,
            Self::CutClient
            | Self::StallClient
            | Self::BreakClient
            | Self::BreakLink
            | Self::StallWorker
            | Self::KillRegister
            | Self::StallDispatcher
            | Self::StopDispatcher
            | Self::PartGateway => false,
        }
    }
}

const FAULTS: [Fault; 11] = [
    Fault::CutClient,
    Fault::StallClient,
    Fault::BreakClient,
    Fault::CutLink,
    Fault::CloseLink,
    Fault::HalfOpenLink,
    Fault::BreakLink,
    Fault::StallWorker,
    Fault::KillWorker,
    Fault::KillGateway,
    Fault::KillRegister,
];

impl Plan {
    /// The plan of a seed where workers link to gateways.
    pub(crate) fn direct(rng: &mut Rng) -> Self {
        let gateway_count = if rng.percent(60) { 1 } else { rng.between(2, 4) };
        let secret = SecretKey::new(if rng.percent(30) { "a key" } else { "" });
        let loopback = rng.percent(40);
        let faults = faults(rng, &FAULTS);
        let workers_most = if rng.percent(30) { 6 } else { 3 };
        Self {
            gateways: (0..gateway_count).map(|at| config(rng, at, loopback, &secret)).collect(),
            register_count: rng.between(1, 2),
            worker_count: rng.between(1, workers_most),
            client_count: if rng.percent(5) { rng.between(80, 200) } else { rng.between(5, 30) },
            round_count: rng.between(1, 2),
            round: rng.millis(100, 900),
            latency_micros: if rng.percent(50) { (10, 200) } else { (10, 5000) },
            window_bytes: *rng.pick(&[64, 500, 4000, 100_000]),
            split_percent: *rng.pick(&[0, 5, 50]),
            command_percent: *rng.pick(&[20, 60, 90]),
            message_bytes: *rng.pick(&[0, 40, 300]),
            fault_millis: *rng.pick(&[10, 40, 150]),
            faults,
            secret,
            dispatchers: Vec::new(),
            acknowledging: Vec::new(),
            task_micros: 0,
            ipv6_percent: 0,
            overture: None,
            rest: Duration::from_millis(5500),
        }
    }
}

fn faults(rng: &mut Rng, kinds: &[Fault]) -> Vec<Fault> {
    if rng.percent(10) {
        return Vec::new();
    }
    let mut chosen = Vec::new();
    for fault in kinds.iter().copied() {
        if rng.percent(40) {
            let weight = *rng.pick(&[1, 3, 9]);
            chosen.extend(core::iter::repeat_n(fault, weight));
        }
    }
    chosen
}

fn config(rng: &mut Rng, index: usize, loopback: bool, secret: &SecretKey) -> Config {
    let number = u8::try_from(index).expect("few gateways");
    let (ip, port) = if loopback {
        (Ipv4Addr::LOCALHOST, 2900 + u16::from(number))
    } else {
        (Ipv4Addr::new(10, 0, 0, number + 1), 2900)
    };
    let mut config = Config::with_defaults(ip, port);
    config.shards = *rng.pick(&[1, 2, 2, 3, 4]);
    config.number_bits = *rng.pick(&[8, 22]);
    config.secret_key = secret.clone();
    config.send_to_worker_bytes_max = *rng.pick(&[100, 600, 5000, 1_000_000]);
    config.slow_worker = *rng.pick(&[
        SlowWorker::StopReading,
        SlowWorker::StopReading,
        SlowWorker::Drop,
        SlowWorker::Close,
    ]);
    config.routing = *rng.pick(&[Routing::LeastConnections, Routing::Random]);
    config.no_worker_grace = rng.millis(0, 2500);
    config.no_worker_bytes_max = *rng.pick(&[200, 5000, 1_000_000]);
    config.close_linger = rng.millis(50, 800);
    config.pending_queries_max = *rng.pick(&[1, 2, 100]);
    config.seed = rng.number();
    let websocket = Protocol::Websocket { binary: rng.percent(30), check_utf8: rng.percent(50) };
    config.listeners = vec![listener(rng, websocket, 8282), listener(rng, Protocol::Text, 8383)];
    config
}

fn listener(rng: &mut Rng, protocol: Protocol, port: u16) -> Listener {
    let websocket = matches!(protocol, Protocol::Websocket { .. });
    let mut listener = Listener::with_defaults(protocol, port);
    listener.message_bytes_max = MESSAGE_BYTES_MAX;
    listener.send_to_client_bytes_max = *rng.pick(&[40, 400, 100_000]);
    listener.slow_client =
        *rng.pick(&[SlowClient::Drop, SlowClient::DropOldest, SlowClient::Close]);
    listener.handshake_timeout = rng.millis(300, 1500);
    if rng.percent(40) {
        let pings = [Ping::Nothing, Ping::Data(PING.into()), Ping::Websocket];
        listener.heartbeat = Some(Heartbeat {
            interval: rng.millis(200, 3000),
            not_response_limit: *rng.pick(&[0, 1, 3]),
            ping: pings[rng.below(if websocket { 3 } else { 2 })].clone(),
        });
    }
    listener
}

/// Longest message a simulated listener accepts.
pub(crate) const MESSAGE_BYTES_MAX: usize = 400;
/// What a heartbeat says.
pub(crate) const PING: &[u8] = b"ping?";
