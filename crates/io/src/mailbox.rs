//! What other threads say to a shard: commands of the application, sockets handed over, stop. Not a data path.

use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tengate_base::{Door, ShardId};

use crate::limits::HANDED_OVER_MAX;
use crate::listen::DEAD_HOST_OPTIONS;
use crate::mesh::Waker;
use crate::net::canonical;
use crate::sys;

/// Speaks to one shard, from any thread. `C` is the application's [`Host::Command`](crate::Host::Command).
#[derive(Debug)]
pub struct ShardHandle<C> {
    mailbox: Arc<Mailbox<C>>,
}

impl<C> ShardHandle<C> {
    pub(crate) fn new(mailbox: Arc<Mailbox<C>>) -> Self {
        Self { mailbox }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.mailbox.shard
    }

    /// Sends a command to [`Host::handle_command`](crate::Host::handle_command); it is taken within a turn.
    ///
    /// # Errors
    /// The shard has ended; the command is dropped.
    pub fn command(&self, command: C) -> Result<(), ShardGone> {
        self.mailbox.post(Mail::Command(command)).map_err(|_mail| ShardGone(self.shard()))
    }

    /// Gives a connected socket to the shard, which takes it as if it had been accepted through `door`. The kernel probes it
    /// like the connections of a [`Sharing::ByHost`](crate::Sharing::ByHost) listener.
    ///
    /// # Errors
    /// See [`AdoptError`]; the socket is closed. A shard that is full or stopping closes it too, and counts that.
    pub fn adopt(&self, stream: TcpStream, door: Door) -> Result<(), AdoptError> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        sys::set_options(&stream, &DEAD_HOST_OPTIONS)?;
        let peer = canonical(stream.peer_addr()?);
        let local_port = stream.local_addr()?.port();
        let accepted = Accepted { stream, door, peer, local_port };
        self.mailbox.post(Mail::Adopt(accepted)).map_err(|_mail| AdoptError::Refused(self.shard()))
    }

    /// Asks the shard to end: it stops accepting, closes every connection once its output is written, with
    /// [`CloseCause::Shell`](tengate_base::CloseCause::Shell), and after `grace` whether or not it is. An app that wants to say goodbye does so on a command before.
    pub fn stop(&self, grace: Duration) {
        // A shard that has ended is what was asked for.
        let _ended = self.mailbox.post(Mail::Stop { grace });
    }
}

impl<C> Clone for ShardHandle<C> {
    fn clone(&self) -> Self {
        Self { mailbox: Arc::clone(&self.mailbox) }
    }
}

/// The shard has ended and takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardGone(pub ShardId);

impl fmt::Display for ShardGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} has ended", self.0)
    }
}

impl core::error::Error for ShardGone {}

/// A socket could not be given to a shard.
#[derive(Debug)]
pub enum AdoptError {
    /// The socket does not work; its peer may have gone already.
    Socket(io::Error),
    /// The shard has ended, or too many sockets wait for it.
    Refused(ShardId),
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "the socket does not work: {error}"),
            Self::Refused(shard) => write!(f, "shard {shard} takes no more sockets"),
        }
    }
}

impl core::error::Error for AdoptError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Socket(error) => Some(error),
            Self::Refused(_) => None,
        }
    }
}

impl From<io::Error> for AdoptError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// One letter.
#[derive(Debug)]
pub(crate) enum Mail<C> {
    Command(C),
    /// A socket another shard accepted, or another thread opened.
    Adopt(Accepted),
    Stop {
        grace: Duration,
    },
}

/// A connection that no shard has yet.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) door: Door,
    pub(crate) peer: SocketAddr,
    /// The listener's, or this end's of a connection another thread opened.
    pub(crate) local_port: u16,
}

#[derive(Debug)]
pub(crate) struct Mailbox<C> {
    shard: ShardId,
    inner: Mutex<Inner<C>>,
    /// Whether `inner` holds mail, so that a shard asks every turn without the lock.
    has_mail: AtomicBool,
    waker: Arc<Waker>,
}

#[derive(Debug)]
struct Inner<C> {
    mail: VecDeque<Mail<C>>,
    ended: bool,
}

impl<C> Mailbox<C> {
    pub(crate) fn new(shard: ShardId, waker: Arc<Waker>) -> Self {
        let inner = Mutex::new(Inner { mail: VecDeque::new(), ended: false });
        Self { shard, inner, has_mail: AtomicBool::new(false), waker }
    }

    /// Leaves a letter; gives it back when the shard has ended, or holds too many sockets to take one more.
    pub(crate) fn post(&self, mail: Mail<C>) -> Result<(), Mail<C>> {
        let mut inner = self.lock();
        if inner.ended || (matches!(mail, Mail::Adopt(_)) && inner.mail.len() >= HANDED_OVER_MAX) {
            return Err(mail);
        }
        inner.mail.push_back(mail);
        self.has_mail.store(true, Ordering::Release);
        drop(inner);
        self.waker.wake();
        Ok(())
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// Takes everything, into an empty `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail<C>>) {
        let mut inner = self.lock();
        core::mem::swap(&mut inner.mail, into);
        self.has_mail.store(false, Ordering::Relaxed);
    }

    /// Takes nothing from now on, and drops what is there.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        let dropped = core::mem::take(&mut inner.mail);
        drop(inner);
        drop(dropped);
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The queue is whole even when another thread panicked with it: every change is one push or one swap.
    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
