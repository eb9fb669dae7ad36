//! A worker's link to a dispatcher that the test plays.

use super::*;
use tengate_proto::wire::client_id::ClientId;
use tengate_proto::wire::extension::FLAG_IPV6;
use tengate_proto::wire::header::{Command, FLAG_SCALAR};
use tengate_proto::worker::UNACKNOWLEDGED_EVENTS_MAX;

#[tokio::test]
async fn a_peer_that_gives_no_welcome_gets_no_acknowledgement() {
    let mut link = TestLink::start(1, Delivery::AtLeastOnce);
    link.heard_frame().await;
    link.say(&[ON_MESSAGE_HELLO, ON_MESSAGE_HELLO]).await;
    assert_eq!(link.said(2).await, [ECHO, ECHO]);
    link.end_quietly().await;
}

#[tokio::test]
async fn a_worker_that_offered_none_gives_no_acknowledgement() {
    let mut link = TestLink::start(1, Delivery::AtMostOnce);
    link.heard_frame().await;
    link.welcome(br#"{"version":1,"dispatcher":"127.0.0.1:2900","ack":true}"#).await;
    link.say(&[ON_MESSAGE_HELLO]).await;
    assert_eq!(link.said(1).await, [ECHO]);
    link.end_quietly().await;
}

#[tokio::test]
async fn an_event_is_acknowledged_after_what_its_handler_said() {
    for tasks_per_link in [1, 3] {
        let mut link = TestLink::welcomed(tasks_per_link).await;
        link.say(&[ON_MESSAGE_HELLO]).await;
        assert_eq!(link.said(2).await, [ECHO, acknowledged(1)], "{tasks_per_link} tasks");
        link.say(&[PING, ON_CONNECT, &message("fail"), &message("panic"), ON_CLOSE]).await;
        assert_eq!(link.acknowledged(4).await, [], "{tasks_per_link} tasks");
        link.end_quietly().await;
    }
}

#[tokio::test]
async fn events_finished_since_the_last_write_are_acknowledged_together() {
    let mut link = TestLink::welcomed(1).await;
    link.say(&[&message("fail").repeat(50)]).await;
    assert_eq!(link.said(1).await, [acknowledged(50)]);
}

#[tokio::test]
async fn acknowledgements_wait_for_the_oldest_event() {
    let mut link = TestLink::welcomed(3).await;
    link.say(&[&message_of(0, "wait")]).await;
    link.shared.events.waits.notified().await;
    link.say(&[&message_of(1, "hello"), &message_of(2, "hello")]).await;
    let mut early = link.said(2).await;
    early.sort();
    assert_eq!(early, [(Command::SendToOne as u8, 1), (Command::SendToOne as u8, 2)]);
    link.shared.events.goes_on.notify_one();
    assert_eq!(link.acknowledged(3).await, [(Command::SendToOne as u8, 0)]);
}

#[tokio::test]
async fn a_worker_that_stops_acknowledges_what_it_handled_and_leaves_the_rest() {
    let mut link = TestLink::welcomed(1).await;
    link.say(&[&message("wait"), ON_MESSAGE_HELLO, ON_MESSAGE_HELLO]).await;
    link.shared.events.waits.notified().await;
    link.stage.send_replace(Stage::Closing);
    link.shared.events.goes_on.notify_one();
    assert_eq!(link.said(2).await, [ECHO, acknowledged(1)]);
    assert_eq!(link.gateway.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_is_told_of_are_not_taken_without_end() {
    let mut link = TestLink::welcomed(2).await;
    link.say(&[&message_of(0, "wait")]).await;
    link.shared.events.waits.notified().await;
    let notes = hex(&message_of(1, "note").repeat(1000));
    let mut written = 1;
    while let Ok(said) = timeout(Duration::from_millis(200), link.gateway.write_all(&notes)).await {
        said.unwrap();
        written += 1000;
        assert!(written < 3 * UNACKNOWLEDGED_EVENTS_MAX, "the link is read on");
    }
    assert!(written > UNACKNOWLEDGED_EVENTS_MAX / 2);
    link.shared.events.goes_on.notify_one();
    assert_eq!(link.said(1).await, [(Command::SendToOne as u8, 0)]);
}

#[tokio::test]
async fn a_welcome_that_cannot_be_read_ends_the_link() {
    let mut link = TestLink::start(1, Delivery::AtLeastOnce);
    link.heard_frame().await;
    link.welcome(b"hello").await;
    assert!(matches!(link.serving.await.unwrap(), Err(ReadError::Welcome(_))));
}

#[tokio::test]
async fn handlers_learn_the_ipv6_address_of_a_client() {
    let mut link = TestLink::welcomed(1).await;
    let mut frame = Vec::new();
    let header = Header {
        command: Command::OnConnect as u8,
        local_ip: 0x7f00_0001,
        local_port: 2900,
        connection_id: 1,
        client_port: 9,
        gateway_port: 8282,
        flag: FLAG_SCALAR | FLAG_IPV6,
        ..Header::default()
    };
    let address = "2001:db8::7".parse::<core::net::Ipv6Addr>().unwrap();
    header.encode(&address.octets(), b"", &mut frame);
    link.gateway.write_all(&frame).await.unwrap();
    assert_eq!(link.acknowledged(1).await, []);
    let client = "7f0000010b5400000001 [2001:db8::7]:9 127.0.0.1:2900 8282";
    assert_eq!(link.seen().last(), Some(&format!("connect {client}")));
}

#[tokio::test]
async fn clients_of_a_dispatcher_that_is_gone_are_reached_through_one_that_is_linked() {
    let mut link = TestLink::welcomed(1).await;
    link.shared.links.state().announced.insert(GATEWAY);
    let gone = ClientId { local_ip: 0x7f00_0001, local_port: 3900, connection_id: 77 };
    link.shared.worker.gateway().send_to_client(gone, "hello").await.unwrap();
    assert_eq!(link.said(1).await, [(Command::SendToOne as u8, 77)]);
}

/// A frame to the dispatcher: its command and connection_id.
type Said = (u8, u32);

const ECHO: Said = (Command::SendToOne as u8, 1);
const PING: &str = "0000001cc90000000000000000000000000000000001000000000000";

fn acknowledged(events: u32) -> Said {
    (Extension::Ack as u8, events)
}

impl TestLink {
    /// To a dispatcher that wants acknowledgements and said so.
    async fn welcomed(tasks_per_link: usize) -> Self {
        let mut link = Self::start(tasks_per_link, Delivery::AtLeastOnce);
        link.heard_frame().await;
        link.welcome(br#"{"version":1,"dispatcher":"127.0.0.1:2900","ack":true}"#).await;
        // Each client is seen from its connect on, so no session has to be asked for.
        let connects: String = (0..3).map(|client| event_of(1, client, "")).collect();
        link.say(&[&connects]).await;
        assert_eq!(link.acknowledged(3).await, []);
        link
    }

    async fn welcome(&mut self, body: &[u8]) {
        let mut frame = Vec::new();
        Extension::Welcome.encode(0, body, &mut frame);
        self.gateway.write_all(&frame).await.unwrap();
    }

    /// What the worker says next.
    async fn said(&mut self, frames: usize) -> Vec<Said> {
        let mut said = Vec::new();
        for _ in 0..frames {
            let frame = self.heard_frame().await;
            let (frame, _) = InnerFrame::decode(&frame, frame.len()).unwrap().unwrap();
            said.push((frame.header.command, frame.header.connection_id));
        }
        said
    }

    /// What the worker says until it has acknowledged so many events, the acknowledgements left out.
    async fn acknowledged(&mut self, mut events: u32) -> Vec<Said> {
        let mut others = Vec::new();
        while events > 0 {
            let said = self.said(1).await[0];
            if said.0 == Extension::Ack as u8 {
                assert!(said.1 > 0);
                events = events.checked_sub(said.1).expect("no more events came");
            } else {
                others.push(said);
            }
        }
        others
    }

    /// The link ends, and the worker has nothing more to say.
    async fn end_quietly(mut self) {
        self.stage.send_replace(Stage::Closing);
        let mut rest = Vec::new();
        self.gateway.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    }
}
