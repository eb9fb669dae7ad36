//! Cores as applications of the kernel shell, and what the control thread says to them.

use core::net::SocketAddr;
use std::sync::Arc;

use tengate_base::{App, CloseCause, ConnId, Instant, Opened, ShardId, Sink};
use tengate_io::{ConnSnapshot, Host, Net};
use tengate_proto::gateway::{self, Described, Gateway};
use tengate_proto::register::Register;
use tokio::sync::oneshot;

use crate::admin::{CONNECTIONS_LISTED_MAX, Connection, Shard};

/// What the control thread says to a shard, whatever it runs.
#[derive(Debug)]
pub(crate) enum Command {
    /// Tell what you do.
    Status(oneshot::Sender<Shard>),
    /// List your connections, and how many more there are.
    Connections(oneshot::Sender<(Vec<Connection>, u64)>),
    /// Go on with these settings.
    Reload(Arc<gateway::Config>),
    /// Take no more connections and say goodbye to clients.
    CloseClients,
    /// Say goodbye to workers.
    CloseLinks,
}

/// A core on the kernel shell.
#[derive(Debug)]
pub(crate) struct Hosted<C> {
    core: C,
    /// What tables call the protocol of each listener, by door.
    protocols: Vec<&'static str>,
}

impl<C> Hosted<C> {
    pub(crate) fn new(core: C, protocols: Vec<&'static str>) -> Self {
        Self { core, protocols }
    }

    /// What the shell knows of a connection.
    fn connection(&self, snapshot: &ConnSnapshot) -> Connection {
        let shown = |address: Option<SocketAddr>| {
            address.map_or_else(String::new, |address| address.to_string())
        };
        let protocol =
            self.protocols.get(usize::from(snapshot.door.0)).copied().unwrap_or_default();
        Connection {
            service: String::new(),
            shard: 0,
            id: snapshot.conn.0,
            protocol: protocol.to_owned(),
            worker_key: None,
            recv_queue_bytes: snapshot.unconsumed_bytes as u64,
            send_queue_bytes: snapshot.queued_bytes as u64,
            bytes_read: snapshot.bytes_read,
            bytes_written: snapshot.bytes_written,
            status: if snapshot.is_closing { "CLOSING" } else { "ESTABLISHED" }.to_owned(),
            local: shown(snapshot.local),
            foreign: shown(snapshot.peer),
            ipv6: snapshot.local.is_some_and(|address| address.is_ipv6()),
        }
    }
}

impl Hosted<Gateway> {
    fn status(&self, net: &Net) -> Shard {
        let stats = self.core.stats();
        let drops = [
            ("slow_client", stats.drop_slow_client),
            ("slow_client_oldest", stats.drop_oldest),
            ("slow_client_closed", stats.close_slow_client),
            ("slow_worker", stats.drop_slow_worker),
            ("slow_worker_closed", stats.close_slow_worker),
            ("no_worker", stats.drop_no_worker),
            ("no_worker_closed", stats.close_no_worker),
            ("before_handshake", stats.drop_before_handshake),
            ("heartbeat_closed", stats.close_heartbeat),
            ("handshake_timeout", stats.close_handshake_timeout),
            ("handshake_refused", stats.refused_handshake),
            ("protocol_closed", stats.close_protocol),
            ("linger_closed", stats.close_linger),
            ("link_unauthorized", stats.link_unauthorized),
            ("link_malformed", stats.link_malformed),
            ("command_ignored", stats.command_ignored),
        ];
        let counters = [
            ("links", stats.links),
            ("uids", stats.uids),
            ("groups", stats.groups),
            ("client_messages", stats.client_messages),
            ("deliveries", stats.deliveries),
            ("events", stats.events),
            ("commands", stats.commands),
            ("queries", stats.queries),
            ("rerouted", stats.rerouted),
            ("paused", stats.paused),
            ("closed_by_worker", stats.close_by_worker),
            ("closed_by_client", stats.closed_by_client),
            ("links_replaced", stats.link_replaced),
        ];
        let workers = self
            .core
            .workers()
            .map(|(key, bound)| (String::from_utf8_lossy(key).into_owned(), bound));
        let mut shard = net_status(net);
        shard.clients = stats.clients;
        shard.send_fail = stats.send_fail();
        shard.timers = stats.timers;
        shard.total_request = stats.client_messages + stats.commands;
        shard.drops.extend(named(drops));
        shard.counters.extend(named(counters));
        shard.workers = workers.collect();
        shard
    }

    fn describe(&self, snapshot: &ConnSnapshot) -> Connection {
        let mut connection = self.connection(snapshot);
        match self.core.describe(snapshot.conn) {
            Some(Described::Client { connection_id, established, .. }) => {
                connection.id = connection_id;
                if !established {
                    connection.status = "CONNECTING".to_owned();
                }
            }
            Some(Described::Worker { key }) => {
                connection.worker_key = Some(String::from_utf8_lossy(key).into_owned());
            }
            Some(Described::OutsideClient) | None => {}
        }
        connection
    }
}

impl Hosted<Register> {
    fn status(&self, net: &Net) -> Shard {
        let stats = self.core.stats();
        let drops = [
            ("connection_limit", stats.refused_connection_limit),
            ("auth_timeout", stats.refused_auth_timeout),
            ("bad_request", stats.refused_bad_request),
            ("line_too_long", stats.refused_line_too_long),
            ("wrong_key", stats.refused_key),
            ("unknown_event", stats.refused_unknown_event),
            ("bad_address", stats.refused_address),
            ("slow_worker_closed", stats.closed_slow),
        ];
        let topology = self.core.topology();
        let counters = [
            ("gateways", topology.gateways.len() as u64),
            ("workers", topology.workers.len() as u64),
            ("pings", stats.pings),
            ("broadcasts", stats.broadcasts),
        ];
        let mut shard = net_status(net);
        shard.total_request = stats.accepted + stats.pings;
        shard.timers = topology.others.len() as u64;
        shard.drops.extend(named(drops));
        shard.counters.extend(named(counters));
        shard
    }
}

impl<C: App> App for Hosted<C> {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        self.core.handle_open(now, opened, sink);
    }

    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        self.core.handle_bytes(now, conn, bytes, sink)
    }

    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        cause: CloseCause,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        self.core.handle_closed(now, conn, cause, unsent, sink);
    }

    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        self.core.handle_drained(now, conn, sink);
    }

    fn handle_mesh(&mut self, now: Instant, from: ShardId, batch: &mut [u8], sink: &mut impl Sink) {
        self.core.handle_mesh(now, from, batch, sink);
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        self.core.handle_timeout(now, sink);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }
}

impl Host for Hosted<Gateway> {
    type Command = Command;

    fn handle_command(&mut self, now: Instant, command: Command, net: &mut Net) {
        match command {
            // Whoever asked may have gone; then nobody misses the answer.
            Command::Status(answer) => _ = answer.send(self.status(net)),
            Command::Connections(answer) => {
                _ = answer.send(list(net, |snapshot| self.describe(snapshot)))
            }
            Command::Reload(config) => self.core.reload(config),
            Command::CloseClients => {
                net.pause_accepting();
                self.core.close_clients(now, net);
            }
            Command::CloseLinks => self.core.close_links(now, net),
        }
    }
}

impl Host for Hosted<Register> {
    type Command = Command;

    fn handle_command(&mut self, _now: Instant, command: Command, net: &mut Net) {
        match command {
            Command::Status(answer) => _ = answer.send(self.status(net)),
            Command::Connections(answer) => {
                _ = answer.send(list(net, |snapshot| self.connection(snapshot)))
            }
            // A register has neither clients nor anything that can change while it runs.
            Command::Reload(_) | Command::CloseClients | Command::CloseLinks => {}
        }
    }
}

/// The part of a shard's status that the shell knows.
fn net_status(net: &Net) -> Shard {
    let stats = net.stats();
    let nanos =
        |duration: core::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let drops = [
        ("refused_full", stats.refused_full),
        ("refused_unwatched", stats.refused_unwatched),
        ("input_too_long", stats.closed_stash_full),
        ("shard_ended_bytes", stats.mesh_bytes_dropped),
    ];
    let counters = [
        ("accepted", stats.accepted),
        ("accept_deferred", stats.accept_deferred),
        ("handed_off", stats.handed_off),
        ("reset", stats.closed_reset),
        ("lingering", u64::from(stats.lingering)),
        ("reads", stats.reads),
        ("writes", stats.writes),
        ("writes_blocked", stats.writes_blocked),
        ("turns", stats.turns),
        ("sleeps", stats.sleeps),
        ("queues_used", stats.queues_used as u64),
        ("mesh_batches_sent", stats.mesh_batches_sent),
        ("mesh_batches_received", stats.mesh_batches_received),
        ("mesh_bytes_sent", stats.mesh_bytes_sent),
        ("mesh_full", stats.mesh_full),
        ("mesh_staged_bytes", stats.mesh_staged_bytes as u64),
    ];
    Shard {
        shard: stats.shard.0,
        answered: true,
        connections: u64::from(stats.connections),
        busy_nanos: nanos(stats.busy),
        wall_nanos: nanos(stats.wall),
        pool_bytes: stats.pool_bytes as u64,
        bytes_read: stats.bytes_read,
        bytes_written: stats.bytes_written,
        drops: named(drops).collect(),
        counters: named(counters).collect(),
        ..Shard::default()
    }
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> impl Iterator<Item = (String, u64)> {
    counts.map(|(name, count)| (name.to_owned(), count)).into_iter()
}

/// The first connections of a shard, and how many more it has.
fn list(net: &Net, describe: impl Fn(&ConnSnapshot) -> Connection) -> (Vec<Connection>, u64) {
    let listed: Vec<Connection> = net
        .connections()
        .take(CONNECTIONS_LISTED_MAX)
        .map(|snapshot| describe(&snapshot))
        .collect();
    let left_out = u64::from(net.stats().connections).saturating_sub(listed.len() as u64);
    (listed, left_out)
}
