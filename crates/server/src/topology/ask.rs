//! One question to one register, and what it means when there is no answer.

use core::fmt;
use core::time::Duration;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

use tengate_proto::secret::SecretKey;
use tengate_proto::wire::register::ToRegister;

/// How long a register may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may stay silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes: some thousand gateways and dispatchers with their links.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why there is no answer; `Display` says what to do.
#[derive(Debug)]
pub(super) struct Refusal {
    register: String,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    /// Nobody is there, or the connection broke.
    Io(io::Error),
    /// Somebody is there who is no register.
    NoRegister,
    /// A register that knows no topology.
    TooOld,
    /// It closes the connection whatever it is told, as a register with another key does.
    Closed,
}

/// The register's line, without its end.
pub(super) fn ask(register: &str, key: &SecretKey) -> Result<Vec<u8>, Refusal> {
    let refusal = |fault| Refusal { register: register.to_owned(), fault };
    let question = ToRegister::Topology { secret_key: key.show() };
    let line = exchange(register, &question).map_err(|error| refusal(Fault::Io(error)))?;
    if names_event(&line, "topology") {
        return Ok(line);
    }
    // Every register answers a worker with the right key, so that this tells a wrong key from a register without topology.
    let hello = ToRegister::WorkerConnect { secret_key: key.show() };
    let answer = exchange(register, &hello).map_err(|error| refusal(Fault::Io(error)))?;
    Err(refusal(match () {
        () if names_event(&answer, "broadcast_addresses") => Fault::TooOld,
        () if line.is_empty() && answer.is_empty() => Fault::Closed,
        () => Fault::NoRegister,
    }))
}

/// Sends one line and takes one, empty when the other side closes instead.
fn exchange(register: &str, message: &ToRegister<'_>) -> io::Result<Vec<u8>> {
    let mut stream = connect(register)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let mut line = Vec::new();
    match BufReader::new(stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line) {
        Ok(_) => {}
        // Closed with our question unread, or with nothing but silence: as good as no answer.
        Err(error) if is_no_answer(error.kind()) => {}
        Err(error) => return Err(error),
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}

fn is_no_answer(kind: io::ErrorKind) -> bool {
    kind == io::ErrorKind::ConnectionReset
}

/// To the first of the host's addresses that accepts.
fn connect(register: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in register.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn names_event(line: &[u8], event: &str) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|line| line["event"] == event)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, fault } = self;
        match fault {
            Fault::Io(error) => write!(
                f,
                "no register answers at {register}: {error}\n  = start one with `tengate register`, or name another with --register"
            ),
            Fault::NoRegister => write!(
                f,
                "what answers at {register} is no register\n  = registers listen on port 1236 unless told otherwise"
            ),
            Fault::TooOld => write!(
                f,
                "the register at {register} knows no topology: it is GatewayWorker's, or an older one\n  = run `tengate register` in its place"
            ),
            Fault::Closed => write!(
                f,
                "{register} closes the connection: the register's secret key is another, or it is no register\n  = give its key with --secret-key-file or TENGATE_SECRET_KEY"
            ),
        }
    }
}
