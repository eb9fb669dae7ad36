//! Connections for calls and queries without events: one to each gateway, kept while it is used, pipelined in order.
//!
//! Replies carry no header, so they cannot share a connection with events; a worker asks over these, too, as in PHP.

use core::net::SocketAddrV4;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tengate_proto::secret::SecretKey;
use tengate_proto::wire::php::{Limits, Value, unserialize};
use tengate_proto::worker::{Call, encode_gateway_client_connect};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{CallError, GatewayFault};
use crate::link::FRAME_BYTES_MAX;

/// How long the steps of a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From the first SYN to a connection.
    pub(crate) connect: Duration,
    /// From the moment a question is the oldest unanswered one to its whole answer.
    pub(crate) reply: Duration,
}

impl Timeouts {
    /// Those of Lib\\Gateway.php.
    pub(crate) const DEFAULT: Self =
        Self { connect: Duration::from_secs(3), reply: Duration::from_secs(5) };
}

/// Connections to gateways, by inner address. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    secret_key: SecretKey,
    timeouts: Timeouts,
    connections: Mutex<BTreeMap<SocketAddrV4, mpsc::Sender<Request>>>,
}

struct Request {
    frame: Vec<u8>,
    done: Done,
}

/// Whom to tell when a request is done.
enum Done {
    Written(oneshot::Sender<Result<(), GatewayFault>>),
    Answered(Asker),
}

type Asker = oneshot::Sender<Result<Vec<u8>, GatewayFault>>;

impl Pool {
    pub(crate) fn new(secret_key: SecretKey, timeouts: Timeouts) -> Self {
        Self { shared: Arc::new(Shared { secret_key, timeouts, connections: Mutex::default() }) }
    }

    pub(crate) fn reply_timeout(&self) -> Duration {
        self.shared.timeouts.reply
    }

    /// Asks a gateway and waits for the answer.
    pub(crate) async fn ask(
        &self,
        gateway: SocketAddrV4,
        call: &Call<'_>,
    ) -> Result<Value, CallError> {
        let failed = |fault| CallError::Gateway { gateway, fault };
        let (asker, answer) = oneshot::channel();
        self.request(gateway, call, Done::Answered(asker)).await?;
        let bytes = answer.await.unwrap_or(Err(GatewayFault::Closed)).map_err(failed)?;
        unserialize(&bytes, &REPLY_LIMITS).map_err(|error| failed(GatewayFault::Reply(error)))
    }

    /// Sends a gateway a command that has no answer, and waits until the kernel has all of it.
    pub(crate) async fn tell(
        &self,
        gateway: SocketAddrV4,
        call: &Call<'_>,
    ) -> Result<(), CallError> {
        let (writer, written) = oneshot::channel();
        self.request(gateway, call, Done::Written(writer)).await?;
        let written = written.await.unwrap_or(Err(GatewayFault::Closed));
        written.map_err(|fault| CallError::Gateway { gateway, fault })
    }

    async fn request(
        &self,
        gateway: SocketAddrV4,
        call: &Call<'_>,
        done: Done,
    ) -> Result<(), CallError> {
        let frame_bytes = call.frame_len();
        if frame_bytes > FRAME_BYTES_MAX {
            return Err(CallError::Gateway {
                gateway,
                fault: GatewayFault::TooLong { frame_bytes },
            });
        }
        let mut frame = Vec::with_capacity(frame_bytes);
        call.encode(&mut frame);
        let mut request = Request { frame, done };
        // A connection that ends between the look-up and the send gives the request back unseen.
        while let Err(mpsc::error::SendError(unsent)) = self.connection(gateway).send(request).await
        {
            request = unsent;
        }
        Ok(())
    }

    fn connection(&self, gateway: SocketAddrV4) -> mpsc::Sender<Request> {
        let mut connections =
            self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) =
            connections.get(&gateway).filter(|connection| !connection.is_closed())
        {
            return connection.clone();
        }
        // The moment to forget gateways that are gone: their connections have ended.
        connections.retain(|_, connection| !connection.is_closed());
        let (connection, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
        connections.insert(gateway, connection.clone());
        let mut greeting = Vec::new();
        if !self.shared.secret_key.is_empty() {
            encode_gateway_client_connect(&self.shared.secret_key, &mut greeting);
        }
        tokio::spawn(serve(gateway, greeting, self.shared.timeouts, requests));
        connection
    }
}

/// The life of one connection, from its first request to its end.
async fn serve(
    gateway: SocketAddrV4,
    greeting: Vec<u8>,
    timeouts: Timeouts,
    mut requests: mpsc::Receiver<Request>,
) {
    let outcome = match connect(gateway, timeouts.connect).await {
        Ok(stream) => converse(stream, &greeting, timeouts.reply, &mut requests).await,
        Err(fault) => Err(fault),
    };
    let Err(fault) = outcome else { return };
    requests.close();
    while let Some(request) = requests.recv().await {
        request.done.fail(fault);
    }
}

/// Connects with small segments sent at once: a call is short, and somebody waits for it.
pub(crate) async fn connect(
    address: SocketAddrV4,
    within: Duration,
) -> Result<TcpStream, GatewayFault> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match timeout(within, connecting).await {
        Ok(connected) => connected.map_err(|error: io::Error| GatewayFault::Connect(error.kind())),
        Err(_) => Err(GatewayFault::ConnectTimedOut),
    }
}

/// Writes requests and reads replies until the connection was idle for [`IDLE_MAX`], or fails.
async fn converse(
    stream: impl AsyncRead + AsyncWrite,
    greeting: &[u8],
    reply_timeout: Duration,
    requests: &mut mpsc::Receiver<Request>,
) -> Result<(), GatewayFault> {
    let (reader, writer) = tokio::io::split(stream);
    let (asked, mut askers) = mpsc::unbounded_channel();
    let writing = write_requests(writer, greeting, requests, asked);
    let reading = read_replies(BufReader::new(reader), reply_timeout, &mut askers);
    let outcome = tokio::try_join!(writing, reading);
    let Err(fault) = outcome else { return Ok(()) };
    while let Ok(asker) = askers.try_recv() {
        // An asker that no longer waits needs no answer.
        let _ = asker.send(Err(fault));
    }
    Err(fault)
}

async fn write_requests(
    mut writer: impl AsyncWrite + Unpin,
    greeting: &[u8],
    requests: &mut mpsc::Receiver<Request>,
    asked: mpsc::UnboundedSender<Asker>,
) -> Result<(), GatewayFault> {
    writer.write_all(greeting).await.map_err(|_| GatewayFault::Closed)?;
    loop {
        let Ok(request) = timeout(IDLE_MAX, requests.recv()).await else {
            // From here on `recv` yields what was sent before the close, then `None`.
            requests.close();
            continue;
        };
        let Some(Request { frame, done }) = request else { return Ok(()) };
        let written = match done {
            Done::Written(written) => Some(written),
            Done::Answered(asker) => {
                // Before the write, so that the reader never sees an answer without its asker.
                asked.send(asker).map_err(|_| GatewayFault::Closed)?;
                None
            }
        };
        writer.write_all(&frame).await.map_err(|_| GatewayFault::Closed)?;
        if let Some(written) = written {
            let _ = written.send(Ok(()));
        }
    }
}

async fn read_replies(
    mut reader: BufReader<impl AsyncRead + Unpin>,
    reply_timeout: Duration,
    askers: &mut mpsc::UnboundedReceiver<Asker>,
) -> Result<(), GatewayFault> {
    loop {
        let asker = tokio::select! {
            biased;
            asker = askers.recv() => asker,
            // Without a question, anything that can be read is the end of the connection, or nonsense.
            _ = reader.fill_buf() => return Err(GatewayFault::Closed),
        };
        let Some(asker) = asker else { return Ok(()) };
        let reply = match timeout(reply_timeout, read_reply(&mut reader)).await {
            Ok(reply) => reply,
            Err(_) => Err(GatewayFault::ReplyTimedOut),
        };
        let fault = reply.as_ref().err().copied();
        let _ = asker.send(reply);
        if let Some(fault) = fault {
            return Err(fault);
        }
    }
}

async fn read_reply(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, GatewayFault> {
    let closed = |_| GatewayFault::Closed;
    let reply_bytes = reader.read_u32().await.map_err(closed)? as usize;
    if reply_bytes > REPLY_BYTES_MAX {
        return Err(GatewayFault::ReplyTooLong { reply_bytes });
    }
    // Memory grows with what arrives, not with what the length promises.
    let mut reply = Vec::new();
    reader.take(reply_bytes as u64).read_to_end(&mut reply).await.map_err(closed)?;
    if reply.len() < reply_bytes {
        return Err(GatewayFault::Closed);
    }
    Ok(reply)
}

impl Done {
    /// A receiver that is gone needs no answer.
    fn fail(self, fault: GatewayFault) {
        match self {
            Self::Written(written) => drop(written.send(Err(fault))),
            Self::Answered(asker) => drop(asker.send(Err(fault))),
        }
    }
}

/// Longest answer of a gateway: sessions of some hundred thousand clients.
pub const REPLY_BYTES_MAX: usize = 256 << 20;

/// Entries of an answer: as many as a reply of the greatest length can hold in practice, some 20 bytes each.
const REPLY_LIMITS: Limits = Limits { depth_max: 512, entry_count_max: REPLY_BYTES_MAX / 20 };

/// Requests that wait for one connection's writer before callers wait, too.
const REQUESTS_WAITING_MAX: usize = 64;

/// An unused connection ends after this time, as in Lib\Gateway.php: gateways do not keep these alive, and a firewall
/// between may have forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests;
