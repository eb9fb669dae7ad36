//! What a turn does with streams: from the stack's events to the application, and how connections end.

use tengate_base::{App, CloseCause, ConnId, Opened};
use tengate_netstack::Event;

use super::{Attached, StreamSink, Streams, Wire};
use crate::buffers::Keep;
use crate::conn::{Conn, Flags};
use crate::limits::STASH_BYTES_MAX;
use crate::net::canonical;

/// A frame arrived: shows the application what comes of it. It may change the frame's bytes.
pub fn handle_frame<N: StreamSink>(app: &mut impl App, net: &mut N, frame: &mut [u8]) {
    let Wire { stack, device, now, .. } = &mut net.streams().conns.carrier;
    stack.handle_frame(*now, frame, device);
    handle_events(app, net, frame);
}

/// Lets the stack do what is due, and cuts connections when memory has run out.
pub fn handle_timeout<N: StreamSink>(app: &mut impl App, net: &mut N) {
    let Wire { stack, device, now, .. } = &mut net.streams().conns.carrier;
    if stack.poll_timeout().is_some_and(|deadline| deadline <= *now) {
        stack.handle_timeout(*now, device);
        handle_events(app, net, &mut []);
    }
    for index in net.streams().greediest() {
        let streams = net.streams();
        streams.conns.counters.closed_pool_full += 1;
        if streams.conns.get(index).is_some() {
            finish(app, net, index, CloseCause::Reset);
        } else {
            streams.abort(index);
        }
    }
}

/// Shows again what was kept of connections that are read again.
pub fn handle_ready<N: StreamSink>(app: &mut impl App, net: &mut N) {
    if net.streams().conns.ready.is_empty() || net.is_congested() {
        return;
    }
    let ready = core::mem::take(&mut net.streams().conns.ready);
    for &index in &ready {
        net.streams().conns.place(index).flags.clear(Flags::READY);
        let Some(conn) = net.streams().conns.get_mut(index).filter(|conn| conn.is_reading()) else {
            continue;
        };
        if conn.flags.take(Flags::RESHOW) && conn.stash.is_some() {
            show_stash(app, net, index);
        }
        let is_over = |conn: &mut Conn<Attached>| {
            conn.is_reading() && conn.flags.any(Flags::HANGUP) && !conn.flags.any(Flags::RESHOW)
        };
        if net.streams().conns.get_mut(index).is_some_and(is_over) {
            finish(app, net, index, CloseCause::Peer);
        }
    }
}

/// Tells the application what came of its output; whether there was anything to tell, so that it may have queued more.
pub fn handle_signals<N: StreamSink>(app: &mut impl App, net: &mut N) -> bool {
    let signals = core::mem::take(&mut net.streams().conns.signals);
    for &index in &signals {
        let Some(conn) = net.streams().conns.get_mut(index) else { continue };
        if let Some(cause) = conn.end_of_output() {
            finish(app, net, index, cause);
        } else if conn.flags.take(Flags::DRAINED) && !conn.flags.any(Flags::CLOSING) {
            let (now, conn) = net.streams().named(index);
            app.handle_drained(now, conn, net);
        }
    }
    !signals.is_empty()
}

/// Ends all connections: at once, or once what is queued is sent.
pub(crate) fn stop<N: StreamSink>(app: &mut impl App, net: &mut N) {
    net.streams().stop();
    for index in 0..net.streams().conns.len() {
        let conns = &mut net.streams().conns;
        if conns.get(index).is_none() {
            continue;
        }
        if conns.write_out(index) == 0 {
            finish(app, net, index, CloseCause::Shell);
        } else if conns.place(index).flags.set_new(Flags::CLOSING) {
            conns.place(index).flags |= Flags::RETIRED;
        }
    }
}

/// Cuts all connections.
pub(crate) fn cut<N: StreamSink>(app: &mut impl App, net: &mut N) {
    for index in 0..net.streams().conns.len() {
        finish(app, net, index, CloseCause::Shell);
    }
}

fn handle_events<N: StreamSink>(app: &mut impl App, net: &mut N, frame: &mut [u8]) {
    while let Some(event) = net.streams().conns.carrier.stack.poll_event() {
        match event {
            Event::Received { conn, bytes } => receive(app, net, conn.0, &mut frame[bytes]),
            Event::Readable { conn } => read(app, net, conn.0),
            Event::Drained { conn } => net.streams().unblock(conn.0),
            Event::PeerClosed { conn } => peer_closed(app, net, conn.0),
            Event::Closed { conn, .. } => finish(app, net, conn.0, CloseCause::Reset),
            Event::Opened { .. } => open(app, net, &event),
            // Nothing here opens connections.
            Event::Connected { .. } => {}
        }
    }
}

fn open<N: StreamSink>(app: &mut impl App, net: &mut N, event: &Event) {
    let &Event::Opened { conn, door, peer, local } = event else { return };
    let streams = net.streams();
    if streams.is_stopping || streams.conns.live_count() >= streams.connections_max {
        streams.conns.counters.refused_full += 1;
        streams.abort(conn.0);
        return;
    }
    streams.conns.insert(conn.0, Conn::new(Attached, door));
    let (now, conn) = streams.named(conn.0);
    let opened = Opened { conn, door, peer: canonical(peer), local_port: local.port() };
    app.handle_open(now, &opened, net);
}

/// Reads what a filled gap made available.
fn read<N: StreamSink>(app: &mut impl App, net: &mut N, index: u32) {
    let streams = net.streams();
    let mut bytes = core::mem::take(&mut streams.read_buffer);
    bytes.clear();
    streams.conns.carrier.stack.read(ConnId(index), &mut bytes);
    receive(app, net, index, &mut bytes);
    net.streams().read_buffer = bytes;
}

/// Shows bytes, or keeps them while nobody wants them.
fn receive<N: StreamSink>(app: &mut impl App, net: &mut N, index: u32, bytes: &mut [u8]) {
    let is_congested = net.is_congested();
    let streams = net.streams();
    let Some(conn) = streams.conns.get_mut(index) else { return };
    conn.bytes_read += bytes.len() as u64;
    let (is_reading, is_behind, has_stash) =
        (conn.is_reading(), conn.flags.any(Flags::RESHOW), conn.stash.is_some());
    streams.conns.counters.reads += 1;
    streams.conns.counters.bytes_read += bytes.len() as u64;
    if !is_reading || is_behind {
        streams.keep(index, bytes);
    } else if is_congested {
        // As if it was paused until there is room.
        streams.conns.place(index).flags |= Flags::RESHOW;
        streams.keep(index, bytes);
        streams.conns.make_ready(index);
    } else if has_stash {
        streams.keep(index, bytes);
        show_stash(app, net, index);
    } else {
        let (now, conn) = streams.named(index);
        let consumed = app.handle_bytes(now, conn, bytes, net).min(bytes.len());
        if consumed < bytes.len() {
            net.streams().keep(index, &bytes[consumed..]);
        }
    }
}

/// Shows what is kept.
fn show_stash<N: StreamSink>(app: &mut impl App, net: &mut N, index: u32) {
    let streams = net.streams();
    // Out of the table during the call, in which the app may close the connection.
    let Some(id) = streams.conns.get_mut(index).and_then(|conn| conn.stash.take()) else { return };
    let mut queue = core::mem::take(&mut streams.conns.buffers[id]);
    let (now, conn) = streams.named(index);
    let bytes = queue.pending_mut();
    let len = bytes.len();
    let consumed = app.handle_bytes(now, conn, bytes, net).min(len);
    queue.advance(consumed, Keep::Rest);
    let streams = net.streams();
    let held = queue.held;
    streams.conns.buffers[id] = queue;
    let is_open = streams.conns.get(index).is_some_and(|conn| !conn.flags.any(Flags::CLOSING));
    if consumed < len && is_open {
        streams.put_stash(index, id);
        if len - consumed >= STASH_BYTES_MAX {
            streams.conns.counters.closed_stash_full += 1;
            finish(app, net, index, CloseCause::Shell);
        }
    } else {
        streams.conns.carrier.stack.release(ConnId(index), held);
        streams.conns.buffers.give(id);
    }
}

/// The peer's stream is over. One that is not read learns it behind its last bytes.
fn peer_closed<N: StreamSink>(app: &mut impl App, net: &mut N, index: u32) {
    let Some(conn) = net.streams().conns.get_mut(index) else { return };
    conn.flags |= Flags::HANGUP;
    if conn.is_reading() && !conn.flags.any(Flags::RESHOW) {
        finish(app, net, index, CloseCause::Peer);
    }
}

/// Ends a connection, if it has not ended, and tells the app.
fn finish<N: StreamSink>(app: &mut impl App, net: &mut N, index: u32, cause: CloseCause) {
    let streams = net.streams();
    if streams.conns.get(index).is_none() {
        return;
    }
    let (now, conn) = streams.named(index);
    if cause == CloseCause::Reset {
        streams.conns.counters.closed_reset += 1;
    } else {
        // The peer may still read what is queued for it.
        streams.conns.write_out(index);
    }
    let Some((Attached, out)) = streams.conns.remove(index) else { return };
    match cause {
        CloseCause::Reset => streams.abort(index),
        CloseCause::Shell if out.is_some() => streams.abort(index),
        CloseCause::Shell | CloseCause::Peer | CloseCause::Flushed => {
            streams.conns.carrier.stack.close(now, ConnId(index));
        }
    }
    let Some(id) = out else {
        app.handle_closed(now, conn, cause, &[], net);
        return;
    };
    let mut queue = core::mem::take(&mut streams.conns.buffers[id]);
    app.handle_closed(now, conn, cause, queue.unsent(Keep::Rest), net);
    let buffers = &mut net.streams().conns.buffers;
    buffers[id] = queue;
    buffers.give(id);
}

impl<D: tengate_netstack::Device> Streams<D> {
    /// The present turn's time, and what the application calls a connection.
    fn named(&self, index: u32) -> (tengate_base::Instant, ConnId) {
        (self.conns.carrier.now, self.conns.conn_id(index))
    }

    /// Resets a connection that the application has not, or no longer.
    fn abort(&mut self, index: u32) {
        let Wire { stack, device, now, .. } = &mut self.conns.carrier;
        stack.abort(*now, ConnId(index), device);
    }
}
