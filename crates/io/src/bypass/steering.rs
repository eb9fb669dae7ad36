//! Frames that came to another shard's queue: a hash of addresses and ports says who owns a connection.

use tengate_base::ShardId;
use tengate_netstack::flow_hash;

use super::Steers;
use crate::limits::STEERED_BYTES_MAX;
use crate::mesh::Mesh;

/// One shard's view of who owns what. Frames travel like batches of the mesh, each behind its length.
#[derive(Debug)]
pub(crate) struct Steering {
    pub(crate) mesh: Mesh,
    shard: usize,
    steers: Steers,
    pub(crate) stats: SteeringStats,
}

/// What it counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SteeringStats {
    /// Frames handed to their owners.
    pub(crate) steered: u64,
    /// Frames dropped because their owners do not keep up.
    pub(crate) dropped: u64,
}

impl Steering {
    pub(crate) fn new(mesh: Mesh, shard: ShardId, steers: Steers) -> Self {
        Self { mesh, shard: shard.0.into(), steers, stats: SteeringStats::default() }
    }

    /// Hands a frame to the shard that owns it; `false` when that is this one. Frames of no connection are anybody's.
    pub(crate) fn hand_over(&mut self, frame: &[u8]) -> bool {
        let shard_count = self.mesh.shard_count();
        if shard_count < 2 || self.steers == Steers::Device {
            return false;
        }
        let Some(hash) = flow_hash(frame) else { return false };
        let owner = hash as usize % shard_count;
        if owner == self.shard {
            return false;
        }
        let batch = self.mesh.staged_mut(ShardId(u16::try_from(owner).expect("a shard's number")));
        match u16::try_from(frame.len()) {
            Ok(len) if batch.len() < STEERED_BYTES_MAX => {
                batch.extend_from_slice(&len.to_ne_bytes());
                batch.extend_from_slice(frame);
                self.stats.steered += 1;
            }
            Ok(_) | Err(_) => self.stats.dropped += 1,
        }
        true
    }

    /// The next batch of a shard, to be returned to the mesh.
    pub(crate) fn receive(&mut self, from: usize) -> Option<Vec<u8>> {
        self.mesh.receive(from)
    }
}

/// The next frame of a batch, and the rest behind it.
pub(crate) fn split_frame(batch: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (len, rest) = batch.split_first_chunk_mut()?;
    rest.split_at_mut_checked(u16::from_ne_bytes(*len).into())
}
