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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::Waker;

    fn two(steers: Steers) -> [Steering; 2] {
        let wakers: Vec<_> = (0..2).map(|_| Arc::new(Waker::new().unwrap())).collect();
        let meshes = Mesh::connect(&wakers).into_iter().zip(0..);
        let ends: Vec<_> =
            meshes.map(|(mesh, shard)| Steering::new(mesh, ShardId(shard), steers)).collect();
        ends.try_into().unwrap()
    }

    /// A segment from a client port to our port 80.
    fn segment(port: u16) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[16..18].copy_from_slice(&40_u16.to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[37] = 80;
        frame[46] = 0x50;
        frame
    }

    /// What a shard gets of another.
    fn received(steering: &mut Steering, from: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(mut batch) = steering.receive(from) {
            let mut rest = &mut batch[..];
            while let Some((frame, behind)) = split_frame(rest) {
                frames.push(frame.to_vec());
                rest = behind;
            }
            steering.mesh.give_back(from, batch);
        }
        frames
    }

    #[test]
    fn each_frame_has_one_owner_whichever_queue_it_came_to() {
        let [mut first, mut second] = two(Steers::Software);
        let mut kept = [Vec::new(), Vec::new()];
        for port in 1000..1100 {
            for (steering, kept) in [&mut first, &mut second].into_iter().zip(&mut kept) {
                if !steering.hand_over(&segment(port)) {
                    kept.push(segment(port));
                }
            }
        }
        first.mesh.push();
        second.mesh.push();
        assert_eq!(received(&mut second, 0), kept[1]);
        assert_eq!(received(&mut first, 1), kept[0]);
        assert_eq!(kept[0].len() + kept[1].len(), 100);
        assert!(kept.iter().all(|kept| kept.len() > 20), "both shards have connections");
        assert_eq!(first.stats.steered + second.stats.steered, 100);
    }

    #[test]
    fn frames_stay_where_they_came_when_the_device_steers_or_they_are_nobodys() {
        let [mut first, _second] = two(Steers::Device);
        assert!((1000..1100).all(|port| !first.hand_over(&segment(port))));
        let [mut first, _second] = two(Steers::Software);
        assert!(!first.hand_over(&[0xff; 60]));
    }

    #[test]
    fn frames_for_a_shard_that_does_not_keep_up_are_dropped_and_counted() {
        let [mut first, _second] = two(Steers::Software);
        let port = (1000..).find(|port| first.hand_over(&segment(*port))).unwrap();
        let frame = [segment(port), vec![0; 8946]].concat();
        for _ in 0..200 {
            assert!(first.hand_over(&frame));
        }
        assert!(first.stats.dropped > 50);
        let staged = first.mesh.staged_bytes();
        assert!((STEERED_BYTES_MAX..STEERED_BYTES_MAX + 10_000).contains(&staged), "{staged}");
    }
}
