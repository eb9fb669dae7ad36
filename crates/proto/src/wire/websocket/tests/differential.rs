//! Random streams of good and bad client frames: tungstenite and this decoder must hear the same.

extern crate std;

use alloc::vec;
use alloc::vec::Vec;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult, Write};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::super::frame::apply_mask;
use super::super::{Limits, Violation};
use super::{Heard, MASK, server_hears};

const MESSAGE_BYTES_MAX: usize = 300;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn tungstenite_hears_the_same(
        frames in prop::collection::vec(frame(), 0..12),
        missing in prop_oneof![3 => Just(0), 1 => 1..20_usize],
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut stream = frames.concat();
        stream.truncate(stream.len().saturating_sub(missing));
        let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX, check_utf8: true };
        let (mut ours, violation) = server_hears(&split(&stream, &cuts), &limits);
        ours.retain(|heard| *heard != Heard::Fragment);
        let (mut theirs, failed) = tungstenite_hears(&stream);
        match violation {
            None => prop_assert!(!failed),
            // Theirs accepts a length that is not in its shortest form, and goes on.
            Some(Violation::LengthNotMinimal) => theirs.truncate(ours.len()),
            // Theirs hears such a close frame as one of code 1002.
            Some(Violation::CloseCode { .. }) if !failed => {
                prop_assert!(matches!(theirs.pop(), Some(Heard::Close(Some(1002), _))));
            }
            // Theirs waits for the rest of a frame before it refuses it.
            Some(_) => prop_assert!(failed || missing > 0, "{violation:?}"),
        }
        prop_assert_eq!(ours, theirs);
    }
}

/// A client's frame; mostly good, with something wrong now and then.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        30 => select(vec![0x80_u8, 0x81, 0x82, 0x00, 0x01, 0x02, 0x89, 0x8a]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let masked = prop::bool::weighted(0.98);
    let length_form = prop_oneof![60 => Just(LengthForm::Shortest), 1 => Just(LengthForm::In2), 1 => Just(LengthForm::In8)];
    let payload = prop_oneof![
        8 => "[a-zé你😀]{0,12}".prop_map(alloc::string::String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..4),
        1 => (100..320_usize).prop_map(|len| vec![b'x'; len]),
        // Parts of a character, which make sense between fragments.
        2 => select(vec![b"\xe4".to_vec(), b"\xbd\xa0".to_vec(), b"\xbd".to_vec(), b"\xa0".to_vec()]),
    ];
    let close_code = select(vec![
        999_u16, 1000, 1001, 1004, 1005, 1006, 1011, 1013, 1015, 2000, 3000, 4999, 5000,
    ]);
    (first, masked, length_form, payload, close_code).prop_map(
        |(first, masked, form, mut payload, code)| {
            if first & 0x0f == 8 && payload.len() > 1 {
                payload[..2].copy_from_slice(&code.to_be_bytes());
            }
            // A long form in a control frame is "too long" to this decoder, and theirs accepts it.
            let form = if first & 8 == 0 { form } else { LengthForm::Shortest };
            encode_raw(first, masked, form, payload)
        },
    )
}

/// How a length is written, fitting or not.
#[derive(Clone, Copy, Debug)]
enum LengthForm {
    Shortest,
    In2,
    In8,
}

fn encode_raw(first: u8, masked: bool, form: LengthForm, mut payload: Vec<u8>) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match (form, u8::try_from(payload.len())) {
        (LengthForm::Shortest, Ok(len @ 0..126)) => frame.push(mask_bit | len),
        (LengthForm::Shortest | LengthForm::In2, _) => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        (LengthForm::In8, _) => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend_from_slice(&MASK);
        apply_mask(&mut payload, MASK);
    }
    frame.extend_from_slice(&payload);
    frame
}

/// The stream in reads that end at these places.
fn split<'a>(stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &stream[core::mem::replace(&mut start, end)..end]).collect()
}

/// What tungstenite hears up to a close frame, and whether it failed.
fn tungstenite_hears(stream: &[u8]) -> (Vec<Heard>, bool) {
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = WebSocket::from_raw_socket(Wire(stream), Role::Server, Some(config));
    let mut heard = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(payload)) => heard.push(Heard::Text(payload.as_bytes().to_vec())),
            Ok(Message::Binary(payload)) => heard.push(Heard::Binary(payload.to_vec())),
            Ok(Message::Ping(payload)) => heard.push(Heard::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => heard.push(Heard::Pong(payload.to_vec())),
            Ok(Message::Close(None)) => {
                heard.push(Heard::Close(None, vec![]));
                return (heard, false);
            }
            Ok(Message::Close(Some(close))) => {
                heard.push(Heard::Close(Some(close.code.into()), close.reason.as_bytes().to_vec()));
                return (heard, false);
            }
            Ok(Message::Frame(_)) => unreachable!("reading gives messages"),
            Err(error) => return (heard, !matches!(error, Error::Io(_))),
        }
    }
}

/// A connection that brings these bytes, then nothing more for now, and swallows what is written.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        if self.0.is_empty() {
            Err(IoError::from(ErrorKind::WouldBlock))
        } else {
            self.0.read(buffer)
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}
