//! A gateway with dispatchers: who is let in, what they may say, what their clients look like
//! (docs/protocol.md#extension).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::net::SocketAddr;

use tengate_base::{Door, Instant, ShardId};
use tengate_sim::shell::Place;

use super::harness::{Bed, Client, Worker, config, dispatched, dispatcher_hello, frame};
use crate::gateway::{Gateway, Mode, ProcIdError};
use crate::wire::extension::{Extension, FLAG_IPV6, split_ipv6};
use crate::wire::header::{Command, FLAG_SCALAR, InnerFrame};

const D1: &str = "127.0.0.1:3901";
const D2: &str = "127.0.0.1:3902";

fn leased(shards: u16, first: u16) -> Bed {
    let mut bed = Bed::new(dispatched(shards));
    for shard in 0..shards {
        bed.shell.app(ShardId(shard)).set_first_proc_id(first).unwrap();
    }
    bed
}

#[test]
fn a_dispatcher_is_welcomed_with_the_shards_and_the_first_one_is_the_home() {
    for shard in 0..2 {
        let mut bed = leased(2, 4);
        let mut first = bed.dispatcher(shard, D1);
        assert_eq!(
            bed.said(&mut first),
            [
                "Welcome {\"version\":1,\"gateway\":{\"first_proc_id\":4,\"count\":2,\"number_bits\":22}}",
                "Home 1"
            ]
        );
        let mut second = bed.dispatcher(shard, D2);
        assert_eq!(bed.said(&mut second).len(), 1, "welcomed, not the home");
        assert_eq!(bed.home().as_deref(), Some(D1));
        assert_eq!(bed.stats(0).homes_changed, 1);
        let workers: Vec<_> = bed.shell.app(ShardId(1)).workers().map(|(key, _)| key).collect();
        assert_eq!(workers, [b"dispatcher:127.0.0.1:3901"]);
    }
}

#[test]
fn a_dispatcher_is_refused_in_direct_mode_and_without_an_offer_that_can_be_used() {
    let no_version = dispatcher_hello(D1).replace("\"version\":1", "\"version\":0");
    for (mode, hello) in [
        (Mode::Direct, dispatcher_hello(D1)),
        (Mode::Dispatched, dispatcher_hello("localhost")),
        (Mode::Dispatched, dispatcher_hello("[::1]:3900")),
        (Mode::Dispatched, no_version),
    ] {
        let mut config = config();
        config.mode = mode;
        let mut bed = Bed::new(config);
        let mut link = bed.link(0);
        bed.command(&link, Command::WorkerConnect, 0, "", &hello);
        assert!(!bed.shell.is_open(link.place), "{hello}");
        assert_eq!(bed.said(&mut link), Vec::<String>::new());
        let stats = bed.stats(0);
        assert_eq!((stats.dispatcher_refused, stats.link_unauthorized), (1, 0));
    }
}

#[test]
fn a_worker_of_a_dispatched_gateway_gets_no_events_but_may_command_and_ask() {
    let mut bed = Bed::new(dispatched(2));
    let mut home = bed.dispatcher(0, D1);
    let mut worker = bed.worker(1, "Bw:0");
    let client = bed.client(0);
    bed.say(client, "hello");
    assert_eq!(bed.told(&mut worker), Vec::<String>::new());
    assert!(bed.said(&mut home).ends_with(&["OnConnect 1 ".into(), "OnMessage 1 hello".into()]));
    bed.command(&worker, Command::SendToOne, 1, "", "from outside");
    assert_eq!(bed.heard(client), "from outside\n");
    assert_eq!(bed.ask(&worker, Command::GetClientCountByGroup, 0, ""), "i:1;");
    bed.advance(60.0);
    assert!(bed.shell.is_open(worker.place), "it has nothing to show");
}

#[test]
fn only_dispatchers_have_commands_of_the_extension() {
    let mut bed = Bed::new(dispatched(1));
    let mut worker = bed.worker(0, "Bw:0");
    for command in [Extension::Fence, Extension::ListNames, Extension::Drain, Extension::Detach] {
        bed.extend(&worker, command, 0, b"");
    }
    bed.command(&worker, Command::OnMessage, 1, "", "returned");
    assert_eq!(bed.said(&mut worker), Vec::<String>::new());
    assert_eq!(bed.stats(0).command_ignored, 5);
}

#[test]
fn connection_ids_carry_the_leased_proc_ids_and_commands_find_their_client_by_them() {
    let mut bed = leased(2, 7);
    let mut home = bed.dispatcher(0, D1);
    let clients = [bed.client(0), bed.client(1)];
    let ids = [(7 << 22) + 1, (8 << 22) + 1];
    assert_eq!(bed.said(&mut home)[2..], ids.map(|id| format!("OnConnect {id} ")));
    for (client, id) in clients.into_iter().zip(ids) {
        bed.command(&home, Command::SendToOne, id, "", "yours");
        assert_eq!(bed.heard(client), "yours\n");
    }
    // These are of other gateways, below and above.
    for id in [1, (6 << 22) + 1, (9 << 22) + 1] {
        bed.command(&home, Command::Destroy, id, "", "");
    }
    assert!(clients.iter().all(|client| bed.shell.is_open(client.place)));
}

#[test]
fn a_block_of_proc_ids_is_refused_when_it_does_not_fit_or_comes_too_late() {
    let config = Arc::new(dispatched(4));
    let mut gateway = Gateway::new(config, ShardId(3), Instant::ZERO);
    assert_eq!(
        gateway.set_first_proc_id(1021),
        Err(ProcIdError::DoesNotFit { first_proc_id: 1021, shards: 4, number_bits: 22 })
    );
    assert_eq!(gateway.set_first_proc_id(1020), Ok(()));
    let mut bed = leased(1, 3);
    let client = bed.client(0);
    assert_eq!(bed.shell.app(ShardId(0)).set_first_proc_id(3), Ok(()), "as it is");
    assert_eq!(bed.shell.app(ShardId(0)).set_first_proc_id(4), Err(ProcIdError::InUse));
    bed.shell.close(client.place, tengate_base::CloseCause::Reset);
    assert_eq!(bed.shell.app(ShardId(0)).set_first_proc_id(4), Ok(()));
}

#[test]
fn every_query_of_a_dispatcher_is_answered_with_the_gateways_part_in_order() {
    let mut bed = Bed::new(dispatched(2));
    let mut home = bed.dispatcher(1, D1);
    for shard in [0, 1] {
        bed.client(shard);
    }
    let far = (1 << 22) + 1;
    for id in [1, far] {
        bed.command(&home, Command::BindUid, id, "u", "");
        bed.command(&home, Command::JoinGroup, id, "g", "");
    }
    bed.said(&mut home);
    let cases = [
        (Command::IsOnline, far, "", "Whole i:1;".into()),
        (Command::IsOnline, 99, "", "Whole i:0;".into()),
        (Command::GetSessionByClientId, 1, "", "Whole a:0:{}".into()),
        (
            Command::GetAllClientSessions,
            0,
            "",
            format!("Elements 2 i:1;s:0:\"\";i:{far};s:0:\"\";"),
        ),
        (
            Command::GetClientSessionsByGroup,
            0,
            "g",
            format!("Elements 2 i:1;s:0:\"\";i:{far};s:0:\"\";"),
        ),
        (Command::GetClientCountByGroup, 0, "", "Counts([2])".into()),
        (Command::GetClientCountByGroup, 0, "g", "Counts([2])".into()),
        (Command::BatchGetClientCountByGroup, 0, "[\"g\",\"h\"]", "Counts([2, 0])".into()),
        (Command::GetClientIdByUid, 0, "u", format!("Ids([[1, {far}]])")),
        (Command::BatchGetClientIdByUid, 0, "[\"v\",\"u\"]", format!("Ids([[], [1, {far}]])")),
        (Command::GetGroupIdList, 0, "", "Names [\"g\"]".into()),
        (
            Command::Select,
            0,
            "{\"fields\":[\"uid\"],\"where\":{\"connection_id\":[1]}}",
            "Elements 1 i:1;a:1:{s:3:\"uid\";s:1:\"u\";}".into(),
        ),
    ];
    let mut questions = Vec::new();
    for (command, id, ext, _) in &cases {
        questions.extend(frame(*command, *id, FLAG_SCALAR, ext, ""));
    }
    bed.shell.send(home.place, &questions);
    let answers: Vec<String> = cases.into_iter().map(|(.., answer)| answer).collect();
    assert_eq!(bed.said(&mut home), answers);
    assert_eq!(bed.stats(1).queries, 12);
}

#[test]
fn a_dispatcher_that_is_not_the_home_may_command_and_ask_too() {
    let mut bed = Bed::new(dispatched(1));
    let _home = bed.dispatcher(0, D1);
    let mut other = bed.dispatcher(0, D2);
    let client = bed.client(0);
    bed.said(&mut other);
    bed.command(&other, Command::SendToOne, 1, "", "forwarded");
    assert_eq!(bed.heard(client), "forwarded\n");
    bed.command(&other, Command::IsOnline, 1, "", "");
    bed.extend(&other, Extension::Fence, 0, b"");
    assert_eq!(bed.said(&mut other), ["Whole i:1;", "Counts([])"]);
}

/// A client that comes from this address.
fn client_from(bed: &mut Bed, shard: u16, address: &str) -> Client {
    let peer: SocketAddr = address.parse().unwrap();
    Client { place: bed.shell.open(ShardId(shard), Door(0), peer, 8282) }
}

/// Events in a dispatcher's link: the flag, the IPv4 address, the extra data.
fn addresses(bed: &mut Bed, place: Place) -> Vec<(u8, u32, Vec<u8>)> {
    let bytes = bed.shell.receive(place);
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while let Some((frame, len)) = InnerFrame::decode(rest, usize::MAX).unwrap() {
        rest = &rest[len..];
        if Command::from_number(frame.header.command).is_some_and(Command::is_event) {
            events.push((frame.header.flag, frame.header.client_ip, frame.ext.to_vec()));
        }
    }
    events
}

#[test]
fn events_carry_the_address_of_a_client_without_an_ipv4_address_before_its_session() {
    for shard in 0..2 {
        let mut bed = Bed::new(dispatched(2));
        let home = bed.dispatcher(0, D1);
        for address in ["[2001:db8::7]:50000", "10.1.2.3:50001", "[::ffff:10.1.2.4]:50002"] {
            client_from(&mut bed, shard, address);
        }
        let id = (u32::from(shard) << 22) + 1;
        bed.command(&home, Command::SetSession, id, "a:0:{}", "");
        bed.shell.send(home.place, &frame(Command::Destroy, id, FLAG_SCALAR, "", ""));
        let events = addresses(&mut bed, home.place);
        let address = "2001:db8::7".parse().unwrap();
        assert_eq!(events.len(), 4);
        for (event, session) in [(&events[0], &b""[..]), (&events[3], b"a:0:{}")] {
            assert_eq!((event.0, event.1), (FLAG_SCALAR | FLAG_IPV6, 0));
            assert_eq!(split_ipv6(&event.2), Some((address, session)));
        }
        assert_eq!(events[1], (FLAG_SCALAR, 0x0a01_0203, vec![]));
        assert_eq!(events[2], (FLAG_SCALAR, 0x0a01_0204, vec![]));
        // The place of the first one is used again, and its address with it.
        client_from(&mut bed, shard, "10.9.9.9:1");
        client_from(&mut bed, shard, "[2001:db8::8]:1");
        let flags: Vec<u8> = addresses(&mut bed, home.place).iter().map(|event| event.0).collect();
        assert_eq!(flags, [FLAG_SCALAR, FLAG_SCALAR | FLAG_IPV6]);
    }
}

#[test]
fn events_of_a_direct_gateway_carry_no_ipv6_address() {
    let mut bed = Bed::new(config());
    let worker = bed.worker(0, "Bw:0");
    client_from(&mut bed, 0, "[2001:db8::7]:50000");
    assert_eq!(addresses(&mut bed, worker.place), [(FLAG_SCALAR, 0, vec![])]);
}

/// Two shards, a home and a client on the second one.
fn paced() -> (Bed, Worker, Client, u32) {
    let mut bed = Bed::new(dispatched(2));
    let home = bed.dispatcher(0, D1);
    let client = bed.client(1);
    (bed, home, client, (1 << 22) + 1)
}

#[test]
fn the_home_stops_and_resumes_the_reading_of_a_client() {
    let (mut bed, mut home, client, id) = paced();
    bed.extend(&home, Extension::Pace, id, b"1");
    assert!(!bed.shell.is_read(client.place));
    bed.say(client, "later");
    assert!(!bed.said(&mut home).contains(&format!("OnMessage {id} later")));
    bed.extend(&home, Extension::Pace, id, b"0");
    assert!(bed.shell.is_read(client.place));
    assert_eq!(bed.said(&mut home), [format!("OnMessage {id} later")]);
}

#[test]
fn a_client_stopped_for_two_reasons_is_read_when_neither_holds() {
    let mut config = dispatched(1);
    config.send_to_worker_bytes_max = 400;
    let mut bed = Bed::new(config);
    let home = bed.dispatcher(0, D1);
    let client = bed.client(0);
    for resumed_first in [true, false] {
        bed.shell.set_window(home.place, Some(0));
        while bed.shell.is_read(client.place) {
            bed.say(client, &"x".repeat(100));
        }
        bed.extend(&home, Extension::Pace, 1, b"1");
        if resumed_first {
            bed.extend(&home, Extension::Pace, 1, b"0");
        } else {
            bed.shell.set_window(home.place, None);
        }
        assert!(!bed.shell.is_read(client.place));
        bed.shell.set_window(home.place, None);
        bed.extend(&home, Extension::Pace, 1, b"0");
        assert!(bed.shell.is_read(client.place));
    }
}

#[test]
fn clients_stopped_by_a_home_are_read_again_when_it_is_the_home_no_more() {
    for graceful in [true, false] {
        let (mut bed, home, client, id) = paced();
        let _next = bed.dispatcher(1, D2);
        bed.extend(&home, Extension::Pace, id, b"1");
        if graceful {
            bed.wish(Some(D2));
            assert!(!bed.shell.is_read(client.place), "until it has given everything back");
            bed.extend(&home, Extension::Detach, 0, b"");
        } else {
            bed.lose(&home);
        }
        assert!(bed.shell.is_read(client.place));
    }
}

#[test]
fn a_dispatcher_that_is_not_the_home_stops_no_client() {
    let (mut bed, _home, client, id) = paced();
    let other = bed.dispatcher(1, D2);
    bed.extend(&other, Extension::Pace, id, b"1");
    assert!(bed.shell.is_read(client.place));
    assert_eq!(bed.stats(1).command_ignored, 1);
}
