//! How connections come into a shard.

use std::io::ErrorKind;

use tengate_base::Opened;

use super::{Host, Shard};
use crate::limits::{ACCEPT_RETRY, ACCEPTS_PER_TURN};
use crate::listen::Sharing;
use crate::mailbox::{Accepted, Mail};
use crate::net::{Accepting, Token, canonical};
use crate::sys;

impl<A: Host> Shard<A> {
    pub(super) fn accept(&mut self, position: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(position) else { return };
            if self.net.accepting != Accepting::Yes {
                return;
            }
            match sys::accept(&listener.socket) {
                Ok((stream, peer)) => {
                    let accepted =
                        Accepted { stream, door: listener.door, peer, local_port: listener.port };
                    match listener.sharing {
                        Sharing::PerShard => self.adopt(accepted),
                        Sharing::ByHost => {
                            let host = canonical(peer).ip();
                            let shard = listener.dealer.shard_of(host, self.mailboxes.len());
                            self.hand_off(shard, accepted);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The next in the backlog may be fine.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                // Out of descriptors or memory: the backlog keeps the rest until some are free. Asking again at once would spin.
                Err(_) => {
                    self.net.turns.accept_deferred += 1;
                    self.net.accepting = Accepting::After(self.net.now + ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    /// Gives a socket to a shard; a shard that takes none leaves it here.
    fn hand_off(&mut self, shard: usize, accepted: Accepted) {
        if shard == usize::from(self.net.shard().0) {
            return self.adopt(accepted);
        }
        match self.mailboxes[shard].post(Mail::Adopt(accepted)) {
            Ok(()) => self.net.turns.handed_off += 1,
            Err(Mail::Adopt(accepted)) => self.adopt(accepted),
            Err(Mail::Command(_) | Mail::Stop { .. }) => {}
        }
    }

    pub(super) fn adopt(&mut self, accepted: Accepted) {
        if self.stop_at.is_some() {
            self.net.sockets.counters.refused_full += 1;
            return;
        }
        let Accepted { door, peer, local_port, .. } = accepted;
        let Some(conn) = self.net.adopt(accepted) else { return };
        let opened = Opened { conn, door, peer, local_port };
        self.app.handle_open(self.net.now, &opened, &mut self.net);
    }

    /// Has epoll report the listeners exactly while connections are taken.
    pub(super) fn arm_listeners(&mut self) {
        let wanted = self.net.accepting == Accepting::Yes;
        for (position, listener) in (0..).zip(&mut self.listeners) {
            if listener.is_armed != wanted {
                let flags = if wanted { sys::READABLE } else { 0 };
                // Registered before with the same descriptor, so that a change cannot fail; if it does, it is tried next turn.
                if self
                    .net
                    .epoll
                    .modify(&listener.socket, flags, Token::Listener(position).encode())
                    .is_ok()
                {
                    listener.is_armed = wanted;
                }
            }
        }
    }
}
