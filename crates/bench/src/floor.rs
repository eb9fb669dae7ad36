//! The floor: a websocket server that does nothing but what every server must, for what the kernel alone charges.
//!
//! One thread on edge-triggered epoll. A message is one `read` and one `write`; a broadcast is a bare loop of `write`
//! over all clients, of a frame encoded once. No limits, no queues, no heartbeat: it is compared with, not used. A client
//! that does not read what it is sent is cut off.

use core::net::SocketAddr;
use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, Result};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tengate_proto::wire::websocket::{
    Decoder, Item, Limits, Opcode, REQUEST_BYTES_MAX, decode_request, encode_header,
    encode_response,
};

use crate::report;
use crate::worker::BROADCAST;

/// Where it listens.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:7272")]
    listen: SocketAddr,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    open: bool,
}

/// What is to be done with a client after its bytes were seen.
enum Next {
    Nothing,
    Close,
    /// `output` goes to everyone.
    Broadcast,
}

const LISTENER: Token = Token(usize::MAX);

pub(crate) fn run(options: &Options) -> Result<()> {
    let poll = Poll::new()?;
    let mut listener = TcpListener::bind(options.listen)
        .with_context(|| format!("listening on {}", options.listen))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    tengate_io::raise_descriptor_limit().context("descriptor limit")?;
    report::say(&format!("floor: listening on {}", options.listen));
    let mut floor = Floor {
        poll,
        listener,
        clients: Vec::new(),
        free: Vec::new(),
        input: vec![0; 64 << 10],
        output: Vec::new(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        match floor.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            floor.handle(event)?;
        }
    }
}

impl Floor {
    fn handle(&mut self, event: &Event) -> Result<()> {
        if event.token() == LISTENER {
            return self.accept();
        }
        let Token(index) = event.token();
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        match client.turn(&mut self.input, &mut self.output) {
            Next::Nothing => {}
            Next::Close => self.close(index),
            Next::Broadcast => {
                for index in 0..self.clients.len() {
                    let Some(client) = &mut self.clients[index] else { continue };
                    if client.open && !client.write(&self.output) {
                        self.close(index);
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("accepting"),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or(self.clients.len());
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            let client = Some(Client { stream, open: false });
            match self.clients.get_mut(index) {
                Some(place) => *place = client,
                None => self.clients.push(client),
            }
        }
    }

    fn close(&mut self, index: usize) {
        self.clients[index] = None;
        self.free.push(index);
    }
}

impl Client {
    /// Reads once and answers once.
    fn turn(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> Next {
        output.clear();
        let count = match self.stream.read(input) {
            Ok(0) => return Next::Close,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Nothing,
            Err(_) => return Next::Close,
        };
        if !self.open {
            let Ok(Some((_, request))) = decode_request(&input[..count], REQUEST_BYTES_MAX) else {
                return Next::Close;
            };
            encode_response(request.key, output);
            self.open = true;
        } else if let Some(next) = echo(&mut input[..count], output) {
            return next;
        }
        if output.is_empty() || self.write(output) { Next::Nothing } else { Next::Close }
    }

    /// Whether all was taken.
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write(bytes).is_ok_and(|len| len == bytes.len())
    }
}

/// Puts the answers to all frames into `output`; what else there is to do when it is no echo. The generator's frames
/// arrive whole, as it sends the next one only after the answer.
fn echo(input: &mut [u8], output: &mut Vec<u8>) -> Option<Next> {
    let limits = Limits { message_bytes_max: input.len(), check_utf8: false };
    let (mut decoder, mut at) = (Decoder::default(), 0);
    while let Ok(Some((len, item))) = decoder.decode(&mut input[at..], &limits) {
        at += len;
        match item {
            Item::Message { payload, .. } => {
                encode_header(Opcode::Text, payload.len(), output);
                output.extend_from_slice(payload);
                if payload.first() == Some(&BROADCAST) {
                    return Some(Next::Broadcast);
                }
            }
            Item::Close { .. } => return Some(Next::Close),
            Item::Fragment | Item::Ping(_) | Item::Pong(_) => {}
        }
    }
    None
}
