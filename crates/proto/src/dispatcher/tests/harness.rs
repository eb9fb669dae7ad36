//! A dispatcher in memory, with scripted gateways, workers and outside clients around it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use tengate_base::{CloseCause, Instant, ShardId};
use tengate_sim::shell::{Place, Shell};

use crate::dispatcher::{Config, DIALED, Dispatcher, LISTEN, Notice, Stats};
use crate::query::Partial;
use crate::wire::extension::{
    Extension, NameChange, NameKind, NameList, Offer, Shards, VERSION, Welcome,
};
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};

/// Where the dispatcher is announced.
pub(super) const ADDRESS: &str = "10.0.0.9:3900";

/// The dispatcher's process.
pub(super) struct Bed {
    pub(super) shell: Shell<Dispatcher>,
    next_port: u16,
}

/// A frame somebody got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) command: u8,
    pub(super) id: u32,
    pub(super) local: (u32, u16),
    pub(super) ext: Vec<u8>,
    pub(super) body: String,
}

impl Got {
    /// Command, client and body.
    pub(super) fn brief(&self) -> (u8, u32, &str) {
        (self.command, self.id, &self.body)
    }
}

pub(super) fn config() -> Config {
    Config::with_defaults(ADDRESS.parse().unwrap())
}

/// The first client of a shard.
pub(super) fn client(proc_id: u16, number: u32) -> u32 {
    u32::from(proc_id) << 22 | number
}

impl Bed {
    pub(super) fn new(config: Config) -> Self {
        let dispatcher = Dispatcher::new(Arc::new(config), Instant::ZERO);
        Self { shell: Shell::new([dispatcher]), next_port: 40_000 }
    }

    /// The dispatcher has connected to a gateway that says nothing yet.
    pub(super) fn dial(&mut self, address: &str) -> Place {
        self.shell.open(ShardId(0), DIALED, address.parse().unwrap(), 0)
    }

    /// A gateway of one shard with this `proc_id` is linked; this is not its home.
    pub(super) fn gateway(&mut self, proc_id: u16) -> Place {
        self.gateway_of(proc_id, 1)
    }

    pub(super) fn gateway_of(&mut self, first_proc_id: u16, count: u16) -> Place {
        let place = self.dial(&format!("10.0.1.{first_proc_id}:2900"));
        let hello = self.frames(place);
        assert_eq!(hello.len(), 1);
        assert!(hello[0].body.contains(&format!("\"dispatcher\":\"{ADDRESS}\"")), "{hello:?}");
        let shards = Shards { first_proc_id, count, number_bits: 22 };
        let mut body = Vec::new();
        Welcome { version: VERSION, gateway: Some(shards), ..Welcome::default() }.encode(&mut body);
        self.say(place, Extension::Welcome, 0, &body);
        place
    }

    /// The gateway chooses the dispatcher as its home and tells these names when asked.
    pub(super) fn home(&mut self, gateway: Place, names: &[(NameKind, &str)]) {
        self.say(gateway, Extension::Home, 0, b"1");
        let asked = self.frames(gateway);
        let mut list = Vec::new();
        for (kind, name) in names {
            NameChange { kind: *kind, held: true, name: name.as_bytes() }.encode(&mut list);
        }
        for question in asked {
            assert_eq!(question.command, Extension::ListNames as u8);
            let mut bytes = Vec::new();
            NameList { next: 0, names: &list }.encode(&mut bytes);
            self.reply(gateway, &Partial::Whole(bytes));
        }
    }

    /// A gateway whose home this is.
    pub(super) fn home_gateway(&mut self, proc_id: u16) -> Place {
        let gateway = self.gateway(proc_id);
        self.home(gateway, &[]);
        gateway
    }

    pub(super) fn say(&mut self, gateway: Place, command: Extension, id: u32, body: &[u8]) {
        let mut frame = Vec::new();
        command.encode(id, body, &mut frame);
        self.shell.send(gateway, &frame);
    }

    /// A gateway says that one of its shards holds a name, or does not any more.
    pub(super) fn names(
        &mut self,
        gateway: Place,
        proc_id: u16,
        kind: NameKind,
        held: bool,
        name: &str,
    ) {
        let mut list = Vec::new();
        NameChange { kind, held, name: name.as_bytes() }.encode(&mut list);
        self.say(gateway, Extension::Names, client(proc_id, 1), &list);
    }

    /// A gateway answers the oldest question it has not answered.
    pub(super) fn reply(&mut self, gateway: Place, part: &Partial) {
        let mut body = Vec::new();
        part.encode(&mut body);
        self.say(gateway, Extension::Reply, 0, &body);
    }

    /// An event of a client.
    pub(super) fn event(&mut self, gateway: Place, command: Command, id: u32, body: &str) {
        let frame = event_frame(command, id, body);
        self.shell.send(gateway, &frame);
    }

    /// Something connects and says nothing yet.
    pub(super) fn connect(&mut self) -> Place {
        self.next_port += 1;
        let peer: SocketAddr = format!("10.0.2.1:{}", self.next_port).parse().unwrap();
        self.shell.open(ShardId(0), LISTEN, peer, 3900)
    }

    /// A PHP worker connects.
    pub(super) fn worker(&mut self, key: &str) -> Place {
        self.worker_with(key, None)
    }

    /// A worker that acknowledges connects.
    pub(super) fn acknowledging_worker(&mut self, key: &str) -> Place {
        let offer = Offer { version: VERSION, ack: true, ipv6: true, ..Offer::default() };
        let place = self.worker_with(key, Some(offer));
        let welcome = self.frames(place);
        assert_eq!(welcome[0].command, Extension::Welcome as u8);
        place
    }

    pub(super) fn worker_with(&mut self, key: &str, offer: Option<Offer<'_>>) -> Place {
        let place = self.connect();
        let mut body = Vec::new();
        let key = format!("{key}:0");
        crate::wire::ext::WorkerConnect {
            worker_key: key.into(),
            secret_key: crate::secret::SecretKey::default().show(),
            tengate: offer,
        }
        .encode(&mut body);
        let body = String::from_utf8(body).unwrap();
        self.command(place, Command::WorkerConnect, 0, "", &body);
        place
    }

    /// A worker or outside client sends a command.
    pub(super) fn command(
        &mut self,
        peer: Place,
        command: Command,
        id: u32,
        ext: &str,
        body: &str,
    ) {
        let header = Header {
            command: command as u8,
            connection_id: id,
            flag: FLAG_SCALAR,
            ..Header::default()
        };
        let mut frame = Vec::new();
        header.encode(ext.as_bytes(), body.as_bytes(), &mut frame);
        self.shell.send(peer, &frame);
    }

    /// What somebody has got since it was asked last, as frames.
    pub(super) fn frames(&mut self, place: Place) -> Vec<Got> {
        decode(&self.shell.receive(place))
    }

    /// The same without what dispatchers say for themselves.
    pub(super) fn commands(&mut self, place: Place) -> Vec<Got> {
        let mut frames = self.frames(place);
        frames.retain(|got| Command::from_number(got.command).is_some());
        frames
    }

    /// Bodies of the events a worker has got.
    pub(super) fn bodies(&mut self, worker: Place) -> Vec<String> {
        self.commands(worker).into_iter().map(|got| got.body).collect()
    }

    /// The reply an outside client has got: the text behind the length.
    pub(super) fn replies(&mut self, place: Place) -> Vec<String> {
        let bytes = self.shell.receive(place);
        let mut rest = bytes.as_slice();
        let mut replies = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (reply, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
            replies.push(String::from_utf8(reply.to_vec()).unwrap());
            rest = tail;
        }
        replies
    }

    pub(super) fn lose(&mut self, place: Place) {
        self.shell.close(place, CloseCause::Reset);
    }

    pub(super) fn advance(&mut self, millis: u64) {
        self.shell.advance(Duration::from_millis(millis));
    }

    /// The first part of a stop.
    pub(super) fn drain(&mut self) {
        self.shell.tell(ShardId(0), |dispatcher, _, sink| dispatcher.drain(sink));
    }

    pub(super) fn stats(&self) -> Stats {
        self.shell.peek(ShardId(0)).stats()
    }

    pub(super) fn notices(&mut self) -> Vec<Notice> {
        self.shell.app(ShardId(0)).take_notices().collect()
    }

    /// Clients bound to each worker.
    pub(super) fn bound(&self) -> Vec<(String, u32)> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).to_string();
        self.shell.peek(ShardId(0)).workers().map(|(key, bound)| (text(key), bound)).collect()
    }
}

/// An event as a gateway encodes it.
pub(super) fn event_frame(command: Command, id: u32, body: &str) -> Vec<u8> {
    let header = Header {
        command: command as u8,
        local_ip: 0x0a00_0101,
        local_port: 2900,
        client_ip: 0x0102_0304,
        client_port: 5555,
        connection_id: id,
        flag: FLAG_SCALAR,
        gateway_port: 8282,
    };
    let mut frame = Vec::new();
    header.encode(b"", body.as_bytes(), &mut frame);
    frame
}

pub(super) fn decode(mut bytes: &[u8]) -> Vec<Got> {
    let mut frames = Vec::new();
    while let Some((frame, len)) = InnerFrame::decode(bytes, usize::MAX).unwrap() {
        frames.push(Got {
            command: frame.header.command,
            id: frame.header.connection_id,
            local: (frame.header.local_ip, frame.header.local_port),
            ext: frame.ext.to_vec(),
            body: String::from_utf8_lossy(frame.body).to_string(),
        });
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "part of a frame");
    frames
}
