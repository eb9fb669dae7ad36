//! The target that drives a whole register: gateways and workers that come, say anything, read slowly and go.

use core::time::Duration;
use std::collections::BTreeSet;

use tengate_base::{CloseCause, Door, ShardId};
use tengate_proto::register::{Register, RegisterConfig, RegisterLimits, Topology};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::register::{FromRegister, ToRegister};
use tengate_sim::shell::{Place, Shell};

use crate::script::{PEERS_MAX, Script, peer_address};

/// Nothing panics, nobody is known who is gone, a worker that reads knows every address there is, and when everybody has
/// left nothing is kept.
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
    assert_eq!(bed.shell.peek(SHARD).topology(), Topology::default());
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
        let register = Register::new(RegisterConfig {
            secret_key: key.clone(),
            limits: RegisterLimits {
                connection_count_max: CONNECTIONS_MAX,
                line_bytes_max: 300,
                queued_bytes_max: 300,
            },
            ..RegisterConfig::default()
        });
        Self { key, shell: Shell::new([register]), peers: Vec::new() }
    }

    /// One line of the script; `None` at its end.
    fn act(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 8 {
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
            _ => self.shell.advance(Duration::from_millis(100) * script.byte()?.into()),
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

    fn check(&mut self) {
        let register = self.shell.peek(SHARD);
        let (topology, stats) = (register.topology(), register.stats());
        let known: BTreeSet<_> = (topology.gateways.iter().map(|(_, remote)| remote))
            .chain(&topology.workers)
            .chain(&topology.others)
            .collect();
        assert!(known.len() <= self.shell.open_count(SHARD).min(CONNECTIONS_MAX));
        let mut addresses: Vec<String> = Vec::new();
        for (address, _) in &topology.gateways {
            if !addresses.iter().any(|known| **known == **address) {
                addresses.push(address.to_string());
            }
        }
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.received.extend(self.shell.receive(peer.place));
            if !self.shell.is_open(peer.place) {
                assert!(!known.contains(&peer_address(index)));
                continue;
            }
            // Who closed a slow worker that was a gateway as well tells of it only with the next change.
            let is_told = topology.workers.contains(&peer_address(index))
                && self.shell.queued(peer.place) == 0
                && stats.closed_slow == 0;
            if is_told {
                let line = peer.received.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
                let told = FromRegister::decode(line.expect("there is a last line"));
                assert_eq!(told, Ok(FromRegister::BroadcastAddresses(addresses.clone())));
            }
        }
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
