//! Clients' bytes, events and heartbeats.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use tengate_base::CloseCause;

use super::harness::{Bed, config, listening};
use crate::gateway::{Heartbeat, Ping, Protocol, SlowWorker};
use crate::wire::header::Command;
use crate::wire::websocket::{encode_request, request_key};

#[test]
fn a_client_makes_connect_message_and_close_events_in_order() {
    let mut bed = Bed::new(config());
    let mut worker = bed.worker(0, "Bw:0");
    let client = bed.client(0);
    bed.say(client, "hello");
    bed.shell.close(client.place, CloseCause::Peer);
    assert_eq!(bed.told(&mut worker), ["OnConnect 1 ", "OnMessage 1 hello", "OnClose 1 "]);
    assert_eq!(bed.stats(0).clients, 0);
}

#[test]
fn a_message_may_come_in_drops_or_several_at_once() {
    let mut bed = Bed::new(config());
    let mut worker = bed.worker(0, "Bw:0");
    let client = bed.client(0);
    for byte in b"ab\ncd\r\n" {
        bed.shell.send(client.place, &[*byte]);
    }
    bed.shell.send(client.place, b"e\nf\ng");
    let told = bed.told(&mut worker);
    assert_eq!(told[1..], ["OnMessage 1 ab", "OnMessage 1 cd", "OnMessage 1 e", "OnMessage 1 f"]);
}

#[test]
fn a_line_over_the_limit_closes_its_client_only() {
    let mut config = config();
    config.listeners[0].message_bytes_max = 4;
    let mut bed = Bed::new(config);
    let mut worker = bed.worker(0, "Bw:0");
    let (long, short) = (bed.client(0), bed.client(0));
    bed.say(long, "12345");
    bed.say(short, "1234");
    assert!(!bed.shell.is_open(long.place));
    assert!(bed.shell.is_open(short.place));
    assert_eq!(bed.stats(0).close_protocol, 1);
    assert_eq!(bed.told(&mut worker)[2..], ["OnClose 1 ", "OnMessage 2 1234"]);
}

#[test]
fn a_raw_tcp_client_sends_what_it_sends() {
    let mut bed = Bed::new(listening(Protocol::Tcp));
    let mut worker = bed.worker(0, "Bw:0");
    let client = bed.client(0);
    bed.shell.send(client.place, b"any\nbytes");
    assert_eq!(bed.told(&mut worker)[1..], ["OnMessage 1 any\nbytes"]);
    bed.command(&worker, Command::SendToOne, 1, "", "answer");
    assert_eq!(bed.heard(client), "answer");
}

#[test]
fn a_silent_client_is_pinged_and_then_closed_as_php_does() {
    let mut config = config();
    config.listeners[0].heartbeat = Some(Heartbeat {
        interval: Duration::from_secs(10),
        not_response_limit: 2,
        ping: Ping::Data(vec![b'?']),
    });
    let mut bed = Bed::new(config);
    let _worker = bed.worker(0, "Bw:0");
    let client = bed.client(0);
    let mut heard = vec![];
    for _ in 0..6 {
        assert!(bed.shell.is_open(client.place));
        bed.advance(5.1);
        heard.push(bed.heard(client).len());
    }
    // Counts 0 and 1 are quiet, 2 and 4 ping, at 4 the limit of twice 2 is reached.
    assert_eq!(heard, [0, 0, 2, 0, 2, 0]);
    assert!(!bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).close_heartbeat, 1);
}

#[test]
fn a_whole_message_keeps_a_client_alive_and_half_a_message_does_not() {
    let mut config = config();
    config.listeners[0].heartbeat = Some(Heartbeat {
        interval: Duration::from_secs(2),
        not_response_limit: 1,
        ping: Ping::Nothing,
    });
    let mut bed = Bed::new(config);
    let _worker = bed.worker(0, "Bw:0");
    let (whole, half) = (bed.client(0), bed.client(0));
    for _ in 0..5 {
        bed.advance(1.1);
        bed.say(whole, "here");
        bed.shell.send(half.place, b"x");
    }
    assert!(bed.shell.is_open(whole.place));
    assert!(!bed.shell.is_open(half.place));
}

#[test]
fn a_client_closed_by_its_own_handshake_leaves_no_timer() {
    let mut config = listening(Protocol::Websocket { binary: false, check_utf8: true });
    config.slow_worker = SlowWorker::Close;
    config.send_to_worker_bytes_max = 1;
    config.listeners[0].heartbeat = Some(Heartbeat {
        interval: Duration::from_secs(2),
        not_response_limit: 1,
        ping: Ping::Nothing,
    });
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "Bw:0");
    bed.shell.set_window(worker.place, Some(0));
    let client = bed.client(0);
    bed.shell.send(client.place, &handshake());
    assert!(!bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).timers, 0);
}

#[test]
fn a_client_that_does_not_read_is_not_queued_pings_for_ever() {
    let mut config = listening(Protocol::Websocket { binary: false, check_utf8: true });
    config.listeners[0].send_to_client_bytes_max = 10;
    config.listeners[0].heartbeat = Some(Heartbeat {
        interval: Duration::from_secs(1),
        not_response_limit: 0,
        ping: Ping::Websocket,
    });
    let mut bed = Bed::new(config);
    let _worker = bed.worker(0, "Bw:0");
    let client = bed.client(0);
    bed.shell.send(client.place, &handshake());
    bed.shell.set_window(client.place, Some(0));
    bed.advance(60.0);
    assert_eq!(bed.shell.queued(client.place), 10);
}

fn handshake() -> Vec<u8> {
    let mut request = vec![];
    encode_request("h", "/", &request_key([0; 16]), &[], &mut request);
    request
}
