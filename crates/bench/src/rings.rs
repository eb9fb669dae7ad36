//! Rings between two threads: what it costs when both ends' indexes share a cache line, and when threads may change cores.
//!
//! The shards of a gateway hand batches over through `rtrb`, whose indexes have cache lines of their own. A ring of our own,
//! written without `unsafe` for this comparison, is measured both ways.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::latency::{float, now_nanos};
use crate::report::{self, Style, Words};

/// How much, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    style: Style,
    /// Items sent through a ring in one round, 8 bytes each.
    #[arg(long, default_value_t = 20_000_000)]
    items: u64,
    /// Rounds; rings take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The two cores of pinned threads.
    #[arg(long, num_args = 2, default_values_t = [0, 1])]
    cores: Vec<usize>,
}

/// Nanoseconds an item, of each round.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    items: u64,
    padded_pinned: Spread,
    unpadded_pinned: Spread,
    rtrb_pinned: Spread,
    padded_free: Spread,
    unpadded_free: Spread,
    rtrb_free: Spread,
}

#[derive(Debug, Default, Serialize)]
struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.items > 0 && options.rounds > 0, "--items and --rounds must be at least 1");
    let cores = Some([options.cores[0], options.cores[1]]);
    let mut nanos: [Vec<f64>; 6] = Default::default();
    for _ in 0..options.rounds {
        for (index, pinned) in [cores, None].into_iter().enumerate() {
            let items = options.items;
            nanos[3 * index].push(own::<PADDING>(items, pinned)?);
            nanos[3 * index + 1].push(own::<0>(items, pinned)?);
            nanos[3 * index + 2].push(rtrb(items, pinned)?);
        }
    }
    let [padded_pinned, unpadded_pinned, rtrb_pinned, padded_free, unpadded_free, rtrb_free] =
        nanos.map(Spread::of);
    let result = Report {
        mode: "rings",
        items: options.items,
        padded_pinned,
        unpadded_pinned,
        rtrb_pinned,
        padded_free,
        unpadded_free,
        rtrb_free,
    };
    let title = format!(
        "rings of {SLOTS} slots, ns an item, {} items, {} rounds",
        options.items, options.rounds
    );
    let words = Words::new(title)
        .row("pinned, padded", result.padded_pinned.words())
        .row("pinned, not padded", result.unpadded_pinned.words())
        .row("pinned, rtrb", result.rtrb_pinned.words())
        .row("not pinned, padded", result.padded_free.words())
        .row("not pinned, not padded", result.unpadded_free.words())
        .row("not pinned, rtrb", result.rtrb_free.words());
    report::print(&options.style, &words, &result)
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self { least: at(0), median: at(values.len() / 2), greatest: at(values.len() - 1) }
    }

    fn words(&self) -> String {
        format!("{:.2} [{:.2}…{:.2}]", self.median, self.least, self.greatest)
    }
}

/// A bounded ring for one producer and one consumer; `PADDING` bytes lie between their indexes.
struct Ring<const PADDING: usize> {
    slots: Box<[AtomicU64]>,
    indexes: Indexes<PADDING>,
}

#[repr(C, align(128))]
struct Indexes<const PADDING: usize> {
    /// Items ever put in.
    tail: AtomicUsize,
    _padding: [u8; PADDING],
    /// Items ever taken out.
    head: AtomicUsize,
}

impl<const PADDING: usize> Ring<PADDING> {
    fn new() -> Self {
        let indexes = Indexes {
            tail: AtomicUsize::new(0),
            _padding: [0; PADDING],
            head: AtomicUsize::new(0),
        };
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), indexes }
    }

    /// Puts all items in, one by one.
    fn produce(&self, items: u64) {
        let (mut tail, mut head) = (0, 0);
        for item in 0..items {
            while tail - head == SLOTS {
                head = self.indexes.head.load(Ordering::Acquire);
                core::hint::spin_loop();
            }
            self.slots[tail % SLOTS].store(item, Ordering::Relaxed);
            tail += 1;
            self.indexes.tail.store(tail, Ordering::Release);
        }
    }

    /// Takes all items out and adds them up.
    fn consume(&self, items: u64) -> u64 {
        let (mut tail, mut head, mut sum) = (0, 0, 0_u64);
        for _ in 0..items {
            while head == tail {
                tail = self.indexes.tail.load(Ordering::Acquire);
                core::hint::spin_loop();
            }
            sum = sum.wrapping_add(self.slots[head % SLOTS].load(Ordering::Relaxed));
            head += 1;
            self.indexes.head.store(head, Ordering::Release);
        }
        sum
    }
}

/// Nanoseconds an item through our own ring.
fn own<const PADDING: usize>(items: u64, cores: Option<[usize; 2]>) -> Result<f64> {
    let ring = Arc::new(Ring::<PADDING>::new());
    let producer = Arc::clone(&ring);
    race(items, cores, move || producer.produce(items), move || ring.consume(items))
}

/// Nanoseconds an item through the ring the gateway uses.
fn rtrb(items: u64, cores: Option<[usize; 2]>) -> Result<f64> {
    let (mut producer, mut consumer) = rtrb::RingBuffer::new(SLOTS);
    let produce = move || {
        for item in 0..items {
            while producer.push(item).is_err() {
                core::hint::spin_loop();
            }
        }
    };
    let consume = move || {
        let mut sum = 0_u64;
        for _ in 0..items {
            let item = loop {
                match consumer.pop() {
                    Ok(item) => break item,
                    Err(_) => core::hint::spin_loop(),
                }
            };
            sum = sum.wrapping_add(item);
        }
        sum
    };
    race(items, cores, produce, consume)
}

/// Runs both ends, on these cores if any, and says how long an item took.
fn race(
    items: u64,
    cores: Option<[usize; 2]>,
    produce: impl FnOnce() + Send + 'static,
    consume: impl FnOnce() -> u64 + Send + 'static,
) -> Result<f64> {
    let start = now_nanos();
    let producer = thread::spawn(move || -> Result<()> {
        pin(cores.map(|cores| cores[0]))?;
        produce();
        Ok(())
    });
    let consumer = thread::spawn(move || -> Result<u64> {
        pin(cores.map(|cores| cores[1]))?;
        Ok(consume())
    });
    let sum = consumer.join().expect("the consumer does not panic")?;
    producer.join().expect("the producer does not panic")?;
    let nanos = float(now_nanos() - start);
    ensure!(sum == (0..items).fold(0, u64::wrapping_add), "items were lost");
    Ok(nanos / float(items))
}

fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("core {core} cannot be had"))
}

const SLOTS: usize = 1024;
/// Puts the indexes onto cache lines that are not even fetched in pairs.
const PADDING: usize = 128 - size_of::<AtomicUsize>();
