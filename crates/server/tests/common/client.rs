//! Websocket clients on tungstenite, which shares no code with what is tested; and load of numbered messages.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use tungstenite::{Error, Message, WebSocket};

use super::patience::{Deadline, PATIENCE, until};

/// One client.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    /// Connects and shakes hands.
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}/"), stream)
            .unwrap_or_else(|error| panic!("no handshake with {address}: {error}"));
        Self { socket }
    }

    /// As the server sees it.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.socket.get_ref().local_addr().unwrap()
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next message.
    ///
    /// # Panics
    /// The connection ends, or nothing comes.
    pub(crate) fn receive(&mut self) -> String {
        self.message().expect("the connection ended before a message came")
    }

    /// Sends, and takes the next message for the answer.
    pub(crate) fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.receive()
    }

    /// The next message, or `None` when the connection ends.
    pub(crate) fn message(&mut self) -> Option<String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => panic!("nothing came within {PATIENCE:?}"),
                Err(_) => return None,
            }
        }
    }
}

fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Clients that never stop asking for echoes of numbers, 1, 2, 3 and so on, several ahead of the answers.
pub(crate) struct Load {
    lanes: Vec<Lane>,
}

struct Lane {
    account: Arc<Mutex<Account>>,
    thread: JoinHandle<()>,
}

/// What one client of a [`Load`] has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// The last number sent.
    pub(crate) sent: u64,
    /// The last number answered.
    pub(crate) answered: u64,
    /// Numbers that were passed over: a later one was answered, and they never were.
    pub(crate) lost: Vec<u64>,
    /// How many answers each worker gave.
    pub(crate) answers: BTreeMap<String, u64>,
    /// How the connection ended, when it did.
    pub(crate) ended: Option<String>,
    /// Answers that came again, where that is allowed.
    pub(crate) repeated: u64,
    may_repeat: bool,
    is_finishing: bool,
}

/// How far a client sends ahead of the answers.
const AHEAD: u64 = 8;
/// Silence after which a client sends the next number although it waits for [`AHEAD`] answers: they may be lost.
const SILENCE: Duration = Duration::from_millis(50);

impl Load {
    /// Connects the clients, and returns when each has an answer.
    pub(crate) fn start(address: &str, client_count: usize) -> Self {
        let load = Self { lanes: (0..client_count).map(|_| Lane::start(address)).collect() };
        load.wait_for_answers(1);
        load
    }

    /// Where every client is.
    pub(crate) fn accounts(&self) -> Vec<Account> {
        self.lanes.iter().map(|lane| lock(&lane.account).clone()).collect()
    }

    /// Waits until every client has `more` answers to numbers it has not sent yet.
    pub(crate) fn wait_for_answers(&self, more: u64) {
        let before = self.accounts();
        until("every client gets answers", || {
            let now = self.accounts();
            let ended = now.iter().find_map(|account| account.ended.as_ref());
            assert_eq!(ended, None, "a client's connection ended");
            let mut pairs = before.iter().zip(&now);
            pairs.all(|(before, now)| now.answered >= before.sent + more).then_some(())
        });
    }

    /// From now on an answer may come twice, as it does when a worker handled a message and was killed before it could say so.
    pub(crate) fn allow_repeats(&self) {
        for lane in &self.lanes {
            lock(&lane.account).may_repeat = true;
        }
    }

    /// Stops sending, waits for the answer to the last number of each client, and closes.
    ///
    /// # Panics
    /// An answer came twice or too late for its number, or the last one did not come.
    pub(crate) fn finish(self) -> Vec<Account> {
        for lane in &self.lanes {
            lock(&lane.account).is_finishing = true;
        }
        let finish = |lane: Lane| {
            lane.thread.join().expect("a client of the load failed; its message is above");
            lock(&lane.account).clone()
        };
        self.lanes.into_iter().map(finish).collect()
    }
}

impl Lane {
    fn start(address: &str) -> Self {
        let mut client = Client::connect(address);
        client.socket.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
        let account: Arc<Mutex<Account>> = Arc::default();
        let shared = Arc::clone(&account);
        let thread = std::thread::spawn(move || {
            let ended = keep_asking(&mut client.socket, &shared);
            lock(&shared).ended = ended.err().map(|error| error.to_string());
        });
        Self { account, thread }
    }
}

/// Until the load is finished, or the connection ends.
fn keep_asking(socket: &mut WebSocket<TcpStream>, account: &Mutex<Account>) -> Result<(), Error> {
    let mut last_word = None;
    let mut extra = 0;
    loop {
        let (sent, answered, is_finishing) = {
            let account = lock(account);
            (account.sent, account.answered, account.is_finishing)
        };
        if is_finishing {
            last_word.get_or_insert_with(Deadline::new).assert("the last number is answered");
            if answered == sent {
                return Ok(());
            }
        } else if sent < answered + AHEAD + extra {
            lock(account).sent = sent + 1;
            socket.send(Message::text(format!("echo {}", sent + 1)))?;
            continue;
        }
        match socket.read() {
            Ok(Message::Text(answer)) => {
                extra = 0;
                lock(account).record(&answer);
            }
            Ok(_) => {}
            Err(error) if is_timeout(&error) => extra = (sent + 1).saturating_sub(answered + AHEAD),
            Err(error) => return Err(error),
        }
    }
}

impl Account {
    fn record(&mut self, answer: &str) {
        let mut words = answer.split(' ');
        let (Some("echo"), Some(number), Some(worker)) = (words.next(), words.next(), words.next())
        else {
            // For everybody, and none of ours: a shard may carry out a broadcast after others have, to clients that came since.
            return;
        };
        let number: u64 = number.parse().unwrap();
        if self.may_repeat && number <= self.answered {
            self.repeated += 1;
            return;
        }
        assert!(
            self.answered < number && number <= self.sent,
            "{number} was answered after {}, with {} sent",
            self.answered,
            self.sent
        );
        self.lost.extend(self.answered + 1..number);
        self.answered = number;
        *self.answers.entry(worker.to_owned()).or_default() += 1;
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().expect("a client of the load failed; its message is above")
}
