//! How bytes move between peers and servers, and how servers get their turns.

use core::net::{Ipv4Addr, SocketAddr};

use tengate_base::{CloseCause, Door, ShardId};

use crate::checks::CALM_WINDOW;
use crate::network::{Conn, Item, Merge, Owner, Pipe, Server, ServerKind};
use crate::process::Emitted;
use crate::shell::Place;
use crate::watched::What;
use crate::world::{Event, World};

impl World {
    /// A peer connects to a server, unless that is dead. Returns the connection, and the connection_id of a client.
    pub(crate) fn connect(
        &mut self,
        server: Server,
        door: Door,
        owner: Owner,
        ip: Ipv4Addr,
    ) -> Option<(usize, Option<u32>)> {
        let peer = SocketAddr::from((ip, u16::try_from(self.conns.len() % 60_000).unwrap_or(0)));
        let shard_count = self.shard_count(server)?;
        let shard = ShardId(u16::try_from(self.rng.below(shard_count)).expect("few shards"));
        let window = if self.calm { CALM_WINDOW } else { self.plan.window_bytes };
        let index = self.conns.len();
        let place = self.accept(server, shard, door, peer, window, index)?;
        self.conns.push(Conn {
            server,
            place,
            owner,
            server_open: true,
            peer_open: true,
            reading: true,
            silent: false,
            to_server: Pipe::default(),
            to_peer: Pipe::default(),
            unread: Vec::new(),
        });
        let opened = self.harvest(server, shard);
        self.touch(server, shard);
        self.note(|_| format!("connection {index}: {owner:?} to {server:?} {shard} id {opened:?}"));
        Some((index, opened))
    }

    fn shard_count(&self, server: Server) -> Option<usize> {
        if !self.is_running(server) {
            return None;
        }
        match server.kind {
            ServerKind::Gateway => {
                Some(self.gateways[server.index].life.as_ref()?.process.conns.len())
            }
            ServerKind::Register => Some(1),
        }
    }

    fn accept(
        &mut self,
        server: Server,
        shard: ShardId,
        door: Door,
        peer: SocketAddr,
        window: usize,
        index: usize,
    ) -> Option<Place> {
        let now = self.now;
        match server.kind {
            ServerKind::Gateway => {
                let process = &mut self.gateways[server.index].life.as_mut()?.process;
                process.shell.set_now(now);
                let place = process.shell.accept(shard, door, peer, 1);
                process.shell.limit(place, window);
                process.conns[usize::from(shard.0)].insert(index);
                Some(place)
            }
            ServerKind::Register => {
                let process = self.registers[server.index].process.as_mut()?;
                process.shell.set_now(now);
                let place = process.shell.accept(shard, door, peer, 1);
                process.conns[0].insert(index);
                Some(place)
            }
        }
    }

    /// A peer sends bytes, which may arrive in pieces.
    pub(crate) fn send_to_server(&mut self, conn: usize, bytes: &[u8]) {
        if !self.conns[conn].peer_open {
            return;
        }
        for piece in self.pieces(bytes) {
            self.push_to_server(conn, Item::Bytes(piece));
        }
    }

    fn push_to_server(&mut self, conn: usize, item: Item) {
        let at = self.arrival();
        let at = self.conns[conn].to_server.push(at, item);
        self.schedule(at, Event::ToServer(conn));
    }

    fn push_to_peer(&mut self, conn: usize, item: Item) {
        let at = self.arrival();
        let at = self.conns[conn].to_peer.push(at, item);
        self.schedule(at, Event::ToPeer(conn));
    }

    /// A server died: its peer hears of it.
    pub(crate) fn reset_peer(&mut self, conn: usize) {
        self.push_to_peer(conn, Item::Reset);
    }

    fn arrival(&mut self) -> tengate_base::Instant {
        let (least, most) = self.plan.latency_micros;
        self.now + self.rng.micros(least, most)
    }

    fn pieces(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while rest.len() > 1 && self.rng.percent(self.plan.split_percent) {
            let (piece, tail) = rest.split_at(self.rng.between(1, rest.len() - 1));
            pieces.push(piece.to_vec());
            rest = tail;
        }
        pieces.push(rest.to_vec());
        pieces
    }

    fn merge(&mut self) -> Merge {
        if self.rng.percent(50) { Merge::All } else { Merge::One }
    }

    /// A peer ends a connection; what it sent before still arrives.
    pub(crate) fn peer_closes(&mut self, conn: usize, how: Item) {
        if !core::mem::replace(&mut self.conns[conn].peer_open, false) {
            return;
        }
        self.note(|_| format!("connection {conn}: its peer closes, {how:?}"));
        if !self.conns[conn].silent {
            self.push_to_server(conn, how);
        }
        self.settle_link(conn);
    }

    /// The network loses a connection: bytes on their way are lost from some byte on, and both ends hear of it.
    pub(crate) fn cut(&mut self, conn: usize) {
        if !self.conns[conn].server_open || !self.conns[conn].peer_open || self.conns[conn].silent {
            return;
        }
        self.note(|_| format!("connection {conn}: cut"));
        let Self { rng, conns, .. } = self;
        conns[conn].to_server.truncate(|total| rng.between(0, total));
        self.push_to_server(conn, Item::Reset);
        self.conns[conn].peer_open = false;
        self.settle_link(conn);
        self.peer_lost(conn);
    }

    /// A connection stops carrying anything without telling anybody; its peer gives it up.
    pub(crate) fn silence(&mut self, conn: usize) {
        self.note(|_| format!("connection {conn}: half-open"));
        self.conns[conn].silent = true;
        self.conns[conn].peer_open = false;
        self.conns[conn].to_server.clear();
        self.settle_link(conn);
        self.peer_lost(conn);
    }

    /// A peer reads again.
    pub(crate) fn resume(&mut self, conn: usize) {
        self.conns[conn].reading = true;
        self.schedule(self.now, Event::ToPeer(conn));
    }

    pub(crate) fn arrive_at_server(&mut self, index: usize) {
        let merge = self.merge();
        let now = self.now;
        let conn = &mut self.conns[index];
        let (server, place) = (conn.server, conn.place);
        let Some(item) = conn.to_server.pop(now, merge) else { return };
        if !conn.server_open || !self.is_running(server) {
            return;
        }
        let cause = match &item {
            Item::Bytes(_) => None,
            Item::Fin => Some(CloseCause::Peer),
            Item::Reset => Some(CloseCause::Reset),
        };
        match server.kind {
            ServerKind::Gateway => {
                let Some(life) = &mut self.gateways[server.index].life else { return };
                life.process.shell.set_now(now);
                match (&item, cause) {
                    (_, Some(cause)) => drop(life.process.shell.cut(place, cause)),
                    (Item::Bytes(bytes), None) => life.process.shell.give(place, bytes),
                    (Item::Fin | Item::Reset, None) => {}
                }
            }
            ServerKind::Register => {
                let Some(process) = &mut self.registers[server.index].process else { return };
                process.shell.set_now(now);
                match (&item, cause) {
                    (_, Some(cause)) => drop(process.shell.cut(place, cause)),
                    (Item::Bytes(bytes), None) => process.shell.give(place, bytes),
                    (Item::Fin | Item::Reset, None) => {}
                }
            }
        }
        self.harvest(server, place.shard);
        self.touch(server, place.shard);
    }

    pub(crate) fn arrive_at_peer(&mut self, index: usize) {
        let merge = self.merge();
        let now = self.now;
        let conn = &mut self.conns[index];
        if !conn.reading || conn.silent || !conn.peer_open {
            return;
        }
        let owner = conn.owner;
        let Some(item) = conn.to_peer.pop(now, merge) else { return };
        let more = !conn.to_peer.is_empty();
        match item {
            Item::Bytes(bytes) => {
                self.widen(index, bytes.len());
                conn_unread(&mut self.conns[index]).extend_from_slice(&bytes);
                match owner {
                    Owner::Client(client) => self.client_reads(client, index),
                    Owner::Worker(worker) => self.worker_reads(worker, index),
                    Owner::Outside(gateway) => self.outside_reads(gateway, index),
                    Owner::GatewayAtRegister(..) | Owner::WorkerAtRegister(..) => {
                        self.upstream_reads(index);
                    }
                }
            }
            Item::Fin | Item::Reset => {
                self.conns[index].peer_open = false;
                self.settle_link(index);
                self.peer_lost(index);
            }
        }
        if more {
            self.schedule(now, Event::ToPeer(index));
        }
    }

    /// A peer takes more bytes.
    pub(crate) fn widen(&mut self, conn: usize, more: usize) {
        let Conn { server, place, silent, .. } = self.conns[conn];
        if silent {
            return;
        }
        if server.kind == ServerKind::Gateway
            && self.is_running(server)
            && let Some(life) = &mut self.gateways[server.index].life
        {
            life.process.shell.widen(place, more);
            self.touch(server, place.shard);
        }
    }

    /// A peer hears that its connection is gone.
    pub(crate) fn peer_lost(&mut self, conn: usize) {
        self.note(|_| format!("connection {conn}: gone for its peer"));
        match self.conns[conn].owner {
            Owner::Client(client) => self.client_lost(client),
            Owner::Worker(worker) => self.worker_lost(worker, conn),
            Owner::Outside(gateway) => self.outside_lost(gateway, conn),
            Owner::GatewayAtRegister(..) | Owner::WorkerAtRegister(..) => self.upstream_lost(conn),
        }
    }

    /// A shard gets a turn soon.
    pub(crate) fn touch(&mut self, server: Server, shard: ShardId) {
        let planned = match server.kind {
            ServerKind::Gateway => match &mut self.gateways[server.index].life {
                Some(life) => &mut life.process.planned[usize::from(shard.0)],
                None => return,
            },
            ServerKind::Register => match &mut self.registers[server.index].process {
                Some(process) => &mut process.planned[0],
                None => return,
            },
        };
        if core::mem::replace(planned, true) {
            return;
        }
        // Now and then a shard is busy or not scheduled for long.
        let most = if self.rng.percent(5) { 3000 } else { 60 };
        let at = self.now + self.rng.micros(0, most);
        self.schedule(at, Event::Step(server, shard.0));
    }

    pub(crate) fn step(&mut self, server: Server, shard: ShardId) {
        if !self.is_running(server) {
            return;
        }
        let now = self.now;
        match server.kind {
            ServerKind::Gateway => {
                let Some(life) = &mut self.gateways[server.index].life else { return };
                life.process.planned[usize::from(shard.0)] = false;
                life.process.shell.set_now(now);
                let sent = life.process.shell.step(shard);
                self.harvest(server, shard);
                for to in sent {
                    if let Some(life) = &mut self.gateways[server.index].life {
                        life.model.handle_sent(shard, to);
                    }
                    let most = if self.rng.percent(10) { 2000 } else { 30 };
                    let at = now + self.rng.micros(0, most);
                    self.schedule(at, Event::Cross(server, shard.0, to.0));
                }
            }
            ServerKind::Register => {
                let Some(process) = &mut self.registers[server.index].process else { return };
                process.planned[0] = false;
                process.shell.set_now(now);
                process.shell.step(shard);
                self.harvest(server, shard);
            }
        }
    }

    pub(crate) fn cross(&mut self, server: Server, from: ShardId, to: ShardId) {
        if !self.is_running(server) {
            return;
        }
        let now = self.now;
        if let Some(life) = &mut self.gateways[server.index].life {
            life.process.shell.set_now(now);
            life.process.shell.cross(from, to);
        }
        self.harvest(server, to);
        self.touch(server, to);
    }

    /// A server's time-out is due: each shard that wants it gets a turn.
    pub(crate) fn wake(&mut self, server: Server) {
        if !self.is_running(server) {
            return;
        }
        let shards: Vec<ShardId> = match server.kind {
            ServerKind::Gateway => match &mut self.gateways[server.index].life {
                Some(life) => {
                    life.process.wake = None;
                    life.process.shards().collect()
                }
                None => return,
            },
            ServerKind::Register => match &mut self.registers[server.index].process {
                Some(process) => {
                    process.wake = None;
                    process.shards().collect()
                }
                None => return,
            },
        };
        for shard in shards {
            self.touch(server, shard);
        }
    }

    /// After a server was called: what it did is checked, what it wrote leaves. Returns the connection_id of a client
    /// that connected.
    pub(crate) fn harvest(&mut self, server: Server, shard: ShardId) -> Option<u32> {
        let mut opened = None;
        let (emitted, next, wake) = match server.kind {
            ServerKind::Gateway => {
                let calls = self.gateways[server.index]
                    .life
                    .as_mut()?
                    .process
                    .shell
                    .app(shard)
                    .take_journal();
                for call in &calls {
                    if let What::Opened(id) = call.what {
                        opened = Some(id);
                    }
                    self.judge(server, shard, call);
                }
                let process = &mut self.gateways[server.index].life.as_mut()?.process;
                let emitted = process.take_emitted(shard, &self.conns);
                (emitted, process.shell.next_timeout(), &mut process.wake)
            }
            ServerKind::Register => {
                let process = self.registers[server.index].process.as_mut()?;
                let emitted = process.take_emitted(shard, &self.conns);
                (emitted, process.shell.next_timeout(), &mut process.wake)
            }
        };
        let due = next.filter(|next| wake.is_none_or(|wake| *next < wake));
        if due.is_some() {
            *wake = due;
        }
        if let Some(due) = due {
            self.schedule(due, Event::Wake(server));
        }
        for Emitted { conn, bytes, closed } in emitted {
            if !bytes.is_empty() {
                for piece in self.pieces(&bytes) {
                    self.push_to_peer(conn, Item::Bytes(piece));
                }
            }
            if closed {
                self.note(|_| format!("connection {conn}: gone for its server"));
                self.conns[conn].server_open = false;
                self.push_to_peer(conn, Item::Fin);
                self.settle_link(conn);
            }
        }
        opened
    }
}

fn conn_unread(conn: &mut Conn) -> &mut Vec<u8> {
    &mut conn.unread
}
