//! The target that drives a whole register: gateways, dispatchers and workers that come, say anything, read slowly and go.

use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use tengate_base::{CloseCause, Door, Instant, ShardId};
use tengate_proto::register::{Register, RegisterConfig, RegisterLimits};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::register::topology::{Mode, Topology};
use tengate_proto::wire::register::{
    Block, FromRegister, LinkedGateway, Links, ToRegister, Wanted,
};
use tengate_sim::shell::{Place, Shell};

use crate::script::{PEERS_MAX, Script, peer_address};

/// Nothing panics, nobody is known who is gone, whoever reads knows what it has to know, no two gateways have one proc_id,
/// homes are balanced, and when everybody has left and leases are over nothing is kept.
pub fn register(data: &[u8]) {
    let mut script = Script(data);
    let Some(key) = script.one_of(&["", "k"]) else { return };
    let mut bed = Bed::new(SecretKey::new(key));
    while bed.act(&mut script).is_some() {
        bed.check();
    }
    for index in 0..bed.peers.len() {
        bed.shell.close(bed.peers[index].place, CloseCause::Reset);
        bed.check();
    }
    assert_eq!(bed.shell.open_count(SHARD), 0);
    bed.shell.advance(QUIET + LEASE_KEEP);
    let Topology { uptime_secs, proc_ids, .. } = bed.topology();
    assert_eq!(bed.topology(), Topology { uptime_secs, proc_ids, ..Topology::default() });
    assert_eq!(bed.shell.next_timeout(), None);
}

/// One register and everybody who ever connected to it.
struct Bed {
    key: SecretKey,
    shell: Shell<Register>,
    peers: Vec<Peer>,
}

struct Peer {
    place: Place,
    received: Vec<u8>,
}

impl Bed {
    fn new(key: SecretKey) -> Self {
        let register = Register::new(
            RegisterConfig {
                secret_key: key.clone(),
                limits: RegisterLimits {
                    connection_count_max: CONNECTIONS_MAX,
                    line_bytes_max: 300,
                    queued_bytes_max: 300,
                },
                proc_ids: PROC_IDS,
                lease_keep: LEASE_KEEP,
                ..RegisterConfig::default()
            },
            Instant::ZERO,
        );
        Self { key, shell: Shell::new([register]), peers: Vec::new() }
    }

    /// One line of the script; `None` at its end.
    fn act(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 12 {
            0 if self.peers.len() < PEERS_MAX => {
                let address = peer_address(self.peers.len());
                let place = self.shell.open(SHARD, Door(0), address, 1);
                self.peers.push(Peer { place, received: Vec::new() });
            }
            0 => {}
            1 => {
                let bytes = script.bytes()?;
                self.say(script, bytes)?;
            }
            2 => {
                let address = script.byte()?.to_string().into();
                let line = ToRegister::GatewayConnect { address, secret_key: self.key.show() };
                let line = encoded(&line);
                self.say(script, &line)?;
            }
            3 => {
                let line = encoded(&ToRegister::WorkerConnect { secret_key: self.key.show() });
                self.say(script, &line)?;
            }
            4 => {
                let (place, window) = (self.place(script)?, script.byte()?);
                self.shell.set_window(place, Some(usize::from(window)));
            }
            5 => {
                let place = self.place(script)?;
                self.shell.set_window(place, None);
            }
            6 => {
                let place = self.place(script)?;
                let cause = script.one_of(&[CloseCause::Peer, CloseCause::Reset])?;
                self.shell.close(place, cause);
            }
            7 => self.shell.advance(Duration::from_millis(100) * script.byte()?.into()),
            8 => {
                let (address, shards) = (script.byte()? % 8, script.byte()?);
                let claim = script.one_of(&[None, None, Some(u16::from(shards / 4))])?;
                let wanted = Wanted {
                    shards: u16::from(shards % 4) + 1,
                    number_bits: script.one_of(&[22, 22, 22, 29])?,
                    first_proc_id: claim,
                };
                let (address, secret_key) = (address.to_string().into(), self.key.show());
                let line =
                    encoded(&ToRegister::DispatchedGatewayConnect { address, secret_key, wanted });
                self.say(script, &line)?;
            }
            9 => {
                let address = format!("d{}", script.byte()? % 8).into();
                let secret_key = self.key.show();
                let line = encoded(&ToRegister::DispatcherConnect { address, secret_key });
                self.say(script, &line)?;
            }
            10 => {
                let (bits, block) = (script.byte()?, script.byte()?);
                let block = Block {
                    first_proc_id: u16::from(block / 4),
                    shards: u16::from(block % 4),
                    number_bits: 22,
                };
                let linked = (0..8).filter(|index| bits >> index & 1 != 0);
                let gateways = linked.map(|index| LinkedGateway {
                    address: index.to_string().into(),
                    home: true,
                    clients: 1,
                    block: Some(block).filter(|_| index == 0),
                });
                let gateways = gateways.collect();
                let line = encoded(&ToRegister::Links(Links { gateways, ..Links::default() }));
                self.say(script, &line)?;
            }
            _ => {
                let line = encoded(&ToRegister::Topology { secret_key: self.key.show() });
                self.say(script, &line)?;
            }
        }
        Some(())
    }

    fn say(&mut self, script: &mut Script<'_>, bytes: &[u8]) -> Option<()> {
        let place = self.place(script)?;
        self.shell.send(place, bytes);
        Some(())
    }

    fn place(&self, script: &mut Script<'_>) -> Option<Place> {
        let index = usize::from(script.byte()?);
        self.peers.get(index % self.peers.len().max(1)).map(|peer| peer.place)
    }

    fn topology(&self) -> Topology {
        self.shell.peek(SHARD).topology(self.shell.now())
    }

    fn check(&mut self) {
        let topology = self.topology();
        let known: BTreeSet<_> = (topology.gateways.iter().map(|gateway| &gateway.peer.remote))
            .chain(topology.dispatchers.iter().map(|dispatcher| &dispatcher.peer.remote))
            .chain(topology.workers.iter().map(|peer| &peer.remote))
            .chain(topology.others.iter().map(|peer| &peer.remote))
            .collect();
        assert!(known.len() <= self.shell.open_count(SHARD).min(CONNECTIONS_MAX));
        check_leases(&topology);
        check_homes(&topology);
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.received.extend(self.shell.receive(peer.place));
            let address = peer_address(index);
            if !self.shell.is_open(peer.place) {
                assert!(!known.contains(&address));
                continue;
            }
            if self.shell.queued(peer.place) == 0 {
                check_told(&topology, &peer.received, address);
            }
        }
    }
}

/// No two gateways own one proc_id.
fn check_leases(topology: &Topology) {
    let here = topology.gateways.iter().filter_map(|gateway| {
        Some((gateway.first_proc_id?, gateway.shards.expect("it said how many")))
    });
    let absent = topology.absent_leases.iter().map(|lease| (lease.first_proc_id, lease.shards));
    let mut owned: Vec<(u16, u16)> = here.chain(absent).collect();
    owned.sort_unstable();
    assert!(owned.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{owned:?}");
}

/// Homes are dispatchers that are there, and have gateways in equal numbers.
fn check_homes(topology: &Topology) {
    let is_settled = topology.uptime_secs >= QUIET.as_secs();
    let mut loads: BTreeMap<&str, usize> =
        topology.dispatchers.iter().map(|dispatcher| (&*dispatcher.address, 0)).collect();
    for gateway in topology.gateways.iter().filter(|gateway| gateway.first_proc_id.is_some()) {
        match gateway.home_wish.as_deref().and_then(|home| loads.get_mut(home)) {
            Some(load) => *load += 1,
            None => assert!(!is_settled || loads.is_empty(), "{gateway:?} has no home"),
        }
    }
    if let (true, Some(min), Some(max)) = (is_settled, loads.values().min(), loads.values().max()) {
        assert!(max - min <= 1, "{loads:?}");
    }
}

/// Who has read everything knows what it has to know.
fn check_told(topology: &Topology, received: &[u8], address: SocketAddr) {
    let lines = || received.split_inclusive(|byte| *byte == b'\n').map(FromRegister::decode);
    if topology.workers.iter().any(|worker| worker.remote == address) {
        let direct = topology.gateways.iter().filter(|gateway| gateway.mode == Mode::Direct);
        let mut expected: BTreeSet<&str> = direct.map(|gateway| &*gateway.address).collect();
        expected.extend(topology.dispatchers.iter().map(|dispatcher| &*dispatcher.address));
        let told = lines().filter_map(|line| match line {
            Ok(FromRegister::BroadcastAddresses(addresses)) => Some(addresses),
            _ => None,
        });
        let told = told.last().expect("it was told at once");
        assert_eq!(told.len(), expected.len());
        assert_eq!(told.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    }
    if topology.dispatchers.iter().any(|dispatcher| dispatcher.peer.remote == address) {
        let leased = topology.gateways.iter().filter(|gateway| gateway.first_proc_id.is_some());
        let expected: BTreeSet<&str> = leased.map(|gateway| &*gateway.address).collect();
        let told = lines().filter_map(|line| match line {
            Ok(FromRegister::Gateways(addresses)) => Some(addresses),
            _ => None,
        });
        let told = told.last().expect("it was told at once");
        assert!(told.iter().map(String::as_str).eq(expected));
    }
    let gateway = topology.gateways.iter().find(|gateway| gateway.peer.remote == address);
    if let Some(gateway) = gateway.filter(|gateway| gateway.first_proc_id.is_some()) {
        let told = lines().filter_map(|line| match line {
            Ok(FromRegister::Lease { first_proc_id, .. }) => Some(first_proc_id),
            _ => None,
        });
        assert_eq!(told.last(), gateway.first_proc_id);
    }
}

fn encoded(line: &ToRegister<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    line.encode(&mut out);
    out
}

const SHARD: ShardId = ShardId(0);

/// Fewer than a script may open, so that some are refused.
const CONNECTIONS_MAX: usize = PEERS_MAX - 4;

/// Fewer than the gateways of a script may want.
const PROC_IDS: RangeInclusive<u16> = 0..=7;

/// As long as a script can wait for.
const LEASE_KEEP: Duration = Duration::from_secs(60);

/// How long a register that has just started gives nothing new (docs/protocol.md#dispatched-mode).
const QUIET: Duration = Duration::from_secs(3);
