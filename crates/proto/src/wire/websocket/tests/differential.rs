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
        frames in frames(),
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

/// A client's frames; mostly good, with something wrong now and then.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(frame(), 0..12).prop_map(|mut frames| {
        let mut in_fragments = false;
        for frame in &mut frames {
            if !frame.out_of_order {
                frame.put_in_order(in_fragments);
            }
            if frame.first & 8 == 0 {
                in_fragments = frame.first & 0x80 == 0;
            }
        }
        frames.into_iter().map(RawFrame::encode).collect()
    })
}

#[derive(Debug)]
struct RawFrame {
    first: u8,
    /// Whether it may continue nothing, or begin a message inside another.
    out_of_order: bool,
    masked: bool,
    length_form: LengthForm,
    payload: Vec<u8>,
}

fn frame() -> impl Strategy<Value = RawFrame> {
    let first = prop_oneof![
        30 => select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x01, 0x89, 0x8a]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let length_form = prop_oneof![
        60 => Just(LengthForm::Shortest),
        1 => Just(LengthForm::In2),
        1 => Just(LengthForm::In8),
    ];
    let out_of_order = prop::bool::weighted(0.03);
    let masked = prop::bool::weighted(0.98);
    (first, out_of_order, masked, length_form, payload()).prop_map(
        |(first, out_of_order, masked, length_form, payload)| RawFrame {
            first,
            out_of_order,
            masked,
            length_form,
            payload,
        },
    )
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let close_codes =
        [999_u16, 1000, 1001, 1004, 1005, 1006, 1011, 1013, 1015, 2000, 3000, 4999, 5000];
    let close_codes: Vec<_> = close_codes.iter().map(|code| code.to_be_bytes().to_vec()).collect();
    prop_oneof![
        16 => "[a-zé你😀]{0,12}".prop_map(alloc::string::String::into_bytes),
        // Parts of a character, which make sense between fragments.
        4 => select(vec![b"\xe4".to_vec(), b"\xbd\xa0".to_vec(), b"\xbd".to_vec(), b"\xa0".to_vec()]),
        2 => select(vec![1, 100, 125, 126, 200, 299, 300, 301]).prop_map(|len| vec![b'x'; len]),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => select(close_codes),
    ]
}

/// How a length is written, fitting or not.
#[derive(Clone, Copy, Debug)]
enum LengthForm {
    Shortest,
    In2,
    In8,
}

impl RawFrame {
    /// Makes a data frame continue what it follows, or begin something where it follows nothing.
    fn put_in_order(&mut self, in_fragments: bool) {
        match (self.first & 0x0f, in_fragments) {
            (1 | 2, true) => self.first &= 0xf0,
            (0, false) => self.first |= 1,
            _ => {}
        }
    }

    fn encode(mut self) -> Vec<u8> {
        let mask_bit = if self.masked { 0x80 } else { 0 };
        let len = self.payload.len();
        let mut frame = vec![self.first];
        // A long form in a control frame is "too long" to this decoder, and theirs accepts it.
        let length_form = if self.first & 8 == 0 { self.length_form } else { LengthForm::Shortest };
        match (length_form, u8::try_from(len)) {
            (LengthForm::Shortest, Ok(len @ 0..126)) => frame.push(mask_bit | len),
            (LengthForm::Shortest | LengthForm::In2, _) => {
                frame.push(mask_bit | 126);
                frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            }
            (LengthForm::In8, _) => {
                frame.push(mask_bit | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        if self.masked {
            frame.extend_from_slice(&MASK);
            apply_mask(&mut self.payload, MASK);
        }
        frame.extend_from_slice(&self.payload);
        frame
    }
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
