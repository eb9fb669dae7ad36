//! Cores as applications of the kernel shell, and what the control thread says to them.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use tengate_base::{App, CloseCause, ConnId, Instant, Opened, ShardId, Sink};
use tengate_io::{ConnSnapshot, Host, Net, StackStats};
use tengate_proto::dispatcher::{self, Dispatcher, Notice};
use tengate_proto::gateway::{self, Described, Gateway, ProcIdError};
use tengate_proto::register::Register;
use tengate_proto::wire::register::{Block, LinkedGateway, LinkedWorker, Links};
use tokio::sync::oneshot;

use crate::admin::{CONNECTIONS_LISTED_MAX, Connection, GatewayLink, Shard};

/// What the control thread says to a shard, whatever it runs.
#[derive(Debug)]
pub(crate) enum Command {
    /// Tell what you do.
    Status(oneshot::Sender<Shard>),
    /// List your connections, and how many more there are.
    Connections(oneshot::Sender<(Vec<Connection>, u64)>),
    /// Gateway: go on with these settings.
    ReloadGateway(Arc<gateway::Config>),
    /// Dispatcher: go on with these settings.
    ReloadDispatcher(Arc<dispatcher::Config>),
    /// Gateway in dispatched mode: the lease begins with this proc_id. Say whether it works.
    SetFirstProcId(u16, oneshot::Sender<Result<(), ProcIdError>>),
    /// Gateway in dispatched mode: take clients and links in.
    ResumeAccepting,
    /// Gateway in dispatched mode: the register wishes this dispatcher to be the home.
    SetHomeWish(Option<String>),
    /// Dispatcher: tell whom you are linked to, and what you have noticed.
    Links(oneshot::Sender<DispatcherLinks>),
    /// Dispatcher: have every gateway choose another home.
    Drain,
    /// Gateway: take no more connections and say goodbye to clients.
    CloseClients,
    /// Gateway: say goodbye to workers and dispatchers. Dispatcher: to workers and gateways.
    CloseLinks,
}

/// What a dispatcher's control thread wants to know.
#[derive(Debug)]
pub(crate) struct DispatcherLinks {
    /// For the registers.
    pub(crate) reported: Links,
    /// Gateways that there is a connection to, even if they have not said who they are.
    pub(crate) dialed: Vec<SocketAddr>,
    /// Whether no gateway needs this dispatcher any more.
    pub(crate) is_drained: bool,
    /// What happened since the last question.
    pub(crate) notices: Vec<Notice>,
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
            ("dispatcher_refused", stats.dispatcher_refused),
            ("detach_timeout", stats.detach_timeout),
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
            ("homes_changed", stats.homes_changed),
            ("events_returned", stats.events_returned),
            ("names_hinted", stats.names_hinted),
        ];
        let workers = self.core.workers().map(|(key, bound)| (text(key), bound));
        let mut shard = net_status(net);
        shard.clients = stats.clients;
        shard.send_fail = stats.send_fail();
        shard.timers = stats.timers;
        shard.total_request = stats.client_messages + stats.commands;
        shard.drops.extend(named(drops));
        shard.counters.extend(named(counters));
        shard.workers = workers.collect();
        shard.home = self.core.home().map(str::to_owned);
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
                connection.worker_key = Some(text(key));
            }
            Some(Described::OutsideClient) | None => {}
        }
        connection
    }
}

impl Hosted<Dispatcher> {
    fn status(&self, net: &Net) -> Shard {
        let stats = self.core.stats();
        let drops = [
            ("unknown_gateway", stats.drop_unknown_gateway),
            ("slow_worker", stats.drop_slow_worker),
            ("slow_worker_closed", stats.close_slow_worker),
            ("no_worker", stats.drop_no_worker),
            ("no_worker_closed", stats.close_no_worker),
            ("link_unauthorized", stats.link_unauthorized),
            ("link_malformed", stats.link_malformed),
            ("gateway_refused", stats.gateway_refused),
            ("command_ignored", stats.command_ignored),
        ];
        let counters = [
            ("gateways", stats.gateways),
            ("homes", stats.homes),
            ("workers", stats.workers),
            ("outside_clients", stats.outside_clients),
            ("uids", stats.uids),
            ("groups", stats.groups),
            ("events", stats.events),
            ("commands", stats.commands),
            ("frames_to_gateways", stats.frames_to_gateways),
            ("frames_spared", stats.frames_spared),
            ("forwarded", stats.forwarded),
            ("queries", stats.queries),
            ("query_timeouts", stats.query_timeouts),
            ("names", stats.names),
            ("rerouted", stats.rerouted),
            ("acknowledged", stats.acknowledged),
            ("returned", stats.returned),
            ("paused", stats.paused),
            ("detached", stats.detached),
            ("links_replaced", stats.link_replaced),
        ];
        let gateway = |view: dispatcher::GatewayView| GatewayLink {
            address: view.address.to_string(),
            home: view.home,
            first_proc_id: view.first_proc_id,
            shards: view.shards,
            clients: view.clients,
        };
        let mut shard = net_status(net);
        shard.clients = stats.clients;
        shard.send_fail =
            stats.drop_unknown_gateway + stats.drop_slow_worker + stats.drop_no_worker;
        shard.total_request = stats.events + stats.commands;
        shard.drops.extend(named(drops));
        shard.counters.extend(named(counters));
        shard.workers = self.core.workers().map(|(key, bound)| (text(key), bound)).collect();
        shard.gateways = self.core.gateways().map(gateway).collect();
        shard
    }

    fn describe(&self, snapshot: &ConnSnapshot) -> Connection {
        let mut connection = self.connection(snapshot);
        match self.core.describe(snapshot.conn) {
            Some(dispatcher::Described::Worker { key }) => connection.worker_key = Some(text(key)),
            Some(dispatcher::Described::Gateway { address, .. }) => {
                connection.worker_key = Some(format!("gateway:{address}"));
            }
            Some(dispatcher::Described::OutsideClient) | None => {}
        }
        connection
    }

    fn links(&mut self) -> DispatcherLinks {
        let gateway = |view: dispatcher::GatewayView| LinkedGateway {
            address: view.address.to_string().into(),
            home: view.home,
            clients: view.clients,
            block: Some(Block {
                first_proc_id: view.first_proc_id,
                shards: view.shards,
                number_bits: view.number_bits,
            }),
        };
        let worker = |(key, bound): (&[u8], u32)| LinkedWorker {
            key: text(key).into(),
            clients: bound.into(),
        };
        DispatcherLinks {
            reported: Links {
                gateways: self.core.gateways().map(gateway).collect(),
                workers: self.core.workers().map(worker).collect(),
                workers_left_out: 0,
            },
            dialed: self.core.dialed().collect(),
            is_drained: self.core.is_drained(),
            notices: self.core.take_notices().collect(),
        }
    }
}

impl Hosted<Register> {
    fn status(&self, now: Instant, net: &Net) -> Shard {
        let stats = self.core.stats();
        let drops = [
            ("connection_limit", stats.refused_connection_limit),
            ("auth_timeout", stats.refused_auth_timeout),
            ("bad_request", stats.refused_bad_request),
            ("line_too_long", stats.refused_line_too_long),
            ("wrong_key", stats.refused_key),
            ("unknown_event", stats.refused_unknown_event),
            ("bad_address", stats.refused_address),
            ("bad_fields", stats.refused_bad_fields),
            ("superseded", stats.closed_superseded),
            ("slow_worker_closed", stats.closed_slow),
        ];
        let topology = self.core.topology(now);
        let counters = [
            ("gateways", topology.gateways.len() as u64),
            ("dispatchers", topology.dispatchers.len() as u64),
            ("workers", topology.workers.len() as u64),
            ("pings", stats.pings),
            ("broadcasts", stats.broadcasts),
            ("leases", stats.leases),
            ("leases_refused", stats.leases_refused),
            ("homes", stats.homes),
            ("reports", stats.reports),
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
            Command::ReloadGateway(config) => self.core.reload(config),
            Command::SetFirstProcId(first_proc_id, done) => {
                _ = done.send(self.core.set_first_proc_id(first_proc_id));
            }
            Command::ResumeAccepting => net.resume_accepting(),
            Command::SetHomeWish(address) => {
                self.core.set_home_wish(now, address.as_deref(), net);
            }
            Command::CloseClients => {
                net.pause_accepting();
                self.core.close_clients(now, net);
            }
            Command::CloseLinks => self.core.close_links(now, net),
            Command::ReloadDispatcher(_) | Command::Links(_) | Command::Drain => {}
        }
    }
}

impl Host for Hosted<Dispatcher> {
    type Command = Command;

    fn handle_command(&mut self, now: Instant, command: Command, net: &mut Net) {
        match command {
            Command::Status(answer) => _ = answer.send(self.status(net)),
            Command::Connections(answer) => {
                _ = answer.send(list(net, |snapshot| self.describe(snapshot)))
            }
            Command::ReloadDispatcher(config) => self.core.reload(config),
            Command::Links(answer) => _ = answer.send(self.links()),
            Command::Drain => self.core.drain(net),
            Command::CloseLinks => {
                net.pause_accepting();
                self.core.close_links(now, net);
            }
            Command::ReloadGateway(_)
            | Command::SetFirstProcId(..)
            | Command::ResumeAccepting
            | Command::SetHomeWish(_)
            | Command::CloseClients => {}
        }
    }
}

impl Host for Hosted<Register> {
    type Command = Command;

    fn handle_command(&mut self, now: Instant, command: Command, net: &mut Net) {
        match command {
            Command::Status(answer) => _ = answer.send(self.status(now, net)),
            Command::Connections(answer) => {
                _ = answer.send(list(net, |snapshot| self.connection(snapshot)))
            }
            // A register has neither clients nor anything that can change while it runs.
            Command::ReloadGateway(_)
            | Command::ReloadDispatcher(_)
            | Command::SetFirstProcId(..)
            | Command::ResumeAccepting
            | Command::SetHomeWish(_)
            | Command::Links(_)
            | Command::Drain
            | Command::CloseClients
            | Command::CloseLinks => {}
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
        ("memory_full_closed", stats.closed_pool_full),
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
        stack: net.stack_stats().map(|stats| stack_status(&stats)).unwrap_or_default(),
        ..Shard::default()
    }
}

/// Everything that is counted past the kernel, under one name each.
fn stack_status(stats: &StackStats) -> BTreeMap<String, u64> {
    let (gauges, queue) = (&stats.gauges, &stats.queue);
    let others = [
        ("conns", gauges.conns),
        ("conns_max", gauges.conns_max),
        ("syn_backlog", gauges.syn_backlog),
        ("syn_backlog_max", gauges.syn_backlog_max),
        ("time_wait", gauges.time_wait),
        ("time_wait_max", gauges.time_wait_max),
        ("pool_used_bytes", gauges.pool_used_bytes),
        ("pool_bytes_max", gauges.pool_bytes_max),
        ("queue_received", queue.received),
        ("queue_sent", queue.sent),
        ("queue_dropped_multi_segment", queue.dropped_multi_segment),
        ("queue_receives_without_buffer", queue.receives_without_buffer),
        ("queue_refused_full", queue.refused_full),
        ("queue_refused_no_buffer", queue.refused_no_buffer),
        ("queue_refused_length", queue.refused_length),
        ("queue_flushes_partial", queue.flushes_partial),
        ("queue_kicks", queue.kicks),
        ("queue_kicks_failed", queue.kicks_failed),
        ("queue_buffers_available", queue.buffers_available),
        ("steered", queue.steered),
        ("drop_steered", queue.dropped_steered),
    ];
    let counted = stats.stack.named().map(|(name, count)| (name.to_owned(), count));
    counted.chain(named(others)).collect()
}

/// A worker's key, which is whatever bytes the worker sent.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
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
