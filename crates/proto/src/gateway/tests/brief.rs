//! The two frames of the brief, on a gateway whose clients speak the brief's own protocol: `fffe`, a header of 20 bytes,
//! the length of the whole frame as a big-endian u32 at offset 4.

use alloc::vec::Vec;

use super::harness::{Bed, listening};
use crate::gateway::Protocol;
use crate::wire::header::Command;
use crate::wire::length_field::{Counts, Endian, Layout, LengthField};

const MESSAGE: &str = "fffe000000000014000000000000000100010100";
const SEND_TO_360: &str = "00000030050000000000000000000000000000016801000000000000";
const SELECT_UID_OF_360: &str = "00000054190000000000000000000000000000000001000000000038\
    7b226669656c6473223a5b22756964225d2c227768657265223a7b22636f6e6e656374696f6e5f6964223a7b22333630223a3336307d7d7d";

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn fffe() -> Protocol {
    Protocol::LengthField(
        LengthField::new(Layout {
            magic: [0xff, 0xfe].into(),
            length_offset: 4,
            length_bytes: 4,
            endian: Endian::Big,
            counts: Counts::Frame,
            header_bytes: 20,
            frame_bytes_max: 1 << 20,
        })
        .unwrap(),
    )
}

#[test]
fn client_360_gets_the_briefs_message_and_is_selected_by_number() {
    let mut bed = Bed::new(listening(fffe()));
    let worker = bed.worker(0, "Bw:0");
    let clients: Vec<_> = (0..360).map(|_| bed.client(0)).collect();
    bed.shell.send(worker.place, &[bytes(SEND_TO_360), bytes(MESSAGE)].concat());
    assert_eq!(bed.shell.receive(clients[359].place), bytes(MESSAGE));
    assert_eq!(bed.shell.receive(clients[358].place), b"");

    bed.command(&worker, Command::BindUid, 360, "u360", "");
    let link = bed.link(0);
    bed.shell.send(link.place, &bytes(SELECT_UID_OF_360));
    let reply = b"a:1:{i:360;a:1:{s:3:\"uid\";s:4:\"u360\";}}";
    let reply_len = u32::try_from(reply.len()).unwrap().to_be_bytes();
    assert_eq!(bed.shell.receive(link.place), [&reply_len, reply.as_slice()].concat());
}

#[test]
fn a_client_of_the_briefs_protocol_is_heard_whole_and_closed_for_a_wrong_magic() {
    let mut bed = Bed::new(listening(fffe()));
    let worker = bed.worker(0, "Bw:0");
    let (good, bad) = (bed.client(0), bed.client(0));
    let message = bytes(MESSAGE);
    let (head, tail) = message.split_at(7);
    bed.shell.send(good.place, head);
    bed.shell.send(good.place, tail);
    bed.shell.send(bad.place, b"\xff\xff");
    assert!(bed.shell.is_open(good.place) && !bed.shell.is_open(bad.place));
    // Two ON_CONNECT, the message, the ON_CLOSE of the second client.
    let received = bed.shell.receive(worker.place);
    assert!(received.windows(message.len()).any(|window| window == message));
}
