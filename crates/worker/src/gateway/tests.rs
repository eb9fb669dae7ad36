//! Calls against bytes recorded from real PHP, and answers of gateways that the test plays.

use super::*;
use crate::names::Payload;
use crate::php::{Array, Key, Value};
use tengate_proto::wire::header::{Command, InnerFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn sends_have_the_commands_of_a_real_worker() {
    let (gateway, queue) = linked();
    let array = Array::from_iter([(Key::from("k"), Value::from("v"))]);
    gateway.send_to_all("all").await.unwrap();
    gateway.send_to_clients(&[CLIENT, OTHER], "some").await.unwrap();
    gateway.send_to_all_except(&[OTHER], "others").await.unwrap();
    gateway.send_to_client(CLIENT, Payload::raw("hello")).await.unwrap();
    gateway.send_to_uid(["u1", "u2"], "to-many").await.unwrap();
    gateway.send_to_group("g1", "hi g1").await.unwrap();
    gateway.send_to_group_except("g1", &[CLIENT], "hi but c1").await.unwrap();
    gateway.bind_uid(CLIENT, "u0").await.unwrap();
    gateway.unbind_uid(CLIENT, "u9").await.unwrap();
    gateway.join_group(CLIENT, 42).await.unwrap();
    gateway.leave_group(OTHER, "g1").await.unwrap();
    gateway.ungroup("g1").await.unwrap();
    gateway.set_session(CLIENT, array.clone()).await.unwrap();
    gateway.update_session(CLIENT, array).await.unwrap();
    gateway.close_client(CLIENT).await.unwrap();
    gateway.close_client_with(OTHER, "bye").await.unwrap();
    gateway.destroy_client(OTHER).await.unwrap();
    let expected = [
        (Command::SendToAll, 0, 1, "", "all"),
        (Command::SendToAll, 0, 1, r#"{"connections":{"3":3,"4":4}}"#, "some"),
        (Command::SendToAll, 0, 1, r#"{"exclude":{"4":4}}"#, "others"),
        (Command::SendToOne, 3, 3, "", "hello"),
        (Command::SendToUid, 0, 1, r#"["u1","u2"]"#, "to-many"),
        (Command::SendToGroup, 0, 1, r#"{"group":["g1"],"exclude":null}"#, "hi g1"),
        (Command::SendToGroup, 0, 1, r#"{"group":["g1"],"exclude":{"3":3}}"#, "hi but c1"),
        (Command::BindUid, 3, 1, "u0", ""),
        (Command::UnbindUid, 3, 1, "u9", ""),
        (Command::JoinGroup, 3, 1, "42", ""),
        (Command::LeaveGroup, 4, 1, "g1", ""),
        (Command::Ungroup, 0, 1, "g1", ""),
        (Command::SetSession, 3, 1, r#"a:1:{s:1:"k";s:1:"v";}"#, ""),
        (Command::UpdateSession, 3, 1, r#"a:1:{s:1:"k";s:1:"v";}"#, ""),
        (Command::Kick, 3, 0, "", "N;"),
        (Command::Kick, 4, 1, "", "bye"),
        (Command::Destroy, 4, 1, "", ""),
    ];
    let mut sent = Vec::new();
    queue.close();
    queue.write_to(&mut sent).await.unwrap();
    let mut rest = &sent[..];
    for (command, connection_id, flag, ext, body) in expected {
        let (frame, frame_len) = InnerFrame::decode(rest, 1000).unwrap().unwrap();
        let header = (frame.header.command, frame.header.connection_id, frame.header.flag);
        assert_eq!(header, (command as u8, connection_id, flag), "{command:?}");
        assert_eq!((frame.ext, frame.body), (ext.as_bytes(), body.as_bytes()), "{command:?}");
        rest = &rest[frame_len..];
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn calls_without_a_group_are_refused() {
    let (gateway, _) = linked();
    assert_eq!(gateway.send_to_group("", "x").await, Err(CallError::NoGroup));
    assert_eq!(gateway.send_to_group(Vec::<String>::new(), "x").await, Err(CallError::NoGroup));
    assert_eq!(gateway.ungroup("").await, Err(CallError::NoGroup));
    assert_eq!(gateway.get_client_id_count_by_group("").await, Err(CallError::NoGroup));
}

#[tokio::test]
async fn clients_of_a_gateway_without_a_link_are_gone() {
    let gateway = Gateway::linked(Arc::default(), SecretKey::default(), Timeouts::DEFAULT);
    assert_eq!(gateway.is_online(CLIENT).await, Ok(false));
    assert_eq!(gateway.get_session(CLIENT).await, Ok(None));
    let fault = GatewayFault::NotLinked;
    assert_eq!(
        gateway.destroy_client(CLIENT).await,
        Err(CallError::Gateway { gateway: LAN, fault })
    );
    assert_eq!(gateway.get_all_uid_list().await, Err(CallError::NoGateway));
}

#[tokio::test]
async fn answers_of_several_gateways_are_merged() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let gateway = asking([one.address, two.address]);
    let mut clients = [one.client(2), two.client(7)];
    clients.sort();
    let merged = async {
        assert_eq!(gateway.get_all_client_id_count().await, Ok(5));
        assert_eq!(gateway.get_all_client_id_list().await, Ok(BTreeSet::from(clients)));
        let uids = ["33".to_owned(), "u0".to_owned()];
        assert_eq!(gateway.get_all_uid_list().await, Ok(BTreeSet::from(uids)));
        let groups = gateway.get_all_group_uid_count().await.unwrap();
        assert_eq!(groups, BTreeMap::from([("42".to_owned(), 1), ("g1".to_owned(), 2)]));
    };
    let uids = |connection, uid| format!("a:1:{{i:{connection};a:1:{{s:3:\"uid\";{uid}}}}}");
    let groups = r#"a:2:{i:2;a:2:{s:3:"uid";N;s:6:"groups";a:0:{}}i:3;a:2:{s:3:"uid";s:2:"u0";s:6:"groups";a:2:{s:2:"g1";s:2:"g1";i:42;i:42;}}}"#;
    let more = r#"a:1:{i:7;a:2:{s:3:"uid";i:33;s:6:"groups";a:1:{s:2:"g1";s:2:"g1";}}}"#;
    let (of_one, of_two) = (uids(2, "s:2:\"u0\";"), uids(7, "i:33;"));
    let (of_one, of_two) = (["i:2;", &of_one, &of_one, groups], ["i:3;", &of_two, &of_two, more]);
    tokio::join!(merged, one.answer(&of_one), two.answer(&of_two));
}

#[tokio::test]
async fn the_gateway_whose_answer_is_wrong_is_named() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let gateway = asking([one.address, two.address]);
    let (count, (), ()) = tokio::join!(
        gateway.get_all_client_id_count(),
        one.answer(&["i:2;"]),
        two.answer(&["b:1;"])
    );
    let fault = GatewayFault::UnexpectedReply;
    assert_eq!(count, Err(CallError::Gateway { gateway: two.address, fault }));
}

#[tokio::test]
async fn an_outside_client_asks_the_register_once_for_calls_close_together() {
    let register = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Fake::start().await;
    let address = register.local_addr().unwrap().to_string();
    let gateway = Gateway::asked(vec![address], SecretKey::default(), Timeouts::DEFAULT);
    let announcing = async {
        let (mut stream, _) = register.accept().await.unwrap();
        let line =
            format!("{{\"event\":\"broadcast_addresses\",\"addresses\":[\"{}\"]}}\n", fake.address);
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "{\"event\":\"worker_connect\",\"secret_key\":\"\"}\n");
    };
    let calling = async {
        assert_eq!(gateway.get_all_client_id_count().await, Ok(1));
        assert_eq!(gateway.get_all_client_id_count().await, Ok(2));
    };
    tokio::join!(announcing, calling, fake.answer(&["i:1;", "i:2;"]));
}

#[tokio::test]
async fn an_outside_client_without_a_register_says_so() {
    let gateway = Gateway::asked(Vec::new(), SecretKey::default(), Timeouts::DEFAULT);
    let error = gateway.send_to_all("x").await.unwrap_err();
    assert_eq!(error.to_string(), "register : none is configured");
}

#[tokio::test]
async fn an_outside_client_reaches_clients_of_a_dispatcher_that_is_gone_through_another() {
    let (gone, other) = (Fake::start().await, Fake::start().await);
    let client = gone.client(7);
    drop(gone);
    let dispatcher = format!(
        r#"{{"address":"{}","remote":"127.0.0.1:1","connected_secs":1,"gateways":[],"workers":[],"workers_left_out":0}}"#,
        other.address
    );
    for (gateways, outcome) in [("", Ok(true)), (DIRECT_GATEWAY, Err(()))] {
        let register = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = register.local_addr().unwrap().to_string();
        let gateway = Gateway::asked(vec![address], SecretKey::default(), Timeouts::DEFAULT);
        let topology = format!(
            r#"{{"event":"topology","uptime_secs":1,"proc_ids":[0,9],"number_bits":22,"gateways":[{gateways}],"dispatchers":[{dispatcher}],"workers":[],"others":[],"absent_leases":[]}}"#
        );
        let telling = async {
            let (mut stream, _) = register.accept().await.unwrap();
            stream.write_all(format!("{topology}\n").as_bytes()).await.unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "{\"event\":\"topology\",\"secret_key\":\"\"}\n");
        };
        let answering = async {
            if outcome.is_ok() {
                other.answer(&["i:1;"]).await;
            }
        };
        let (online, (), ()) = tokio::join!(gateway.is_online(client), telling, answering);
        assert_eq!(online.map_err(drop), outcome, "{gateways}");
    }
}

#[tokio::test]
async fn a_client_of_an_unlinked_address_goes_to_a_dispatcher_only_when_its_number_is_unique() {
    let (links, other) = (Links::default(), SocketAddrV4::new(*LAN.ip(), 3901));
    let mut state = links.state();
    let link = |state: &mut LinksState, gateway, is_dispatcher| {
        state.announced.insert(gateway);
        state.handle_linked(gateway, Arc::new(SendQueue::new(1000)));
        if is_dispatcher {
            state.handle_dispatcher(gateway);
        }
    };
    link(&mut state, other, false);
    assert_eq!(state.route(CLIENT), LAN, "gateways only");
    link(&mut state, other, true);
    assert_eq!(state.route(CLIENT), other, "dispatchers only");
    let direct = SocketAddrV4::new(*LAN.ip(), 2905);
    link(&mut state, direct, false);
    assert_eq!(state.route(CLIENT), LAN, "both, and the address was never linked");
    link(&mut state, LAN, true);
    assert_eq!(state.route(CLIENT), LAN, "linked");
    state.kept.insert(LAN, None);
    assert_eq!(state.route(CLIENT), other, "both, and the address was a dispatcher's");

    assert!(state.is_perhaps_at(other, CLIENT), "moved from one dispatcher to the other");
    assert!(!state.is_perhaps_at(direct, CLIENT));
    let of_direct = ClientId { local_port: direct.port(), ..CLIENT };
    assert!(state.is_perhaps_at(direct, of_direct) && !state.is_perhaps_at(other, of_direct));
}

const DIRECT_GATEWAY: &str = r#"{"address":"10.0.0.1:2900","mode":"direct","remote":"127.0.0.1:1","connected_secs":1,"shards":null,"first_proc_id":null,"refused":null,"home_wish":null,"home":null,"clients":null}"#;
const LAN: SocketAddrV4 = SocketAddrV4::new(core::net::Ipv4Addr::LOCALHOST, 2900);
const CLIENT: ClientId = ClientId { local_ip: 0x7f00_0001, local_port: 2900, connection_id: 3 };
const OTHER: ClientId = ClientId { local_ip: 0x7f00_0001, local_port: 2900, connection_id: 4 };

/// A worker's handle with one link, whose queue nobody writes.
fn linked() -> (Gateway, Arc<SendQueue>) {
    let links = Arc::new(Links::default());
    let queue = Arc::new(SendQueue::new(1 << 20));
    links.state().announced.insert(LAN);
    links.state().kept.insert(LAN, Some(queue.clone()));
    (Gateway::linked(links, SecretKey::default(), Timeouts::DEFAULT), queue)
}

/// A worker's handle that asks these gateways.
fn asking(gateways: [SocketAddrV4; 2]) -> Gateway {
    let links = Arc::new(Links::default());
    links.state().announced.extend(gateways);
    Gateway::linked(links, SecretKey::default(), Timeouts::DEFAULT)
}

/// A gateway that gives the answers it is told, whatever is asked.
struct Fake {
    listener: TcpListener,
    address: SocketAddrV4,
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let core::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4")
        };
        Self { listener, address }
    }

    fn client(&self, connection_id: u32) -> ClientId {
        ClientId {
            local_ip: self.address.ip().to_bits(),
            local_port: self.address.port(),
            connection_id,
        }
    }

    async fn answer(&self, answers: &[&str]) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        for answer in answers {
            let question_bytes = stream.read_u32().await.unwrap();
            stream.read_exact(&mut vec![0; question_bytes as usize - 4]).await.unwrap();
            stream.write_u32(u32::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}
