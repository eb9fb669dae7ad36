//! A gateway in memory, with clients and workers that speak in whole messages.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use tengate_base::{CloseCause, Door, Instant, ShardId};
use tengate_sim::shell::{Place, Shell};

use crate::gateway::{Config, Gateway, Listener, Mode, Protocol, Stats};
use crate::query::Partial;
use crate::wire::extension::{Extension, NameChange, NameList};
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};

pub(super) const LAN_IP: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub(super) const LAN_PORT: u16 = 2900;

/// A gateway's process.
pub(super) struct Bed {
    pub(super) shell: Shell<Gateway>,
    inner: Door,
    next_port: u16,
}

/// An event as a worker got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) command: Command,
    pub(super) id: u32,
    pub(super) session: String,
    pub(super) body: String,
}

/// A worker's end of its link.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) place: Place,
    received: Vec<u8>,
}

/// A text client's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) place: Place,
}

/// One text listener and the defaults.
pub(super) fn config() -> Config {
    listening(Protocol::Text)
}

/// The same in dispatched mode.
pub(super) fn dispatched(shards: u16) -> Config {
    Config { mode: Mode::Dispatched, shards, ..config() }
}

pub(super) fn listening(protocol: Protocol) -> Config {
    let mut config = Config::with_defaults(LAN_IP, LAN_PORT);
    config.listeners.push(Listener::with_defaults(protocol, 8282));
    config
}

impl Bed {
    pub(super) fn new(config: Config) -> Self {
        let inner = Door(u16::try_from(config.listeners.len()).unwrap());
        let config = Arc::new(config);
        let shards = (0..config.shards)
            .map(|shard| Gateway::new(Arc::clone(&config), ShardId(shard), Instant::ZERO));
        Self { shell: Shell::new(shards), inner, next_port: 40_000 }
    }

    pub(super) fn address(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.next_port))
    }

    /// A client of door 0 connects to a shard.
    pub(super) fn client(&mut self, shard: u16) -> Client {
        let peer = self.address();
        let place = self.shell.open(ShardId(shard), Door(0), peer, 8282);
        Client { place }
    }

    /// Something connects to the inner address and says nothing yet.
    pub(super) fn link(&mut self, shard: u16) -> Worker {
        let peer = self.address();
        let place = self.shell.open(ShardId(shard), self.inner, peer, LAN_PORT);
        Worker { place, received: Vec::new() }
    }

    /// A worker connects and identifies itself.
    pub(super) fn worker(&mut self, shard: u16, key: &str) -> Worker {
        let worker = self.link(shard);
        let hello = alloc::format!("{{\"worker_key\":\"{key}\",\"secret_key\":\"\"}}");
        self.command(&worker, Command::WorkerConnect, 0, "", &hello);
        worker
    }

    /// A dispatcher connects and identifies itself.
    pub(super) fn dispatcher(&mut self, shard: u16, address: &str) -> Worker {
        let dispatcher = self.link(shard);
        let hello = dispatcher_hello(address);
        self.command(&dispatcher, Command::WorkerConnect, 0, "", &hello);
        dispatcher
    }

    /// The register wants a home.
    pub(super) fn wish(&mut self, address: Option<&str>) {
        self.shell.tell(ShardId(0), |gateway, now, sink| gateway.set_home_wish(now, address, sink));
    }

    /// The home, as shard 0 knows it.
    pub(super) fn home(&mut self) -> Option<String> {
        self.shell.app(ShardId(0)).home().map(Into::into)
    }

    /// A dispatcher sends a command of the extension.
    pub(super) fn extend(&mut self, link: &Worker, command: Extension, id: u32, body: &[u8]) {
        let mut frame = Vec::new();
        command.encode(id, body, &mut frame);
        self.shell.send(link.place, &frame);
    }

    /// What a dispatcher has got since it was asked last, a line for each frame.
    pub(super) fn said(&mut self, link: &mut Worker) -> Vec<String> {
        link.received.extend(self.shell.receive(link.place));
        let mut lines = Vec::new();
        while let Some((frame, len)) = InnerFrame::decode(&link.received, usize::MAX).unwrap() {
            lines.push(line(&frame));
            link.received.drain(..len);
        }
        lines
    }

    /// A link sends a command with a plain body.
    pub(super) fn command(
        &mut self,
        worker: &Worker,
        command: Command,
        id: u32,
        ext: &str,
        body: &str,
    ) {
        self.shell.send(worker.place, &frame(command, id, FLAG_SCALAR, ext, body));
    }

    /// A client says a line.
    pub(super) fn say(&mut self, client: Client, line: &str) {
        self.shell.send(client.place, line.as_bytes());
        self.shell.send(client.place, b"\n");
    }

    /// What a client has got since it was asked last.
    pub(super) fn heard(&mut self, client: Client) -> String {
        String::from_utf8(self.shell.receive(client.place)).unwrap()
    }

    /// What events a worker has got since it was asked last.
    pub(super) fn events(&mut self, worker: &mut Worker) -> Vec<Event> {
        worker.received.extend(self.shell.receive(worker.place));
        let mut events = Vec::new();
        while let Some((frame, len)) = InnerFrame::decode(&worker.received, usize::MAX).unwrap() {
            events.push(Event {
                command: Command::from_number(frame.header.command).unwrap(),
                id: frame.header.connection_id,
                session: String::from_utf8(frame.ext.to_vec()).unwrap(),
                body: String::from_utf8(frame.body.to_vec()).unwrap(),
            });
            worker.received.drain(..len);
        }
        events
    }

    /// The events, each as `command id body`.
    pub(super) fn told(&mut self, worker: &mut Worker) -> Vec<String> {
        let events = self.events(worker);
        events
            .iter()
            .map(|event| alloc::format!("{:?} {} {}", event.command, event.id, event.body))
            .collect()
    }

    /// Asks a query over a link and returns the reply without its length.
    pub(super) fn ask(&mut self, link: &Worker, command: Command, id: u32, ext: &str) -> String {
        self.command(link, command, id, ext, "");
        let reply = self.shell.receive(link.place);
        let (len, value) = reply.split_first_chunk::<4>().expect("a reply");
        assert_eq!(u32::from_be_bytes(*len) as usize, value.len(), "one reply");
        String::from_utf8(value.to_vec()).unwrap()
    }

    pub(super) fn lose(&mut self, worker: &Worker) {
        self.shell.close(worker.place, CloseCause::Reset);
    }

    pub(super) fn advance(&mut self, seconds: f64) {
        self.shell.advance(Duration::from_secs_f64(seconds));
    }

    pub(super) fn stats(&mut self, shard: u16) -> Stats {
        self.shell.app(ShardId(shard)).stats()
    }
}

pub(super) fn dispatcher_hello(address: &str) -> String {
    alloc::format!(
        "{{\"worker_key\":\"dispatcher:{address}\",\"secret_key\":\"\",\
         \"tengate\":{{\"version\":1,\"dispatcher\":\"{address}\"}}}}"
    )
}

/// A frame in words: the command, the client or shard, what it carries.
fn line(frame: &InnerFrame<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let id = frame.header.connection_id;
    if let Some(command) = Command::from_number(frame.header.command) {
        return alloc::format!("{command:?} {id} {}", text(frame.body));
    }
    let command = Extension::from_number(frame.header.command).unwrap();
    if command == Extension::Names {
        return alloc::format!("Names {id}{}", names(frame.body));
    }
    if command != Extension::Reply {
        return alloc::format!("{command:?} {}", text(frame.body));
    }
    match Partial::decode(frame.body).unwrap() {
        Partial::Whole(bytes) => match NameList::decode(&bytes) {
            Some(NameList { next: 0, names: list }) => alloc::format!("List{}", names(list)),
            _ => alloc::format!("Whole {}", text(&bytes)),
        },
        Partial::Elements { count, bytes } => alloc::format!("Elements {count} {}", text(&bytes)),
        Partial::Names(names) => {
            let names: Vec<String> = names.iter().map(|name| text(name)).collect();
            alloc::format!("Names {names:?}")
        }
        part @ (Partial::Counts(_) | Partial::Ids(_)) => alloc::format!("{part:?}"),
    }
}

/// Changes of names, each as ` +kind:name` or ` -kind:name`.
pub(super) fn names(mut list: &[u8]) -> String {
    let mut all = String::new();
    while let Some(change) = NameChange::decode(&mut list) {
        let name = String::from_utf8_lossy(change.name);
        let sign = if change.held { '+' } else { '-' };
        all += &alloc::format!(" {sign}{:?}:{name}", change.kind);
    }
    all
}

pub(super) fn frame(command: Command, id: u32, flag: u8, ext: &str, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { command: command as u8, connection_id: id, flag, ..Header::default() };
    header.encode(ext.as_bytes(), body.as_bytes(), &mut out);
    out
}
