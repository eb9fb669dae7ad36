//! Processes start and die, and things fail.

use tengate_base::{Door, ShardId};
use tengate_proto::gateway::Gateway;
use tengate_proto::register::{
    AUTH_TIMEOUT, Register, RegisterConfig, RegisterLimits, RegisterRole,
};

use crate::client::Phase;
use crate::model::Model;
use crate::network::{Item, Owner, Server, ServerKind};
use crate::outside::Outside;
use crate::plan::Fault;
use crate::process::Process;
use crate::watched::Watched;
use crate::world::{Event, Gate, Life, RegisterSlot, World};

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
            let gate = Gate { config: config.into(), server, life: None, upstreams: Vec::new() };
            self.gateways.push(gate);
            self.outsides.push(Outside::default());
            self.start(server);
        }
        for worker in 0..self.plan.worker_count {
            let new = self.new_worker();
            self.workers.push(new);
            let at = self.now + self.rng.millis(0, 50);
            self.schedule(at, Event::Revive(worker));
        }
    }

    /// Whether this very process is alive.
    pub(crate) fn is_running(&self, server: Server) -> bool {
        match server.kind {
            ServerKind::Gateway => {
                let gate = &self.gateways[server.index];
                gate.server == server && gate.life.is_some()
            }
            ServerKind::Register => self
                .registers
                .get(server.index)
                .is_some_and(|slot| slot.server == server && slot.process.is_some()),
        }
    }

    /// A server process starts.
    pub(crate) fn start(&mut self, server: Server) {
        if self.is_running(server) {
            return;
        }
        self.note(|_| format!("{server:?} starts"));
        match server.kind {
            ServerKind::Gateway => self.start_gateway(server),
            ServerKind::Register => {
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
                        ..RegisterConfig::default()
                    },
                    self.now,
                );
                slot.process = Some(Process::new(vec![register], self.now));
            }
        }
    }

    fn start_gateway(&mut self, server: Server) {
        let (now, plant) = (self.now, self.plant);
        let gate = &mut self.gateways[server.index];
        gate.server = server;
        let inner = Door(u16::try_from(gate.config.listeners.len()).expect("two listeners"));
        let new = |shard| {
            let gateway = Gateway::new(gate.config.clone(), ShardId(shard), now);
            Watched::new(gateway, inner, plant)
        };
        let shards = usize::from(gate.config.shards);
        gate.life = Some(Life {
            process: Process::new((0..gate.config.shards).map(new).collect(), now),
            model: Model::new(shards, gate.config.number_bits),
            served: vec![now; shards],
        });
        let address = format!("{}:{}", gate.config.lan_ip, gate.config.lan_port);
        let role = RegisterRole::Gateway { address: address.into() };
        self.gateways[server.index].upstreams = self.upstreams(&role);
        for register in 0..self.plan.register_count {
            self.schedule(self.now, Event::GatewayUpstream(server.index, register));
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
    fn kill(&mut self, server: Server) {
        if !self.is_running(server) {
            return;
        }
        self.note(|_| format!("{server:?} dies"));
        match server.kind {
            ServerKind::Gateway => {
                self.gateways[server.index].life = None;
                self.outsides[server.index] = Outside::default();
            }
            ServerKind::Register => self.registers[server.index].process = None,
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].server == server && self.conns[conn].server_open {
                self.conns[conn].server_open = false;
                self.conns[conn].to_peer.clear();
                self.reset_peer(conn);
            }
            if let Owner::GatewayAtRegister(index, _) = self.conns[conn].owner
                && server.kind == ServerKind::Gateway
                && index == server.index
            {
                self.peer_closes(conn, Item::Reset);
            }
        }
        let next = Server { incarnation: server.incarnation + 1, ..server };
        let at = self.now + self.rng.millis(1, 1200);
        self.schedule(at, Event::Start(next));
    }
}
