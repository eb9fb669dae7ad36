//! How gateways, dispatchers and workers keep in touch with registers: `RegisterClient`, with bytes moved by the simulated network.

use core::net::{IpAddr, Ipv4Addr};

use tengate_base::Door;
use tengate_proto::register::{
    RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole,
};

use crate::dispatchers::Stopping;
use crate::network::{Item, Owner, Server, ServerKind};
use crate::world::{Event, World};

/// One end of a connection to a register.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) client: RegisterClient,
    conn: Option<usize>,
}

impl World {
    /// Connections of a process that has just started, to every register.
    pub(crate) fn upstreams(&self, role: &RegisterRole) -> Vec<Upstream> {
        let new = |index| {
            let config = RegisterClientConfig {
                register: format!("10.9.0.{index}:1236").into(),
                role: role.clone(),
                secret_key: self.plan.secret.clone(),
            };
            Upstream { client: RegisterClient::new(config), conn: None }
        };
        (0..self.plan.register_count).map(new).collect()
    }

    pub(crate) fn gateway_upstream_due(&mut self, gateway: usize, register: usize) {
        if self.gateways[gateway].up {
            self.upstream_due(Owner::GatewayAtRegister(gateway, register));
        }
    }

    pub(crate) fn worker_upstream_due(&mut self, worker: usize, register: usize) {
        if self.workers[worker].alive {
            self.upstream_due(Owner::WorkerAtRegister(worker, register));
        }
    }

    pub(crate) fn dispatcher_upstream_due(&mut self, dispatcher: usize, register: usize) {
        if self.dispatchers[dispatcher].process.is_some() {
            self.upstream_due(Owner::DispatcherAtRegister(dispatcher, register));
        }
    }

    fn upstream_due(&mut self, owner: Owner) {
        let now = self.now;
        if let Some(upstream) = self.upstream(owner) {
            upstream.client.handle_timeout(now);
        }
        self.serve_upstream(owner);
    }

    /// Bytes came from a register.
    pub(crate) fn upstream_reads(&mut self, conn: usize) {
        let (owner, now) = (self.conns[conn].owner, self.now);
        let bytes = core::mem::take(&mut self.conns[conn].unread);
        if let Some(upstream) = self.upstream(owner)
            && upstream.conn == Some(conn)
        {
            upstream.client.handle_bytes(now, &bytes);
            self.serve_upstream(owner);
        }
    }

    /// A connection to a register is gone.
    pub(crate) fn upstream_lost(&mut self, conn: usize) {
        let (owner, now) = (self.conns[conn].owner, self.now);
        if let Some(upstream) = self.upstream(owner)
            && upstream.conn == Some(conn)
        {
            upstream.conn = None;
            upstream.client.handle_closed(now);
            self.serve_upstream(owner);
            if let Owner::GatewayAtRegister(gateway, register) = owner {
                self.gateway_loses_register(gateway, register);
            }
        }
    }

    fn upstream(&mut self, owner: Owner) -> Option<&mut Upstream> {
        match owner {
            Owner::GatewayAtRegister(gateway, register) => {
                self.gateways[gateway].upstreams.get_mut(register)
            }
            Owner::WorkerAtRegister(worker, register) => {
                self.workers[worker].upstreams.get_mut(register)
            }
            Owner::DispatcherAtRegister(dispatcher, register) => {
                self.dispatchers[dispatcher].upstreams.get_mut(register)
            }
            Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) | Owner::Dispatcher(_) => None,
        }
    }

    /// Carries out what an end of a connection to a register wants done.
    pub(crate) fn serve_upstream(&mut self, owner: Owner) {
        while let Some(output) =
            self.upstream(owner).and_then(|upstream| upstream.client.poll_output())
        {
            self.carry_out(owner, output);
        }
        let due = self.upstream(owner).and_then(|upstream| upstream.client.poll_timeout());
        if let Some(due) = due {
            self.schedule(due, due_event(owner));
        }
    }

    fn carry_out(&mut self, owner: Owner, output: RegisterClientOutput) {
        let now = self.now;
        let conn = self.upstream(owner).and_then(|upstream| upstream.conn);
        match output {
            RegisterClientOutput::Connect => {
                let server = self.register_of(owner);
                let made = self.connect(server, Door(0), owner, self.register_peer(owner));
                let Some(upstream) = self.upstream(owner) else { return };
                upstream.conn = made.map(|(conn, _)| conn);
                match upstream.conn {
                    Some(_) => upstream.client.handle_connected(now),
                    None => upstream.client.handle_closed(now),
                }
            }
            RegisterClientOutput::Transmit(bytes) => {
                if let Some(conn) = conn {
                    self.send_to_server(conn, &bytes);
                }
            }
            RegisterClientOutput::Close => {
                if let Some(conn) = conn {
                    self.peer_closes(conn, Item::Fin);
                }
            }
            RegisterClientOutput::Addresses(addresses) => {
                if let Owner::WorkerAtRegister(worker, register) = owner {
                    self.worker_learns(worker, register, addresses);
                }
            }
            RegisterClientOutput::Lease { first_proc_id, .. } => {
                let Owner::GatewayAtRegister(gateway, _) = owner else {
                    return self.misled(owner, &output);
                };
                self.gateway_leases(gateway, first_proc_id);
            }
            RegisterClientOutput::Refused(_) | RegisterClientOutput::NoLease => {
                self.note(|_| format!("{owner:?} hears {output:?}"));
            }
            RegisterClientOutput::Home(ref wish) => {
                let Owner::GatewayAtRegister(gateway, register) = owner else {
                    return self.misled(owner, &output);
                };
                self.gateways[gateway].wishes[register] = Some(wish.clone());
                self.gateway_follows_wish(gateway);
            }
            RegisterClientOutput::Gateways(ref addresses) => {
                let Owner::DispatcherAtRegister(dispatcher, register) = owner else {
                    return self.misled(owner, &output);
                };
                let slot = &mut self.dispatchers[dispatcher];
                slot.named[register].clone_from(addresses);
                let server = slot.server;
                self.note(|_| format!("{server:?} is named {addresses:?}"));
                if self.dispatchers[dispatcher].stopping == Stopping::No {
                    self.dispatcher_dials(dispatcher);
                }
            }
            RegisterClientOutput::BadLine(error) => {
                self.fail(format!("{owner:?} got a line it does not understand: {error:?}"));
            }
        }
    }

    fn misled(&mut self, owner: Owner, output: &RegisterClientOutput) {
        self.fail(format!("{owner:?} was told {output:?}, which is not for its role"));
    }

    /// Where an end of a connection to a register connects from: each process of a machine of its own.
    fn register_peer(&self, owner: Owner) -> IpAddr {
        let [net, host] = match owner {
            Owner::GatewayAtRegister(gateway, _) if !self.dispatchers.is_empty() => [1, gateway],
            Owner::DispatcherAtRegister(dispatcher, _) => [2, dispatcher],
            Owner::GatewayAtRegister(..)
            | Owner::WorkerAtRegister(..)
            | Owner::Client(_)
            | Owner::Worker(_)
            | Owner::Outside(_)
            | Owner::Dispatcher(_) => [0, 1],
        };
        let byte = |number| u8::try_from(number).unwrap_or(0);
        IpAddr::V4(Ipv4Addr::new(10, 8, byte(net), byte(host)))
    }

    fn register_of(&self, owner: Owner) -> Server {
        match owner {
            Owner::GatewayAtRegister(_, register)
            | Owner::WorkerAtRegister(_, register)
            | Owner::DispatcherAtRegister(_, register) => self.registers[register].server,
            Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) | Owner::Dispatcher(_) => {
                Server { kind: ServerKind::Register, index: 0, incarnation: u32::MAX }
            }
        }
    }
}

fn due_event(owner: Owner) -> Event {
    match owner {
        Owner::GatewayAtRegister(gateway, register) => Event::GatewayUpstream(gateway, register),
        Owner::WorkerAtRegister(worker, register) => Event::WorkerUpstream(worker, register),
        Owner::DispatcherAtRegister(dispatcher, register) => {
            Event::DispatcherUpstream(dispatcher, register)
        }
        Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) | Owner::Dispatcher(_) => {
            Event::Fault
        }
    }
}
