//! The host of all clients, for runs in which they come past the kernel: a stack, and what clients have sent and not read.

use core::mem;
use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};

use tengate_base::{ConnId, Door, Instant, ShardId};
use tengate_netstack::{Config, Event as Happened, Stack};

use crate::ether::Node;
use crate::network::{Conn, Item, Owner, Pipe, Server};
use crate::shell::{Outbox, Place};
use crate::world::{Event, World};

/// The clients' end of the link.
#[derive(Debug)]
pub(crate) struct Host {
    stack: Stack,
    outbox: Outbox,
    /// Connections, by their index among the world's.
    lines: BTreeMap<usize, Line>,
    /// The same, as the stack calls them.
    by_stream: BTreeMap<ConnId, usize>,
    /// Bytes for which connections send less than they would.
    low_mark: u32,
    is_turn_planned: bool,
    wake: Option<Instant>,
}

/// A client's connection.
#[derive(Debug)]
struct Line {
    stream: ConnId,
    /// Sent by the client, not taken by the stack.
    pieces: VecDeque<Vec<u8>>,
    /// The stack takes nothing now.
    is_blocked: bool,
    /// The client closes when its pieces are taken.
    is_leaving: bool,
    /// Arrived, not read by the client.
    kept: Vec<u8>,
    /// Behind it the server's stream is over.
    is_over: bool,
}

impl Host {
    /// One without connections.
    pub(crate) fn new(config: Config, queue_room: usize, now: Instant) -> Self {
        let low_mark = config.send_buffer_bytes / 2;
        Self {
            stack: Stack::new(config, now).expect("a good configuration"),
            outbox: Outbox::new(queue_room),
            lines: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            low_mark,
            is_turn_planned: false,
            wake: None,
        }
    }

    /// The stack, for what it has and has counted.
    pub(crate) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// A client has given a connection up.
    fn remove(&mut self, conn: usize) -> Option<ConnId> {
        let line = self.lines.remove(&conn)?;
        self.by_stream.remove(&line.stream);
        Some(line.stream)
    }

    /// Sends what clients have, one piece each.
    fn send(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (conn, line) in &mut self.lines {
            if let Some(piece) = line.pieces.front_mut().filter(|_| !line.is_blocked) {
                let taken = self.stack.send(line.stream, piece);
                piece.drain(..taken);
                if piece.is_empty() {
                    line.pieces.pop_front();
                } else {
                    line.is_blocked = true;
                    self.stack.notify_below(line.stream, self.low_mark);
                }
            }
            if line.is_leaving && line.pieces.is_empty() {
                gone.push(*conn);
            }
        }
        for conn in gone {
            if let Some(stream) = self.remove(conn) {
                self.stack.close(now, stream);
            }
        }
    }

    fn is_restless(&self, is_full: bool) -> bool {
        let mut lines = self.lines.values();
        is_full || lines.any(|line| !line.pieces.is_empty() && !line.is_blocked)
    }
}

impl World {
    /// A client connects to a gateway, which hears of it when the handshake is over. Returns the connection.
    pub(crate) fn dial(
        &mut self,
        server: Server,
        door: Door,
        owner: Owner,
        ip: IpAddr,
    ) -> Option<usize> {
        self.process(server)?;
        let (now, conn) = (self.now, self.conns.len());
        // Nobody connects twice from the same port: it says which client it is.
        let local = SocketAddr::new(ip, u16::try_from(conn).expect("short runs"));
        let port = self.gateways[server.index].config.listeners[usize::from(door.0)].port;
        let remote = SocketAddr::new(Node::Gateway(server.index).address(ip), port);
        let host = &mut self.ether.as_mut()?.host;
        let stream = match host.stack.connect(now, remote, Some(local)) {
            Ok(stream) => stream,
            Err(error) => {
                self.fail(format!("no connection from {local} to {remote}: {error}"));
                return None;
            }
        };
        let line = Line {
            stream,
            pieces: VecDeque::new(),
            is_blocked: false,
            is_leaving: false,
            kept: Vec::new(),
            is_over: false,
        };
        host.lines.insert(conn, line);
        host.by_stream.insert(stream, conn);
        self.conns.push(unknown(server, owner));
        self.plan_host_turn();
        self.note(|_| format!("connection {conn}: {owner:?} dials {server:?}"));
        Some(conn)
    }

    /// A gateway takes a segment that came late for a client: one that has left already. Returns it and its connection.
    pub(crate) fn ghost_joins(&mut self, of: usize) -> (usize, usize) {
        let (ghost, conn) = (self.clients.len(), self.conns.len());
        let client = self.clients[of].ghost(conn);
        let conn_of_ghost =
            Conn { peer_open: false, ..unknown(client.server, Owner::Client(ghost)) };
        self.clients.push(client);
        self.conns.push(conn_of_ghost);
        self.note(|_| format!("client {ghost} is the ghost of client {of}"));
        (ghost, conn)
    }

    /// Whether a connection is a client's that comes past the kernel.
    pub(crate) fn is_dialed(&self, conn: usize) -> bool {
        self.ether.is_some() && matches!(self.conns[conn].owner, Owner::Client(_))
    }

    /// A client sends bytes, which may leave in pieces.
    pub(crate) fn host_sends(&mut self, conn: usize, pieces: Vec<Vec<u8>>) {
        let Some(ether) = &mut self.ether else { return };
        if let Some(line) = ether.host.lines.get_mut(&conn) {
            line.pieces.extend(pieces);
            self.plan_host_turn();
        }
    }

    /// A client ends its connection: in order, behind what it has sent, or with a reset, which overtakes that.
    pub(crate) fn host_closes(&mut self, conn: usize, how: &Item) {
        let now = self.now;
        let Some(ether) = &mut self.ether else { return };
        let host = &mut ether.host;
        if *how == Item::Fin {
            if let Some(line) = host.lines.get_mut(&conn) {
                line.is_leaving = true;
                line.is_blocked = line.is_blocked && !line.pieces.is_empty();
            }
        } else if let Some(stream) = host.remove(conn) {
            host.stack.abort(now, stream, &mut host.outbox);
        }
        self.plan_host_turn();
    }

    /// A client reads again.
    pub(crate) fn host_reads(&mut self, conn: usize) {
        let Some(ether) = &mut self.ether else { return };
        let Some(line) = ether.host.lines.get_mut(&conn) else { return };
        let kept = mem::take(&mut line.kept);
        let (stream, is_over) = (line.stream, line.is_over);
        let len = u32::try_from(kept.len()).expect("a window");
        ether.host.stack.release(stream, len);
        self.plan_host_turn();
        self.client_gets_bytes(conn, &kept);
        if is_over {
            self.client_line_ends(conn, "finished");
        }
    }

    /// A frame reaches the clients' host.
    pub(crate) fn host_receives(&mut self, frame: &[u8]) {
        let now = self.now;
        let Some(ether) = &mut self.ether else { return };
        let Host { stack, outbox, .. } = &mut ether.host;
        stack.handle_frame(now, frame, outbox);
        self.host_happenings(frame);
        self.plan_host_turn();
    }

    /// The host's turn.
    pub(crate) fn host_turn(&mut self) {
        let now = self.now;
        let Some(ether) = &mut self.ether else { return };
        let host = &mut ether.host;
        host.is_turn_planned = false;
        if host.stack.poll_timeout().is_some_and(|at| at <= now) {
            host.stack.handle_timeout(now, &mut host.outbox);
            self.host_happenings(&[]);
        }
        let Some(ether) = &mut self.ether else { return };
        let host = &mut ether.host;
        host.send(now);
        let is_full = host.stack.flush(now, &mut host.outbox).is_err();
        let frames = host.outbox.take();
        let is_restless = host.is_restless(is_full);
        let due = host.stack.poll_timeout().filter(|at| host.wake.is_none_or(|wake| *at < wake));
        if due.is_some() {
            host.wake = due;
        }
        for frame in frames {
            self.transmit(Node::Clients, &frame);
        }
        if let Some(due) = due {
            self.schedule(due, Event::HostWake);
        }
        if is_restless {
            self.plan_host_turn();
        }
    }

    /// The host's time-out is due.
    pub(crate) fn host_wakes(&mut self) {
        if let Some(ether) = &mut self.ether {
            ether.host.wake = None;
            self.plan_host_turn();
        }
    }

    fn plan_host_turn(&mut self) {
        let Some(ether) = &mut self.ether else { return };
        if !mem::replace(&mut ether.host.is_turn_planned, true) {
            let at = self.now + self.rng.micros(0, 60);
            self.schedule(at, Event::HostTurn);
        }
    }

    /// Carries out what the stack says. Bytes that were received lie in `frame`.
    fn host_happenings(&mut self, frame: &[u8]) {
        while let Some(ether) = &mut self.ether
            && let host = &mut ether.host
            && let Some(happened) = host.stack.poll_event()
        {
            let stream = happened.conn();
            let Some(conn) = host.by_stream.get(&stream).copied() else { continue };
            match happened {
                Happened::Received { bytes, .. } => self.host_takes(conn, &frame[bytes]),
                Happened::Readable { .. } => {
                    let mut bytes = Vec::new();
                    host.stack.read(stream, &mut bytes);
                    self.host_takes(conn, &bytes);
                }
                Happened::PeerClosed { .. } if !self.conns[conn].reading => {
                    if let Some(line) = host.lines.get_mut(&conn) {
                        line.is_over = true;
                    }
                }
                Happened::PeerClosed { .. } => self.client_line_ends(conn, "finished"),
                Happened::Closed { cause, .. } => {
                    self.client_line_ends(conn, &format!("{cause:?}"));
                }
                Happened::Drained { .. } => {
                    if let Some(line) = host.lines.get_mut(&conn) {
                        line.is_blocked = false;
                    }
                    self.plan_host_turn();
                }
                Happened::Connected { .. } => {
                    self.note(|_| format!("connection {conn}: open for its client"));
                }
                Happened::Opened { .. } => self.fail("somebody connects to the clients".into()),
            }
        }
    }

    /// Bytes arrived, for a client that may not want to read now.
    fn host_takes(&mut self, conn: usize, bytes: &[u8]) {
        let Some(ether) = &mut self.ether else { return };
        if !self.conns[conn].reading {
            if let Some(line) = ether.host.lines.get_mut(&conn) {
                line.kept.extend_from_slice(bytes);
                let len = u32::try_from(bytes.len()).expect("a frame");
                ether.host.stack.hold(line.stream, len);
            }
            return;
        }
        self.client_gets_bytes(conn, bytes);
    }

    fn client_gets_bytes(&mut self, conn: usize, bytes: &[u8]) {
        let Owner::Client(client) = self.conns[conn].owner else { return };
        if self.conns[conn].peer_open {
            self.conns[conn].unread.extend_from_slice(bytes);
            self.client_reads(client, conn);
        }
    }

    /// A client's connection ended without its doing. There must be a cause.
    fn client_line_ends(&mut self, conn: usize, how: &str) {
        let now = self.now;
        let Some(ether) = &mut self.ether else { return };
        if let Some(stream) = ether.host.remove(conn) {
            ether.host.stack.close(now, stream);
            self.plan_host_turn();
        }
        if !mem::replace(&mut self.conns[conn].peer_open, false) {
            return;
        }
        let server = self.conns[conn].server;
        if self.conns[conn].server_open && self.is_running(server) {
            self.fail(format!("connection {conn} ended ({how}), and its gateway has it still"));
        }
        self.peer_lost(conn);
    }
}

/// A connection that no gateway knows yet.
fn unknown(server: Server, owner: Owner) -> Conn {
    Conn {
        server,
        place: Place::of_stream(ShardId(0), ConnId(0)),
        near: None,
        owner,
        server_open: false,
        peer_open: true,
        reading: true,
        silent: false,
        to_server: Pipe::default(),
        to_peer: Pipe::default(),
        unread: Vec::new(),
    }
}
