//! Simulated clients: they connect, send numbered messages, check what they get, and leave in every way there is.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};

use tengate_base::Door;
use tengate_proto::wire::websocket::{
    ClientDecoder, Item as Frame, Limits, Opcode, decode_response, encode_close, encode_masked,
    encode_request, request_key,
};

use crate::network::{Item, Owner, Server};
use crate::plan::{MESSAGE_BYTES_MAX, PING};
use crate::world::{Event, World};

/// One client, from its connection to its end.
#[derive(Debug)]
pub(crate) struct Client {
    /// The gateway process it connected to.
    pub(crate) server: Server,
    /// Its number there; `None` when it was turned away or has not got that far.
    pub(crate) id: Option<u32>,
    pub(crate) conn: usize,
    pub(crate) websocket: bool,
    pub(crate) phase: Phase,
    /// Messages sent.
    pub(crate) sent: u32,
    /// Messages it means to send.
    pub(crate) wanted: u32,
    /// What workers were told of it.
    pub(crate) told: Vec<Told>,
    /// Events that left its gateway for a dispatcher.
    pub(crate) taken: BTreeSet<u32>,
    /// Events that a dispatcher has, or had when it died.
    pub(crate) held: BTreeMap<u32, Server>,
    /// It never answers anything.
    mute: bool,
    /// Something outside its gateway cost it bytes or its connection.
    pub(crate) cut: bool,
    /// Its gateway closed it at once.
    pub(crate) turned_away: bool,
    key: [u8; 24],
    decoder: ClientDecoder,
}

/// An event of a client, as it reached a worker or was lost on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The link, by its connection.
    pub(crate) link: usize,
    /// Which event: 0 the connection, 1 the handshake, then messages, [`CLOSED`] at the end.
    pub(crate) event: u32,
    /// It was written to a link that died.
    pub(crate) lost: bool,
}

/// Number of the last event of every client.
pub(crate) const CLOSED: u32 = u32::MAX;
/// Number of a client's first message.
pub(crate) const FIRST_MESSAGE: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A websocket client without its 101.
    Opening,
    Open,
    Gone,
}

impl Client {
    /// One that has left, whose gateway does not know it.
    pub(crate) fn ghost(&self, conn: usize) -> Self {
        Self {
            server: self.server,
            id: None,
            conn,
            websocket: self.websocket,
            phase: Phase::Gone,
            sent: 0,
            wanted: 0,
            told: Vec::new(),
            taken: BTreeSet::new(),
            held: BTreeMap::new(),
            mute: true,
            cut: true,
            turned_away: false,
            key: self.key,
            decoder: ClientDecoder::default(),
        }
    }
}

impl World {
    /// A new client connects to some gateway.
    pub(crate) fn client_joins(&mut self) {
        let gateway = self.rng.below(self.gateways.len());
        let websocket = self.rng.percent(60);
        let server = self.gateways[gateway].server;
        let index = self.clients.len();
        let door = Door(if websocket { 0 } else { 1 });
        let ip = if self.plan.ipv6_percent > 0 && self.rng.percent(self.plan.ipv6_percent) {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
        } else {
            IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1))
        };
        let Some((conn, id)) = self.connect(server, door, Owner::Client(index), ip) else { return };
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.rng.number().to_le_bytes());
        let client = Client {
            server,
            id,
            conn,
            websocket,
            phase: if websocket { Phase::Opening } else { Phase::Open },
            sent: 0,
            wanted: u32::try_from(self.rng.between(0, 20)).expect("few"),
            told: Vec::new(),
            taken: BTreeSet::new(),
            held: BTreeMap::new(),
            mute: self.rng.percent(5),
            cut: false,
            turned_away: id.is_none() && self.ether.is_none(),
            key: request_key(nonce),
            decoder: ClientDecoder::default(),
        };
        if let Some(id) = id {
            self.by_id.insert((server, id), index);
        }
        let mute = client.mute;
        let key = client.key;
        self.clients.push(client);
        if websocket && !mute {
            let mut request = Vec::new();
            encode_request("sim:8282", "/chat?room=1", &key, &[("X-Sim", "1")], &mut request);
            self.send_to_server(conn, &request);
        }
        self.client_acts(index);
    }

    /// A client does what comes to its mind.
    pub(crate) fn client_acts(&mut self, index: usize) {
        let client = &self.clients[index];
        if self.calm || client.phase == Phase::Gone || client.mute {
            return;
        }
        // A websocket client may send before it has got the 101, though few do.
        if client.phase == Phase::Open || self.rng.percent(10) {
            if self.clients[index].sent < self.clients[index].wanted {
                for _ in 0..self.rng.between(1, 3) {
                    self.client_says(index);
                }
            } else if self.rng.percent(20) {
                self.client_leaves(index);
            }
            if self.rng.percent(5) && self.clients[index].websocket {
                self.client_frames(index, Opcode::Ping, b"are you there");
            }
        }
        let at = self.now + self.rng.micros(100, 60_000);
        self.schedule(at, Event::Client(index));
    }

    fn client_says(&mut self, index: usize) {
        let padding = self.rng.between(0, self.plan.message_bytes);
        let client = &mut self.clients[index];
        let message = format!("{}:{}", client.sent, "x".repeat(padding));
        client.sent += 1;
        let (conn, websocket) = (client.conn, client.websocket);
        if !websocket {
            self.send_to_server(conn, format!("{message}\r\n").as_bytes());
        } else if self.rng.percent(20) {
            let (first, rest) = message.as_bytes().split_at(self.rng.between(0, message.len()));
            let mut bytes = Vec::new();
            encode_masked(Opcode::Text, false, [1, 2, 3, 4], first, &mut bytes);
            encode_masked(Opcode::Continuation, true, [9, 8, 7, 6], rest, &mut bytes);
            self.send_to_server(conn, &bytes);
        } else {
            self.client_frames(index, Opcode::Text, message.as_bytes());
        }
    }

    fn client_frames(&mut self, index: usize, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_masked(opcode, true, [5, 0, 255, 7], payload, &mut bytes);
        self.send_to_server(self.clients[index].conn, &bytes);
    }

    /// A client leaves: with a websocket goodbye, by closing, or by being gone.
    pub(crate) fn client_leaves(&mut self, index: usize) {
        let client = &self.clients[index];
        let conn = client.conn;
        if client.phase == Phase::Gone {
            return;
        }
        if client.websocket && client.phase == Phase::Open && self.rng.percent(40) {
            self.client_is_leaving(index);
            let mut close = Vec::new();
            encode_close(1000, &mut close);
            return self.client_frames(index, Opcode::Close, &close[2..]);
        }
        let how = if self.rng.percent(60) { Item::Fin } else { Item::Reset };
        self.clients[index].phase = Phase::Gone;
        self.clients[index].cut = true;
        self.peer_closes(conn, how);
    }

    /// A client breaks its protocol.
    pub(crate) fn client_breaks(&mut self, index: usize) {
        self.client_is_leaving(index);
        let client = &self.clients[index];
        let conn = client.conn;
        if client.websocket {
            // Not masked, and no request line either.
            self.send_to_server(conn, &[0x81, 1, b'x']);
        } else {
            self.send_to_server(conn, &vec![b'y'; MESSAGE_BYTES_MAX + 1]);
        }
    }

    /// From now on the gateway may close this client whenever its bytes arrive.
    fn client_is_leaving(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.cut = true;
        client.wanted = 0;
        let gate = &mut self.gateways[client.server.index];
        if let (Some(life), Some(id)) = (&mut gate.life, client.id)
            && gate.server == client.server
            && let Some(member) = life.model.clients.get_mut(&id)
        {
            member.leaving = true;
        }
    }

    /// A client's connection is gone.
    pub(crate) fn client_lost(&mut self, index: usize) {
        // A client that is turned away hears of it before it is on the list.
        if let Some(client) = self.clients.get_mut(index) {
            client.phase = Phase::Gone;
        }
    }

    /// A client reads what has arrived.
    pub(crate) fn client_reads(&mut self, index: usize, conn: usize) {
        let mut unread = core::mem::take(&mut self.conns[conn].unread);
        let mut at = 0;
        while at < unread.len() && !self.has_failed() {
            let Some(len) = self.client_reads_one(index, &mut unread[at..]) else { break };
            at += len;
        }
        unread.drain(..at);
        self.conns[conn].unread = unread;
    }

    fn client_reads_one(&mut self, index: usize, bytes: &mut [u8]) -> Option<usize> {
        let client = &mut self.clients[index];
        if !client.websocket {
            let len = bytes.iter().position(|byte| *byte == b'\n')?;
            let line = bytes[..len].to_vec();
            self.client_gets(index, &line);
            return Some(len + 1);
        }
        if client.phase == Phase::Gone {
            // It was refused: the rest is for people to read.
            return Some(bytes.len());
        }
        if client.phase == Phase::Opening {
            let code = bytes.get(9)?;
            if matches!(code, b'4' | b'5') {
                client.phase = Phase::Gone;
                return Some(bytes.len());
            }
            return match decode_response(bytes, &client.key, 4096) {
                Ok(len) => {
                    client.phase = if len.is_some() { Phase::Open } else { client.phase };
                    len
                }
                Err(error) => {
                    self.fail(format!("client {index} got a bad handshake: {error:?}"));
                    None
                }
            };
        }
        let mut decoder = core::mem::take(&mut client.decoder);
        let limits = Limits { message_bytes_max: 1 << 20, check_utf8: true };
        let decoded = decoder.decode(bytes, &limits).map(|frame| frame.map(owned));
        self.clients[index].decoder = decoder;
        match decoded {
            Ok(None) => None,
            Ok(Some((len, Got::Message(message)))) => {
                self.client_gets(index, &message);
                Some(len)
            }
            Ok(Some((len, Got::Ping))) => {
                if !self.clients[index].mute {
                    self.client_frames(index, Opcode::Pong, b"");
                }
                Some(len)
            }
            Ok(Some((len, Got::Nothing))) => Some(len),
            Err(violation) => {
                self.fail(format!("client {index} got a broken frame: {violation:?}"));
                None
            }
        }
    }

    /// A message reached a client: it must be the next one that the model says it was sent.
    fn client_gets(&mut self, index: usize, message: &[u8]) {
        if message == PING {
            return;
        }
        self.totals.deliveries += 1;
        let client = &self.clients[index];
        let (server, id) = (client.server, client.id.unwrap_or(0));
        let token = String::from_utf8_lossy(message).into_owned();
        self.note(|_| format!("client {index} gets {token}"));
        let gate = &mut self.gateways[server.index];
        let Some(life) = gate.life.as_mut().filter(|_| gate.server == server) else { return };
        let inbox = life.model.inboxes.entry(id).or_default();
        let mut problem = None;
        loop {
            let Some(expected) = inbox.expected.get(inbox.cursor) else {
                problem = Some(format!("client {index} ({id}) got {token}, which nobody sent it"));
                break;
            };
            inbox.cursor += 1;
            if expected.token == token {
                break;
            }
            if expected.replaced {
                inbox.missed += 1;
            } else if !expected.maybe {
                let due = &expected.token;
                problem = Some(format!("client {index} ({id}) got {token} where {due} was due"));
                break;
            }
        }
        if let Some(problem) = problem {
            self.fail(problem);
        }
    }
}

enum Got {
    Message(Vec<u8>),
    Ping,
    Nothing,
}

fn owned((len, frame): (usize, Frame<'_>)) -> (usize, Got) {
    let got = match frame {
        Frame::Message { payload, .. } => Got::Message(payload.to_vec()),
        Frame::Ping(_) => Got::Ping,
        Frame::Fragment | Frame::Pong(_) | Frame::Close { .. } => Got::Nothing,
    };
    (len, got)
}
