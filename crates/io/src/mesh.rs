//! Batches between shards: one bounded ring for each ordered pair, and one back for the emptied buffers.
//!
//! What an app writes for another shard in a turn is one batch, a `Vec<u8>` that changes hands. The receiver gives the
//! emptied vector back, so that steady traffic allocates nothing. A full ring leaves the batch staged, and the next
//! turn's bytes join it; a shard with too much staged stops reading sockets but always takes batches in, so no two shards can
//! wait for each other. `rtrb` keeps the two indexes of a ring on cache lines of their own. A batch costs a few
//! nanoseconds; the eventfd write that wakes a sleeping shard costs a system call and is made only then.

use core::sync::atomic::{AtomicBool, Ordering, fence};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use tengate_base::ShardId;

use crate::limits::{MESH_BATCHES_MAX, MESH_BUFFER_KEPT_BYTES_MAX, MESH_STAGED_BYTES_MAX};
use crate::sys;

/// Wakes a shard that sleeps in epoll; costs a load when it does not.
#[derive(Debug)]
pub(crate) struct Waker {
    sleeping: AtomicBool,
    counter: File,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { sleeping: AtomicBool::new(false), counter: sys::event_counter()? })
    }

    /// Call after making work visible. The fence pairs with the one of [`Waker::prepare_sleep`]: either this thread sees
    /// the flag, or the shard sees the work when it looks again before sleeping.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // The shard waits for an edge and never reads the counter; it fails only when full, after 2^64 edges.
            let _full = (&self.counter).write(&1_u64.to_ne_bytes());
        }
    }

    /// The shard is about to sleep, and must look for work once more after this.
    pub(crate) fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub(crate) fn cancel_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// The descriptor that becomes readable.
    pub(crate) fn counter(&self) -> &File {
        &self.counter
    }
}

/// One shard's ends of all its rings.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// By shard number; `None` at the shard's own.
    peers: Vec<Option<Peer>>,
    pub(crate) stats: MeshStats,
}

/// Counters since the start, and a gauge.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MeshStats {
    pub(crate) batches_sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) batches_received: u64,
    /// Turns that found a ring full.
    pub(crate) full_count: u64,
    /// Bytes for shards that have ended.
    pub(crate) bytes_dropped: u64,
}

#[derive(Debug)]
struct Peer {
    /// What the next batch consists of so far.
    staged: Vec<u8>,
    tx: Producer<Vec<u8>>,
    /// Buffers the peer emptied.
    emptied: Consumer<Vec<u8>>,
    rx: Consumer<Vec<u8>>,
    /// Where buffers go that this shard emptied.
    give_back: Producer<Vec<u8>>,
    /// This shard waits for room in `tx`.
    starved: Arc<AtomicBool>,
    /// The peer waits for room in `rx`.
    peer_starved: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Mesh {
    /// Connects shards, one for each waker, all with all.
    pub(crate) fn connect(wakers: &[Arc<Waker>]) -> Vec<Self> {
        let count = wakers.len();
        let mut meshes: Vec<Self> = (0..count)
            .map(|_| Self {
                peers: (0..count).map(|_| None).collect(),
                stats: MeshStats::default(),
            })
            .collect();
        for low in 0..count {
            for high in low + 1..count {
                let (for_low, for_high) = Peer::pair(&wakers[low], &wakers[high]);
                meshes[low].peers[high] = Some(for_low);
                meshes[high].peers[low] = Some(for_high);
            }
        }
        meshes
    }

    /// Shards of this process.
    pub(crate) fn shard_count(&self) -> usize {
        self.peers.len()
    }

    /// The batch being made for a shard.
    pub(crate) fn staged_mut(&mut self, to: ShardId) -> &mut Vec<u8> {
        let peer = self.peers[usize::from(to.0)].as_mut();
        &mut peer.expect("an app does not send to its own shard").staged
    }

    /// The next batch of a shard, to be returned to [`Mesh::give_back`].
    pub(crate) fn receive(&mut self, from: usize) -> Option<Vec<u8>> {
        let batch = self.peers[from].as_mut()?.rx.pop().ok()?;
        self.stats.batches_received += 1;
        Some(batch)
    }

    /// Returns a batch's buffer to its sender, who may be waiting for the room.
    pub(crate) fn give_back(&mut self, from: usize, mut batch: Vec<u8>) {
        let Some(peer) = &mut self.peers[from] else { return };
        batch.clear();
        if batch.capacity() <= MESH_BUFFER_KEPT_BYTES_MAX {
            // When the ring is full the sender has more than enough of them.
            let _surplus = peer.give_back.push(batch);
        }
        // Pairs with the fence of `prepare_sleep`, as in `Waker::wake`.
        fence(Ordering::SeqCst);
        if peer.peer_starved.load(Ordering::Relaxed)
            && peer.peer_starved.swap(false, Ordering::Relaxed)
        {
            peer.waker.wake();
        }
    }

    /// Hands over what is staged, as far as the rings have room, and wakes the receivers.
    pub(crate) fn push(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            if peer.staged.is_empty() {
                continue;
            }
            if peer.tx.is_full() {
                self.stats.full_count += 1;
                if peer.tx.is_abandoned() {
                    self.stats.bytes_dropped += peer.staged.len() as u64;
                    peer.staged = Vec::new();
                }
                continue;
            }
            let batch =
                core::mem::replace(&mut peer.staged, peer.emptied.pop().unwrap_or_default());
            self.stats.batches_sent += 1;
            self.stats.bytes_sent += batch.len() as u64;
            peer.tx.push(batch).expect("room was seen, and only this thread fills it");
            peer.waker.wake();
        }
    }

    /// Whether so much is staged that no more input should be read.
    pub(crate) fn is_congested(&self) -> bool {
        self.peers.iter().flatten().any(|peer| peer.staged.len() > MESH_STAGED_BYTES_MAX)
    }

    /// Asks to be woken when a full ring has room again.
    pub(crate) fn prepare_sleep(&self) {
        for peer in self.peers.iter().flatten() {
            peer.starved.store(!peer.staged.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether a batch waits, or room for one that is staged.
    pub(crate) fn has_work(&self) -> bool {
        self.peers.iter().flatten().any(|peer| {
            !peer.rx.is_empty()
                || (!peer.staged.is_empty() && (!peer.tx.is_full() || peer.tx.is_abandoned()))
        })
    }

    /// Bytes that wait for room.
    pub(crate) fn staged_bytes(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.staged.len()).sum()
    }
}

impl Drop for Mesh {
    /// Wakes everyone after this shard's ends are gone: who waited for room sees that there will be none.
    fn drop(&mut self) {
        let wakers: Vec<Arc<Waker>> =
            self.peers.drain(..).flatten().map(|peer| peer.waker).collect();
        wakers.iter().for_each(|waker| waker.wake());
    }
}

impl Peer {
    /// The two ends between two shards, for the first and for the second.
    fn pair(first: &Arc<Waker>, second: &Arc<Waker>) -> (Self, Self) {
        let (first_tx, second_rx) = RingBuffer::new(MESH_BATCHES_MAX);
        let (second_tx, first_rx) = RingBuffer::new(MESH_BATCHES_MAX);
        let (first_give_back, second_emptied) = RingBuffer::new(MESH_BATCHES_MAX);
        let (second_give_back, first_emptied) = RingBuffer::new(MESH_BATCHES_MAX);
        let first_starved = Arc::new(AtomicBool::new(false));
        let second_starved = Arc::new(AtomicBool::new(false));
        let for_first = Self {
            staged: Vec::new(),
            tx: first_tx,
            emptied: first_emptied,
            rx: first_rx,
            give_back: first_give_back,
            starved: Arc::clone(&first_starved),
            peer_starved: Arc::clone(&second_starved),
            waker: Arc::clone(second),
        };
        let for_second = Self {
            staged: Vec::new(),
            tx: second_tx,
            emptied: second_emptied,
            rx: second_rx,
            give_back: second_give_back,
            starved: second_starved,
            peer_starved: first_starved,
            waker: Arc::clone(first),
        };
        (for_first, for_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> [Mesh; 2] {
        let wakers: Vec<_> = (0..2).map(|_| Arc::new(Waker::new().unwrap())).collect();
        Mesh::connect(&wakers).try_into().unwrap()
    }

    #[test]
    fn emptied_buffer_returns_to_its_sender_and_is_used_again() {
        let [mut sender, mut receiver] = two();
        sender.staged_mut(ShardId(1)).extend_from_slice(&[7; 1000]);
        sender.push();
        let batch = receiver.receive(0).unwrap();
        let place = batch.as_ptr();
        assert_eq!(batch, [7; 1000]);
        receiver.give_back(0, batch);
        for _ in 0..2 {
            sender.staged_mut(ShardId(1)).push(1);
            sender.push();
        }
        sender.staged_mut(ShardId(1)).push(2);
        let places: Vec<_> =
            core::iter::from_fn(|| receiver.receive(0)).map(|batch| batch.as_ptr()).collect();
        assert_eq!(places[1], place);
    }

    #[test]
    fn full_ring_keeps_the_bytes_staged_until_there_is_room() {
        let [mut sender, mut receiver] = two();
        for _ in 0..MESH_BATCHES_MAX {
            sender.staged_mut(ShardId(1)).push(1);
            sender.push();
        }
        for _ in 0..3 {
            sender.staged_mut(ShardId(1)).push(2);
            sender.push();
        }
        assert_eq!((sender.staged_bytes(), sender.stats.full_count), (3, 3));
        assert!(!sender.has_work() && receiver.has_work());
        let batch = receiver.receive(0).unwrap();
        receiver.give_back(0, batch);
        assert!(sender.has_work());
        sender.push();
        assert_eq!(sender.staged_bytes(), 0);
        assert_eq!(core::iter::from_fn(|| receiver.receive(0)).last(), Some(vec![2, 2, 2]));
    }

    #[test]
    fn end_of_the_receiver_is_work_for_a_waiting_sender() {
        let [mut sender, receiver] = two();
        for _ in 0..=MESH_BATCHES_MAX {
            sender.staged_mut(ShardId(1)).push(1);
            sender.push();
        }
        assert!(!sender.has_work());
        drop(receiver);
        assert!(sender.has_work());
        sender.push();
        assert_eq!((sender.staged_bytes(), sender.stats.bytes_dropped), (0, 1));
    }

    #[test]
    fn only_a_sleeping_shard_is_woken() {
        use std::io::Read;
        let waker = Waker::new().unwrap();
        let mut count = [0; 8];
        waker.wake();
        assert!(waker.counter().read(&mut count).is_err());
        waker.prepare_sleep();
        waker.wake();
        waker.wake();
        waker.counter().read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
