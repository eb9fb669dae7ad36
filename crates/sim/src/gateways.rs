//! Simulated gateways in dispatched mode: what their control thread does with leases and wishes of registers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tengate_base::{Door, ShardId};
use tengate_proto::gateway::{Config, Gateway};
use tengate_proto::register::RegisterRole;

use crate::model::Model;
use crate::network::{Owner, Server};
use crate::process::Process;
use crate::watched::Watched;
use crate::world::{Event, Gate, Life, World};

impl Gate {
    /// One that does not run.
    pub(crate) fn new(config: Arc<Config>, server: Server) -> Self {
        Self {
            config,
            server,
            up: false,
            life: None,
            upstreams: Vec::new(),
            first_proc_id: None,
            wishes: Vec::new(),
            wish: None,
            torn: false,
        }
    }

    /// The door of workers, dispatchers and outside clients.
    pub(crate) fn inner_door(&self) -> Door {
        Door(u16::try_from(self.config.listeners.len()).expect("two listeners"))
    }

    /// The inner address, as registers hear it.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.config.lan_ip, self.config.lan_port)
    }
}

impl World {
    /// A gateway process starts. In dispatched mode it takes nobody in before it has a lease.
    pub(crate) fn start_gateway(&mut self, server: Server) {
        let register_count = self.plan.register_count;
        let gate = &mut self.gateways[server.index];
        gate.server = server;
        gate.up = true;
        gate.first_proc_id = None;
        gate.wish = None;
        gate.torn = false;
        gate.wishes = vec![None; register_count];
        let address = gate.address().into();
        let role = if self.plan.dispatchers.is_empty() {
            self.gateway_opens(server.index, 0);
            RegisterRole::Gateway { address }
        } else {
            let config = &gate.config;
            let (shards, number_bits) = (config.shards, config.number_bits);
            RegisterRole::DispatchedGateway { address, shards, number_bits, first_proc_id: None }
        };
        self.gateways[server.index].upstreams = self.upstreams(&role);
        for register in 0..self.plan.register_count {
            self.schedule(self.now, Event::GatewayUpstream(server.index, register));
        }
    }

    /// From here on clients and links are taken in.
    fn gateway_opens(&mut self, index: usize, first_proc_id: u16) {
        let (now, plant) = (self.now, self.plant);
        let gate = &mut self.gateways[index];
        let inner = gate.inner_door();
        let new = |shard| {
            let mut gateway = Gateway::new(gate.config.clone(), ShardId(shard), now);
            gateway.set_first_proc_id(first_proc_id).expect("leases fit connection ids");
            Watched::new(gateway, inner, plant)
        };
        let shards = usize::from(gate.config.shards);
        let apps = (0..gate.config.shards).map(new).collect();
        gate.life = Some(Life {
            process: Process::new(gate.server, apps, now),
            model: Model::new(shards, gate.config.number_bits, first_proc_id),
            served: vec![now; shards],
        });
        let server = gate.server;
        self.attach_streams(server);
    }

    /// A register gives a gateway its proc_ids, or agrees to those it has.
    pub(crate) fn gateway_leases(&mut self, index: usize, first_proc_id: u16) {
        let gate = &mut self.gateways[index];
        if gate.first_proc_id.is_some() {
            return;
        }
        gate.first_proc_id = Some(first_proc_id);
        self.note(|_| format!("gateway {index} leases proc_ids from {first_proc_id} on"));
        self.gateway_opens(index, first_proc_id);
        for register in 0..self.gateways[index].upstreams.len() {
            self.gateways[index].upstreams[register].client.set_claim(first_proc_id);
            self.serve_upstream(Owner::GatewayAtRegister(index, register));
        }
        self.gateway_follows_wish(index);
        if let Some(problem) = self.overlapping_leases() {
            self.fail(problem);
        }
    }

    /// Two living gateways that own the same proc_id.
    fn overlapping_leases(&self) -> Option<String> {
        let mut owners = BTreeMap::new();
        for (index, gate) in self.gateways.iter().enumerate() {
            let Some(first) = gate.first_proc_id.filter(|_| gate.life.is_some()) else { continue };
            for proc_id in first..first + gate.config.shards {
                if let Some(other) = owners.insert(proc_id, index) {
                    return Some(format!(
                        "gateways {other} and {index} both own proc_id {proc_id}"
                    ));
                }
            }
        }
        None
    }

    /// A gateway loses a register: that one wishes nothing any more.
    pub(crate) fn gateway_loses_register(&mut self, index: usize, register: usize) {
        let gate = &mut self.gateways[index];
        if let Some(wish) = gate.wishes.get_mut(register) {
            *wish = None;
            self.gateway_follows_wish(index);
        }
    }

    /// The first register that has said what it wishes counts. While none has, the last wish does.
    pub(crate) fn gateway_follows_wish(&mut self, index: usize) {
        let now = self.now;
        let gate = &mut self.gateways[index];
        let Some(wish) = gate.wishes.iter().flatten().next() else { return };
        let Some(life) = &mut gate.life else { return };
        if *wish == gate.wish {
            return;
        }
        gate.wish.clone_from(wish);
        let wish = gate.wish.clone();
        life.process.shell.set_now(now);
        life.process.shell.instruct(ShardId(0), |app, now, sink| {
            app.set_home_wish(now, wish.as_deref(), sink);
        });
        let (server, wish) = (gate.server, gate.wish.clone());
        self.note(|_| format!("gateway {index} is to have home {wish:?}"));
        self.harvest(server, ShardId(0));
        self.touch(server, ShardId(0));
    }
}
