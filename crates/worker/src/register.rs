//! Registers: the lines they speak, asking one for the gateways, and following one's announcements.

use core::net::SocketAddrV4;
use core::time::Duration;
use std::collections::BTreeSet;
use std::io;

use tengate_proto::secret::SecretKey;
use tengate_proto::wire::register::topology::{Mode, Topology};
use tengate_proto::wire::register::{FromRegister, FromRegisterError, ToRegister};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{info, warn};

use crate::error::{CallError, RegisterFault};
use crate::query::Timeouts;

/// What following a register tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The register of this index announces these gateways.
    Announced(usize, BTreeSet<SocketAddrV4>),
    /// The connection to the register of this index is gone.
    Lost(usize),
}

/// Asks the registers in turn until one answers which gateways there are.
pub(crate) async fn ask(
    registers: &[String],
    secret_key: &SecretKey,
    timeouts: Timeouts,
) -> Result<BTreeSet<SocketAddrV4>, CallError> {
    ask_in_turn(registers, &greeting(secret_key), announced, timeouts).await
}

/// Asks the registers in turn until one answers which dispatchers there are. None when there are also gateways without one,
/// and with PHP's registers, which close the connection.
pub(crate) async fn ask_dispatchers(
    registers: &[String],
    secret_key: &SecretKey,
    timeouts: Timeouts,
) -> Result<BTreeSet<SocketAddrV4>, CallError> {
    let question = encoded(&ToRegister::Topology { secret_key: secret_key.show() });
    ask_in_turn(registers, &question, dispatchers, timeouts).await
}

async fn ask_in_turn(
    registers: &[String],
    question: &[u8],
    decode: fn(&[u8]) -> Result<BTreeSet<SocketAddrV4>, FromRegisterError>,
    timeouts: Timeouts,
) -> Result<BTreeSet<SocketAddrV4>, CallError> {
    let mut failure =
        CallError::Register { register: String::new(), fault: RegisterFault::NoneConfigured };
    for register in registers {
        let answer = ask_one(register, question, timeouts)
            .await
            .and_then(|line| decode(&line).map_err(|_| RegisterFault::BadAnswer));
        match answer {
            Ok(addresses) => return Ok(addresses),
            Err(fault) => failure = CallError::Register { register: register.clone(), fault },
        }
    }
    Err(failure)
}

async fn ask_one(
    register: &str,
    question: &[u8],
    timeouts: Timeouts,
) -> Result<Vec<u8>, RegisterFault> {
    let broken = |error: io::Error| RegisterFault::Connect(error.kind());
    let late = |_| RegisterFault::TimedOut;
    let mut stream = timeout(timeouts.connect, TcpStream::connect(register))
        .await
        .map_err(late)?
        .map_err(broken)?;
    stream.write_all(question).await.map_err(broken)?;
    let mut lines = BufReader::new(stream);
    let line =
        timeout(timeouts.reply, read_line(&mut lines)).await.map_err(late)?.map_err(broken)?;
    line.ok_or(RegisterFault::Closed)
}

/// Follows a register for ever: connects, reports what it announces, connects again a second after each loss.
pub(crate) async fn follow(
    index: usize,
    register: String,
    secret_key: SecretKey,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        let end = listen(index, &register, &secret_key, &notices).await;
        if notices.send(Notice::Lost(index)).await.is_err() {
            return;
        }
        match end {
            Ok(()) => warn!(register, "register closed the connection"),
            Err(error) => warn!(register, %error, "no connection to the register"),
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn listen(
    index: usize,
    register: &str,
    secret_key: &SecretKey,
    notices: &mpsc::Sender<Notice>,
) -> io::Result<()> {
    let stream = TcpStream::connect(register).await?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(&greeting(secret_key)).await?;
    info!(register, "connected to the register");
    let mut lines = BufReader::new(reader);
    let pings = async {
        // Loopback connections do not idle away, and the PHP programs send nothing over them either.
        if register.starts_with("127.0.0.1") {
            return core::future::pending().await;
        }
        let ping = encoded(&ToRegister::Ping);
        let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            writer.write_all(&ping).await?;
        }
    };
    let announcements = async {
        while let Some(line) = read_line(&mut lines).await? {
            match announced(&line) {
                Ok(gateways) => {
                    if notices.send(Notice::Announced(index, gateways)).await.is_err() {
                        break;
                    }
                }
                Err(error) => warn!(register, %error, "the register sent a line no worker knows"),
            }
        }
        Ok(())
    };
    tokio::select! {
        end = announcements => end,
        end = pings => end,
    }
}

/// One line without its end, or `None` at the end of the stream.
async fn read_line(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let chunk = lines.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        line.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
        lines.consume(taken);
        if end.is_some() {
            return Ok(Some(line));
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a register's line is too long",
            ));
        }
    }
}

/// The gateways of a `broadcast_addresses` line. Addresses that are no IPv4 address and port cannot be in a client_id,
/// so no worker could reach their clients: they are left out.
fn announced(line: &[u8]) -> Result<BTreeSet<SocketAddrV4>, FromRegisterError> {
    let FromRegister::BroadcastAddresses(addresses) = FromRegister::decode(line)? else {
        return Err(FromRegisterError::UnknownEvent);
    };
    let (known, odd): (Vec<_>, Vec<_>) =
        addresses.iter().map(|text| text.parse()).partition(Result::is_ok);
    if !odd.is_empty() {
        warn!(
            count = odd.len(),
            "the register announces gateways without an IPv4 address; they are left out"
        );
    }
    Ok(known.into_iter().flatten().collect())
}

/// The dispatchers of a `topology` line, if every client is behind one.
fn dispatchers(line: &[u8]) -> Result<BTreeSet<SocketAddrV4>, FromRegisterError> {
    let topology = Topology::decode(line)?;
    if topology.gateways.iter().any(|gateway| gateway.mode == Mode::Direct) {
        return Ok(BTreeSet::new());
    }
    Ok(topology.dispatchers.iter().flat_map(|dispatcher| dispatcher.address.parse()).collect())
}

fn encoded(line: &ToRegister<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    line.encode(&mut out);
    out
}

fn greeting(secret_key: &SecretKey) -> Vec<u8> {
    encoded(&ToRegister::WorkerConnect { secret_key: secret_key.show() })
}

/// A register closes a connection that was silent too long when it is not local (BusinessWorker.php).
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Between the end of a connection and the next try, to registers and gateways (BusinessWorker.php).
pub(crate) const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Longest line taken from a register: some 50 000 gateways.
const LINE_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_of_a_real_register_are_understood() {
        let line =
            br#"{"event":"broadcast_addresses","addresses":["127.0.0.1:2900","10.0.0.2:2901"]}"#;
        let expected = ["10.0.0.2:2901", "127.0.0.1:2900"].map(|text| text.parse().unwrap());
        assert_eq!(announced(line), Ok(BTreeSet::from(expected)));
    }

    #[test]
    fn addresses_that_cannot_be_in_a_client_id_are_left_out() {
        let line = br#"{"event":"broadcast_addresses","addresses":["gateway:2900","[::1]:2900"]}"#;
        assert_eq!(announced(line), Ok(BTreeSet::new()));
    }

    #[test]
    fn other_lines_announce_nothing() {
        for line in ["", "{}", "[]", r#"{"event":"ping"}"#, r#"{"event":1,"addresses":[]}"#] {
            assert!(announced(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn greetings_have_the_bytes_of_a_real_worker() {
        assert_eq!(
            greeting(&SecretKey::default()),
            b"{\"event\":\"worker_connect\",\"secret_key\":\"\"}\n"
        );
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        let endless = vec![b'x'; LINE_BYTES_MAX + 1];
        let error = read_line(&mut BufReader::new(&endless[..])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
