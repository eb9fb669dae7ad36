//! Processes start and die, and things fail.

use tengate_proto::register::{AUTH_TIMEOUT, Register, RegisterConfig, RegisterLimits};

use crate::client::Phase;
use crate::dispatchers::DispatcherSlot;
use crate::network::{Item, Owner, Server, ServerKind};
use crate::outside::Outside;
use crate::plan::Fault;
use crate::process::Process;
use crate::world::{Event, Gate, RegisterSlot, World};

impl World {
    /// The cluster comes up.
    pub(crate) fn start_everything(&mut self) {
        let server = |kind, index| Server { kind, index, incarnation: 0 };
        for index in 0..self.plan.register_count {
            let server = server(ServerKind::Register, index);
            self.registers.push(RegisterSlot { server, process: None });
            self.start(server);
        }
        for (index, config) in self.plan.gateways.clone().into_iter().enumerate() {
            let server = server(ServerKind::Gateway, index);
            self.gateways.push(Gate::new(config.into(), server));
            self.start(server);
        }
        for (index, config) in self.plan.dispatchers.clone().into_iter().enumerate() {
            let server = server(ServerKind::Dispatcher, index);
            self.dispatchers.push(DispatcherSlot::new(config, server));
            self.start(server);
        }
        self.outsides.resize_with(self.target_count(), Outside::default);
        for worker in 0..self.plan.worker_count {
            let new = self.new_worker();
            self.workers.push(new);
            let at = self.now + self.rng.millis(0, 50);
            self.schedule(at, Event::Revive(worker));
        }
    }

    /// Whether this very process is alive, and takes connections.
    pub(crate) fn is_running(&mut self, server: Server) -> bool {
        self.process(server).is_some()
    }

    /// A server process starts.
    pub(crate) fn start(&mut self, server: Server) {
        if self.is_running(server) {
            return;
        }
        self.note(|_| format!("{server:?} starts"));
        match server.kind {
            ServerKind::Gateway => self.start_gateway(server),
            ServerKind::Dispatcher => self.start_dispatcher(server),
            ServerKind::Register => {
                let index = u16::try_from(server.index).expect("few registers");
                let first = index * PROC_IDS_EACH;
                let slot = &mut self.registers[server.index];
                slot.server = server;
                let register = Register::new(
                    RegisterConfig {
                        secret_key: self.plan.secret.clone(),
                        auth_timeout: AUTH_TIMEOUT,
                        limits: RegisterLimits {
                            connection_count_max: 1000,
                            line_bytes_max: 4096,
                            queued_bytes_max: 1 << 20,
                        },
                        proc_ids: first..=first + PROC_IDS_EACH - 1,
                        ..RegisterConfig::default()
                    },
                    self.now,
                );
                slot.process = Some(Process::new(server, vec![register], self.now));
            }
        }
    }

    /// Something fails, and later something else.
    pub(crate) fn strike(&mut self) {
        if self.calm || self.plan.faults.is_empty() {
            return;
        }
        let at = self.now + self.rng.millis(1, 2 * self.plan.fault_millis);
        self.schedule(at, Event::Fault);
        let fault = *self.rng.pick(&self.plan.faults);
        self.totals.faults += 1;
        match fault {
            Fault::CutClient => {
                if let Some(index) = self.any_open_client() {
                    self.clients[index].cut = true;
                    self.cut(self.clients[index].conn);
                }
            }
            Fault::BreakClient => {
                if let Some(index) = self.any_open_client() {
                    self.client_breaks(index);
                }
            }
            Fault::StallClient => {
                if let Some(index) = self.any_open_client() {
                    self.stall(self.clients[index].conn);
                }
            }
            Fault::CutLink => self.with_any_link(|world, _, conn| world.cut(conn)),
            Fault::CloseLink => self.with_any_link(|world, worker, conn| {
                world.peer_closes(conn, Item::Fin);
                world.worker_lost(worker, conn);
            }),
            Fault::HalfOpenLink => self.with_any_link(|world, _, conn| world.silence(conn)),
            Fault::BreakLink => self.with_any_link(|world, _, conn| {
                world.send_to_server(conn, &[0, 0, 0, 1, 9, 9, 9, 9]);
            }),
            Fault::StallWorker => self.with_any_link(|world, _, conn| world.stall(conn)),
            Fault::KillWorker => {
                let worker = self.rng.below(self.workers.len());
                if self.workers[worker].alive {
                    self.worker_dies(worker);
                    let at = self.now + self.rng.millis(1, 1500);
                    self.schedule(at, Event::Revive(worker));
                }
            }
            Fault::KillGateway => {
                // Each one costs so many clients that little else would be left to look at.
                if self.rng.percent(20) {
                    let server = self.gateways[self.rng.below(self.gateways.len())].server;
                    self.kill(server);
                }
            }
            Fault::KillRegister => {
                let server = self.registers[self.rng.below(self.registers.len())].server;
                self.kill(server);
            }
            Fault::CutDispatcherLink => self.with_any_dialed(Self::cut),
            Fault::HalfOpenDispatcherLink => self.with_any_dialed(Self::silence),
            Fault::PartGateway => self.part_gateway(),
            Fault::StallDispatcher => self.stall_dispatcher(),
            Fault::StopDispatcher => {
                let index = self.rng.below(self.dispatchers.len());
                self.stop_dispatcher(index);
            }
            Fault::KillDispatcher => {
                let server = self.dispatchers[self.rng.below(self.dispatchers.len())].server;
                self.kill(server);
            }
        }
    }

    /// Does something to a link between some dispatcher and some gateway, if there is any.
    fn with_any_dialed(&mut self, harm: impl FnOnce(&mut Self, usize)) {
        let index = self.rng.below(self.dispatchers.len());
        let conns = &self.conns;
        let is_open = |conn: &usize| conns[*conn].peer_open && conns[*conn].server_open;
        let dialed = self.dispatchers[index].dialed.iter().copied();
        let links: Vec<usize> = dialed.filter(is_open).collect();
        if !links.is_empty() {
            let conn = *self.rng.pick(&links);
            self.gateways[self.conns[conn].server.index].torn = true;
            self.ghosts = true;
            harm(self, conn);
        }
    }

    /// A dispatcher gets no turn for a while, and what gateways send it piles up.
    fn stall_dispatcher(&mut self) {
        let index = self.rng.below(self.dispatchers.len());
        let until = self.now + self.rng.millis(1, 800);
        let server = self.dispatchers[index].server;
        let Some(process) = self.process(server) else { return };
        process.turns().stalled_until = until;
        self.note(|_| format!("{server:?} stalls until {until:?}"));
        for conn in self.dispatchers[index].dialed.clone() {
            self.conns[conn].reading = false;
            self.schedule(until, Event::Resume(conn));
        }
    }

    fn any_open_client(&mut self) -> Option<usize> {
        let Self { clients, rng, .. } = self;
        let is_open =
            |index: &usize| clients[*index].phase != Phase::Gone && clients[*index].id.is_some();
        let open: Vec<usize> = (0..clients.len()).filter(is_open).collect();
        (!open.is_empty()).then(|| *rng.pick(&open))
    }

    /// Does something to a link of some worker, if it has any.
    fn with_any_link(&mut self, harm: impl FnOnce(&mut Self, usize, usize)) {
        let worker = self.rng.below(self.workers.len());
        let links: Vec<usize> = self.workers[worker].links.iter().flatten().copied().collect();
        if !links.is_empty() {
            let conn = *self.rng.pick(&links);
            harm(self, worker, conn);
        }
    }

    /// A peer does not read for a while.
    fn stall(&mut self, conn: usize) {
        self.note(|_| format!("connection {conn}: its peer stops reading"));
        self.conns[conn].reading = false;
        let at = self.now + self.rng.millis(1, 800);
        self.schedule(at, Event::Resume(conn));
    }

    /// A server process dies, and is started again later.
    pub(crate) fn kill(&mut self, server: Server) {
        if !self.is_running(server) {
            return;
        }
        self.note(|_| format!("{server:?} dies"));
        match server.kind {
            ServerKind::Gateway => {
                self.gateways[server.index].life = None;
                self.gateways[server.index].up = false;
                self.ghosts = true;
            }
            ServerKind::Register => self.registers[server.index].process = None,
            ServerKind::Dispatcher => {
                if self.dispatchers[server.index].has_dropped() {
                    self.droppers.insert(server);
                }
                self.dispatchers[server.index].process = None;
                self.gateways.iter_mut().for_each(|gate| gate.torn = true);
            }
        }
        // A server that stopped in order has its last answers under way, and its end behind them.
        let is_cut = |conn: usize| self.conns[conn].server_open;
        if server.kind == self.target(0).kind && self.outsides[server.index].conn.is_none_or(is_cut)
        {
            self.outsides[server.index] = Outside::default();
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].server == server && self.conns[conn].server_open {
                self.conns[conn].server_open = false;
                self.conns[conn].to_peer.clear();
                // Past the kernel nobody is left to tell clients.
                if !self.is_dialed(conn) {
                    self.reset_peer(conn);
                }
            }
            let is_its = match self.conns[conn].owner {
                Owner::GatewayAtRegister(index, _) => {
                    server.kind == ServerKind::Gateway && index == server.index
                }
                Owner::Dispatcher(index) | Owner::DispatcherAtRegister(index, _) => {
                    server.kind == ServerKind::Dispatcher && index == server.index
                }
                Owner::Client(_)
                | Owner::Worker(_)
                | Owner::Outside(_)
                | Owner::WorkerAtRegister(..) => false,
            };
            if is_its {
                self.peer_closes(conn, Item::Reset);
            }
        }
        self.restart_later(server);
    }

    /// A server process is started again, as another one.
    pub(crate) fn restart_later(&mut self, server: Server) {
        let next = Server { incarnation: server.incarnation + 1, ..server };
        let at = self.now + self.rng.millis(1, 1200);
        self.schedule(at, Event::Start(next));
    }
}

/// How many proc_ids each register may lease, of those it has for itself.
const PROC_IDS_EACH: u16 = 20;
