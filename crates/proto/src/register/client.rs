//! The other end of a register's connection: announces a gateway or dispatcher, or learns which gateways there are.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use tengate_base::Instant;

use crate::secret::SecretKey;
use crate::wire::register::{
    ADDRESS_COUNT_MAX, FromRegister, FromRegisterError, Links, ToRegister, Wanted,
};

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
    /// A gateway that serves workers, with this inner address, `IP:PORT`.
    Gateway {
        /// Exactly what client ids decode to.
        address: Box<str>,
    },
    /// A gateway that serves dispatchers.
    DispatchedGateway {
        /// Its inner address, `IP:PORT`: where dispatchers connect to.
        address: Box<str>,
        /// How many shards it has: so many proc_ids it asks for. At least 1.
        shards: u16,
        /// Bits of a connection_id that number a client within its shard.
        number_bits: u8,
        /// The proc_id of its first shard when it has a lease already, see [`RegisterClient::set_claim`].
        first_proc_id: Option<u16>,
    },
    /// A dispatcher.
    Dispatcher {
        /// The address it is announced at to workers, `IP:PORT`.
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
    /// To a worker: these are the addresses to link to now.
    Addresses(Vec<String>),
    /// To a dispatched gateway: these proc_ids are its own.
    Lease {
        /// The proc_id of its first shard.
        first_proc_id: u16,
        /// How many there are: as many as its shards.
        shards: u16,
    },
    /// To a dispatched gateway: this register gives it no proc_ids; the text says why and what to do. A lease may follow
    /// on the same connection when the reason is gone.
    Refused(String),
    /// To a dispatched gateway: the dispatcher of this address is to be its home, if there is any.
    Home(Option<String>),
    /// To a dispatcher: these are the inner addresses of the gateways to connect to. A link to one that is no longer listed
    /// stays; it is only not made again when it ends.
    Gateways(Vec<String>),
    /// To a dispatched gateway: connected for [`LEASE_ANSWER_TIMEOUT`], and the register said nothing of proc_ids: it is
    /// GatewayWorker's, or too old. Comes once a connection.
    NoLease,
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
    /// The last report of links, as a line; empty when there was none.
    report: Vec<u8>,
    outputs: VecDeque<RegisterClientOutput>,
}

#[derive(Debug)]
enum State {
    Connecting,
    Connected(Timers),
    Lost { connect_at: Instant },
}

/// What is due while connected.
#[derive(Debug)]
struct Timers {
    ping_at: Option<Instant>,
    /// When the register must have answered a dispatched gateway.
    lease_due: Option<Instant>,
    /// When the report is to be sent, if it is not.
    report_at: Option<Instant>,
    /// No report before.
    reports_rest_until: Instant,
}

impl RegisterClient {
    /// A client that wants to connect at once.
    pub fn new(config: RegisterClientConfig) -> Self {
        let outputs = VecDeque::from([RegisterClientOutput::Connect]);
        Self { config, state: State::Connecting, partial: Vec::new(), report: Vec::new(), outputs }
    }

    /// The connection is open.
    pub fn handle_connected(&mut self, now: Instant) {
        self.outputs.push_back(self.hello());
        let is_local = self.config.register.starts_with("127.0.0.1");
        let asks = matches!(self.config.role, RegisterRole::DispatchedGateway { .. });
        self.state = State::Connected(Timers {
            ping_at: (!is_local).then_some(now + PING_INTERVAL),
            lease_due: asks.then_some(now + LEASE_ANSWER_TIMEOUT),
            report_at: (!self.report.is_empty()).then_some(now),
            reports_rest_until: now,
        });
        self.handle_timeout(now);
    }

    /// A dispatched gateway has a lease, of this register or another: claims it here from now on, at once when connected.
    /// No effect in other roles.
    pub fn set_claim(&mut self, first_proc_id: u16) {
        let RegisterRole::DispatchedGateway { first_proc_id: claim, .. } = &mut self.config.role
        else {
            return;
        };
        if claim.replace(first_proc_id) != Some(first_proc_id) && self.is_connected() {
            self.outputs.push_back(self.hello());
        }
    }

    /// A dispatcher's links as they are now. Sent when they differ from what was sent last, at most once a second, the
    /// latest counts; and again after each connect. No effect in other roles.
    pub fn report(&mut self, now: Instant, links: &Links) {
        if !matches!(self.config.role, RegisterRole::Dispatcher { .. }) {
            return;
        }
        let mut line = Vec::new();
        ToRegister::Links(links.clone()).encode(&mut line);
        if line == self.report {
            return;
        }
        self.report = line;
        if let State::Connected(timers) = &mut self.state {
            timers.report_at = Some(timers.reports_rest_until.max(now));
            self.handle_timeout(now);
        }
    }

    /// Bytes came from the register.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !self.is_connected() {
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
            let output = self.output_of_line();
            self.outputs.push_back(output);
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
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        match &mut self.state {
            State::Connected(timers) => {
                if is_due(&mut timers.ping_at) {
                    timers.ping_at = Some(now + PING_INTERVAL);
                    self.outputs.push_back(transmit(&ToRegister::Ping));
                }
                if is_due(&mut timers.lease_due) {
                    self.outputs.push_back(RegisterClientOutput::NoLease);
                }
                if is_due(&mut timers.report_at) {
                    timers.reports_rest_until = now + REPORT_INTERVAL;
                    self.outputs.push_back(RegisterClientOutput::Transmit(self.report.clone()));
                }
            }
            State::Lost { connect_at } if *connect_at <= now => {
                self.state = State::Connecting;
                self.outputs.push_back(RegisterClientOutput::Connect);
            }
            State::Connecting | State::Lost { .. } => {}
        }
    }

    /// When the client next wants [`Self::handle_timeout`], if ever: for a ping, a report, an answer that is missing, or to
    /// connect again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting => None,
            State::Connected(timers) => {
                [timers.ping_at, timers.lease_due, timers.report_at].into_iter().flatten().min()
            }
            State::Lost { connect_at } => Some(*connect_at),
        }
    }

    /// What is to be done next; call until `None`.
    pub fn poll_output(&mut self) -> Option<RegisterClientOutput> {
        self.outputs.pop_front()
    }

    /// Whether the register knows us.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// Who connects, as the first line says it.
    fn hello(&self) -> RegisterClientOutput {
        let secret_key = self.config.secret_key.show();
        transmit(&match &self.config.role {
            RegisterRole::Gateway { address } => {
                ToRegister::GatewayConnect { address: (&**address).into(), secret_key }
            }
            RegisterRole::DispatchedGateway { address, shards, number_bits, first_proc_id } => {
                ToRegister::DispatchedGatewayConnect {
                    address: (&**address).into(),
                    secret_key,
                    wanted: Wanted {
                        shards: *shards,
                        number_bits: *number_bits,
                        first_proc_id: *first_proc_id,
                    },
                }
            }
            RegisterRole::Dispatcher { address } => {
                ToRegister::DispatcherConnect { address: (&**address).into(), secret_key }
            }
            RegisterRole::Worker => ToRegister::WorkerConnect { secret_key },
        })
    }

    /// What the whole line in `partial` says.
    fn output_of_line(&mut self) -> RegisterClientOutput {
        let line = match FromRegister::decode(&self.partial) {
            Ok(line) => line,
            Err(error) => return RegisterClientOutput::BadLine(error),
        };
        if let State::Connected(timers) = &mut self.state
            && matches!(line, FromRegister::Lease { .. } | FromRegister::Refused(_))
        {
            timers.lease_due = None;
        }
        match line {
            FromRegister::BroadcastAddresses(addresses) => {
                RegisterClientOutput::Addresses(addresses)
            }
            FromRegister::Lease { first_proc_id, shards } => {
                RegisterClientOutput::Lease { first_proc_id, shards }
            }
            FromRegister::Refused(reason) => RegisterClientOutput::Refused(reason),
            FromRegister::Home(address) => RegisterClientOutput::Home(address),
            FromRegister::Gateways(addresses) => RegisterClientOutput::Gateways(addresses),
        }
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

/// How long a dispatched gateway waits for `lease` or `refused` after it connected; a register of tengate's answers within 3 s.
pub const LEASE_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two reports of a dispatcher.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// GatewayWorker's interval of pings to a register on another machine.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// GatewayWorker's delay before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
