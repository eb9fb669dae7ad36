//! A bare echo server on the kernel shell: what a message costs before any protocol, as the floor for measurements.
//!
//! `cargo run --release -p tengate-io --example echo -- 127.0.0.1:7000 1` listens there with one shard.

use core::convert::Infallible;
use core::error::Error;
use core::time::Duration;

use tengate_base::{App, CloseCause, ConnId, Instant, Opened, ShardId, Sink};
use tengate_io::{Config, Host, ListenSpec, Net, Sharing, bind, raise_descriptor_limit, run};

struct Echo;

impl App for Echo {
    fn handle_open(&mut self, _now: Instant, _opened: &Opened, _sink: &mut impl Sink) {}

    fn handle_bytes(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        sink.buffer(conn).extend_from_slice(bytes);
        // One who sends without reading is left alone until what is queued for it has gone.
        if sink.queued(conn) > QUEUED_BYTES_MAX {
            sink.pause(conn);
            sink.notify_below(conn, 0);
        }
        bytes.len()
    }

    fn handle_closed(
        &mut self,
        _now: Instant,
        _conn: ConnId,
        _cause: CloseCause,
        _unsent: &[u8],
        _sink: &mut impl Sink,
    ) {
    }

    fn handle_drained(&mut self, _now: Instant, conn: ConnId, sink: &mut impl Sink) {
        sink.resume(conn);
    }

    fn handle_mesh(
        &mut self,
        _now: Instant,
        _from: ShardId,
        _batch: &mut [u8],
        _sink: &mut impl Sink,
    ) {
    }

    fn handle_timeout(&mut self, _now: Instant, _sink: &mut impl Sink) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

impl Host for Echo {
    type Command = Infallible;

    fn handle_command(&mut self, _now: Instant, command: Infallible, _net: &mut Net) {
        match command {}
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().map_or_else(|| "127.0.0.1:7000".parse(), |addr| addr.parse())?;
    let shard_count = args.next().map_or(Ok(1), |count| count.parse())?;
    raise_descriptor_limit()?;
    let listener =
        bind(&ListenSpec { addr, backlog: 4096, sharing: Sharing::PerShard }, shard_count)?;
    let running = run(&Config::for_shards(shard_count), vec![listener], None, |_shard| Echo)?;
    running
        .join(Duration::ZERO)
        .map_err(|exit| format!("shard {}: {:?}", exit.shard, exit.result))?;
    Ok(())
}

const QUEUED_BYTES_MAX: usize = 1 << 20;
