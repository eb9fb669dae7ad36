//! A client's bytes: from what was read to messages, one client at a time (docs/protocol.md#client-protocols).

use tengate_base::{ConnId, Door, How, Instant, Sink};

use super::Gateway;
use super::client::Codec;
use super::config::{Ping, Protocol};
use super::heartbeat::{self, HEARD, Tick};
use super::route::Body;
use crate::wire::header::Command;
use crate::wire::websocket::{self, Decoder, Item, Limits, Opcode, encode_close, encode_header};
use crate::wire::{length, php, text};

/// What decoding the front of a client's bytes led to.
enum Step {
    /// This many bytes are done with.
    Took(usize),
    /// The rest is incomplete.
    Wait,
    /// Nothing more is read from this client.
    Closed,
}

impl Gateway {
    pub(super) fn handle_client_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let Some(client) = self.client_mut(conn) else { return bytes.len() };
        if client.closing {
            return bytes.len();
        }
        let door = client.door;
        // Out of the slot, so that a message can borrow from it while the rest of the gateway handles the message.
        let mut codec = core::mem::take(&mut client.codec);
        let mut at = 0;
        while at < bytes.len() {
            if self.client(conn).is_none_or(|client| client.paused != 0 || client.closing) {
                break;
            }
            match self.step(now, conn, door, &mut codec, &mut bytes[at..], sink) {
                Step::Took(len) => at += len,
                Step::Wait => break,
                Step::Closed => {
                    at = bytes.len();
                    break;
                }
            }
        }
        match self.client_mut(conn) {
            Some(client) => {
                client.codec = codec;
                at
            }
            None => bytes.len(),
        }
    }

    fn step(
        &mut self,
        now: Instant,
        conn: ConnId,
        door: Door,
        codec: &mut Codec,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> Step {
        match codec {
            Codec::Handshake(_) => self.handshake_step(now, conn, door, codec, bytes, sink),
            Codec::Websocket(decoder) => self.websocket_step(now, conn, door, decoder, bytes, sink),
            Codec::Text(decoder) => {
                match decoder.decode(bytes, self.listener(door).message_bytes_max) {
                    Ok(Some((len, line))) => self.message_step(now, conn, len, line, sink),
                    Ok(None) => Step::Wait,
                    Err(text::TooLong) => self.broken_step(now, conn, sink),
                }
            }
            Codec::Stateless => self.stateless_step(now, conn, door, bytes, sink),
        }
    }

    fn stateless_step(
        &mut self,
        now: Instant,
        conn: ConnId,
        door: Door,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Step {
        let listener = &self.config.listeners[usize::from(door.0)];
        let decoded = match &listener.protocol {
            Protocol::Frame => length::decode(bytes, listener.message_bytes_max).map_err(|_| ()),
            Protocol::LengthField(field) => field.decode(bytes).map_err(|_| ()),
            Protocol::Tcp => Ok(Some((bytes.len(), bytes))),
            // These have a codec state of their own.
            Protocol::Websocket { .. } | Protocol::Text => Err(()),
        };
        match decoded {
            Ok(Some((len, message))) => self.message_step(now, conn, len, message, sink),
            Ok(None) => Step::Wait,
            Err(()) => self.broken_step(now, conn, sink),
        }
    }

    fn message_step(
        &mut self,
        now: Instant,
        conn: ConnId,
        len: usize,
        message: &[u8],
        sink: &mut impl Sink,
    ) -> Step {
        self.stats.client_messages += 1;
        if let Some(client) = self.client_mut(conn) {
            // Only a whole message resets the count (docs/protocol.md#heartbeat).
            client.silence = HEARD;
        }
        self.emit(now, conn, Command::OnMessage, Body::Scalar(message), sink);
        Step::Took(len)
    }

    fn broken_step(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) -> Step {
        self.stats.close_protocol += 1;
        self.close_client(now, conn, How::AtOnce, sink);
        Step::Closed
    }

    fn handshake_step(
        &mut self,
        now: Instant,
        conn: ConnId,
        door: Door,
        codec: &mut Codec,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Step {
        let Codec::Handshake(opening) = codec else { return Step::Wait };
        let (len, request) =
            match websocket::decode_request(bytes, self.listener(door).handshake_bytes_max) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => return Step::Wait,
                Err(refusal) => {
                    self.stats.refused_handshake += 1;
                    websocket::encode_refusal(&refusal, sink.buffer(conn));
                    self.close_client(now, conn, How::AfterFlush, sink);
                    return Step::Closed;
                }
            };
        let mut body = core::mem::take(&mut self.encoded.scratch);
        body.clear();
        php::on_websocket_connect_body(
            php::HandshakeRequest {
                method: request.method.as_bytes(),
                target: request.target.as_bytes(),
                version: request.version.as_bytes(),
                headers: request.headers().map(|(name, value)| (name.as_bytes(), value)),
            },
            opening.peer,
            opening.local_port,
            &mut body,
        );
        // Meanwhile in its slot: it says that a client who is turned away expects HTTP.
        if let Some(client) = self.client_mut(conn) {
            client.codec = core::mem::take(codec);
        }
        self.emit(now, conn, Command::OnWebsocketConnect, Body::Serialized(&body), sink);
        self.encoded.scratch = body;
        // For want of a worker that takes the event, the client may be gone by now.
        let Some(client) = self.client_mut(conn).filter(|client| !client.closing) else {
            return Step::Closed;
        };
        let out = sink.buffer(conn);
        websocket::encode_response(request.key, out);
        if let Codec::Handshake(opening) = core::mem::take(&mut client.codec) {
            out.extend_from_slice(&opening.pending);
        }
        *codec = Codec::Websocket(Decoder::default());
        self.wheel.cancel(conn.0);
        self.start_heartbeat(now, conn, door);
        Step::Took(len)
    }

    fn websocket_step(
        &mut self,
        now: Instant,
        conn: ConnId,
        door: Door,
        decoder: &mut Decoder,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> Step {
        let listener = self.listener(door);
        let Protocol::Websocket { check_utf8, .. } = listener.protocol else { return Step::Wait };
        let limits = Limits { message_bytes_max: listener.message_bytes_max, check_utf8 };
        let queue_max = listener.send_to_client_bytes_max;
        match decoder.decode(bytes, &limits) {
            Ok(None) => Step::Wait,
            Ok(Some((len, Item::Message { payload, .. }))) => {
                let step = self.message_step(now, conn, len, payload, sink);
                decoder.release();
                step
            }
            Ok(Some((len, Item::Fragment))) => Step::Took(len),
            Ok(Some((len, Item::Ping(payload)))) => {
                self.heard_control_frame(conn, door);
                // A peer that pings and does not read gets no more pongs than its queue holds.
                if sink.queued(conn) < queue_max {
                    let out = sink.buffer(conn);
                    encode_header(Opcode::Pong, payload.len(), out);
                    out.extend_from_slice(payload);
                }
                Step::Took(len)
            }
            Ok(Some((len, Item::Pong(_)))) => {
                self.heard_control_frame(conn, door);
                Step::Took(len)
            }
            Ok(Some((_, Item::Close { .. }))) => {
                self.stats.closed_by_client += 1;
                encode_close(1000, sink.buffer(conn));
                self.close_client(now, conn, How::AfterFlush, sink);
                Step::Closed
            }
            Err(violation) => {
                self.stats.close_protocol += 1;
                encode_close(violation.close_code(), sink.buffer(conn));
                self.close_client(now, conn, How::AfterFlush, sink);
                Step::Closed
            }
        }
    }

    /// With websocket pings as the heartbeat, control frames are the answer it waits for; otherwise they say nothing.
    fn heard_control_frame(&mut self, conn: ConnId, door: Door) {
        let heartbeat = self.listener(door).heartbeat.as_ref();
        if heartbeat.is_some_and(|heartbeat| heartbeat.ping == Ping::Websocket)
            && let Some(client) = self.client_mut(conn)
        {
            client.silence = HEARD;
        }
    }

    fn start_heartbeat(&mut self, now: Instant, conn: ConnId, door: Door) {
        if let Some(heartbeat) = &self.listener(door).heartbeat {
            let deadline = now + heartbeat.tick();
            self.wheel.set(conn.0, deadline);
        }
    }

    /// One tick of a client's heartbeat.
    pub(super) fn handle_heartbeat(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(client) = self.client_mut(conn) else { return };
        let door = client.door;
        let config = alloc::sync::Arc::clone(&self.config);
        let listener = &config.listeners[usize::from(door.0)];
        let Some(heartbeat) = &listener.heartbeat else { return };
        self.start_heartbeat(now, conn, door);
        let Some(client) = self.client_mut(conn) else { return };
        // A client we do not read cannot prove that it lives.
        if client.paused != 0 {
            return;
        }
        match heartbeat::tick(&mut client.silence, heartbeat.not_response_limit) {
            Tick::Quiet => {}
            Tick::Close => {
                self.stats.close_heartbeat += 1;
                self.close_client(now, conn, How::AtOnce, sink);
            }
            Tick::Ping => match &heartbeat.ping {
                Ping::Nothing => {}
                Ping::Data(data) => self.deliver(now, conn, data, false, sink),
                // As with pongs: a peer that does not read gets no more of them than its queue holds.
                Ping::Websocket if sink.queued(conn) < listener.send_to_client_bytes_max => {
                    encode_header(Opcode::Ping, 0, sink.buffer(conn));
                }
                Ping::Websocket => {}
            },
        }
    }
}
