//! How gateways and workers keep in touch with registers: `RegisterClient`, with bytes moved by the simulated network.

use core::net::Ipv4Addr;

use tengate_base::Door;
use tengate_proto::register::{
    RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole,
};

use crate::network::{Item, Owner, Server, ServerKind};
use crate::world::{Event, World};

/// One end of a connection to a register.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: RegisterClient,
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
        if self.gateways[gateway].life.is_some() {
            self.upstream_due(Owner::GatewayAtRegister(gateway, register));
        }
    }

    pub(crate) fn worker_upstream_due(&mut self, worker: usize, register: usize) {
        if self.workers[worker].alive {
            self.upstream_due(Owner::WorkerAtRegister(worker, register));
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
            Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) => None,
        }
    }

    fn serve_upstream(&mut self, owner: Owner) {
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
                let made = self.connect(server, Door(0), owner, Ipv4Addr::new(10, 8, 0, 1));
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
            RegisterClientOutput::Lease { .. }
            | RegisterClientOutput::Refused(_)
            | RegisterClientOutput::Home(_)
            | RegisterClientOutput::Gateways(_)
            | RegisterClientOutput::NoLease => {
                self.fail(format!("{owner:?} was told {output:?}, which is not for its role"));
            }
            RegisterClientOutput::BadLine(error) => {
                self.fail(format!("{owner:?} got a line it does not understand: {error:?}"));
            }
        }
    }

    fn register_of(&self, owner: Owner) -> Server {
        match owner {
            Owner::GatewayAtRegister(_, register) | Owner::WorkerAtRegister(_, register) => {
                self.registers[register].server
            }
            Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) => {
                Server { kind: ServerKind::Register, index: 0, incarnation: u32::MAX }
            }
        }
    }
}

fn due_event(owner: Owner) -> Event {
    match owner {
        Owner::GatewayAtRegister(gateway, register) => Event::GatewayUpstream(gateway, register),
        Owner::WorkerAtRegister(worker, register) => Event::WorkerUpstream(worker, register),
        Owner::Client(_) | Owner::Worker(_) | Owner::Outside(_) => Event::Fault,
    }
}
