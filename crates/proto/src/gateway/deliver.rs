//! Messages for clients: encoded for their protocol, once for all receivers, within what a slow client may hold.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use tengate_base::{ConnId, How, Instant, Share, Sink};

use super::client::Codec;
use super::config::{Listener, Protocol, SlowClient};
use super::{Gateway, Slot};
use crate::wire::header::InnerFrame;
use crate::wire::websocket::{Opcode, encode_header};
use crate::wire::{length, php, text};

/// One message in every encoding its receivers need, kept for the next one so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    forms: [Vec<u8>; Form::COUNT],
    /// What the shell calls each of them while they go to many.
    shares: [Share; Form::COUNT],
    /// Room for whatever is put together before it is sent.
    pub(super) scratch: Vec<u8>,
    /// Room for an event that is not encoded where it leaves from.
    pub(super) event: Vec<u8>,
}

/// How a message looks on a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    WebsocketText = 0,
    WebsocketBinary = 1,
    Line = 2,
    LengthPrefixed = 3,
    AsIs = 4,
}

impl Form {
    const COUNT: usize = 5;

    fn of(listener: &Listener, raw: bool) -> Self {
        match listener.protocol {
            _ if raw => Self::AsIs,
            Protocol::Websocket { binary: false, .. } => Self::WebsocketText,
            Protocol::Websocket { binary: true, .. } => Self::WebsocketBinary,
            Protocol::Text => Self::Line,
            Protocol::Frame => Self::LengthPrefixed,
            Protocol::Tcp | Protocol::LengthField(_) => Self::AsIs,
        }
    }

    fn encode(self, body: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::WebsocketText => {
                encode_header(Opcode::Text, body.len(), out);
                out.extend_from_slice(body);
            }
            Self::WebsocketBinary => {
                encode_header(Opcode::Binary, body.len(), out);
                out.extend_from_slice(body);
            }
            Self::Line => text::encode(body, out),
            Self::LengthPrefixed => length::encode(body, out),
            Self::AsIs => out.extend_from_slice(body),
        }
    }
}

impl Gateway {
    /// Sends a message to one client of this shard.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        conn: ConnId,
        body: &[u8],
        raw: bool,
        sink: &mut impl Sink,
    ) {
        let Some(Slot::Client(client)) = self.slots.get_mut(conn.0 as usize) else { return };
        if client.closing {
            return;
        }
        let listener = &self.config.listeners[usize::from(client.door.0)];
        let form = Form::of(listener, raw);
        let drops_oldest = listener.slow_client == SlowClient::DropOldest;
        if let Codec::Handshake(handshake) = &mut client.codec {
            if handshake.pending.len() < listener.send_to_client_bytes_max {
                self.stats.deliveries += 1;
                form.encode(body, &mut handshake.pending);
            } else {
                self.stats.drop_before_handshake += 1;
            }
        } else if has_room(listener, conn, sink) || self.make_room(now, conn, sink) {
            self.stats.deliveries += 1;
            if drops_oldest {
                sink.begin_message(conn);
            }
            form.encode(body, sink.buffer(conn));
        }
    }

    /// Sends one message to many clients of this shard.
    pub(super) fn deliver_each(
        &mut self,
        now: Instant,
        clients: &[u32],
        body: &[u8],
        raw: bool,
        sink: &mut impl Sink,
    ) {
        self.encoded.forms.iter_mut().for_each(Vec::clear);
        for index in clients {
            let conn = ConnId(*index);
            let Some(Slot::Client(client)) = self.slots.get(conn.0 as usize) else { continue };
            if client.closing {
                continue;
            }
            let listener = &self.config.listeners[usize::from(client.door.0)];
            let form = Form::of(listener, raw);
            let drops_oldest = listener.slow_client == SlowClient::DropOldest;
            if matches!(client.codec, Codec::Handshake(_)) {
                self.deliver(now, conn, body, raw, sink);
            } else if has_room(listener, conn, sink) || self.make_room(now, conn, sink) {
                let encoded = &mut self.encoded.forms[form as usize];
                if encoded.is_empty() {
                    form.encode(body, encoded);
                    self.encoded.shares[form as usize] = sink.share(encoded);
                }
                self.stats.deliveries += 1;
                if drops_oldest {
                    sink.begin_message(conn);
                }
                sink.write_shared(conn, encoded, self.encoded.shares[form as usize]);
            }
        }
    }

    /// A client's queue is full, so that a message does not fit. Whether it does now.
    fn make_room(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) -> bool {
        let Some(client) = self.client(conn) else { return false };
        let listener = self.listener(client.door);
        match listener.slow_client {
            SlowClient::Drop => {
                self.stats.drop_slow_client += 1;
                false
            }
            SlowClient::DropOldest => {
                let limit = listener.send_to_client_bytes_max;
                // Half of it at once: then moving the rest costs no more than what was sent since the last time.
                self.stats.drop_oldest += sink.drop_oldest(conn, limit / 2) as u64;
                let fits = sink.queued(conn) < limit;
                self.stats.drop_slow_client += u64::from(!fits);
                fits
            }
            SlowClient::Close => {
                self.stats.close_slow_client += 1;
                self.close_client(now, conn, How::AtOnce, sink);
                false
            }
        }
    }
}

/// Whether a client may be sent one more message: as in Workerman, a queue below its limit takes a message of any size.
fn has_room(listener: &Listener, conn: ConnId, sink: &mut impl Sink) -> bool {
    let limit = listener.send_to_client_bytes_max;
    sink.queued(conn) < limit || sink.flush(conn) < limit
}

/// What a frame's body is for a client: a plain string as it is, any other value as JSON, as Workerman does for
/// websocket clients (it fails for the others). `None` for null, and for what cannot be decoded.
pub(super) fn client_body<'a>(frame: &InnerFrame<'a>) -> Option<Cow<'a, [u8]>> {
    if frame.is_scalar() {
        return Some(Cow::Borrowed(frame.body));
    }
    match php::unserialize(frame.body, &php::Limits::default()) {
        Ok(php::Value::Null) | Err(_) => None,
        Ok(value) => {
            let mut text = Vec::new();
            // As in PHP, what JSON cannot say is an empty message.
            if php::json_encode(&value, &mut text).is_err() {
                text.clear();
            }
            Some(Cow::Owned(text))
        }
    }
}
