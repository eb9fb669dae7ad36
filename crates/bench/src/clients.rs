//! Many websocket clients on one thread.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::ToSocketAddrs as _;

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tengate_io::Clock;
use tengate_proto::wire::websocket::{self, ClientDecoder, Item, Limits, Opcode};

/// Where the clients connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// Connected clients.
#[derive(Debug)]
pub(crate) struct Clients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    clock: Clock,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    decoder: ClientDecoder,
    /// Received and not decoded.
    input: Vec<u8>,
    /// Not written yet.
    output: Vec<u8>,
    open: bool,
    /// Set while a message is on its way: when it was sent, in nanoseconds.
    sent_at: u64,
}

/// A message that came back to a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Which client.
    pub(crate) client: usize,
    /// Nanoseconds since that client last sent.
    pub(crate) nanos: u64,
}

impl Target {
    /// Reads `ws://host:port/path`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("ws://").context("the address must begin with ws://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = host
            .to_socket_addrs()
            .with_context(|| format!("{host} is not host:port"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self { address, host: host.to_owned(), path: format!("/{path}") })
    }
}

impl Clients {
    /// Connects `count` clients and finishes their handshakes, telling `progress` how many are done.
    pub(crate) fn connect(
        target: &Target,
        count: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let limit = tengate_io::raise_descriptor_limit().context("descriptor limit")?;
        ensure!(
            count as u64 + 32 < limit,
            "{count} clients need more descriptors than this process may open ({limit})"
        );
        let mut all = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::with_capacity(count),
            buffer: vec![0; 256 << 10],
            clock: Clock::start(),
        };
        // Few at a time, so that the listener's backlog holds them.
        while all.clients.len() < count {
            let first = all.clients.len();
            for _ in first..count.min(first + BATCH) {
                all.start(target)?;
            }
            all.finish_handshakes(first)?;
            progress(all.clients.len());
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Nanoseconds on the clock that stamps messages.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    fn start(&mut self, target: &Target) -> Result<()> {
        let mut stream = TcpStream::connect(target.address).with_context(|| {
            format!("connecting to {}: is the gateway running?", target.address)
        })?;
        let token = Token(self.clients.len());
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let mut output = Vec::new();
        websocket::encode_request(&target.host, &target.path, &KEY, &[], &mut output);
        self.clients.push(Client {
            stream,
            decoder: ClientDecoder::default(),
            input: Vec::new(),
            output,
            open: false,
            sent_at: 0,
        });
        Ok(())
    }

    fn finish_handshakes(&mut self, first: usize) -> Result<()> {
        let mut waiting = self.clients.len() - first;
        let deadline = self.now() + HANDSHAKE_NANOS_MAX;
        while waiting > 0 {
            ensure!(
                self.now() < deadline,
                "{waiting} handshakes are not answered; is there a worker?"
            );
            self.turn(Duration::from_millis(100), |clients, index| {
                let client = &mut clients[index];
                if client.open {
                    return Ok(());
                }
                let Some(len) = websocket::decode_response(&client.input, &KEY, 8192)
                    .map_err(|error| anyhow::anyhow!("handshake refused: {error:?}"))?
                else {
                    return Ok(());
                };
                client.input.drain(..len);
                client.open = true;
                waiting -= 1;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Queues a message of a client and tries to write it.
    pub(crate) fn send(&mut self, client: usize, payload: &[u8]) -> Result<()> {
        let now = self.now();
        let client = &mut self.clients[client];
        client.sent_at = now;
        websocket::encode_masked(Opcode::Text, true, [0; 4], payload, &mut client.output);
        client.write()
    }

    /// Waits for messages, at most `wait`, and tells of each.
    pub(crate) fn receive(
        &mut self,
        wait: Duration,
        mut arrived: impl FnMut(Arrival),
    ) -> Result<()> {
        let clock = self.clock;
        self.turn(wait, |clients, index| {
            let now = clock.now().as_nanos();
            let client = &mut clients[index];
            let nanos = now.saturating_sub(client.sent_at);
            client.decode(|| arrived(Arrival { client: index, nanos }))
        })
    }

    fn turn(
        &mut self,
        wait: Duration,
        mut ready: impl FnMut(&mut [Client], usize) -> Result<()>,
    ) -> Result<()> {
        self.poll.poll(&mut self.events, Some(wait))?;
        for event in &self.events {
            let Token(index) = event.token();
            let client = &mut self.clients[index];
            if event.is_writable() {
                client.write()?;
            }
            client.read(&mut self.buffer)?;
            ready(&mut self.clients, index)?;
        }
        Ok(())
    }
}

impl Client {
    fn write(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(error).context("writing to the gateway"),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the gateway closed a client"),
                Ok(len) => self.input.extend_from_slice(&buffer[..len]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error).context("reading from the gateway"),
            }
        }
    }

    fn decode(&mut self, mut message: impl FnMut()) -> Result<()> {
        let limits = Limits { message_bytes_max: 16 << 20, check_utf8: false };
        let mut at = 0;
        while let Some((len, item)) = self
            .decoder
            .decode(&mut self.input[at..], &limits)
            .map_err(|violation| anyhow::anyhow!("the gateway sent a bad frame: {violation}"))?
        {
            at += len;
            match item {
                Item::Message { .. } => message(),
                Item::Close { .. } => bail!("the gateway closed a client"),
                Item::Fragment | Item::Ping(_) | Item::Pong(_) => {}
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(())
    }
}

const BATCH: usize = 100;
const HANDSHAKE_NANOS_MAX: u64 = 20_000_000_000;
/// RFC 6455's own example key; nothing here is a secret.
const KEY: [u8; 24] = *b"dGhlIHNhbXBsZSBub25jZQ==";
