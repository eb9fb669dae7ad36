//! A shell in memory: the shards of one process, their connections, and a clock that moves when told.
//!
//! It keeps every promise of `tengate_base::seam` and adds what real networks do: peers that take only so many bytes,
//! that leave, that cut a message anywhere. Nothing happens unless a caller asks for it, so a run is its calls.
//!
//! Tests of one core use [`Shell::open`], [`Shell::send`], [`Shell::close`] and [`Shell::advance`], which run every shard
//! until nothing is left to do. The simulator uses [`Shell::accept`], [`Shell::give`], [`Shell::cut`], [`Shell::step`] and
//! [`Shell::cross`], which do one thing each, so that it decides which shard runs when and how long a ring takes.

mod streams;

use core::mem;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;

use tengate_base::{
    App, CloseCause, Closed, ConnId, Door, How, Instant, Opened, ShardId, Share, Sink,
};
use tengate_io::streams::{StreamSink as _, Streams};

pub use streams::Outbox;
pub(crate) use streams::{Handed, STREAMS_FIRST};

/// A connection somewhere in a [`Shell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The shard that owns it.
    pub shard: ShardId,
    /// Its index there.
    pub conn: ConnId,
    /// Tells it from an earlier connection with the same index.
    serial: u64,
}

/// The shards of one process.
#[derive(Debug)]
pub struct Shell<A> {
    now: Instant,
    shards: Vec<(A, Memory)>,
    /// Batches on their way, by sending shard, then by receiving shard.
    rings: Vec<Vec<VecDeque<Vec<u8>>>>,
    serial: u64,
}

/// Connections and outgoing batches of one shard: the sink its app writes to.
#[derive(Debug)]
pub struct Memory {
    conns: Vec<Conn>,
    free: Vec<ConnId>,
    /// Freed in this turn; not handed out before its end.
    freed: Vec<ConnId>,
    mesh: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    /// Streams past the kernel, if the shard has them.
    past: Option<Box<streams::Past>>,
}

#[derive(Debug, Default)]
struct Conn {
    serial: u64,
    open: bool,
    /// From the peer, not consumed yet.
    input: Vec<u8>,
    /// To the peer, not written yet; with whole frames kept, its first `sent` bytes are written.
    output: Vec<u8>,
    sent: usize,
    /// Where messages begin in `output` that may be dropped.
    messages: Vec<usize>,
    keep_frames: bool,
    /// Written, not fetched by the peer yet.
    written: Vec<u8>,
    /// How many more bytes the peer takes; `None` is any number.
    window: Option<usize>,
    paused: bool,
    fresh: bool,
    closing: bool,
    /// The app has given it up; what is queued goes back.
    broken: bool,
    notify_below: Option<usize>,
}

impl<A: App> Shell<A> {
    /// A process with these shards, at the origin of time.
    pub fn new(apps: impl IntoIterator<Item = A>) -> Self {
        let apps: Vec<A> = apps.into_iter().collect();
        let count = apps.len();
        let memory = || Memory {
            conns: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            mesh: vec![Vec::new(); count],
            scratch: Vec::new(),
            past: None,
        };
        Self {
            now: Instant::ZERO,
            shards: apps.into_iter().map(|app| (app, memory())).collect(),
            rings: vec![vec![VecDeque::new(); count]; count],
            serial: 0,
        }
    }

    /// The time the apps are told.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// One shard's app.
    pub fn app(&mut self, shard: ShardId) -> &mut A {
        &mut self.shards[usize::from(shard.0)].0
    }

    /// One shard's app, to look at.
    pub fn peek(&self, shard: ShardId) -> &A {
        &self.shards[usize::from(shard.0)].0
    }

    /// Says something to an app as its owner does, with the sink for what comes of it.
    pub fn tell(&mut self, shard: ShardId, say: impl FnOnce(&mut A, Instant, &mut Memory)) {
        let now = self.now;
        let (app, memory) = &mut self.shards[usize::from(shard.0)];
        say(app, now, memory);
        self.run();
    }

    /// As [`Shell::tell`], without running anything else.
    pub fn instruct(&mut self, shard: ShardId, call: impl FnOnce(&mut A, Instant, &mut Memory)) {
        let (app, memory) = &mut self.shards[usize::from(shard.0)];
        memory.begin(self.now);
        call(app, self.now, memory);
    }

    /// A peer connects to a shard.
    pub fn open(&mut self, shard: ShardId, door: Door, peer: SocketAddr, local_port: u16) -> Place {
        let place = self.accept(shard, door, peer, local_port);
        self.run();
        place
    }

    /// As [`Shell::open`], without running anything else.
    pub fn accept(
        &mut self,
        shard: ShardId,
        door: Door,
        peer: SocketAddr,
        local_port: u16,
    ) -> Place {
        self.serial += 1;
        let serial = self.serial;
        let now = self.now;
        let (app, memory) = &mut self.shards[usize::from(shard.0)];
        let conn = memory.take_index();
        memory.begin(now);
        memory.conns[conn.0 as usize] = Conn { serial, open: true, ..Conn::default() };
        app.handle_open(now, &Opened { conn, door, peer, local_port }, memory);
        Place { shard, conn, serial }
    }

    /// The peer sends bytes; nothing happens when the connection is gone.
    pub fn send(&mut self, place: Place, bytes: &[u8]) {
        self.give(place, bytes);
        self.run();
    }

    /// As [`Shell::send`]; the app sees the bytes in the next [`Shell::step`].
    pub fn give(&mut self, place: Place, bytes: &[u8]) {
        if let Some(conn) = self.conn(place) {
            conn.input.extend_from_slice(bytes);
            conn.fresh = true;
        }
    }

    /// The peer fetches what was written to it.
    pub fn receive(&mut self, place: Place) -> Vec<u8> {
        let memory = &mut self.shards[usize::from(place.shard.0)].1;
        let conn = &mut memory.conns[place.conn.0 as usize];
        if conn.serial == place.serial { mem::take(&mut conn.written) } else { Vec::new() }
    }

    /// The peer takes only `window` more bytes; `None` takes any number again.
    pub fn set_window(&mut self, place: Place, window: Option<usize>) {
        if let Some(conn) = self.conn(place) {
            conn.window = window;
        }
        self.run();
    }

    /// The peer takes `more` bytes beyond what it takes already; no change when it takes any number.
    pub fn widen(&mut self, place: Place, more: usize) {
        if let Some(conn) = self.conn(place) {
            conn.window = conn.window.map(|window| window.saturating_add(more));
        }
    }

    /// From the next write on the peer takes only `window` bytes.
    pub fn limit(&mut self, place: Place, window: usize) {
        if let Some(conn) = self.conn(place) {
            conn.window = Some(window);
        }
    }

    /// The peer closes, in order or not.
    pub fn close(&mut self, place: Place, cause: CloseCause) {
        if self.cut(place, cause) {
            self.run();
        }
    }

    /// As [`Shell::close`], without running anything else. Whether the connection was open.
    pub fn cut(&mut self, place: Place, cause: CloseCause) -> bool {
        let open = self.conn(place).is_some();
        if open {
            self.shards[usize::from(place.shard.0)].1.begin(self.now);
            self.lose(place.shard, place.conn, cause);
        }
        open
    }

    /// Whether the connection is still open.
    pub fn is_open(&mut self, place: Place) -> bool {
        if let Some((streams, index)) = self.stream(place) {
            return streams.is_open(index);
        }
        self.conn(place).is_some()
    }

    /// Whether the app reads the connection.
    pub fn is_read(&mut self, place: Place) -> bool {
        if let Some((streams, index)) = self.stream(place) {
            return streams.is_read(index);
        }
        self.conn(place).is_some_and(|conn| !conn.paused && !conn.closing)
    }

    /// Whether the app has yet to be shown bytes, now or when it reads the connection again.
    pub fn has_unread(&mut self, place: Place) -> bool {
        self.conn(place).is_some_and(|conn| conn.fresh || (conn.paused && !conn.input.is_empty()))
    }

    /// Bytes queued towards the peer and not written.
    pub fn queued(&mut self, place: Place) -> usize {
        self.conn(place).map_or(0, |conn| conn.unwritten())
    }

    /// Connections a shard has open.
    pub fn open_count(&self, shard: ShardId) -> usize {
        let streams = self.streams(shard).map_or(0, |streams| streams.live_count() as usize);
        let memory = &self.shards[usize::from(shard.0)].1;
        memory.conns.iter().filter(|conn| conn.open).count() + streams
    }

    /// Moves the clock, stopping at each time-out on the way.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(next) = self.next_timeout().filter(|next| *next <= end) {
            self.set_now(self.now.max(next));
            self.run();
        }
        self.now = end;
    }

    /// Sets the clock, which must not go back. Time-outs wait for the next [`Shell::step`].
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// The next instant at which an app wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let streams = |memory: &Memory| memory.past.as_ref()?.streams.poll_timeout();
        let all = self.shards.iter();
        all.flat_map(|(app, memory)| [app.poll_timeout(), streams(memory)]).flatten().min()
    }

    fn stream(&mut self, place: Place) -> Option<(&mut Streams<Outbox>, u32)> {
        self.shards[usize::from(place.shard.0)].1.stream_of(place.conn)
    }

    fn conn(&mut self, place: Place) -> Option<&mut Conn> {
        let memory = &mut self.shards[usize::from(place.shard.0)].1;
        let conn = memory.conns.get_mut(place.conn.0 as usize)?;
        (conn.open && conn.serial == place.serial).then_some(conn)
    }

    /// Runs turns until nothing is left to do without time passing.
    ///
    /// # Panics
    /// When that does not come to an end: a core that keeps itself busy.
    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut busy = false;
            for shard in 0..self.shards.len() {
                busy |= self.turn(shard);
            }
            if !busy {
                return;
            }
        }
        panic!("shards do not come to rest");
    }

    fn turn(&mut self, shard: usize) -> bool {
        let mut busy = self.expire(shard);
        busy |= self.show_input(shard);
        busy |= self.flush(shard);
        for to in self.send_batches(shard) {
            busy |= self.cross(id(shard), to);
        }
        busy
    }

    /// One turn of a shard: a due time-out, what has arrived, what can be written. Returns to which shards a batch left.
    pub fn step(&mut self, shard: ShardId) -> Vec<ShardId> {
        let shard = usize::from(shard.0);
        self.take_in(shard);
        self.expire(shard);
        self.show_input(shard);
        if self.shards[shard].1.past.is_some() {
            self.settle(shard);
        } else {
            self.flush(shard);
        }
        self.send_batches(shard)
    }

    /// Hands the oldest batch on the ring between two shards over. Whether there was one.
    pub fn cross(&mut self, from: ShardId, to: ShardId) -> bool {
        let ring = &mut self.rings[usize::from(from.0)][usize::from(to.0)];
        let Some(mut batch) = ring.pop_front() else { return false };
        let (app, memory) = &mut self.shards[usize::from(to.0)];
        memory.begin(self.now);
        app.handle_mesh(self.now, from, &mut batch, memory);
        true
    }

    fn expire(&mut self, shard: usize) -> bool {
        let now = self.now;
        let (app, memory) = &mut self.shards[shard];
        let due = app.poll_timeout().is_some_and(|deadline| deadline <= now);
        if due {
            app.handle_timeout(now, memory);
        }
        due
    }

    fn show_input(&mut self, shard: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        for index in 0..self.shards[shard].1.conns.len() {
            let (app, memory) = &mut self.shards[shard];
            let conn = &mut memory.conns[index];
            if conn.open && conn.fresh && !conn.paused && !conn.closing && !conn.broken {
                conn.fresh = false;
                busy = true;
                let mut input = mem::take(&mut conn.input);
                let serial = conn.serial;
                let consumed = app.handle_bytes(now, conn_id(index), &mut input, memory);
                input.drain(..consumed);
                let conn = &mut memory.conns[index];
                if conn.open && conn.serial == serial {
                    conn.input = input;
                }
            }
        }
        busy
    }

    /// Ends a turn: what was appended for other shards is on its way, and freed indexes may be used again.
    fn send_batches(&mut self, shard: usize) -> Vec<ShardId> {
        let memory = &mut self.shards[shard].1;
        memory.free.append(&mut memory.freed);
        let mut sent = Vec::new();
        for (to, batch) in memory.mesh.iter_mut().enumerate() {
            if !batch.is_empty() {
                self.rings[shard][to].push_back(mem::take(batch));
                sent.push(id(to));
            }
        }
        sent
    }

    fn flush(&mut self, shard: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        for index in 0..self.shards[shard].1.conns.len() {
            let (app, memory) = &mut self.shards[shard];
            let conn = &mut memory.conns[index];
            if !conn.open {
                continue;
            }
            if conn.broken {
                busy = true;
                self.lose(id(shard), conn_id(index), CloseCause::Reset);
                continue;
            }
            let left = conn.write();
            if conn.notify_below.is_some_and(|mark| left <= mark) {
                conn.notify_below = None;
                busy = true;
                app.handle_drained(now, conn_id(index), memory);
            }
            if memory.conns[index].closing && left == 0 {
                busy = true;
                self.lose(id(shard), conn_id(index), CloseCause::Flushed);
            }
        }
        busy
    }

    fn lose(&mut self, shard: ShardId, index: ConnId, cause: CloseCause) {
        let now = self.now;
        let (app, memory) = &mut self.shards[usize::from(shard.0)];
        let conn = &mut memory.conns[index.0 as usize];
        conn.open = false;
        let unsent = mem::take(&mut conn.output);
        let from = if conn.keep_frames { whole_frames(&unsent, conn.sent) } else { conn.sent };
        app.handle_closed(now, index, cause, &unsent[from..], memory);
        memory.freed.push(index);
    }
}

/// Turns after which a run that does not end is a defect.
const TURNS_MAX: usize = 100_000;

fn id(shard: usize) -> ShardId {
    ShardId(u16::try_from(shard).expect("few shards"))
}

fn conn_id(index: usize) -> ConnId {
    ConnId(u32::try_from(index).expect("few connections"))
}

/// Where the first frame begins of which not every byte was sent.
fn whole_frames(queue: &[u8], sent: usize) -> usize {
    let mut at = 0;
    while let Some(len) = queue[at..].first_chunk::<4>() {
        let next = at + u32::from_be_bytes(*len) as usize;
        if next > sent {
            break;
        }
        at = next;
    }
    at
}

impl Memory {
    fn take_index(&mut self) -> ConnId {
        self.free.pop().unwrap_or_else(|| {
            let is_room = self.past.is_none() || self.conns.len() < STREAMS_FIRST as usize;
            assert!(is_room, "few connections that are not streams");
            self.conns.push(Conn::default());
            ConnId(u32::try_from(self.conns.len() - 1).expect("few connections"))
        })
    }

    fn open(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(conn.0 as usize).filter(|conn| conn.open)
    }
}

impl Conn {
    fn unwritten(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Writes what the peer takes; returns what is left.
    fn write(&mut self) -> usize {
        if self.broken {
            return self.unwritten();
        }
        let taken = self.unwritten().min(self.window.unwrap_or(usize::MAX));
        self.window = self.window.map(|window| window - taken);
        self.written.extend_from_slice(&self.output[self.sent..self.sent + taken]);
        self.sent += taken;
        if self.unwritten() == 0 {
            self.output.clear();
            self.messages.clear();
            self.sent = 0;
        }
        self.unwritten()
    }
}

impl Sink for Memory {
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8> {
        // Not by `stream_of`: a borrow that is returned from one branch only would last into the other.
        if conn.0 >= STREAMS_FIRST && self.past.is_some() {
            return self.streams().buffer(conn.0 - STREAMS_FIRST);
        }
        match self.conns.get_mut(conn.0 as usize) {
            Some(conn) if conn.open && !conn.closing => &mut conn.output,
            _ => {
                self.scratch.clear();
                &mut self.scratch
            }
        }
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        match self.stream_of(conn) {
            Some((streams, index)) => streams.write(index, bytes),
            None => self.buffer(conn).extend_from_slice(bytes),
        }
    }

    fn share(&mut self, bytes: &[u8]) -> Share {
        self.past.as_mut().map_or(Share::NONE, |past| past.streams.share(bytes))
    }

    fn write_shared(&mut self, conn: ConnId, bytes: &[u8], share: Share) {
        match self.stream_of(conn) {
            Some((streams, index)) => streams.write_shared(index, bytes, share),
            None => self.write(conn, bytes),
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        if let (Some(index), Some(past)) = (conn.0.checked_sub(STREAMS_FIRST), &self.past) {
            return past.streams.queued(index);
        }
        self.conns.get(conn.0 as usize).filter(|conn| conn.open).map_or(0, Conn::unwritten)
    }

    fn flush(&mut self, conn: ConnId) -> usize {
        match self.stream_of(conn) {
            Some((streams, index)) => streams.flush(index),
            None => self.open(conn).map_or(0, Conn::write),
        }
    }

    fn close(&mut self, id: ConnId, how: How) -> Closed {
        if let (Some(index), Some(past)) = (id.0.checked_sub(STREAMS_FIRST), &mut self.past) {
            return past.streams.close(past.now, index, how);
        }
        let Some(conn) = self.open(id) else { return Closed::Now };
        if how == How::GiveBack {
            conn.broken = true;
            return Closed::Later;
        }
        if how == How::AfterFlush && conn.write() > 0 {
            conn.closing = true;
            return Closed::Later;
        }
        conn.open = false;
        conn.output.clear();
        conn.sent = 0;
        self.freed.push(id);
        Closed::Now
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some((streams, index)) = self.stream_of(conn) {
            streams.pause(index);
        } else if let Some(conn) = self.open(conn) {
            conn.paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some((streams, index)) = self.stream_of(conn) {
            streams.resume(index);
        } else if let Some(conn) = self.open(conn) {
            conn.paused = false;
            conn.fresh = !conn.input.is_empty();
        }
    }

    fn notify_below(&mut self, conn: ConnId, bytes: usize) {
        if let Some((streams, index)) = self.stream_of(conn) {
            streams.notify_below(index, bytes);
        } else if let Some(conn) = self.open(conn) {
            conn.notify_below = Some(bytes);
        }
    }

    fn keep_frames(&mut self, conn: ConnId) {
        if let Some((streams, index)) = self.stream_of(conn) {
            streams.keep_frames(index);
        } else if let Some(conn) = self.open(conn) {
            conn.keep_frames = true;
        }
    }

    fn begin_message(&mut self, conn: ConnId) {
        if let Some((streams, index)) = self.stream_of(conn) {
            streams.begin_message(index);
        } else if let Some(conn) = self.open(conn)
            && conn.unwritten() > 0
        {
            conn.messages.push(conn.output.len());
        }
    }

    fn drop_oldest(&mut self, conn: ConnId, bytes: usize) -> usize {
        if let Some((streams, index)) = self.stream_of(conn) {
            return streams.drop_oldest(index, bytes);
        }
        let Some(conn) = self.open(conn) else { return 0 };
        conn.messages.retain(|at| *at >= conn.sent);
        let mut dropped = 0;
        while conn.unwritten() > bytes && !conn.messages.is_empty() {
            let from = conn.messages.remove(0);
            let to = conn.messages.first().copied().unwrap_or(conn.output.len());
            conn.output.drain(from..to);
            conn.messages.iter_mut().for_each(|at| *at -= to - from);
            dropped += 1;
        }
        dropped
    }

    fn mesh(&mut self, to: ShardId) -> &mut Vec<u8> {
        &mut self.mesh[usize::from(to.0)]
    }
}
