//! Simulated dispatchers: what their control thread does, which dials gateways, reports links, and stops in order.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use tengate_base::{CloseCause, Door, Instant, ShardId};
use tengate_proto::dispatcher::{Config, DIALED, Dispatcher, LISTEN};
use tengate_proto::register::RegisterRole;
use tengate_proto::wire::register::{Block, LinkedGateway, LinkedWorker, Links};

use crate::network::{Item, Owner, Server};
use crate::process::Process;
use crate::registers::Upstream;
use crate::witness::{Taken, Witness};
use crate::world::{Event, World};

/// A dispatcher, running or not.
#[derive(Debug)]
pub(crate) struct DispatcherSlot {
    pub(crate) config: Arc<Config>,
    pub(crate) server: Server,
    pub(crate) process: Option<Process<Witness>>,
    /// Its connections to registers.
    pub(crate) upstreams: Vec<Upstream>,
    /// The gateways that each register named last.
    pub(crate) named: Vec<Vec<String>>,
    pub(crate) stopping: Stopping,
    /// Its links to gateways, by their connections.
    pub(crate) dialed: Vec<usize>,
}

/// How far a dispatcher is with an orderly stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// It serves.
    No,
    /// It waits until no gateway needs it, or this long.
    Draining(Instant),
    /// It waits until its links are closed, or this long.
    Closing(Instant),
}

/// The only shard of a dispatcher.
const SHARD: ShardId = ShardId(0);
/// How often the control thread looks at the links.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it does while it stops.
const STOP_POLL: Duration = Duration::from_millis(20);
/// What gateways get beyond the time that workers have.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// How long links may take to write what is queued.
const LINK_GRACE: Duration = Duration::from_secs(1);

impl DispatcherSlot {
    /// One that does not run.
    pub(crate) fn new(config: Config, server: Server) -> Self {
        Self {
            config: Arc::new(config),
            server,
            process: None,
            upstreams: Vec::new(),
            named: Vec::new(),
            stopping: Stopping::No,
            dialed: Vec::new(),
        }
    }

    /// The core, if it runs.
    pub(crate) fn core(&self) -> Option<&Dispatcher> {
        self.process.as_ref().map(|process| process.shell.peek(SHARD).dispatcher())
    }

    /// Whether it counts events as dropped.
    pub(crate) fn has_dropped(&self) -> bool {
        self.core().map(Dispatcher::stats).is_some_and(|stats| {
            stats.drop_no_worker + stats.drop_slow_worker + stats.close_slow_worker > 0
        })
    }

    fn links(&self) -> Links {
        let Some(core) = self.core() else { return Links::default() };
        let gateways = core.gateways().map(|gateway| LinkedGateway {
            address: gateway.address.to_string().into(),
            home: gateway.home,
            clients: gateway.clients,
            block: Some(Block {
                first_proc_id: gateway.first_proc_id,
                shards: gateway.shards,
                number_bits: gateway.number_bits,
            }),
        });
        let workers = core.workers().map(|(key, clients)| LinkedWorker {
            key: String::from_utf8_lossy(key).into(),
            clients: clients.into(),
        });
        Links { gateways: gateways.collect(), workers: workers.collect(), workers_left_out: 0 }
    }
}

impl World {
    /// A dispatcher process starts.
    pub(crate) fn start_dispatcher(&mut self, server: Server) {
        let (now, plant) = (self.now, self.plant);
        let slot = &mut self.dispatchers[server.index];
        let witness = Witness::new(Dispatcher::new(slot.config.clone(), now), plant);
        slot.server = server;
        slot.process = Some(Process::new(server, vec![witness], now));
        slot.stopping = Stopping::No;
        slot.named = vec![Vec::new(); self.plan.register_count];
        let role = RegisterRole::Dispatcher { address: slot.config.address.to_string().into() };
        self.dispatchers[server.index].upstreams = self.upstreams(&role);
        for register in 0..self.plan.register_count {
            self.schedule(self.now, Event::DispatcherUpstream(server.index, register));
        }
        self.schedule(self.now, Event::Look(server));
    }

    /// The control thread compares what is linked with what should be, and goes on with a stop.
    pub(crate) fn dispatcher_looks(&mut self, server: Server) {
        if !self.is_running(server) {
            return;
        }
        match self.dispatchers[server.index].stopping {
            Stopping::No => {
                self.schedule(self.now + LOOK_INTERVAL, Event::Look(server));
                self.dispatcher_reports(server.index);
                self.dispatcher_dials(server.index);
            }
            Stopping::Draining(limit) => {
                self.schedule(self.now + STOP_POLL, Event::Look(server));
                let slot = &self.dispatchers[server.index];
                if self.now > limit || slot.core().is_some_and(Dispatcher::is_drained) {
                    self.dispatcher_closes(server);
                }
            }
            Stopping::Closing(limit) => {
                let slot = &self.dispatchers[server.index];
                let open = slot.process.as_ref().map_or(0, |it| it.shell.open_count(SHARD));
                if self.now > limit || open == 0 {
                    return self.kill(server);
                }
                self.schedule(self.now + STOP_POLL, Event::Look(server));
            }
        }
    }

    fn dispatcher_reports(&mut self, index: usize) {
        let now = self.now;
        let links = self.dispatchers[index].links();
        for register in 0..self.plan.register_count {
            self.dispatchers[index].upstreams[register].client.report(now, &links);
            self.serve_upstream(Owner::DispatcherAtRegister(index, register));
        }
    }

    /// Connects to gateways that a register names and that are not linked.
    pub(crate) fn dispatcher_dials(&mut self, index: usize) {
        for gateway in 0..self.gateways.len() {
            let config = &self.gateways[gateway].config;
            let address = SocketAddr::from((config.lan_ip, config.lan_port));
            let slot = &self.dispatchers[index];
            let text = address.to_string();
            let is_named = slot.named.iter().flatten().any(|named| *named == text);
            let is_linked =
                slot.core().is_some_and(|core| core.dialed().any(|other| other == address));
            if is_named && !is_linked {
                self.dispatcher_dials_one(index, gateway, address);
            }
        }
    }

    fn dispatcher_dials_one(&mut self, index: usize, gateway: usize, address: SocketAddr) {
        let near = self.dispatchers[index].server;
        let server = self.gateways[gateway].server;
        let door = self.gateways[gateway].inner_door();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 3, 0, u8::try_from(index).unwrap_or(0)));
        let Some((conn, _)) = self.connect(server, door, Owner::Dispatcher(index), ip) else {
            return;
        };
        let (now, window) = (self.now, self.plan.window_bytes);
        let calm = self.calm;
        let Some(process) = self.process(near) else { return };
        let place = process.accept(now, SHARD, DIALED, address, conn);
        process.limit(place, if calm { crate::checks::CALM_WINDOW } else { window });
        self.conns[conn].near = Some((near, place));
        let conns = &self.conns;
        let dialed = &mut self.dispatchers[index].dialed;
        dialed.retain(|conn| conns[*conn].peer_open);
        dialed.push(conn);
        self.harvest(near, SHARD);
        self.touch(near, SHARD);
    }

    /// Bytes of a gateway arrived at a dispatcher that dialed it.
    pub(crate) fn dispatcher_reads(&mut self, conn: usize, bytes: &[u8]) {
        let Some((near, place)) = self.conns[conn].near else { return };
        let now = self.now;
        let Some(process) = self.process(near) else { return };
        process.give(now, place, bytes);
        self.touch(near, SHARD);
    }

    /// A dispatcher hears that a link it dialed is gone. What arrived before is read first.
    pub(crate) fn dispatcher_lost(&mut self, conn: usize) {
        let Some((near, place)) = self.conns[conn].near else { return };
        let now = self.now;
        self.step(near, SHARD);
        let Some(process) = self.process(near) else { return };
        process.cut(now, place, CloseCause::Reset);
        self.harvest(near, SHARD);
        self.touch(near, SHARD);
    }

    /// A dispatcher was called: which events did it take?
    pub(crate) fn follow_dispatcher(&mut self, server: Server) {
        let Some(process) = &mut self.dispatchers[server.index].process else { return };
        let journal = process.shell.app(SHARD).take_journal();
        for Taken { conn, bytes, events } in journal {
            let is_it = |link: &&usize| {
                let near = self.conns[**link].near;
                near.is_some_and(|(near, place)| near == server && place.conn == conn)
            };
            let link = self.dispatchers[server.index].dialed.iter().rfind(is_it).copied();
            if let Some(link) = link {
                let taken: Vec<u8> = self.conns[link].unread.drain(..bytes).collect();
                self.events_are_taken(server, link, &taken, events);
            }
        }
        self.check_homes_now();
    }

    /// A dispatcher begins to stop in order.
    pub(crate) fn stop_dispatcher(&mut self, index: usize) {
        let now = self.now;
        let slot = &mut self.dispatchers[index];
        let server = slot.server;
        if slot.process.is_none() || slot.stopping != Stopping::No {
            return;
        }
        slot.stopping = Stopping::Draining(now + slot.config.detach_limit + DRAIN_GRACE);
        self.note(|_| format!("{server:?} is asked to stop"));
        self.leave_registers(server);
        self.instruct(server, |core, _, sink| core.drain(sink));
        self.schedule(self.now + STOP_POLL, Event::Look(server));
    }

    fn dispatcher_closes(&mut self, server: Server) {
        self.dispatchers[server.index].stopping = Stopping::Closing(self.now + LINK_GRACE);
        self.instruct(server, |core, now, sink| core.close_links(now, sink));
    }

    fn instruct(
        &mut self,
        server: Server,
        call: impl FnOnce(&mut Dispatcher, Instant, &mut crate::shell::Memory),
    ) {
        let now = self.now;
        let Some(process) = &mut self.dispatchers[server.index].process else { return };
        process.shell.set_now(now);
        process.shell.instruct(SHARD, |app, now, sink| call(app.dispatcher_mut(), now, sink));
        self.harvest(server, SHARD);
        self.touch(server, SHARD);
    }

    /// A process leaves its registers in order.
    fn leave_registers(&mut self, server: Server) {
        for conn in 0..self.conns.len() {
            let is_its = matches!(self.conns[conn].owner,
                Owner::DispatcherAtRegister(index, _) if index == server.index);
            if is_its {
                self.peer_closes(conn, Item::Fin);
            }
        }
        self.dispatchers[server.index].upstreams = Vec::new();
    }

    /// The door of workers and outside clients at what they link to.
    pub(crate) fn target_door(&self, target: usize) -> Door {
        if self.dispatchers.is_empty() { self.gateways[target].inner_door() } else { LISTEN }
    }

    /// What workers and outside clients link to: dispatchers, or gateways where there are none.
    pub(crate) fn target(&self, target: usize) -> Server {
        match self.dispatchers.get(target) {
            Some(slot) => slot.server,
            None => self.gateways[target].server,
        }
    }

    /// How many of them there are.
    pub(crate) fn target_count(&self) -> usize {
        if self.dispatchers.is_empty() { self.gateways.len() } else { self.dispatchers.len() }
    }

    /// The address that registers tell of them.
    pub(crate) fn target_address(&self, target: usize) -> String {
        match self.dispatchers.get(target) {
            Some(slot) => slot.config.address.to_string(),
            None => self.gateways[target].address(),
        }
    }
}
