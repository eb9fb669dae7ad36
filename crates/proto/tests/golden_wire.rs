//! What the real PHP programs sent, through our codecs and back: the same bytes must come out.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a test module as a whole"
)]

mod golden;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use golden::{CLIENTS, INNER, NAMES, REGISTER, Recording, Side, What};
use tengate_proto::wire::ext::{
    Condition, Field, GatewayClientConnect, Select, SendToAll, SendToGroup, WorkerConnect,
    decode_names, encode_names,
};
use tengate_proto::wire::header::{Command, InnerFrame};
use tengate_proto::wire::php::{
    HandshakeRequest, Limits, on_websocket_connect_body, serialize, unserialize,
};
use tengate_proto::wire::register::{FromRegister, ToRegister, encode_broadcast_addresses};
use tengate_proto::wire::websocket;

#[test]
fn recordings_are_in_the_order_of_time() {
    for recording in NAMES.map(Recording::load) {
        assert!(recording.events.is_sorted_by_key(|event| event.at));
    }
}

#[test]
fn every_inner_frame_encodes_to_the_bytes_it_was_decoded_from() {
    let mut count = 0;
    for stream in frame_streams() {
        let mut again = Vec::new();
        for frame in frames(&stream) {
            frame.header.encode(frame.ext, frame.body, &mut again);
            count += 1;
        }
        assert!(again == stream, "a stream of {} bytes differs", stream.len());
    }
    assert!(count > 400, "only {count} frames");
}

#[test]
fn a_frame_cut_anywhere_is_incomplete() {
    for stream in frame_streams() {
        for frame in frames(&stream) {
            let mut bytes = Vec::new();
            frame.header.encode(frame.ext, frame.body, &mut bytes);
            for cut in (0..bytes.len()).rev().take(200).chain(0..bytes.len().min(100)) {
                assert_eq!(InnerFrame::decode(&bytes[..cut], FRAME_BYTES_MAX), Ok(None));
            }
        }
    }
}

#[test]
fn every_serialized_body_and_session_serializes_to_the_same_bytes() {
    let mut count = 0;
    for stream in frame_streams() {
        for frame in frames(&stream) {
            let command = Command::from_number(frame.header.command).expect("a known command");
            if !frame.is_scalar() {
                check_serialized(frame.body);
                count += 1;
            }
            if is_session_in_ext(command) && !frame.ext.is_empty() {
                check_serialized(frame.ext);
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} values");
}

#[test]
fn every_reply_serializes_to_the_same_bytes() {
    let mut count = 0;
    for recording in NAMES.map(Recording::load) {
        for conn in recording
            .connections(INNER)
            .into_iter()
            .filter(|conn| !is_worker_link(&recording, *conn))
        {
            let replies = recording.sent(conn, Side::Server);
            let mut rest = &replies[..];
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let (reply, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
                check_serialized(reply);
                rest = tail;
                count += 1;
            }
            assert_eq!(rest, b"");
        }
    }
    assert!(count > 50, "only {count} replies");
}

#[test]
fn every_json_text_of_a_command_encodes_to_the_same_text() {
    let mut commands = Vec::new();
    for stream in frame_streams() {
        for frame in frames(&stream) {
            let command = Command::from_number(frame.header.command).expect("a known command");
            let Some((text, again)) = json_of(command, &frame) else { continue };
            assert_eq!(
                String::from_utf8_lossy(text),
                String::from_utf8(again).expect("JSON is UTF-8")
            );
            commands.push(command);
        }
    }
    commands.sort_unstable();
    commands.dedup();
    let expected = [
        Command::SendToAll,
        Command::SendToUid,
        Command::BatchGetClientIdByUid,
        Command::SendToGroup,
        Command::Select,
        Command::BatchGetClientCountByGroup,
        Command::WorkerConnect,
        Command::GatewayClientConnect,
    ];
    assert_eq!(commands, expected);
}

#[test]
fn every_register_line_round_trips() {
    for recording in NAMES.map(Recording::load) {
        for conn in recording.connections(REGISTER) {
            for line in recording.sent(conn, Side::Client).split_inclusive(|byte| *byte == b'\n') {
                let mut again = Vec::new();
                ToRegister::decode(line).expect("PHP sends good lines").encode(&mut again);
                assert_eq!(String::from_utf8_lossy(line), String::from_utf8_lossy(&again));
            }
            for line in recording.sent(conn, Side::Server).split_inclusive(|byte| *byte == b'\n') {
                let Ok(FromRegister::BroadcastAddresses(addresses)) = FromRegister::decode(line)
                else {
                    panic!("PHP's register says something else: {}", line.escape_ascii());
                };
                let mut again = Vec::new();
                encode_broadcast_addresses(addresses.iter().map(String::as_str), &mut again);
                assert_eq!(String::from_utf8_lossy(line), String::from_utf8_lossy(&again));
            }
        }
    }
}

#[test]
fn every_websocket_connect_body_follows_from_its_handshake() {
    for recording in ["ws", "secret"].map(Recording::load) {
        let requests = handshakes(&recording);
        let links = recording
            .connections(INNER)
            .into_iter()
            .filter(|conn| is_worker_link(&recording, *conn));
        let sent: Vec<u8> = links.flat_map(|conn| recording.sent(conn, Side::Server)).collect();
        let events =
            frames(&sent).filter(|frame| frame.header.command == Command::OnWebsocketConnect as u8);
        let mut count = 0;
        for (frame, request) in events.zip(&requests) {
            let (_, request) = websocket::decode_request(request, request.len())
                .expect("PHP accepted it")
                .expect("the recorder read all of it");
            let remote = IpAddr::V4(Ipv4Addr::from_bits(frame.header.client_ip));
            let mut body = Vec::new();
            on_websocket_connect_body(
                HandshakeRequest {
                    method: request.method.as_bytes(),
                    target: request.target.as_bytes(),
                    version: request.version.as_bytes(),
                    headers: request.headers().map(|(name, value)| (name.as_bytes(), value)),
                },
                SocketAddr::new(remote, frame.header.client_port),
                frame.header.gateway_port,
                &mut body,
            );
            assert_eq!(String::from_utf8_lossy(frame.body), String::from_utf8_lossy(&body));
            count += 1;
        }
        assert!(count == requests.len() && count > 4, "{count} of {} handshakes", requests.len());
    }
}

#[test]
fn a_message_for_one_client_that_came_with_the_brief_decodes() {
    let bytes = golden::bytes(
        "00000030050000000000000000000000000000016801000000000000fffe000000000014000000000000000100010100",
    )
    .expect("hexadecimal");
    let (frame, frame_len) =
        InnerFrame::decode(&bytes, FRAME_BYTES_MAX).expect("well-formed").expect("complete");
    assert_eq!(frame_len, 48);
    assert_eq!(Command::from_number(frame.header.command), Some(Command::SendToOne));
    assert_eq!(frame.header.connection_id, 360);
    assert!(frame.is_scalar() && !frame.is_raw());
    assert_eq!(frame.ext, b"");
    // The client protocol behind it: magic, two bytes, its whole length, four bytes, a sequence number, four bytes.
    assert_eq!(frame.body.len(), 20);
    assert_eq!(frame.body[..8], [0xff, 0xfe, 0, 0, 0, 0, 0, 20]);
    assert_eq!(frame.body[12..], [0, 0, 0, 1, 0, 1, 1, 0]);
}

#[test]
fn a_selection_that_came_with_the_brief_decodes() {
    let bytes = golden::bytes(
        "00000054190000000000000000000000000000000001000000000038\
         7b226669656c6473223a5b22756964225d2c227768657265223a7b22636f6e6e656374696f6e5f6964223a7b22333630223a3336307d7d7d",
    )
    .expect("hexadecimal");
    let (frame, frame_len) =
        InnerFrame::decode(&bytes, FRAME_BYTES_MAX).expect("well-formed").expect("complete");
    assert_eq!(frame_len, 84);
    assert_eq!(Command::from_number(frame.header.command), Some(Command::Select));
    assert_eq!((frame.header.connection_id, frame.body), (0, &b""[..]));
    let select = Select::decode(frame.ext).expect("well-formed");
    assert_eq!(select.fields, [Field::Uid]);
    assert_eq!(select.conditions, Some(vec![Condition::ConnectionId(vec![360])]));
    let mut again = Vec::new();
    select.encode(&mut again);
    assert_eq!(again, frame.ext);
}

/// The JSON text a command carries, and the same text decoded and encoded.
#[expect(clippy::wildcard_enum_match_arm, reason = "commands without JSON are of no interest here")]
fn json_of<'a>(command: Command, frame: &InnerFrame<'a>) -> Option<(&'a [u8], Vec<u8>)> {
    const WHY: &str = "PHP sends good JSON";
    let (ext, body) = (frame.ext, frame.body);
    let mut again = Vec::new();
    let text = match command {
        Command::SendToAll => {
            SendToAll::decode(ext).expect(WHY).encode(&mut again);
            ext
        }
        Command::SendToGroup => {
            SendToGroup::decode(ext).expect(WHY).encode(&mut again);
            ext
        }
        Command::SendToUid
        | Command::BatchGetClientIdByUid
        | Command::BatchGetClientCountByGroup => {
            encode_names(&decode_names(ext).expect(WHY), &mut again);
            ext
        }
        Command::Select => {
            Select::decode(ext).expect(WHY).encode(&mut again);
            ext
        }
        Command::WorkerConnect => {
            WorkerConnect::decode(body).expect(WHY).encode(&mut again);
            body
        }
        Command::GatewayClientConnect => {
            GatewayClientConnect::decode(body).expect(WHY).encode(&mut again);
            body
        }
        _ => return None,
    };
    Some((text, again))
}

fn is_session_in_ext(command: Command) -> bool {
    matches!(
        command,
        Command::OnConnect
            | Command::OnWebsocketConnect
            | Command::OnMessage
            | Command::OnClose
            | Command::UpdateSession
            | Command::SetSession
    )
}

fn check_serialized(bytes: &[u8]) {
    let value = unserialize(bytes, &Limits::default()).expect("PHP wrote it");
    let mut again = Vec::new();
    serialize(&value, &mut again);
    assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&again));
}

/// Everything sent over inner connections that consists of frames: all that workers and outside clients sent, and what the
/// gateway sent over workers' links. Outside clients get replies instead.
fn frame_streams() -> Vec<Vec<u8>> {
    let mut streams = Vec::new();
    for recording in NAMES.map(Recording::load) {
        for conn in recording.connections(INNER) {
            streams.push(recording.sent(conn, Side::Client));
            if is_worker_link(&recording, conn) {
                streams.push(recording.sent(conn, Side::Server));
            }
        }
    }
    streams
}

fn is_worker_link(recording: &Recording, conn: u32) -> bool {
    let sent = recording.sent(conn, Side::Client);
    frames(&sent).next().is_some_and(|frame| frame.header.command == Command::WorkerConnect as u8)
}

/// The frames of a stream, which must end with the last one.
fn frames(stream: &[u8]) -> impl Iterator<Item = InnerFrame<'_>> {
    let mut rest = stream;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (frame, frame_len) = InnerFrame::decode(rest, FRAME_BYTES_MAX)
            .expect("PHP sends good frames")
            .expect("whole");
        rest = &rest[frame_len..];
        Some(frame)
    })
}

/// The handshake requests that the gateway accepted, in the order they were complete.
fn handshakes(recording: &Recording) -> Vec<Vec<u8>> {
    let mut heads: Vec<(u32, Vec<u8>, bool)> = Vec::new();
    let mut done = Vec::new();
    for event in
        recording.events.iter().filter(|event| event.port == CLIENTS && event.from == Side::Client)
    {
        let What::Bytes(bytes) = &event.what else { continue };
        let at = heads.iter().position(|(conn, ..)| *conn == event.conn).unwrap_or_else(|| {
            heads.push((event.conn, Vec::new(), false));
            heads.len() - 1
        });
        let (_, head, is_done) = &mut heads[at];
        head.extend_from_slice(bytes);
        if !*is_done && matches!(websocket::decode_request(head, head.len() + 1), Ok(Some(_))) {
            *is_done = true;
            done.push(head.clone());
        }
    }
    done
}

const FRAME_BYTES_MAX: usize = 10 << 20;
