//! The other end of a register's connection: announces a gateway, or learns which gateways there are.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use tengate_base::Instant;

use crate::secret::SecretKey;
use crate::wire::register::{ADDRESS_COUNT_MAX, FromRegister, FromRegisterError, ToRegister};

/// What one connection to one register is for.
#[derive(Clone, Debug)]
pub struct RegisterClientConfig {
    /// The register's address as it is configured, `host:port`. On 127.0.0.1 no pings are sent, as in GatewayWorker.
    pub register: Box<str>,
    /// Who connects.
    pub role: RegisterRole,
    /// The cluster's key; empty when it has none.
    pub secret_key: SecretKey,
}

/// Who connects to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterRole {
    /// A gateway with this inner address, `IP:PORT`.
    Gateway {
        /// Exactly what client ids decode to.
        address: Box<str>,
    },
    /// A worker or an outside client.
    Worker,
}

/// What the owner of a [`RegisterClient`] is to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterClientOutput {
    /// Connect to the register, then call `handle_connected`, or `handle_closed` if that fails.
    Connect,
    /// Send these bytes.
    Transmit(Vec<u8>),
    /// Close the connection, without calling `handle_closed`.
    Close,
    /// These are the gateways' inner addresses now.
    Addresses(Vec<String>),
    /// The register sent a line that says nothing: worth a warning, no more.
    BadLine(FromRegisterError),
}

/// Keeps one register informed, or keeps informed by it, for as long as it lives: connects, says who it is, pings, and
/// connects again 1 s after a loss. A decision maker without a socket; its owner moves the bytes.
#[derive(Debug)]
pub struct RegisterClient {
    config: RegisterClientConfig,
    state: State,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    outputs: VecDeque<RegisterClientOutput>,
}

#[derive(Debug)]
enum State {
    Connecting,
    Connected { ping_at: Option<Instant> },
    Lost { connect_at: Instant },
}

impl RegisterClient {
    /// A client that wants to connect at once.
    pub fn new(config: RegisterClientConfig) -> Self {
        let outputs = VecDeque::from([RegisterClientOutput::Connect]);
        Self { config, state: State::Connecting, partial: Vec::new(), outputs }
    }

    /// The connection is open.
    pub fn handle_connected(&mut self, now: Instant) {
        let secret_key = self.config.secret_key.show();
        let hello = match &self.config.role {
            RegisterRole::Gateway { address } => {
                ToRegister::GatewayConnect { address: (&**address).into(), secret_key }
            }
            RegisterRole::Worker => ToRegister::WorkerConnect { secret_key },
        };
        let transmit = transmit(&hello);
        self.outputs.push_back(transmit);
        let is_local = self.config.register.starts_with("127.0.0.1");
        self.state = State::Connected { ping_at: (!is_local).then_some(now + PING_INTERVAL) };
    }

    /// Bytes came from the register.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !matches!(self.state, State::Connected { .. }) {
            return;
        }
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (end, tail) = rest.split_at(at + 1);
            rest = tail;
            if self.partial.len() + end.len() > LINE_BYTES_MAX {
                return self.give_up(now);
            }
            self.partial.extend_from_slice(end);
            self.outputs.push_back(match FromRegister::decode(&self.partial) {
                Ok(FromRegister::BroadcastAddresses(addresses)) => {
                    RegisterClientOutput::Addresses(addresses)
                }
                Err(error) => RegisterClientOutput::BadLine(error),
            });
            self.partial.clear();
        }
        if self.partial.len() + rest.len() > LINE_BYTES_MAX {
            return self.give_up(now);
        }
        self.partial.extend_from_slice(rest);
    }

    /// The connection is gone, or could not be made.
    pub fn handle_closed(&mut self, now: Instant) {
        self.partial = Vec::new();
        self.state = State::Lost { connect_at: now + RECONNECT_DELAY };
    }

    /// The instant of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Connected { ping_at: Some(ping_at) } if *ping_at <= now => {
                *ping_at = now + PING_INTERVAL;
                self.outputs.push_back(transmit(&ToRegister::Ping));
            }
            State::Lost { connect_at } if *connect_at <= now => {
                self.state = State::Connecting;
                self.outputs.push_back(RegisterClientOutput::Connect);
            }
            State::Connecting | State::Connected { .. } | State::Lost { .. } => {}
        }
    }

    /// When the client next wants [`Self::handle_timeout`], if ever: for a ping or to connect again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Connecting => None,
            State::Connected { ping_at } => ping_at,
            State::Lost { connect_at } => Some(connect_at),
        }
    }

    /// What is to be done next; call until `None`.
    pub fn poll_output(&mut self) -> Option<RegisterClientOutput> {
        self.outputs.pop_front()
    }

    /// Whether the register knows us.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    fn give_up(&mut self, now: Instant) {
        self.outputs.push_back(RegisterClientOutput::Close);
        self.handle_closed(now);
    }
}

fn transmit(message: &ToRegister<'_>) -> RegisterClientOutput {
    let mut line = Vec::new();
    message.encode(&mut line);
    RegisterClientOutput::Transmit(line)
}

/// Bytes of a line from the register with its end; a longer one ends the connection. Room for every address a line may have.
pub(super) const LINE_BYTES_MAX: usize = 32 * ADDRESS_COUNT_MAX;

/// GatewayWorker's interval of pings to a register on another machine.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// GatewayWorker's delay before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
