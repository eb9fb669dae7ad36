//! Shard 0's part: which workers there are, and which dispatcher is the gateway's home (docs/protocol.md#extension).
//!
//! It tells all shards, so that they see the same changes in the same order. To them the home is the one worker there is:
//! what holds for events of a worker whose link dies holds for those of a home that goes.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use tengate_base::{Instant, ShardId, Sink};

use super::Gateway;
use super::config::{Config, Mode};
use super::mesh::{LinkId, Mesh};

/// The shard that decides.
pub(super) const DIRECTORY: ShardId = ShardId(0);

/// What the key of a dispatcher begins with; its address follows.
pub(super) const DISPATCHER: &str = "dispatcher:";

/// Workers, or dispatchers, that one gateway takes.
const WORKERS_MAX: usize = 16_384;

/// The dispatchers that are linked, and the one among them that gets the events.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// The oldest first.
    linked: Vec<Dispatcher>,
    /// The address that the register wants.
    wish: Option<Box<str>>,
    /// Who it is, also while it gives back what it cannot deliver: before that there is no other.
    home: Option<LinkId>,
}

#[derive(Debug)]
struct Dispatcher {
    link: LinkId,
    /// [`DISPATCHER`] and its address.
    key: Box<str>,
    /// It is going away.
    draining: bool,
}

impl Dispatcher {
    fn address(&self) -> &str {
        &self.key[DISPATCHER.len()..]
    }
}

impl Homes {
    /// Who should be the home: whom the register wants, else who is it, else one chosen so that gateways spread evenly.
    fn best(&self, config: &Config) -> Option<LinkId> {
        let mut candidates = self.linked.iter().filter(|dispatcher| !dispatcher.draining);
        let wished = candidates
            .clone()
            .find(|dispatcher| self.wish.as_deref() == Some(dispatcher.address()));
        let present = || candidates.clone().find(|dispatcher| Some(dispatcher.link) == self.home);
        let hasher = FixedState::with_seed(u64::from(config.lan_ip.to_bits()));
        let score =
            |dispatcher: &&Dispatcher| hasher.hash_one((config.lan_port, dispatcher.address()));
        let chosen = wished.or_else(present);
        chosen.or_else(|| candidates.by_ref().max_by_key(score)).map(|dispatcher| dispatcher.link)
    }

    fn find(&mut self, link: LinkId) -> Option<&mut Dispatcher> {
        self.linked.iter_mut().find(|dispatcher| dispatcher.link == link)
    }

    /// Forgets a dispatcher. Whether it was the home.
    fn remove(&mut self, link: LinkId) -> bool {
        self.linked.retain(|dispatcher| dispatcher.link != link);
        let was_home = self.home == Some(link);
        if was_home {
            self.home = None;
        }
        was_home
    }
}

impl Gateway {
    /// Takes the register's word for which dispatcher, `IP:PORT`, is to get this gateway's events. While that one is not
    /// linked another is chosen, but none as long as there is one already. For shard 0; the others ignore it.
    pub fn set_home_wish(&mut self, now: Instant, wish: Option<&str>, sink: &mut impl Sink) {
        if self.shard == DIRECTORY {
            self.homes.wish = wish.map(Into::into);
            self.settle_home(now, sink);
        }
    }

    /// The dispatcher that gets this gateway's events, `IP:PORT`. Known to shard 0.
    pub fn home(&self) -> Option<&str> {
        let home = self.homes.home?;
        let mut linked = self.homes.linked.iter();
        linked.find(|dispatcher| dispatcher.link == home).map(Dispatcher::address)
    }

    /// A worker or dispatcher identified itself.
    #[cold]
    pub(super) fn handle_join(
        &mut self,
        now: Instant,
        link: LinkId,
        key: &[u8],
        sink: &mut impl Sink,
    ) {
        let count = match self.config.mode {
            Mode::Direct => self.workers.up().count(),
            Mode::Dispatched => self.homes.linked.len(),
        };
        if count >= WORKERS_MAX {
            // As when a newer link takes its place: its shard closes it.
            return self.tell(now, link.shard, &Mesh::WorkerDown { link }, sink);
        }
        match self.config.mode {
            Mode::Direct => {
                if let Some(older) = self.workers.by_key(key) {
                    self.tell_all(now, &Mesh::WorkerDown { link: older }, sink);
                }
                self.tell_all(now, &Mesh::WorkerUp { link, key }, sink);
            }
            Mode::Dispatched => self.dispatcher_joined(now, link, key, sink),
        }
    }

    fn dispatcher_joined(&mut self, now: Instant, link: LinkId, key: &[u8], sink: &mut impl Sink) {
        let Ok(key) = str::from_utf8(key) else { return };
        let older = self.homes.linked.iter().find(|dispatcher| *dispatcher.key == *key);
        if let Some(older) = older.map(|dispatcher| dispatcher.link) {
            self.drop_dispatcher(now, older, sink);
        }
        self.homes.linked.push(Dispatcher { link, key: key.into(), draining: false });
        self.settle_home(now, sink);
    }

    /// A worker's or dispatcher's link is gone.
    #[cold]
    pub(super) fn handle_leave(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        match self.config.mode {
            Mode::Direct => self.tell_all(now, &Mesh::WorkerDown { link }, sink),
            Mode::Dispatched => {
                self.drop_dispatcher(now, link, sink);
                self.settle_home(now, sink);
            }
        }
    }

    /// Counts on a dispatcher no more; what still has to go there goes to the next home.
    fn drop_dispatcher(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        if self.homes.remove(link) {
            self.tell_all(now, &Mesh::WorkerDown { link }, sink);
        } else {
            self.tell(now, link.shard, &Mesh::WorkerDown { link }, sink);
        }
    }

    /// A dispatcher is going away.
    #[cold]
    pub(super) fn handle_drain(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        if let Some(dispatcher) = self.homes.find(link) {
            dispatcher.draining = true;
            self.settle_home(now, sink);
        }
    }

    /// A dispatcher that was the home has given everything back. Its link, known by `serial` now, is as good as any other.
    #[cold]
    pub(super) fn handle_detached(
        &mut self,
        now: Instant,
        link: LinkId,
        serial: u32,
        sink: &mut impl Sink,
    ) {
        if self.homes.home == Some(link) {
            self.homes.home = None;
        }
        if let Some(dispatcher) = self.homes.find(link) {
            dispatcher.link.serial = serial;
        }
        self.settle_home(now, sink);
    }

    /// Sees to it that the best dispatcher is the home, or will be when the present one is detached.
    fn settle_home(&mut self, now: Instant, sink: &mut impl Sink) {
        let best = self.homes.best(&self.config);
        if best == self.homes.home {
            return;
        }
        if let Some(link) = self.homes.home {
            // Once more than once changes nothing.
            return self.tell_all(now, &Mesh::Detach { link }, sink);
        }
        let Some(dispatcher) = best.and_then(|link| self.homes.find(link)) else { return };
        let (link, key) = (dispatcher.link, dispatcher.key.clone());
        self.homes.home = Some(link);
        self.stats.homes_changed += 1;
        self.tell_all(now, &Mesh::WorkerUp { link, key: key.as_bytes() }, sink);
    }
}
