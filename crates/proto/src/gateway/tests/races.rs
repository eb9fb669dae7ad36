//! Homes that change while shards run in any order: every event of a client is handled once, in order, and there are
//! never two homes (docs/protocol.md#extension).

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use proptest::prelude::*;
use tengate_base::{CloseCause, ShardId};

use super::harness::{Bed, Client, Worker, dispatched, frame};
use crate::wire::extension::Extension;
use crate::wire::header::{Command, FLAG_SCALAR};

const SHARDS: u16 = 3;
const CLIENTS: usize = 6;
const DISPATCHERS: usize = 3;

/// One thing that happens; numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A client says its next number.
    Say(usize),
    /// The register wants this dispatcher, or none.
    Wish(usize),
    /// A dispatcher's link is cut, or there is a new one.
    CutOrLink(usize),
    Drain(usize),
    /// A dispatcher takes so many more bytes for now.
    Limit(usize, usize),
    /// A dispatcher reads what there is, and handles so many events.
    Handle(usize, usize),
    /// A dispatcher that was told to gives back what it has not handled.
    GiveBack(usize),
    /// A shard has a turn.
    Turn(u16),
    /// A batch arrives.
    Cross(u16, u16),
}

/// A dispatcher process.
#[derive(Default)]
struct Dispatcher {
    link: Option<Worker>,
    /// Events received and not handled.
    owed: VecDeque<(u32, String)>,
    is_home: bool,
    is_told_to_leave: bool,
}

struct World {
    bed: Bed,
    clients: Vec<(Client, u32, usize)>,
    dispatchers: Vec<Dispatcher>,
    /// By client, what was handled.
    handled: Vec<Vec<String>>,
}

fn address(at: usize) -> String {
    format!("127.0.0.1:{}", 3900 + at)
}

impl World {
    fn new() -> Self {
        let mut bed = Bed::new(dispatched(SHARDS));
        let clients = (0_u16..).take(CLIENTS).map(|at| {
            let id = (u32::from(at % SHARDS) << 22) + u32::from(at / SHARDS) + 1;
            (bed.client(at % SHARDS), id, 0)
        });
        let clients = clients.collect();
        let dispatchers = (0..DISPATCHERS).map(|_| Dispatcher::default()).collect();
        Self { bed, clients, dispatchers, handled: vec![Vec::new(); CLIENTS] }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Say(client) => {
                let (client, _, said) = &mut self.clients[client % CLIENTS];
                *said += 1;
                self.bed.shell.give(client.place, format!("{said}\n").as_bytes());
            }
            Step::Wish(at) => {
                let wish = (at % 4 < DISPATCHERS).then(|| address(at % 4));
                self.bed.wish(wish.as_deref());
            }
            Step::CutOrLink(at) => self.cut_or_link(at % DISPATCHERS),
            Step::Drain(at) => {
                if let Some(link) = &self.dispatchers[at % DISPATCHERS].link {
                    let mut drain = Vec::new();
                    Extension::Drain.encode(0, b"", &mut drain);
                    self.bed.shell.give(link.place, &drain);
                }
            }
            Step::Limit(at, bytes) => {
                if let Some(link) = &self.dispatchers[at % DISPATCHERS].link {
                    self.bed.shell.limit(link.place, bytes);
                }
            }
            Step::Handle(at, count) => {
                self.read(at % DISPATCHERS);
                self.handle(at % DISPATCHERS, count);
            }
            Step::GiveBack(at) => self.give_back(at % DISPATCHERS),
            Step::Turn(shard) => {
                self.bed.shell.step(ShardId(shard % SHARDS));
            }
            Step::Cross(from, to) => {
                self.bed.shell.cross(ShardId(from % SHARDS), ShardId(to % SHARDS));
            }
        }
    }

    fn cut_or_link(&mut self, at: usize) {
        if let Some(link) = &self.dispatchers[at].link {
            let place = link.place;
            self.bed.shell.cut(place, CloseCause::Reset);
            self.bury(at);
        } else {
            let shard = u16::try_from(at).unwrap() % SHARDS;
            self.dispatchers[at].link = Some(self.bed.dispatcher(shard, &address(at)));
        }
    }

    /// The link of a dispatcher is gone: what it has got, it handles; the rest is the gateway's.
    fn bury(&mut self, at: usize) {
        self.read(at);
        self.handle(at, usize::MAX);
        self.dispatchers[at] = Dispatcher::default();
    }

    fn read(&mut self, at: usize) {
        let Some(link) = &mut self.dispatchers[at].link else { return };
        for line in self.bed.said(link) {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            match words[..] {
                ["OnConnect", id, _] => {
                    self.dispatchers[at].owed.push_back((id.parse().unwrap(), "0".into()));
                }
                ["OnMessage", id, body] => {
                    self.dispatchers[at].owed.push_back((id.parse().unwrap(), body.into()));
                }
                ["Home", "1"] => {
                    assert!(self.dispatchers.iter().all(|other| !other.is_home), "two homes");
                    self.dispatchers[at].is_home = true;
                }
                ["Detach", ""] => self.dispatchers[at].is_told_to_leave = true,
                _ => assert!(line.starts_with("Welcome"), "{line}"),
            }
        }
    }

    fn handle(&mut self, at: usize, count: usize) {
        let owed = &mut self.dispatchers[at].owed;
        for (id, body) in owed.drain(..count.min(owed.len())) {
            let client = self.clients.iter().position(|client| client.1 == id).unwrap();
            self.handled[client].push(body);
        }
    }

    fn give_back(&mut self, at: usize) {
        self.read(at);
        let dispatcher = &mut self.dispatchers[at];
        let Some(link) = dispatcher.link.as_ref().filter(|_| dispatcher.is_told_to_leave) else {
            return;
        };
        let mut bytes = Vec::new();
        for (id, body) in dispatcher.owed.drain(..) {
            let (command, body) = match body.as_str() {
                "0" => (Command::OnConnect, ""),
                body => (Command::OnMessage, body),
            };
            bytes.extend(frame(command, id, FLAG_SCALAR, "", body));
        }
        Extension::Detach.encode(0, b"", &mut bytes);
        (dispatcher.is_home, dispatcher.is_told_to_leave) = (false, false);
        self.bed.shell.give(link.place, &bytes);
        // At once, or a cut could lose what is on its way back.
        self.bed.shell.step(link.place.shard);
    }

    /// Everything arrives, and a dispatcher that nothing has happened to takes what is left.
    fn settle(&mut self) {
        for at in 0..DISPATCHERS {
            if self.dispatchers[at].link.is_some() {
                self.cut_or_link(at);
            }
        }
        self.run();
        self.cut_or_link(0);
        for _ in 0..4 {
            self.run();
        }
        self.read(0);
        self.handle(0, usize::MAX);
    }

    fn run(&mut self) {
        for _ in 0..10 {
            for shard in (0..SHARDS).map(ShardId) {
                self.bed.shell.step(shard);
                for to in (0..SHARDS).map(ShardId) {
                    while self.bed.shell.cross(shard, to) {}
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CLIENTS).prop_map(Step::Say),
        2 => (0_usize..4).prop_map(Step::Wish),
        1 => (0..DISPATCHERS).prop_map(Step::CutOrLink),
        1 => (0..DISPATCHERS * 3).prop_map(|at| {
            if at < DISPATCHERS { Step::Drain(at) } else { Step::CutOrLink(at) }
        }),
        1 => (0..DISPATCHERS, 0_usize..200).prop_map(|(at, bytes)| Step::Limit(at, bytes)),
        3 => (0..DISPATCHERS, 0_usize..4).prop_map(|(at, count)| Step::Handle(at, count)),
        4 => (0..DISPATCHERS).prop_map(Step::GiveBack),
        8 => (0..SHARDS).prop_map(Step::Turn),
        8 => (0..SHARDS, 0..SHARDS).prop_map(|(from, to)| Step::Cross(from, to)),
    ]
}

proptest! {
    #[test]
    fn every_event_is_handled_once_and_in_order_whatever_the_homes_do(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        for step in steps {
            world.act(step);
            for at in 0..DISPATCHERS {
                let link = world.dispatchers[at].link.as_ref();
                if link.is_some_and(|link| !world.bed.shell.is_open(link.place)) {
                    world.bury(at);
                }
            }
        }
        world.settle();
        for (client, handled) in world.handled.iter().enumerate() {
            let said = world.clients[client].2;
            let expected: Vec<String> = (0..=said).map(|number| number.to_string()).collect();
            prop_assert_eq!(handled, &expected, "client {}", client);
        }
    }
}
