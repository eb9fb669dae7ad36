//! How bytes move between peers and servers, and how servers get their turns.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use tengate_base::{CloseCause, Door, ShardId};

use crate::checks::CALM_WINDOW;
use crate::dispatchers::DispatcherSlot;
use crate::network::{Conn, Item, Merge, Owner, Pipe, Server, ServerKind};
use crate::process::{Emitted, Running};
use crate::shell::Place;
use crate::watched::What;
use crate::world::{Event, Gate, RegisterSlot, World};

impl World {
    /// The process that runs at a place, of whatever kind.
    pub(crate) fn process(&mut self, server: Server) -> Option<&mut dyn Running> {
        let Self { gateways, registers, dispatchers, .. } = self;
        running(gateways, registers, dispatchers, server)
    }

    /// A peer connects to a server, unless that is dead. Returns the connection, and the connection_id of a client.
    pub(crate) fn connect(
        &mut self,
        server: Server,
        door: Door,
        owner: Owner,
        ip: IpAddr,
    ) -> Option<(usize, Option<u32>)> {
        if self.ether.is_some() && matches!(owner, Owner::Client(_)) {
            return self.dial(server, door, owner, ip).map(|conn| (conn, None));
        }
        let peer = SocketAddr::from((ip, u16::try_from(self.conns.len() % 60_000).unwrap_or(0)));
        let shard_count = self.process(server)?.shards().len();
        let shard = ShardId(u16::try_from(self.rng.below(shard_count)).expect("few shards"));
        let window = if self.calm { CALM_WINDOW } else { self.plan.window_bytes };
        let (now, index) = (self.now, self.conns.len());
        let process = self.process(server)?;
        let place = process.accept(now, shard, door, peer, index);
        if server.kind != ServerKind::Register {
            process.limit(place, window);
        }
        self.conns.push(Conn {
            server,
            place,
            near: None,
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

    /// A peer sends bytes, which may arrive in pieces.
    pub(crate) fn send_to_server(&mut self, conn: usize, bytes: &[u8]) {
        if !self.conns[conn].peer_open {
            return;
        }
        let pieces = self.pieces(bytes);
        if self.is_dialed(conn) {
            return self.host_sends(conn, pieces);
        }
        for piece in pieces {
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
        if self.is_dialed(conn) {
            self.host_closes(conn, &how);
        } else if !self.conns[conn].silent {
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
        if self.is_dialed(conn) {
            // A reset, which may be lost itself, and with it what it overtakes.
            self.host_closes(conn, &Item::Reset);
        } else {
            let Self { rng, conns, .. } = self;
            conns[conn].to_server.truncate(|total| rng.between(0, total));
            self.push_to_server(conn, Item::Reset);
        }
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
        if self.is_dialed(conn) {
            return self.host_reads(conn);
        }
        self.schedule(self.now, Event::ToPeer(conn));
    }

    pub(crate) fn arrive_at_server(&mut self, index: usize) {
        let merge = self.merge();
        let now = self.now;
        let conn = &mut self.conns[index];
        let (server, place, near, is_open) = (conn.server, conn.place, conn.near, conn.server_open);
        let Some(item) = conn.to_server.pop(now, merge) else { return };
        if !is_open {
            return;
        }
        let cause = match &item {
            Item::Bytes(_) => None,
            Item::Fin => Some(CloseCause::Peer),
            Item::Reset => Some(CloseCause::Reset),
        };
        let Some(process) = self.process(server) else { return };
        if item == Item::Fin && near.is_some() && process.has_unread(place) {
            // What a dispatcher gave back before it went is read before its end is.
            let at = now + FIN_POLL;
            self.conns[index].to_server.put_back(at, item);
            return self.schedule(at, Event::ToServer(index));
        }
        match (&item, cause) {
            (_, Some(cause)) => process.cut(now, place, cause),
            (Item::Bytes(bytes), None) => process.give(now, place, bytes),
            (Item::Fin | Item::Reset, None) => {}
        }
        if let (Item::Bytes(bytes), Some((near, place))) = (&item, near) {
            self.widen_at(near, place, bytes.len());
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
                self.conns[index].unread.extend_from_slice(&bytes);
                match owner {
                    Owner::Client(client) => self.client_reads(client, index),
                    Owner::Worker(worker) => self.worker_reads(worker, index),
                    Owner::Outside(target) => self.outside_reads(target, index),
                    Owner::Dispatcher(_) => self.dispatcher_reads(index, &bytes),
                    Owner::GatewayAtRegister(..)
                    | Owner::WorkerAtRegister(..)
                    | Owner::DispatcherAtRegister(..) => self.upstream_reads(index),
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
        if silent || self.is_dialed(conn) {
            return;
        }
        self.widen_at(server, place, more);
    }

    fn widen_at(&mut self, server: Server, place: Place, more: usize) {
        if server.kind == ServerKind::Register {
            // Its peers take everything.
            return;
        }
        if let Some(process) = self.process(server) {
            process.widen(place, more);
            self.touch(server, place.shard);
        }
    }

    /// A peer hears that its connection is gone.
    pub(crate) fn peer_lost(&mut self, conn: usize) {
        self.note(|_| format!("connection {conn}: gone for its peer"));
        match self.conns[conn].owner {
            Owner::Client(client) => self.client_lost(client),
            Owner::Worker(worker) => self.worker_lost(worker, conn),
            Owner::Outside(target) => self.outside_lost(target, conn),
            Owner::Dispatcher(_) => self.dispatcher_lost(conn),
            Owner::GatewayAtRegister(..)
            | Owner::WorkerAtRegister(..)
            | Owner::DispatcherAtRegister(..) => self.upstream_lost(conn),
        }
    }

    /// A shard gets a turn soon.
    pub(crate) fn touch(&mut self, server: Server, shard: ShardId) {
        let Some(process) = self.process(server) else { return };
        let turns = process.turns();
        let stalled_until = turns.stalled_until;
        if core::mem::replace(&mut turns.planned[usize::from(shard.0)], true) {
            return;
        }
        // Now and then a shard is busy or not scheduled for long.
        let most = if self.rng.percent(5) { 3000 } else { 60 };
        let at = (self.now + self.rng.micros(0, most)).max(stalled_until);
        self.schedule(at, Event::Step(server, shard.0));
    }

    pub(crate) fn step(&mut self, server: Server, shard: ShardId) {
        let now = self.now;
        self.prepare_streams(server, shard);
        let Some(process) = self.process(server) else { return };
        let sent = process.step(now, shard);
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

    pub(crate) fn cross(&mut self, server: Server, from: ShardId, to: ShardId) {
        let now = self.now;
        let Some(process) = self.process(server) else { return };
        process.cross(now, from, to);
        self.harvest(server, to);
        self.touch(server, to);
    }

    /// A server's time-out is due: each shard that wants it gets a turn.
    pub(crate) fn wake(&mut self, server: Server) {
        let Some(process) = self.process(server) else { return };
        process.turns().wake = None;
        for shard in process.shards() {
            self.touch(server, shard);
        }
    }

    /// After a server was called: what it did is checked, what it wrote leaves. Returns the connection_id of a client
    /// that connected.
    pub(crate) fn harvest(&mut self, server: Server, shard: ShardId) -> Option<u32> {
        let opened = match server.kind {
            ServerKind::Gateway => self.follow_gateway(server, shard),
            ServerKind::Dispatcher => {
                self.follow_dispatcher(server);
                None
            }
            ServerKind::Register => None,
        };
        let Self { gateways, registers, dispatchers, conns, .. } = self;
        let process = running(gateways, registers, dispatchers, server)?;
        let emitted = process.take_emitted(shard, conns);
        let next = process.next_timeout();
        let wake = &mut process.turns().wake;
        let due = next.filter(|next| wake.is_none_or(|wake| *next < wake));
        if due.is_some() {
            *wake = due;
        }
        if let Some(due) = due {
            self.schedule(due, Event::Wake(server));
        }
        for emitted in emitted {
            self.carry(server, emitted);
        }
        self.follow_streams(server, shard);
        opened
    }

    /// Every call of a gateway's shard, in order. Returns the connection_id of a client that connected.
    fn follow_gateway(&mut self, server: Server, shard: ShardId) -> Option<u32> {
        let life = self.gateways[server.index].life.as_mut()?;
        let mut opened = None;
        for call in life.process.shell.app(shard).take_journal() {
            if let What::Opened(id, _) = call.what {
                opened = Some(id);
            }
            self.newcomer_arrives(server, shard, &call.what);
            self.judge(server, shard, &call);
            self.check_cut(server, &call);
        }
        opened
    }

    /// What a server did on a connection travels to the other end.
    fn carry(&mut self, server: Server, emitted: Emitted) {
        let Emitted { conn, bytes, closed } = emitted;
        if self.conns[conn].server != server {
            if !bytes.is_empty() {
                self.send_to_server(conn, &bytes);
            }
            if closed {
                self.peer_closes(conn, Item::Fin);
            }
            return;
        }
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
}

/// How soon an end is looked at again that waits for what came before it.
const FIN_POLL: Duration = Duration::from_millis(1);

/// The process that runs at a place.
fn running<'a>(
    gateways: &'a mut [Gate],
    registers: &'a mut [RegisterSlot],
    dispatchers: &'a mut [DispatcherSlot],
    server: Server,
) -> Option<&'a mut dyn Running> {
    let index = server.index;
    match server.kind {
        ServerKind::Gateway => {
            let gate = gateways.get_mut(index).filter(|gate| gate.server == server)?;
            gate.life.as_mut().map(|life| &mut life.process as &mut dyn Running)
        }
        ServerKind::Register => {
            let slot = registers.get_mut(index).filter(|slot| slot.server == server)?;
            slot.process.as_mut().map(|process| process as &mut dyn Running)
        }
        ServerKind::Dispatcher => {
            let slot = dispatchers.get_mut(index).filter(|slot| slot.server == server)?;
            slot.process.as_mut().map(|process| process as &mut dyn Running)
        }
    }
}
