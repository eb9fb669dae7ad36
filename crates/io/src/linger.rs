//! Descriptors whose connection is over for the app, kept half-closed until the peer has read the last message.
//!
//! A close with unread input makes the kernel send a reset, which destroys what the peer has not read yet. So the
//! writing side is shut down, input is discarded, and the descriptor closes at the peer's end or after a while.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use tengate_base::Instant;

use crate::limits::{LINGER, LINGER_READS, LINGERING_MAX};

/// The lingering descriptors of a shard, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    entries: VecDeque<Entry>,
    /// Serial number of the front entry; they count up without gaps, and wrap.
    first: u32,
    count: usize,
}

#[derive(Debug)]
struct Entry {
    stream: Option<TcpStream>,
    deadline: Instant,
}

impl Lingering {
    /// The serial number the next [`Lingering::push`] uses.
    pub(crate) fn next_serial(&self) -> u32 {
        // At most LINGERING_MAX entries.
        self.first.wrapping_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX))
    }

    /// Keeps a descriptor; when there are too many the oldest closes.
    pub(crate) fn push(&mut self, stream: TcpStream, now: Instant) {
        self.entries.push_back(Entry { stream: Some(stream), deadline: now + LINGER });
        self.count += 1;
        if self.entries.len() > LINGERING_MAX {
            self.pop();
        }
    }

    /// Discards what the peer sent; closes at its end.
    pub(crate) fn handle_ready(&mut self, serial: u32, discard: &mut [u8]) {
        let Some(entry) = self.entries.get_mut(serial.wrapping_sub(self.first) as usize) else {
            return;
        };
        let Some(stream) = &mut entry.stream else { return };
        for _ in 0..LINGER_READS {
            match stream.read(discard) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => break,
            }
        }
        // The peer's end, an error, or a flood that is not worth reading.
        entry.stream = None;
        self.count -= 1;
        while self.entries.front().is_some_and(|front| front.stream.is_none()) {
            self.pop();
        }
    }

    /// Closes those whose time is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.pop();
        }
    }

    /// When [`Lingering::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.front().map(|front| front.deadline)
    }

    /// Descriptors kept.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn pop(&mut self) {
        let Some(front) = self.entries.pop_front() else { return };
        self.first = self.first.wrapping_add(1);
        self.count -= usize::from(front.stream.is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        (ours, peer)
    }

    #[test]
    fn descriptors_close_at_their_deadline_oldest_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lingering = Lingering::default();
        let start = Instant::ZERO;
        let (first, mut first_peer) = pair(&listener);
        let (second, _second_peer) = pair(&listener);
        lingering.push(first, start);
        lingering.push(second, start + LINGER);
        lingering.handle_timeout(start + LINGER / 2);
        assert_eq!(lingering.count(), 2);
        lingering.handle_timeout(start + LINGER);
        assert_eq!(lingering.count(), 1);
        assert_eq!(first_peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(lingering.poll_timeout(), Some(start + LINGER + LINGER));
    }

    #[test]
    fn descriptor_whose_peer_ended_closes_and_its_serial_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lingering = Lingering::default();
        let (first, _first_peer) = pair(&listener);
        let (second, second_peer) = pair(&listener);
        lingering.push(first, Instant::ZERO);
        let serial = lingering.next_serial();
        lingering.push(second, Instant::ZERO);
        drop(second_peer);
        lingering.handle_ready(serial, &mut [0; 16]);
        assert_eq!(lingering.count(), 1);
        lingering.handle_ready(serial, &mut [0; 16]);
        assert_eq!(lingering.count(), 1);
        assert_ne!(lingering.next_serial(), serial);
        lingering.handle_timeout(Instant::ZERO + LINGER);
        assert_eq!((lingering.count(), lingering.poll_timeout()), (0, None));
    }
}
