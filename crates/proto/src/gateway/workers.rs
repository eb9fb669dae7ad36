//! The workers clients can be bound to, as one shard sees them (docs/protocol.md#routing).
//!
//! Every shard has the same workers, in the same order, because shard 0 tells all of them. When a worker's link is gone
//! its place stays, `down`, until the link's shard has given back what could not be written, so that events of one
//! client keep their order on the way to the next worker.

use alloc::boxed::Box;
use alloc::vec::Vec;

use tengate_base::ConnId;

use super::config::Routing;
use super::mesh::LinkId;

/// A client's binding to a worker; stale once that worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerRef {
    slot: u16,
    generation: u16,
}

impl WorkerRef {
    /// Bound to nobody.
    pub(super) const NONE: Self = Self { slot: u16::MAX, generation: 0 };
}

/// The workers of this gateway.
#[derive(Debug)]
pub(super) struct Workers {
    slots: Vec<Worker>,
    /// Slots of workers that take events, oldest first, as PHP's array has them.
    up: Vec<u16>,
    routing: Routing,
    /// Where the search for the least loaded begins, so that shards do not all prefer the same worker.
    offset: usize,
    random: u64,
}

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    /// Its link.
    pub(super) link: LinkId,
    /// It reads more slowly than its clients talk.
    pub(super) slow: bool,
    /// Its link is gone, or it is the home no more; it takes no events any more.
    pub(super) down: bool,
    /// It is a dispatcher that was the home, and has not given back yet what it cannot deliver. Its link is open.
    pub(super) detaching: bool,
    /// Events that came back from its link, and those that came since it is down.
    pub(super) backlog: Box<Backlog>,
    key: Box<[u8]>,
    generation: u16,
    bound: u32,
    free: bool,
}

/// What a worker owes its clients: whole inner frames that wait until its gone link has given everything back.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Sent to the link and not written: older.
    pub(super) returned: Vec<u8>,
    /// Events since the link is known to be gone: newer.
    pub(super) held: Vec<u8>,
    /// Clients not read until the worker has caught up.
    pub(super) paused: Vec<ConnId>,
    /// Clients not read because the worker, a dispatcher, wants it so.
    pub(super) paced: Vec<ConnId>,
}

impl Workers {
    pub(super) fn new(routing: Routing, offset: usize, seed: u64) -> Self {
        Self { slots: Vec::new(), up: Vec::new(), routing, offset, random: seed | 1 }
    }

    /// Whether any worker takes events.
    pub(super) fn any(&self) -> bool {
        !self.up.is_empty()
    }

    /// A worker identified itself on `link`.
    pub(super) fn insert(&mut self, link: LinkId, key: &[u8]) {
        let worker = Worker {
            link,
            slow: false,
            down: false,
            detaching: false,
            backlog: Box::default(),
            key: key.into(),
            generation: 0,
            bound: 0,
            free: false,
        };
        let slot = if let Some(slot) = self.slots.iter().position(|worker| worker.free) {
            let generation = self.slots[slot].generation;
            self.slots[slot] = Worker { generation, ..worker };
            slot
        } else {
            self.slots.push(worker);
            self.slots.len() - 1
        };
        self.up.push(u16::try_from(slot).unwrap_or(u16::MAX));
    }

    /// The link of the worker with this key, if it takes events.
    pub(super) fn by_key(&self, key: &[u8]) -> Option<LinkId> {
        self.up().find(|worker| *worker.key == *key).map(|worker| worker.link)
    }

    /// Workers that take events, oldest first.
    pub(super) fn up(&self) -> impl Iterator<Item = &Worker> {
        self.up.iter().map(|slot| &self.slots[*slot as usize])
    }

    /// The worker behind `link`, also while it drains.
    pub(super) fn by_link(&mut self, link: LinkId) -> Option<&mut Worker> {
        self.slots.iter_mut().find(|worker| !worker.free && worker.link == link)
    }

    /// Places on the workers' lists of clients that are not read.
    #[cfg(test)]
    pub(super) fn paused_count(&self) -> usize {
        self.slots.iter().map(|worker| worker.backlog.paused.len()).sum()
    }

    /// Stops sending events to the worker behind `link`. Whether it was there.
    pub(super) fn take_down(&mut self, link: LinkId) -> bool {
        let Some(at) = self.up.iter().position(|slot| self.slots[*slot as usize].link == link)
        else {
            return false;
        };
        self.slots[self.up.remove(at) as usize].down = true;
        true
    }

    /// As [`Workers::take_down`], for a home whose link stays open until it has given back what it cannot deliver.
    pub(super) fn detach(&mut self, link: LinkId) -> bool {
        let found = self.take_down(link);
        if found && let Some(worker) = self.by_link(link) {
            worker.detaching = true;
        }
        found
    }

    /// Forgets the worker behind `link`, which has been taken down; its clients are bound to nobody from here on.
    pub(super) fn drained(&mut self, link: LinkId) -> Option<Box<Backlog>> {
        let worker = self.by_link(link)?;
        if !worker.down {
            return None;
        }
        worker.free = true;
        worker.generation = worker.generation.wrapping_add(1);
        Some(core::mem::take(&mut worker.backlog))
    }

    /// The worker `binding` points to, if it still does.
    pub(super) fn bound(&mut self, binding: WorkerRef) -> Option<&mut Worker> {
        let worker = self.slots.get_mut(binding.slot as usize)?;
        (!worker.free && worker.generation == binding.generation).then_some(worker)
    }

    /// Binds one more client to the best worker there is.
    pub(super) fn choose(&mut self) -> Option<WorkerRef> {
        let (up, slots) = (&self.up, &self.slots);
        let candidates =
            |slow: bool| up.iter().filter(move |slot| slow || !slots[**slot as usize].slow);
        // A slow worker is chosen only when all are slow.
        let slow = candidates(false).next().is_none();
        let count = candidates(slow).count();
        if count == 0 {
            return self.choose_detaching();
        }
        let chosen = match self.routing {
            Routing::LeastConnections => candidates(slow)
                .cycle()
                .skip(self.offset % count)
                .take(count)
                .min_by_key(|slot| slots[**slot as usize].bound)
                .copied(),
            Routing::Random => {
                let random = xorshift(self.random);
                let at = usize::try_from(random % count as u64).unwrap_or(0);
                let slot = candidates(slow).nth(at).copied();
                self.random = random;
                slot
            }
        }?;
        let worker = &mut self.slots[chosen as usize];
        worker.bound += 1;
        Some(WorkerRef { slot: chosen, generation: worker.generation })
    }

    /// While a home gives back what it has, there is none: events wait with those of its clients for the next one.
    fn choose_detaching(&mut self) -> Option<WorkerRef> {
        let mut slots = (0..).zip(&mut self.slots);
        let (slot, worker) = slots.find(|(_, worker)| worker.detaching && !worker.free)?;
        worker.bound += 1;
        Some(WorkerRef { slot, generation: worker.generation })
    }

    /// A client bound to this worker is gone.
    pub(super) fn release(&mut self, binding: WorkerRef) {
        if let Some(worker) = self.bound(binding) {
            worker.bound = worker.bound.saturating_sub(1);
        }
    }
}

impl Worker {
    /// `remote ip:name:id`, as PHP's gateway keys it.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Clients of this shard bound to it.
    pub(super) fn bound_count(&self) -> u32 {
        self.bound
    }
}

/// Marsaglia's 64-bit xorshift: spreads load, keeps no secret.
fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tengate_base::ShardId;

    fn link(serial: u32) -> LinkId {
        LinkId { shard: ShardId(0), conn: ConnId(serial), serial }
    }

    fn workers(routing: Routing, count: u32) -> Workers {
        let mut workers = Workers::new(routing, 0, 5);
        for serial in 0..count {
            workers.insert(link(serial), format!("k{serial}").as_bytes());
        }
        workers
    }

    use alloc::format;

    fn chosen(workers: &mut Workers) -> u32 {
        let binding = workers.choose().unwrap();
        workers.bound(binding).unwrap().link.serial
    }

    #[test]
    fn least_connections_takes_the_first_of_the_least_loaded() {
        let mut workers = workers(Routing::LeastConnections, 3);
        let order: Vec<u32> = (0..6).map(|_| chosen(&mut workers)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
        let binding = workers.choose().unwrap();
        workers.release(binding);
        assert_eq!(chosen(&mut workers), 0);
    }

    #[test]
    fn random_routing_reaches_every_worker() {
        let mut workers = workers(Routing::Random, 3);
        let mut seen = [0; 3];
        for _ in 0..300 {
            seen[chosen(&mut workers) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }

    #[test]
    fn a_slow_worker_gets_new_clients_only_when_all_are_slow() {
        let mut workers = workers(Routing::LeastConnections, 2);
        workers.by_link(link(0)).unwrap().slow = true;
        assert_eq!([chosen(&mut workers), chosen(&mut workers)], [1, 1]);
        workers.by_link(link(1)).unwrap().slow = true;
        assert_eq!(chosen(&mut workers), 0);
    }

    #[test]
    fn a_binding_is_stale_once_its_worker_is_drained_even_when_the_place_is_used_again() {
        let mut workers = workers(Routing::LeastConnections, 1);
        let binding = workers.choose().unwrap();
        assert!(workers.take_down(link(0)));
        assert!(!workers.take_down(link(0)));
        assert!(workers.choose().is_none());
        assert!(workers.bound(binding).unwrap().down);
        assert!(workers.drained(link(0)).is_some());
        workers.insert(link(9), b"other");
        assert!(workers.bound(binding).is_none());
        assert_eq!(chosen(&mut workers), 9);
    }
}
