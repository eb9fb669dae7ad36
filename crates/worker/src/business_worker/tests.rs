//! A worker's link to a gateway that the test plays, with bytes recorded from a real one.

mod dispatcher;

use super::*;
use crate::error::{CallError, GatewayFault};
use crate::events::{Context, WebsocketRequest};
use crate::php::Value;
use std::sync::Mutex;
use tengate_proto::wire::header::Header;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

#[tokio::test]
async fn a_link_opens_as_a_real_workers_does_with_an_offer_added() {
    let recorded = hex(
        "00000041c800000000000000000000000000000000010000000000007b22776f726b65725f6b6579223a2242773a30222c227365637265745f6b6579223a22227d",
    );
    for (delivery, offer) in [
        (Delivery::AtMostOnce, r#","tengate":{"version":1,"ipv6":true}}"#),
        (Delivery::AtLeastOnce, r#","tengate":{"version":1,"ack":true,"ipv6":true}}"#),
    ] {
        let mut link = TestLink::start(1, delivery);
        let greeting = link.heard_frame().await;
        assert_eq!(greeting[4..Header::LEN], recorded[4..Header::LEN]);
        let recorded_body = recorded[Header::LEN..].strip_suffix(b"}").unwrap();
        assert_eq!(greeting[Header::LEN..], [recorded_body, offer.as_bytes()].concat());
    }
}

#[tokio::test]
async fn an_echoed_message_has_the_bytes_of_a_real_worker() {
    let mut link = TestLink::started(1).await;
    link.say(&[ON_MESSAGE_HELLO]).await;
    let echo = "0000002105000000000000000000000000000000010100000000000068656c6c6f";
    assert_eq!(link.heard(0x21).await, hex(echo));
}

#[tokio::test]
async fn handlers_learn_where_the_client_comes_from() {
    let mut link = TestLink::started(1).await;
    link.say(&[ON_CONNECT, ON_CLOSE]).await;
    link.end().await;
    let client = "7f0000010b5400000001 127.0.0.1:36512 127.0.0.1:2900 8282";
    assert_eq!(link.seen(), [format!("connect {client}"), format!("close {client}")]);
}

#[tokio::test]
async fn a_changed_session_is_stored_after_the_handler() {
    let mut link = TestLink::started(1).await;
    link.say(&[&message("name")]).await;
    let stored = hex("00000037cc000000000000000000000000000000010100000000001b");
    let session = br#"a:1:{s:4:"name";s:3:"ann";}"#;
    assert_eq!(link.heard(0x37).await, [&stored[..], session].concat());
}

#[tokio::test]
async fn a_handler_that_fails_costs_nothing_else() {
    let mut link = TestLink::started(1).await;
    link.say(&[&message("fail"), ON_MESSAGE_HELLO]).await;
    assert!(link.heard(0x21).await.ends_with(b"hello"));
}

#[tokio::test]
async fn a_handler_that_panics_costs_nothing_else() {
    for tasks_per_link in [1, 3] {
        let mut link = TestLink::started(tasks_per_link).await;
        link.say(&[&message("panic"), ON_MESSAGE_HELLO]).await;
        assert!(link.heard(0x21).await.ends_with(b"hello"), "{tasks_per_link} tasks");
    }
}

#[tokio::test]
async fn each_clients_events_keep_their_order_when_spread_over_tasks() {
    let mut link = TestLink::started(3).await;
    for number in 0..100 {
        link.say(&[&message_of(number % 7, &format!("note {:03}", number))]).await;
    }
    link.end().await;
    let seen = link.seen();
    assert_eq!(seen.len(), 100);
    for client in 0..7 {
        let of_client: Vec<_> =
            seen.iter().filter(|note| note.ends_with(&format!(" {client}"))).collect();
        assert!(of_client.is_sorted(), "{of_client:?}");
    }
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_writes_what_is_sent_meanwhile() {
    for tasks_per_link in [1, 3] {
        let mut link = TestLink::started(tasks_per_link).await;
        link.say(&[&message("wait")]).await;
        link.shared.events.waits.notified().await;
        link.stage.send_replace(Stage::Stopping);
        link.shared.events.goes_on.notify_one();
        assert!(link.heard(0x20).await.ends_with(b"wait"));
        let gateway = link.shared.worker.gateway();
        gateway.send_to_client("7f0000010b5400000001".parse().unwrap(), "bye").await.unwrap();
        link.stage.send_replace(Stage::Closing);
        let mut rest = Vec::new();
        link.gateway.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"bye"));
    }
}

#[tokio::test]
async fn a_link_that_stops_is_read_until_the_gateway_closes_it() {
    let mut link = TestLink::started(1).await;
    link.stage.send_replace(Stage::Closing);
    assert_eq!(link.gateway.read(&mut [0]).await.unwrap(), 0);
    let late = hex(&message("too late").repeat(5000));
    link.gateway.write_all(&late).await.unwrap();
    drop(link.gateway);
    assert!(link.serving.await.unwrap().is_ok());
    assert!(link.shared.events.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_link_that_ended_takes_no_more_calls() {
    let mut link = TestLink::started(1).await;
    link.end().await;
    let gateway = link.shared.worker.gateway();
    let sent = gateway.send_to_client("7f0000010b5400000001".parse().unwrap(), "late").await;
    assert_eq!(sent, Err(CallError::Gateway { gateway: GATEWAY, fault: GatewayFault::NotLinked }));
}

#[test]
fn a_gateway_counts_while_any_connected_register_names_it() {
    let one = SocketAddrV4::new(core::net::Ipv4Addr::LOCALHOST, 1);
    let two = SocketAddrV4::new(core::net::Ipv4Addr::LOCALHOST, 2);
    let mut lists = Announcements::new(2);
    let announced = |register, gateways: &[SocketAddrV4]| {
        Notice::Announced(register, gateways.iter().copied().collect())
    };
    for (notice, expected) in [
        (announced(0, &[one]), vec![one]),
        (announced(1, &[one, two]), vec![one, two]),
        (announced(0, &[]), vec![one, two]),
        (Notice::Lost(1), vec![]),
        (announced(0, &[two]), vec![two]),
        (Notice::Lost(0), vec![two]),
        (announced(1, &[one]), vec![one]),
    ] {
        assert_eq!(lists.handle(notice), expected.into_iter().collect());
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let builder = || BusinessWorker::builder().register("127.0.0.1:1236");
    assert_eq!(BusinessWorker::builder().build().unwrap_err(), StartError::NoRegister);
    assert_eq!(builder().count(0).build().unwrap_err(), StartError::Count);
    assert_eq!(builder().tasks_per_link(0).build().unwrap_err(), StartError::Count);
    assert_eq!(builder().id(u32::MAX).build().unwrap_err(), StartError::Count);
    assert!(builder().build().is_ok());
}

#[test]
fn the_secret_key_is_not_in_debug_output() {
    let worker = BusinessWorker::builder().register("127.0.0.1:1236").secret_key("hush").build();
    assert!(!format!("{worker:?}").contains("hush"));
}

const GATEWAY: SocketAddrV4 = SocketAddrV4::new(core::net::Ipv4Addr::LOCALHOST, 2900);
const ON_CONNECT: &str = "0000001c017f0000010b547f0000018ea00000000101205a00000000";
const ON_MESSAGE_HELLO: &str = "00000021037f0000010b547f0000018ea00000000101205a0000000068656c6c6f";
const ON_CLOSE: &str = "0000001c047f0000010b547f0000018ea00000000101205a00000000";

/// One link of worker `Bw:0`; the test is the gateway.
struct TestLink {
    gateway: DuplexStream,
    shared: Arc<Shared<Probe>>,
    stage: watch::Sender<Stage>,
    serving: JoinHandle<Result<(), ReadError>>,
}

/// Business code that does what messages say.
#[derive(Debug, Default)]
struct Probe {
    seen: Mutex<Vec<String>>,
    /// A handler was told to wait.
    waits: Notify,
    /// One that waits may go on.
    goes_on: Notify,
}

impl Events for Probe {
    async fn on_connect(&self, ctx: &mut Context) -> EventResult {
        self.note("connect", ctx);
        Ok(())
    }

    async fn on_websocket_connect(&self, ctx: &mut Context, _: &WebsocketRequest) -> EventResult {
        self.note("websocket", ctx);
        Ok(())
    }

    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        match message {
            b"panic" => panic!("as asked"),
            b"wait" => {
                self.waits.notify_one();
                self.goes_on.notified().await;
                ctx.send(message).await?;
            }
            b"fail" => return Err("as asked".into()),
            b"name" => drop(ctx.session_mut().insert("name".into(), Value::from("ann"))),
            [b'n', b'o', b't', b'e', ..] => {
                tokio::task::yield_now().await;
                let note = String::from_utf8_lossy(message).into_owned();
                self.seen.lock().unwrap().push(format!("{note} {}", ctx.client_id().connection_id));
            }
            _ => ctx.send(message).await?,
        }
        Ok(())
    }

    async fn on_close(&self, ctx: &mut Context) -> EventResult {
        self.note("close", ctx);
        Ok(())
    }
}

impl Probe {
    fn note(&self, what: &str, ctx: &Context) {
        let (client, addr) = (ctx.client_id(), ctx.client_addr());
        let note = format!("{what} {client} {addr} {} {}", ctx.gateway_addr(), ctx.gateway_port());
        self.seen.lock().unwrap().push(note);
    }
}

impl TestLink {
    fn start(tasks_per_link: usize, delivery: Delivery) -> Self {
        let builder =
            BusinessWorker::builder().name("Bw").tasks_per_link(tasks_per_link).delivery(delivery);
        let (stage_sender, stage) = watch::channel(Stage::Running);
        let links = Arc::new(Links::default());
        let gateway =
            Gateway::linked(links.clone(), SecretKey::default(), builder.settings.timeouts);
        let worker = Worker { name: "Bw".into(), id: 0, gateway };
        let events = Arc::new(Probe::default());
        let shared = Arc::new(Shared { settings: builder.settings, worker, links, events, stage });
        let (gateway, ours) = duplex(1 << 16);
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move { serve_link(&shared, GATEWAY, ours).await }
        });
        Self { gateway, shared, stage: stage_sender, serving }
    }

    /// Past the greeting.
    async fn started(tasks_per_link: usize) -> Self {
        let mut link = Self::start(tasks_per_link, Delivery::AtMostOnce);
        link.heard_frame().await;
        link
    }

    async fn say(&mut self, frames: &[&str]) {
        for frame in frames {
            self.gateway.write_all(&hex(frame)).await.unwrap();
        }
    }

    async fn heard(&mut self, len: usize) -> Vec<u8> {
        let mut heard = vec![0; len];
        self.gateway.read_exact(&mut heard).await.unwrap();
        heard
    }

    async fn heard_frame(&mut self) -> Vec<u8> {
        let frame_len = self.gateway.read_u32().await.unwrap();
        let rest = self.heard(frame_len as usize - 4).await;
        [&frame_len.to_be_bytes()[..], &rest].concat()
    }

    /// The gateway closes its side; everything it said before is handled first.
    async fn end(&mut self) {
        self.gateway.shutdown().await.unwrap();
        assert!(matches!((&mut self.serving).await.unwrap(), Err(ReadError::Closed)));
    }

    fn seen(&self) -> Vec<String> {
        self.shared.events.seen.lock().unwrap().clone()
    }
}

fn message(text: &str) -> String {
    message_of(1, text)
}

fn message_of(connection_id: u32, text: &str) -> String {
    event_of(3, connection_id, text)
}

fn event_of(command: u8, connection_id: u32, text: &str) -> String {
    let body: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{:08x}{command:02x}7f0000010b547f0000018ea0{connection_id:08x}01205a00000000{body}",
        28 + text.len()
    )
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
