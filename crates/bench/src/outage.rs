//! Outage: numbered messages on a schedule, and what became of each of them while somebody broke something.

use std::io::Write as _;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, NANOS_PER_SECOND, Percentiles, float, now_nanos};
use crate::load::Load;
use crate::pace::Schedule;
use crate::parts::Share;
use crate::process::Spent;
use crate::report::{self, Words};

/// What to send where, and for how long. A client whose connection is gone does not come back.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Bytes of a message, at least 25: a mark, the client's number and the message's come first.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// Messages a second of all clients together, sent when they are due, from one client after the other.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// How long to send, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    clients: usize,
    bytes: usize,
    seconds: f64,
    rate: f64,
    #[serde(flatten)]
    counts: Counts,
    /// Never answered.
    lost: u64,
    /// When the first and the last of those were due, in milliseconds from the start.
    lost_between_ms: Option<[f64; 2]>,
    /// The longest time in which a message was due and nobody got an answer.
    silence_ms: f64,
    /// The same for each client by itself.
    client_silence_ms_p50: f64,
    client_silence_ms_p99: f64,
    client_silence_ms_max: f64,
    /// From the instant a message was due to its first answer.
    #[serde(flatten)]
    latency: Percentiles,
    /// How late the generator itself was.
    generator_lag: Percentiles,
    #[serde(flatten)]
    spent: Spent,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    sent: u64,
    /// At least once.
    answered: u64,
    /// Answers to a message that had been answered.
    repeated: u64,
    /// First answers to a message after that to a later one of the same client.
    out_of_order: u64,
    /// Messages to a client that answer nothing it has sent.
    unasked: u64,
    /// Connections that are gone.
    closed: u64,
    /// Messages that were due at a client whose connection is gone.
    unsent: u64,
}

/// What became of every message so far. A message's number is its place in the schedule; a client has every so many.
struct Ledger {
    schedule: Schedule,
    /// By number.
    messages: Vec<Message>,
    clients: Vec<Client>,
    everyone: Silence,
    latencies: Latencies,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// Its client was gone when it was due.
    Unsent,
    Sent,
    Answered,
}

#[derive(Clone, Debug, Default)]
struct Client {
    silence: Silence,
    is_gone: bool,
}

/// The longest wait for an answer: from the last one, or from when the next message was due if that was later.
#[derive(Clone, Debug, Default)]
struct Silence {
    /// The message after the last one that has been answered; those before it that have not are waited for no more.
    next: u64,
    last_nanos: u64,
    longest_nanos: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    ensure!(
        load.processes == 1,
        "outage has one process: only one can tell when nobody is answered"
    );
    ensure!(options.bytes >= NUMBERED_BYTES_MIN, "--bytes must be at least {NUMBERED_BYTES_MIN}");
    ensure!(options.rate > 0.0 && options.seconds > 0.0, "--rate and --seconds must be above 0");
    let mut clients = load.clients(WHOLE)?;
    let bar = report::progress("connecting", load.clients as u64);
    clients.open(&mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    exchange_first(&mut clients)?;
    let meter = load.meter(vec![std::process::id()])?;
    report::say(&format!("every client is answered; sending for {} s", options.seconds));
    let schedule = Schedule::new(now_nanos(), options.rate, options.seconds, WHOLE);
    let mut ledger = Ledger::new(schedule, load.clients);
    let lag = send_all(&mut clients, &mut ledger, options.bytes)?;
    let spent = meter.stop()?;
    let result = report(options, &ledger, lag.percentiles(), spent);
    report::print(&load.style, &words(&result), &result)
}

fn report(options: &Options, ledger: &Ledger, generator_lag: Percentiles, spent: Spent) -> Report {
    let silences = ledger.silences();
    let client_silence_ms = |quantile| silences.micros_at(quantile) / 1e3;
    Report {
        mode: "outage",
        clients: options.load.clients,
        bytes: options.bytes,
        seconds: options.seconds,
        rate: options.rate,
        lost: ledger.counts.sent - ledger.counts.answered,
        lost_between_ms: ledger.lost_between_ms(),
        silence_ms: float(ledger.everyone.longest_nanos) / 1e6,
        client_silence_ms_p50: client_silence_ms(0.5),
        client_silence_ms_p99: client_silence_ms(0.99),
        client_silence_ms_max: client_silence_ms(1.0),
        latency: ledger.latencies.percentiles(),
        generator_lag,
        spent,
        counts: ledger.counts,
    }
}

fn words(result: &Report) -> Words {
    let Report { counts, .. } = result;
    let title = format!(
        "outage, {} clients, {} B, {} messages/s on schedule for {} s",
        result.clients, result.bytes, result.rate, result.seconds
    );
    let mut words = Words::new(title)
        .count("sent", counts.sent)
        .count("answered", counts.answered)
        .count("lost", result.lost)
        .count("repeated", counts.repeated)
        .count("out of order", counts.out_of_order)
        .count("closed", counts.closed)
        .trouble("not sent by those", counts.unsent)
        .trouble("unasked", counts.unasked);
    if let Some([first, last]) = result.lost_between_ms {
        words = words.row("lost were due", format!("{first:.0} to {last:.0} ms after the start"));
    }
    let of_clients = format!(
        "p50 {:.0} ms, p99 {:.0}, max {:.0}",
        result.client_silence_ms_p50, result.client_silence_ms_p99, result.client_silence_ms_max
    );
    words
        .number("nobody was answered for", result.silence_ms, "ms")
        .row("a client was not for", of_clients)
        .latency("latency", &result.latency)
        .latency("generator late by", &result.generator_lag)
        .spent("server per message", &result.spent, result.spent.micros_per(counts.answered))
}

/// Has every client send a message and wait for the answer, so that the way to a worker is open for each.
fn exchange_first(clients: &mut Clients) -> Result<()> {
    let mut message = Vec::new();
    clients.encode(b"first", &mut message);
    let mut waiting = clients.len();
    (0..waiting).for_each(|client| clients.line(client).send(&message));
    let deadline = now_nanos() + FIRST_NANOS_MAX;
    while waiting > 0 {
        clients.turn_until(now_nanos() + TURN_NANOS_MAX, |_, _, event| {
            match event {
                Event::Message(_) => waiting -= 1,
                Event::Open => {}
                Event::Gone(ending) => return Err(ending.into_error()),
            }
            Ok(())
        })?;
        ensure!(
            now_nanos() < deadline,
            "{waiting} clients have no answer to their first message: is there a worker that sends back what it gets?"
        );
    }
    Ok(())
}

/// Sends what the schedule says and takes in answers until all have come, or no more are to be expected. Returns how late
/// each was sent.
fn send_all(clients: &mut Clients, ledger: &mut Ledger, bytes: usize) -> Result<Latencies> {
    let (mut payload, mut message) = (Vec::new(), Vec::new());
    let mut lag = Latencies::default();
    let mut end = u64::MAX;
    while now_nanos() < end {
        while let Some((number, due)) = ledger.schedule.take(now_nanos()) {
            let Some((client, sequence)) = ledger.handle_due(number) else { continue };
            encode(client, sequence, bytes, &mut payload);
            message.clear();
            clients.encode(&payload, &mut message);
            clients.line(client).send(&message);
            lag.record(now_nanos() - due);
        }
        let due = ledger.schedule.due();
        if due.is_none() && end == u64::MAX {
            end = now_nanos() + GRACE_NANOS;
        }
        let wake = due.unwrap_or_else(|| end.min(now_nanos() + TURN_NANOS_MAX));
        let mut is_complete = false;
        clients.turn_until(wake, |client, _, event| {
            match event {
                Event::Open => {}
                Event::Message(answer) => {
                    is_complete |= ledger.handle_answer(client, answer, now_nanos());
                }
                Event::Gone(_) => ledger.handle_gone(client),
            }
            Ok(())
        })?;
        if is_complete {
            // An answer that comes twice comes a little later.
            end = end.min(now_nanos() + REPEAT_NANOS);
        }
    }
    ledger.handle_end();
    Ok(lag)
}

impl Ledger {
    fn new(schedule: Schedule, clients: usize) -> Self {
        Self {
            schedule,
            messages: Vec::new(),
            clients: vec![Client::default(); clients],
            everyone: Silence::default(),
            latencies: Latencies::default(),
            counts: Counts::default(),
        }
    }

    /// A message is due: which client's, and which of its messages it is. `None` if that client is gone.
    fn handle_due(&mut self, number: u64) -> Option<(usize, u64)> {
        let client = usize::try_from(number).ok()? % self.clients.len();
        if self.clients[client].is_gone {
            self.messages.push(Message::Unsent);
            self.counts.unsent += 1;
            return None;
        }
        self.messages.push(Message::Sent);
        self.counts.sent += 1;
        Some((client, number / self.clients.len() as u64))
    }

    /// A client got something. Whether nothing is missing any more, of all messages there will be.
    fn handle_answer(&mut self, client: usize, answer: &[u8], now: u64) -> bool {
        let count = self.clients.len() as u64;
        let asked = decode(answer).filter(|(whose, _)| *whose == client as u64);
        let Some((sequence, number, message)) = asked.and_then(|(_, sequence)| {
            let number = sequence.checked_mul(count)?.checked_add(client as u64)?;
            let message = self.messages.get_mut(usize::try_from(number).ok()?)?;
            Some((sequence, number, message)).filter(|(.., message)| **message != Message::Unsent)
        }) else {
            self.counts.unasked += 1;
            return false;
        };
        let schedule = self.schedule;
        let silence = &mut self.clients[client].silence;
        if *message == Message::Answered {
            self.counts.repeated += 1;
        } else {
            *message = Message::Answered;
            self.counts.answered += 1;
            self.counts.out_of_order += u64::from(sequence < silence.next);
            self.latencies.record(now.saturating_sub(schedule.due_of(number)));
        }
        let due_of = |sequence| schedule.due_of(sequence * count + client as u64);
        silence.handle_answer(sequence, now, due_of);
        self.everyone.handle_answer(number, now, |number| schedule.due_of(number));
        schedule.due().is_none() && self.counts.answered == self.counts.sent
    }

    fn handle_gone(&mut self, client: usize) {
        self.clients[client].is_gone = true;
        self.counts.closed += 1;
    }

    /// Nothing more will come: who still waits has waited until the schedule's end.
    fn handle_end(&mut self) {
        let (schedule, count) = (self.schedule, self.clients.len() as u64);
        let end = schedule.due_of(schedule.len());
        self.everyone.handle_end(end, |number| schedule.due_of(number));
        for (index, client) in (0..).zip(&mut self.clients) {
            client.silence.handle_end(end, |sequence| schedule.due_of(sequence * count + index));
        }
    }

    /// The longest of each client.
    fn silences(&self) -> Latencies {
        let mut silences = Latencies::default();
        self.clients.iter().for_each(|client| silences.record(client.silence.longest_nanos));
        silences
    }

    fn lost_between_ms(&self) -> Option<[f64; 2]> {
        let at = |number: usize| {
            float(self.schedule.due_of(number as u64) - self.schedule.due_of(0)) / 1e6
        };
        let lost = |message: &Message| *message == Message::Sent;
        let first = self.messages.iter().position(lost)?;
        let last = self.messages.iter().rposition(lost)?;
        Some([at(first), at(last)])
    }
}

impl Silence {
    /// `number` is answered; `due` says when each message is due.
    fn handle_answer(&mut self, number: u64, now: u64, due: impl Fn(u64) -> u64) {
        self.handle_end(now, due);
        self.next = self.next.max(number + 1);
        self.last_nanos = now;
    }

    /// A wait is over, answered or not.
    fn handle_end(&mut self, now: u64, due: impl Fn(u64) -> u64) {
        let since = self.last_nanos.max(due(self.next));
        self.longest_nanos = self.longest_nanos.max(now.saturating_sub(since));
    }
}

/// Makes `payload` one of `bytes` bytes: a mark that asks a worker for an echo, both numbers in hexadecimal digits, filler.
fn encode(client: usize, sequence: u64, bytes: usize, payload: &mut Vec<u8>) {
    payload.clear();
    write!(payload, "{}{client:08x}{sequence:016x}", char::from(MARK))
        .expect("a vector takes everything");
    payload.resize(bytes.max(NUMBERED_BYTES_MIN), b'x');
}

/// The client and its message; `None` when the payload has no such numbers.
fn decode(payload: &[u8]) -> Option<(u64, u64)> {
    let digits = payload.get(1..NUMBERED_BYTES_MIN).filter(|_| payload[0] == MARK)?;
    let (client, sequence) = str::from_utf8(digits).ok()?.split_at_checked(8)?;
    Some((u64::from_str_radix(client, 16).ok()?, u64::from_str_radix(sequence, 16).ok()?))
}

/// The whole load in one part.
const WHOLE: Share = Share { index: 0, count: 1 };
const MARK: u8 = b'n';
const NUMBERED_BYTES_MIN: usize = 1 + 8 + 16;
const FIRST_NANOS_MAX: u64 = 20 * NANOS_PER_SECOND;
const TURN_NANOS_MAX: u64 = NANOS_PER_SECOND / 10;
/// How long late answers are waited for after the last message.
const GRACE_NANOS: u64 = 5 * NANOS_PER_SECOND;
/// How long repeated answers are waited for after everything is answered.
const REPEAT_NANOS: u64 = NANOS_PER_SECOND / 2;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Two clients in turn, a message every 10 ms for 100 ms, of which `due` were due.
    fn ledger(due: usize) -> Ledger {
        let mut ledger = Ledger::new(Schedule::new(1000 * MS, 100.0, 0.1, WHOLE), 2);
        for number in 0..due as u64 {
            assert_eq!(ledger.schedule.take(u64::MAX).map(|(number, _)| number), Some(number));
            ledger.handle_due(number);
        }
        ledger
    }

    /// A client gets the answer to its message of this number, so many milliseconds after the start.
    fn answer(ledger: &mut Ledger, client: usize, sequence: u64, ms: u64) -> bool {
        let mut payload = Vec::new();
        encode(client, sequence, 64, &mut payload);
        ledger.handle_answer(client, &payload, (1000 + ms) * MS)
    }

    #[test]
    fn numbers_come_out_as_they_went_in() {
        let mut payload = Vec::new();
        for (client, sequence, bytes) in
            [(0, 0, 0), (1000, 123_456, 64), (0xffff_ffff, u64::MAX, 25)]
        {
            encode(client, sequence, bytes, &mut payload);
            assert_eq!(payload.len(), bytes.max(NUMBERED_BYTES_MIN));
            assert_eq!(decode(&payload), Some((client as u64, sequence)));
        }
        for payload in [&b""[..], b"n", b"first", b"n00000000000000000000000g", &[b'n', 0xff]] {
            assert_eq!(decode(payload), None);
        }
    }

    #[test]
    fn repeated_overtaken_and_foreign_answers_are_told_from_good_ones() {
        let mut ledger = ledger(10);
        for (client, sequence) in [(0, 0), (0, 2), (0, 1), (0, 1), (0, 2), (1, 3)] {
            assert!(!answer(&mut ledger, client, sequence, 100));
        }
        // Never sent, another client's, and nothing that was numbered.
        answer(&mut ledger, 0, 5, 100);
        let mut foreign = Vec::new();
        encode(1, 0, 64, &mut foreign);
        ledger.handle_answer(0, &foreign, 1100 * MS);
        ledger.handle_answer(0, b"first", 1100 * MS);
        let expected = Counts {
            sent: 10,
            answered: 4,
            repeated: 2,
            out_of_order: 1,
            unasked: 3,
            closed: 0,
            unsent: 0,
        };
        assert_eq!(ledger.counts, expected);
        assert_eq!(ledger.lost_between_ms(), Some([10.0, 90.0]));
    }

    #[test]
    fn it_is_complete_when_the_last_message_there_will_be_is_answered() {
        let mut early = ledger(2);
        assert!(!answer(&mut early, 0, 0, 1));
        assert!(!answer(&mut early, 1, 0, 11));
        let mut whole = ledger(10);
        let answers = (0..10).map(|number| answer(&mut whole, number % 2, number as u64 / 2, 100));
        assert_eq!(answers.filter(|is_complete| *is_complete).count(), 1);
        assert_eq!(whole.lost_between_ms(), None);
    }

    #[test]
    fn a_silence_is_the_time_in_which_something_was_due_and_no_answer_came() {
        let mut ledger = ledger(10);
        // Answered at once, so nobody waits before 20 ms; then nothing comes until 65 ms.
        answer(&mut ledger, 0, 0, 1);
        answer(&mut ledger, 1, 0, 11);
        for (client, sequence, ms) in [(0, 1, 65), (1, 1, 66), (0, 2, 67), (0, 3, 68), (1, 3, 71)] {
            answer(&mut ledger, client, sequence, ms);
        }
        answer(&mut ledger, 1, 4, 91);
        ledger.handle_end();
        assert_eq!(ledger.everyone.longest_nanos, 45 * MS);
        // The second client's third message is lost, which does not make it wait; the first one's last one is.
        let longest: Vec<u64> =
            ledger.clients.iter().map(|client| client.silence.longest_nanos / MS).collect();
        assert_eq!(longest, [45, 36]);
        assert_eq!(ledger.silences().count(), 2);
    }

    #[test]
    fn a_client_that_is_gone_sends_no_more_and_its_silence_lasts_to_the_end() {
        let mut ledger = ledger(4);
        answer(&mut ledger, 0, 0, 30);
        answer(&mut ledger, 0, 1, 30);
        answer(&mut ledger, 1, 0, 30);
        ledger.handle_gone(1);
        assert_eq!(ledger.handle_due(4), Some((0, 2)));
        assert_eq!(ledger.handle_due(5), None);
        answer(&mut ledger, 0, 2, 40);
        ledger.handle_end();
        let Counts { sent, answered, closed, unsent, .. } = ledger.counts;
        assert_eq!((sent, answered, closed, unsent), (5, 4, 1, 1));
        assert_eq!(ledger.clients[1].silence.longest_nanos, 70 * MS);
    }
}
