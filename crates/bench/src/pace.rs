//! Open loop: messages are sent when they are due, whatever the server does, and a latency counts from that instant.
//!
//! So a server that stalls is charged for every message that would have come meanwhile, and a generator that cannot keep
//! its own schedule shows it in the lag.

use core::ops::AddAssign;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, NANOS_PER_SECOND, float, nanos, now_nanos};
use crate::parts::Share;

/// Instants at a constant rate, of which one part has every so many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start_nanos: u64,
    /// Events a second of all parts together.
    rate: f64,
    share: Share,
    next: u64,
    /// Of this part.
    count: u64,
}

/// What came of sending on schedule.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Paced {
    pub(crate) sent: u64,
    /// Answers that came before the schedule's end.
    pub(crate) answered_in_time: u64,
    /// From the instant a message was due to its answer.
    pub(crate) latencies: Latencies,
    /// From the instant a message was due to the instant it was sent.
    pub(crate) lag: Latencies,
    /// Clients whose connections ended.
    pub(crate) lost: u64,
}

impl Schedule {
    /// From `start_nanos`, for `seconds`, with `rate` events a second in all parts together.
    pub(crate) fn new(start_nanos: u64, rate: f64, seconds: f64, share: Share) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and options are checked to be positive"
        )]
        let total = (rate * seconds).round() as usize;
        Self { start_nanos, rate, share, next: 0, count: share.of(total) as u64 }
    }

    /// How many events this part has.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// When the next event is due; `None` after the last.
    pub(crate) fn due(&self) -> Option<u64> {
        (self.next < self.count).then(|| self.due_of(self.next))
    }

    /// When the event of this number in this part is due; after the last, when it would be.
    pub(crate) fn due_of(&self, number: u64) -> u64 {
        let number = number * self.share.count as u64 + self.share.index as u64;
        self.start_nanos + nanos(float(number) / self.rate)
    }

    /// Takes the next event if it is due: its number in this part, and the instant.
    pub(crate) fn take(&mut self, now: u64) -> Option<(u64, u64)> {
        let due = self.due().filter(|due| *due <= now)?;
        self.next += 1;
        Some((self.next - 1, due))
    }
}

/// Sends a message at each instant of the schedule, from one client after the other, and waits for the answers. A client
/// that is lost meanwhile is counted and answers no more.
pub(crate) fn run(clients: &mut Clients, message: &[u8], mut schedule: Schedule) -> Result<Paced> {
    let mut paced = Paced::default();
    let first = schedule;
    // A client's messages have every so many numbers, so a count of its answers says which one an answer is to.
    let (count, mut answered) = (clients.len(), vec![0_u32; clients.len()]);
    let mut end = u64::MAX;
    loop {
        while let Some((number, due)) = schedule.take(now_nanos()) {
            let client = usize::try_from(number)? % count;
            clients.line(client).send(message);
            paced.sent += 1;
            paced.lag.record(now_nanos() - due);
        }
        let due = schedule.due();
        if due.is_none() && end == u64::MAX {
            end = now_nanos();
        }
        let is_over =
            paced.latencies.count() >= paced.sent || now_nanos() > end.saturating_add(GRACE_NANOS);
        if due.is_none() && is_over {
            return Ok(paced);
        }
        let wake = due.unwrap_or_else(|| now_nanos() + NANOS_PER_SECOND / 10);
        clients.turn_until(wake, |client, _, event| {
            match event {
                Event::Message(_) => {
                    let number = client as u64 + u64::from(answered[client]) * count as u64;
                    // An answer from before this schedule has no place in it.
                    if number < paced.sent {
                        answered[client] += 1;
                        paced.latencies.record(now_nanos() - first.due_of(number));
                        paced.answered_in_time += u64::from(end == u64::MAX);
                    }
                }
                Event::Open => {}
                Event::Gone(_) => paced.lost += 1,
            }
            Ok(())
        })?;
    }
}

impl AddAssign for Paced {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered_in_time += other.answered_in_time;
        self.latencies += other.latencies;
        self.lag += other.lag;
        self.lost += other.lost;
    }
}

/// How long answers are waited for after the last message was sent.
const GRACE_NANOS: u64 = 10 * NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_schedule_make_one_constant_rate() {
        let (start, count) = (5_000, 3);
        let mut dues = Vec::new();
        for index in 0..count {
            let mut schedule = Schedule::new(start, 1000.0, 0.01, Share { index, count });
            while let Some((_, due)) = schedule.take(u64::MAX) {
                dues.push(due);
            }
        }
        dues.sort_unstable();
        let expected: Vec<u64> = (0..10).map(|number| start + number * 1_000_000).collect();
        assert_eq!(dues, expected);
    }

    #[test]
    fn nothing_is_sent_before_it_is_due_and_nothing_is_skipped_when_late() {
        let mut schedule = Schedule::new(100, 2.0, 2.0, Share { index: 0, count: 1 });
        assert_eq!(schedule.take(99), None);
        assert_eq!(schedule.take(100), Some((0, 100)));
        assert_eq!(schedule.take(400_000_000), None);
        let late = 10 * NANOS_PER_SECOND;
        let rest: Vec<u64> =
            core::iter::from_fn(|| schedule.take(late)).map(|(_, due)| due).collect();
        assert_eq!(rest, [500_000_100, 1_000_000_100, 1_500_000_100]);
        assert_eq!(schedule.due(), None);
    }
}
