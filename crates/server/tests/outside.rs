//! Outside clients in GatewayClient's way: a connection for each call, to a gateway whose clients are on several shards.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeSet;

use common::client::Client;
use common::cluster::{Cluster, SECRET_KEY, WorkerProcess};
use common::patience::PATIENCE;
use common::worker;
use tengate_proto::wire::header::{Command, FLAG_SCALAR, Header};
use tengate_worker::ClientId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[test]
fn this_binary_is_a_worker_when_started_as_one() {
    worker::run_if_asked();
}

#[test]
fn a_query_on_a_new_connection_sees_what_a_command_on_another_has_done() {
    let cluster = Cluster::new();
    let _register = cluster.register();
    let gateway = cluster.gateway_of(0, 4);
    let _worker = WorkerProcess::start(&cluster, "worker");
    cluster.wait_for_workers(&gateway, &["worker:0"]);
    let mut clients: Vec<Client> =
        (0..HOSTS * CLIENTS_PER_HOST).map(|_| Client::connect(&gateway.client)).collect();
    let ids: Vec<u32> = clients.iter_mut().map(connection_id).collect();
    let shards: BTreeSet<u32> = ids.iter().map(|id| id >> NUMBER_BITS).collect();
    assert_eq!(shards.len(), 4, "clients are on every shard: {ids:?}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut hosts = JoinSet::new();
        for (number, ids) in (0..).zip(ids.chunks(CLIENTS_PER_HOST)) {
            let (ids, gateway) = (ids.to_vec(), gateway.inner.parse().unwrap());
            hosts.spawn(async move { Host { number, gateway }.command_and_ask(&ids).await });
        }
        timeout(PATIENCE, hosts.join_all()).await.expect("every query is answered");
    });
}

/// The number of a client, which says on which shard it is.
fn connection_id(client: &mut Client) -> u32 {
    let answer = client.ask("id");
    let id: ClientId = answer.strip_prefix("id ").unwrap().parse().unwrap();
    id.connection_id
}

/// A computer with programs that use GatewayClient. Hosts are dealt to shards in turn, so every shard has some.
struct Host {
    number: u8,
    gateway: SocketAddr,
}

impl Host {
    /// Changes what the gateway knows of each of these clients, and asks after each change.
    async fn command_and_ask(&self, ids: &[u32]) {
        let group = format!("group of host {}", self.number);
        let mut kept = self.connect().await;
        for (count, id) in (1..).zip(ids.iter().copied()) {
            let session = format!("a:1:{{s:4:\"host\";i:{}{count};}}", self.number);
            let uid = format!("uid {count} of host {}", self.number);
            // As GatewayClient does by itself, with a connection that is closed behind the command; or with one that is kept.
            let mut own = self.connect().await;
            let commands = if count % 2 == 0 { &mut kept } else { &mut own };
            commands.send(Command::SetSession, id, &session).await;
            assert_eq!(self.ask(Command::GetSessionByClientId, id, "").await, session);
            commands.send(Command::JoinGroup, id, &group).await;
            let members = self.ask(Command::GetClientCountByGroup, 0, &group).await;
            assert_eq!(members, format!("i:{count};"));
            commands.send(Command::BindUid, id, &uid).await;
            drop(own);
            let bound = self.ask(Command::GetClientIdByUid, 0, &uid).await;
            assert_eq!(bound, format!("a:1:{{i:0;i:{id};}}"));
        }
    }

    /// Asks on a connection of its own.
    async fn ask(&self, query: Command, id: u32, ext: &str) -> String {
        let mut connection = self.connect().await;
        connection.send(query, id, ext).await;
        connection.answer().await
    }

    async fn connect(&self) -> Connection {
        let socket = TcpSocket::new_v4().unwrap();
        let address = Ipv4Addr::new(127, 0, 0, 2 + self.number);
        socket.bind((address, 0).into()).unwrap();
        Connection { stream: socket.connect(self.gateway).await.unwrap(), is_greeted: false }
    }
}

/// An outside client's connection.
struct Connection {
    stream: TcpStream,
    is_greeted: bool,
}

impl Connection {
    /// In one write, with the greeting when it is the first.
    async fn send(&mut self, command: Command, connection_id: u32, ext: &str) {
        let mut bytes = Vec::new();
        if !core::mem::replace(&mut self.is_greeted, true) {
            let hello = serde_json::json!({ "secret_key": SECRET_KEY }).to_string();
            frame(Command::GatewayClientConnect, 0, "", &hello, &mut bytes);
        }
        frame(command, connection_id, ext, "", &mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// PHP-serialized.
    async fn answer(&mut self) -> String {
        let len = self.stream.read_u32().await.unwrap();
        let mut answer = vec![0; len as usize];
        self.stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn frame(command: Command, connection_id: u32, ext: &str, body: &str, out: &mut Vec<u8>) {
    let header =
        Header { command: command as u8, connection_id, flag: FLAG_SCALAR, ..Header::default() };
    header.encode(ext.as_bytes(), body.as_bytes(), out);
}

const HOSTS: usize = 4;
/// Enough for some on every shard, which the kernel chooses.
const CLIENTS_PER_HOST: usize = 100;
/// How a connection_id is divided between shard and number.
const NUMBER_BITS: u32 = 22;
