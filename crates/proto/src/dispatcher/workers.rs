//! The workers of a dispatcher: which there are, and which one a client gets (docs/dispatcher.md#choosing-a-worker).

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tengate_base::ConnId;

use super::config::{Balance, Config, WorkerGroup};

/// A client's binding to a worker; stale once that worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerRef {
    slot: u16,
    generation: u16,
}

impl WorkerRef {
    /// Bound to nobody.
    pub(super) const NONE: Self = Self { slot: u16::MAX, generation: 0 };
    /// Given up: nobody hears of this client any more.
    pub(super) const ABANDONED: Self = Self { slot: u16::MAX, generation: 1 };
}

/// Workers one dispatcher takes.
pub(super) const WORKERS_MAX: usize = 16_384;

/// The workers.
#[derive(Debug)]
pub(super) struct Workers {
    slots: Vec<Worker>,
    /// Slots of workers that take events, oldest first.
    up: Vec<u16>,
    /// worker_key ⇒ slot, of workers that take events: each key once.
    by_key: HashMap<Box<[u8]>, u16, FixedState>,
    random: u64,
}

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    /// Its link.
    pub(super) conn: ConnId,
    /// It reads more slowly than its clients talk.
    pub(super) slow: bool,
    /// It understands IPv6 addresses in events.
    pub(super) ipv6: bool,
    /// Its link is going; it takes no events any more.
    pub(super) down: bool,
    /// Events that came since it is down.
    pub(super) held: Vec<u8>,
    /// Clients not read until it has caught up.
    pub(super) paused: BTreeSet<u32>,
    key: Box<[u8]>,
    generation: u16,
    bound: u32,
    /// What smooth weighted round robin owes it.
    turn: i64,
    free: bool,
}

/// What of a client a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// The port it connected to.
    pub(super) port: u16,
    /// Its address as bytes.
    pub(super) ip: &'a [u8],
    /// Its uid, or what stands for it until it has one.
    pub(super) name: &'a [u8],
}

impl Workers {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            up: Vec::new(),
            by_key: HashMap::with_hasher(FixedState::with_seed(seed)),
            random: seed | 1,
        }
    }

    /// How many take events.
    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    /// A worker identified itself on `conn`. Its key must not be in use.
    pub(super) fn insert(&mut self, conn: ConnId, key: &[u8], ipv6: bool) -> u16 {
        let worker = Worker {
            conn,
            slow: false,
            ipv6,
            down: false,
            held: Vec::new(),
            paused: BTreeSet::new(),
            key: key.into(),
            generation: 0,
            bound: 0,
            turn: 0,
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
        let slot = u16::try_from(slot).expect("no more than WORKERS_MAX are taken");
        self.up.push(slot);
        self.by_key.insert(key.into(), slot);
        slot
    }

    /// The link of the worker with this key, if it takes events.
    pub(super) fn by_key(&self, key: &[u8]) -> Option<ConnId> {
        self.by_key.get(key).map(|slot| self.slots[usize::from(*slot)].conn)
    }

    /// Workers that take events, oldest first.
    pub(super) fn up(&self) -> impl Iterator<Item = &Worker> {
        self.up.iter().map(|slot| &self.slots[usize::from(*slot)])
    }

    /// The worker at a place, also while it is going.
    pub(super) fn at(&mut self, slot: u16) -> Option<&mut Worker> {
        self.slots.get_mut(usize::from(slot)).filter(|worker| !worker.free)
    }

    /// Gives a worker no new events.
    pub(super) fn take_down(&mut self, slot: u16) {
        let Some(worker) = self.slots.get_mut(usize::from(slot)) else { return };
        if !worker.down {
            worker.down = true;
            self.by_key.remove(&worker.key);
            self.up.retain(|up| *up != slot);
        }
    }

    /// Forgets a worker: its clients are bound to nobody from here on. Returns what it held and whom it had paused.
    pub(super) fn remove(&mut self, slot: u16) -> (Vec<u8>, BTreeSet<u32>) {
        self.take_down(slot);
        let Some(worker) = self.at(slot) else { return Default::default() };
        worker.free = true;
        worker.generation = worker.generation.wrapping_add(1);
        (core::mem::take(&mut worker.held), core::mem::take(&mut worker.paused))
    }

    /// The worker `binding` points to, if it still does.
    pub(super) fn bound(&mut self, binding: WorkerRef) -> Option<(u16, &mut Worker)> {
        let worker = self.slots.get_mut(usize::from(binding.slot))?;
        let same = !worker.free && worker.generation == binding.generation;
        same.then_some((binding.slot, worker))
    }

    /// A client bound to this worker is gone, or bound to another.
    pub(super) fn release(&mut self, binding: WorkerRef) {
        if let Some((_, worker)) = self.bound(binding) {
            worker.bound = worker.bound.saturating_sub(1);
        }
    }

    /// Whether any worker takes events of clients of a port.
    pub(super) fn serves(&self, config: &Config, port: u16) -> bool {
        let group = group_of(config, port);
        self.up().any(|worker| group.weight(worker.name()).is_some())
    }

    /// Binds one more client to the best worker there is for it.
    pub(super) fn choose(&mut self, config: &Config, client: &Candidate<'_>) -> Option<WorkerRef> {
        let group = group_of(config, client.port);
        let slots = &self.slots;
        let mut able: Vec<(u16, u16)> = self
            .up
            .iter()
            .filter_map(|slot| Some((*slot, group.weight(slots[usize::from(*slot)].name())?)))
            .collect();
        let is_hash = matches!(group.balance, Balance::HashUid | Balance::HashIp);
        // A slow worker is chosen only when all are slow; a hash stays where it is.
        if !is_hash && able.iter().any(|(slot, _)| !slots[usize::from(*slot)].slow) {
            able.retain(|(slot, _)| !slots[usize::from(*slot)].slow);
        }
        let slot = match group.balance {
            Balance::LeastConnections => least_connections(slots, &able),
            Balance::RoundRobin => round_robin(&mut self.slots, &able),
            Balance::Random => {
                self.random = xorshift(self.random);
                weighted(&able, self.random)
            }
            Balance::HashUid => rendezvous(slots, &able, client.name),
            Balance::HashIp => rendezvous(slots, &able, client.ip),
        }?;
        let worker = &mut self.slots[usize::from(slot)];
        worker.bound += 1;
        Some(WorkerRef { slot, generation: worker.generation })
    }
}

impl Worker {
    /// `remote ip:name:id`, as PHP's gateway keys it.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The name in the key, between the address and the number.
    fn name(&self) -> &[u8] {
        let named = self.key.iter().position(|byte| *byte == b':');
        let named = named.map_or(&*self.key, |at| &self.key[at + 1..]);
        let number = named.iter().rposition(|byte| *byte == b':');
        number.map_or(named, |at| &named[..at])
    }

    /// Clients bound to it.
    pub(super) fn bound_count(&self) -> u32 {
        self.bound
    }
}

/// The workers of a port.
pub(super) fn group_of(config: &Config, port: u16) -> &WorkerGroup {
    config.groups.iter().find(|group| group.ports.contains(&port)).unwrap_or(&config.default_group)
}

impl WorkerGroup {
    /// A worker's share in this group; `None` when it is not in it.
    fn weight(&self, name: &[u8]) -> Option<u16> {
        let same = |other: &str| other.as_bytes() == name;
        if !self.workers.is_empty() && !self.workers.iter().any(|worker| same(worker)) {
            return None;
        }
        Some(self.weights.iter().find(|(other, _)| same(other)).map_or(1, |(_, weight)| *weight))
    }
}

fn least_connections(slots: &[Worker], able: &[(u16, u16)]) -> Option<u16> {
    let load = |(slot, _): &(u16, u16)| u64::from(slots[usize::from(*slot)].bound);
    // Compared as fractions: load of one times weight of the other.
    let best = able.iter().reduce(|best, next| {
        if load(next) * u64::from(best.1) < load(best) * u64::from(next.1) { next } else { best }
    });
    best.map(|(slot, _)| *slot)
}

/// Each turn everyone earns its weight, and who has most pays for all: spread as evenly as the weights allow.
fn round_robin(slots: &mut [Worker], able: &[(u16, u16)]) -> Option<u16> {
    let total: i64 = able.iter().map(|(_, weight)| i64::from(*weight)).sum();
    for (slot, weight) in able {
        slots[usize::from(*slot)].turn += i64::from(*weight);
    }
    let turn = |slot: u16| slots[usize::from(slot)].turn;
    let slot = able
        .iter()
        .map(|(slot, _)| *slot)
        .reduce(|best, next| if turn(next) > turn(best) { next } else { best })?;
    slots[usize::from(slot)].turn -= total;
    Some(slot)
}

fn weighted(able: &[(u16, u16)], random: u64) -> Option<u16> {
    let total: u64 = able.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut at = random.checked_rem(total)?;
    able.iter()
        .find(|(_, weight)| {
            let here = at < u64::from(*weight);
            at = at.wrapping_sub(u64::from(*weight));
            here
        })
        .map(|(slot, _)| *slot)
}

/// The worker whose hash with the client is highest; a worker of weight n draws n times. Every dispatcher comes to the
/// same, and when a worker leaves only its own clients move.
fn rendezvous(slots: &[Worker], able: &[(u16, u16)], client: &[u8]) -> Option<u16> {
    let hasher = FixedState::with_seed(RENDEZVOUS_SEED);
    let draw = |(slot, weight): &(u16, u16)| {
        let key = slots[usize::from(*slot)].key();
        (0..*weight).map(|draw| hasher.hash_one((key, draw, client))).max()
    };
    able.iter().max_by_key(|candidate| draw(candidate)).map(|(slot, _)| *slot)
}

/// The same in every dispatcher.
const RENDEZVOUS_SEED: u64 = 0x7465_6e67_6174_6501;

/// Marsaglia's 64-bit xorshift: spreads load, keeps no secret.
fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use core::net::{Ipv4Addr, SocketAddrV4};

    fn config(balance: Balance, weights: &[(&str, u16)]) -> Config {
        let mut config = Config::with_defaults(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3900));
        config.default_group.balance = balance;
        config.default_group.weights =
            weights.iter().map(|(name, weight)| ((*name).into(), *weight)).collect();
        config
    }

    fn workers(names: &[&str]) -> Workers {
        let mut workers = Workers::new(5);
        for (number, name) in (0..).zip(names) {
            workers.insert(ConnId(number), format!("10.0.0.1:{name}:{number}").as_bytes(), false);
        }
        workers
    }

    fn chosen(workers: &mut Workers, config: &Config, name: &[u8]) -> u32 {
        let client = Candidate { port: 8282, ip: name, name };
        let binding = workers.choose(config, &client).unwrap();
        workers.bound(binding).unwrap().1.conn.0
    }

    fn shares(balance: Balance, weights: &[(&str, u16)], names: &[&str], rounds: u32) -> Vec<u32> {
        let (mut workers, config) = (workers(names), config(balance, weights));
        let mut shares = alloc::vec![0; names.len()];
        for round in 0..rounds {
            shares[chosen(&mut workers, &config, &round.to_be_bytes()) as usize] += 1;
        }
        shares
    }

    #[test]
    fn least_connections_and_round_robin_keep_to_the_weights_exactly() {
        for balance in [Balance::LeastConnections, Balance::RoundRobin] {
            assert_eq!(shares(balance, &[], &["a", "b", "c"], 300), [100, 100, 100]);
            assert_eq!(shares(balance, &[("big", 3)], &["a", "big"], 400), [100, 300]);
        }
    }

    #[test]
    fn round_robin_spreads_a_heavy_worker_over_the_round() {
        let (mut workers, config) =
            (workers(&["a", "big", "c"]), config(Balance::RoundRobin, &[("big", 2)]));
        let order: Vec<u32> = (0..8).map(|_| chosen(&mut workers, &config, b"")).collect();
        assert_eq!(order, [1, 0, 2, 1, 1, 0, 2, 1]);
    }

    #[test]
    fn random_and_hashes_keep_to_the_weights_roughly() {
        for balance in [Balance::Random, Balance::HashUid, Balance::HashIp] {
            let shares = shares(balance, &[("big", 3)], &["a", "big"], 8000);
            assert!((1700..2300).contains(&shares[0]), "{balance:?} {shares:?}");
        }
    }

    #[test]
    fn a_hash_moves_only_the_clients_of_the_worker_that_left_and_is_the_same_everywhere() {
        let config = config(Balance::HashUid, &[]);
        let mut here = workers(&["a", "b", "c", "d"]);
        let mut there = Workers::new(99);
        for number in [2, 0, 3, 1] {
            let name = ["a", "b", "c", "d"][number as usize];
            there.insert(ConnId(number), format!("10.0.0.1:{name}:{number}").as_bytes(), false);
        }
        let uids: Vec<[u8; 4]> = (0..1000_u32).map(u32::to_be_bytes).collect();
        let before: Vec<u32> = uids.iter().map(|uid| chosen(&mut here, &config, uid)).collect();
        let other: Vec<u32> = uids.iter().map(|uid| chosen(&mut there, &config, uid)).collect();
        assert_eq!(before, other);
        here.remove(2);
        for (uid, before) in uids.iter().zip(before) {
            let after = chosen(&mut here, &config, uid);
            assert!(before == 2 || after == before);
            assert_ne!(after, 2);
        }
    }

    #[test]
    fn ports_have_workers_of_their_own() {
        let mut config = config(Balance::LeastConnections, &[]);
        config.groups = alloc::vec![WorkerGroup {
            ports: alloc::vec![9000],
            workers: alloc::vec!["game".into()],
            ..WorkerGroup::default()
        }];
        config.default_group.workers = alloc::vec!["chat".into()];
        let mut workers = workers(&["chat", "game"]);
        let mut at = |port| {
            let binding = workers.choose(&config, &Candidate { port, ip: b"", name: b"" });
            binding.and_then(|binding| Some(workers.bound(binding)?.1.conn.0))
        };
        assert_eq!([at(8282), at(9000), at(8282), at(9000)], [Some(0), Some(1), Some(0), Some(1)]);
        workers.remove(1);
        let binding = workers.choose(&config, &Candidate { port: 9000, ip: b"", name: b"" });
        assert_eq!(binding, None, "a game client waits for a game worker");
    }

    #[test]
    fn a_slow_worker_gets_new_clients_only_when_all_are_slow() {
        let (mut workers, config) = (workers(&["a", "b"]), config(Balance::LeastConnections, &[]));
        workers.at(0).unwrap().slow = true;
        assert_eq!(chosen(&mut workers, &config, b""), 1);
        assert_eq!(chosen(&mut workers, &config, b""), 1);
        workers.at(1).unwrap().slow = true;
        assert_eq!(chosen(&mut workers, &config, b""), 0);
    }

    #[test]
    fn a_binding_is_stale_once_its_worker_is_gone_even_when_the_place_is_used_again() {
        let (mut workers, config) = (workers(&["a"]), config(Balance::LeastConnections, &[]));
        let client = Candidate { port: 1, ip: b"", name: b"" };
        let binding = workers.choose(&config, &client).unwrap();
        assert!(workers.by_key(b"10.0.0.1:a:0").is_some());
        workers.remove(0);
        assert!(workers.by_key(b"10.0.0.1:a:0").is_none());
        assert!(workers.choose(&config, &client).is_none());
        assert_eq!(workers.insert(ConnId(7), b"10.0.0.1:a:0", false), 0);
        assert!(workers.bound(binding).is_none());
    }
}
