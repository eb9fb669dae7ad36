//! A link to one gateway: a bounded send queue one way, events the other way. Acknowledgements go with the queue, one frame for
//! everything that was finished before a write.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::pin::pin;
use core::time::Duration;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tengate_proto::wire::ext::ExtError;
use tengate_proto::wire::extension::Extension;
use tengate_proto::wire::header::{FrameError, InnerFrame};
use tengate_proto::worker::{AckTracker, Call, Receipt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::GatewayFault;

/// What callers put frames into, and the link's writer takes them from.
#[derive(Debug)]
pub(crate) struct SendQueue {
    state: Mutex<State>,
    bytes_max: usize,
    /// For the writer: there are bytes, or the queue was closed.
    filled: Notify,
    /// For [`SendQueue::flushed`]: nothing waits any more, or never will be written.
    emptied: Notify,
    /// For [`SendQueue::room_for_events`]: there may be some.
    acknowledged: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes the writer has taken and not written yet.
    writing_bytes: usize,
    closed: bool,
    /// For a peer that wants events acknowledged.
    acks: Option<AckTracker>,
}

impl State {
    fn is_done(&self) -> bool {
        self.closed || self.waiting.len() + self.writing_bytes == 0
    }
}

impl SendQueue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            bytes_max,
            filled: Notify::new(),
            emptied: Notify::new(),
            acknowledged: Notify::new(),
        }
    }

    /// Appends a frame, unless the queue has reached its limit. It may exceed the limit by one frame, as in Workerman.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<(), GatewayFault> {
        let frame_bytes = call.frame_len();
        if frame_bytes > FRAME_BYTES_MAX {
            return Err(GatewayFault::TooLong { frame_bytes });
        }
        let mut state = self.state();
        if state.closed {
            return Err(GatewayFault::NotLinked);
        }
        let queued_bytes = state.waiting.len() + state.writing_bytes;
        if queued_bytes >= self.bytes_max {
            return Err(GatewayFault::QueueFull { queued_bytes });
        }
        call.encode(&mut state.waiting);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits until everything queued so far was written to the socket, or the queue is closed.
    pub(crate) async fn flushed(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.state().is_done() {
                return;
            }
            emptied.await;
        }
    }

    /// From now on the peer wants every event acknowledged.
    pub(crate) fn acknowledge_events(&self) {
        self.state().acks.get_or_insert_default();
    }

    /// Waits while too many events are unacknowledged. Safe to cancel.
    pub(crate) async fn room_for_events(&self) {
        loop {
            let mut acknowledged = pin!(self.acknowledged.notified());
            acknowledged.as_mut().enable();
            if self.state().acks.as_ref().is_none_or(|acks| !acks.is_full()) {
                return;
            }
            acknowledged.await;
        }
    }

    /// An event came. `None` when the peer does not want to hear when it is finished.
    pub(crate) fn event_received(&self) -> Option<Receipt> {
        self.state().acks.as_mut().map(AckTracker::handle_received)
    }

    /// An event is finished, and what it wanted said on this link was queued before.
    pub(crate) fn event_finished(&self, receipt: Receipt) {
        let mut state = self.state();
        let Some(acks) = &mut state.acks else { return };
        acks.handle_finished(receipt);
        if acks.is_due() {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Takes no more frames. What is queued is still written when the connection can.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// Writes what is queued until the queue is closed and empty, then ends the stream in order.
    pub(crate) async fn write_to(&self, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut batch = Vec::new();
        while self.take(&mut batch).await {
            writer.write_all(&batch).await?;
            self.wrote();
            batch.clear();
            batch.shrink_to(BATCH_BYTES_KEPT);
        }
        writer.shutdown().await
    }

    /// Swaps the queued bytes into `batch`, waiting for some, with the acknowledgement of what was finished by then. False
    /// when the queue is closed and empty.
    async fn take(&self, batch: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut state = self.state();
                let due = state.acks.as_mut().map_or(0, AckTracker::take_due);
                if due > 0 {
                    Extension::Ack.encode(due, b"", &mut state.waiting);
                    self.acknowledged.notify_waiters();
                }
                if !state.waiting.is_empty() {
                    core::mem::swap(&mut state.waiting, batch);
                    state.writing_bytes = batch.len();
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.filled.notified().await;
        }
    }

    fn wrote(&self) {
        let mut state = self.state();
        state.writing_bytes = 0;
        if state.waiting.is_empty() {
            drop(state);
            self.emptied.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between lock and unlock leaves at worst a frame unsent; the queue stays in order.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a gateway's frames, whole.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    silence_max: Option<Duration>,
}

/// Why no more frames come.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The gateway closed the link.
    Closed,
    /// The connection broke.
    Io(io::Error),
    /// Not even a keep-alive came for a long time.
    Silent,
    /// The gateway sent something that is no frame.
    Frame(FrameError),
    /// The gateway's answer to what this worker offered cannot be read.
    Welcome(ExtError),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(reader: R, gateway: SocketAddrV4) -> Self {
        // Gateways that are announced with the loopback address send no keep-alives (Gateway.php).
        let silence_max = (*gateway.ip() != Ipv4Addr::LOCALHOST).then_some(SILENCE_MAX);
        Self { reader, buffer: BytesMut::new(), silence_max }
    }

    /// The next frame's bytes. Safe to cancel: what was read is kept.
    pub(crate) async fn next(&mut self) -> Result<Bytes, ReadError> {
        loop {
            let decoded = InnerFrame::decode(&self.buffer, RECEIVED_FRAME_BYTES_MAX)
                .map_err(ReadError::Frame)?;
            if let Some((_, frame_len)) = decoded {
                return Ok(self.buffer.split_to(frame_len).freeze());
            }
            self.buffer.reserve(READ_BYTES);
            let reading = self.reader.read_buf(&mut self.buffer);
            let read = match self.silence_max {
                Some(silence_max) => {
                    timeout(silence_max, reading).await.map_err(|_| ReadError::Silent)?
                }
                None => reading.await,
            };
            if read.map_err(ReadError::Io)? == 0 {
                return Err(ReadError::Closed);
            }
        }
    }

    /// Reads past everything until the gateway closes the link. A socket that is closed with bytes unread is reset, and
    /// takes with it what was written last.
    pub(crate) async fn drain(mut self) {
        let mut passed = vec![0; READ_BYTES];
        while self.reader.read(&mut passed).await.is_ok_and(|read| read > 0) {}
    }
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the gateway"),
            Self::Io(error) => write!(f, "broken: {error}"),
            Self::Silent => write!(f, "no keep-alive for {SILENCE_MAX:?}"),
            Self::Frame(error) => write!(f, "the gateway sent no frame: {error:?}"),
            Self::Welcome(error) => write!(f, "the gateway sent no welcome: {error:?}"),
        }
    }
}

/// Longest frame a call may make: what a PHP gateway's inner listener accepts (Workerman's `maxPackageSize`).
pub const FRAME_BYTES_MAX: usize = 10 << 20;

/// Longest frame taken from a gateway: a message of the greatest length, with a session as large.
const RECEIVED_FRAME_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX + 4096;

/// Room made for one read.
const READ_BYTES: usize = 16 << 10;

/// Memory an idle writer keeps.
const BATCH_BYTES_KEPT: usize = 64 << 10;

/// Gateways send a keep-alive every 25 s; after four missed ones the link is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(100);

#[cfg(test)]
mod tests;
