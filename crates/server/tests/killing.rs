//! Register, gateways and workers as processes, killed and stopped while clients talk.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::client::{Account, Client, Load};
use common::cluster::{Cluster, QUEUE_MIB, WorkerProcess, descriptor_count};
use common::patience::until;
use common::worker;
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn this_binary_is_a_worker_when_started_as_one() {
    worker::run_if_asked();
}

#[test]
fn a_killed_worker_costs_its_clients_only_what_was_in_flight() {
    let cluster = Cluster::new();
    let _register = cluster.register();
    let gateway = cluster.gateway(0);
    let mut doomed = WorkerProcess::start(&cluster, "doomed");
    let _staying = WorkerProcess::start(&cluster, "staying");
    cluster.wait_for_workers(&gateway, &["doomed:0", "staying:0"]);
    let load = Load::start(&gateway.client, 24);
    load.wait_for_answers(50);

    let before = load.accounts();
    doomed.kill();
    cluster.wait_for_workers(&gateway, &["staying:0"]);
    let noticed = load.accounts();
    load.wait_for_answers(200);
    let after = load.finish();

    let had_doomed = before.iter().filter(|account| account.answers.contains_key("doomed"));
    assert_ne!(had_doomed.count(), 0, "clients are shared between the workers");
    let mut lost_count = 0;
    for ((before, noticed), after) in before.iter().zip(&noticed).zip(&after) {
        assert_eq!(after.ended, None);
        assert!(after.answers["staying"] >= 200, "{after:?}");
        // A client of the worker that stays loses nothing; one of the other, what was on its way there.
        let had_doomed = before.answers.contains_key("doomed");
        for lost in &after.lost {
            let in_flight = before.answered + 1..=noticed.sent;
            assert!(
                had_doomed && in_flight.contains(lost),
                "{lost} is lost, in flight were {in_flight:?}: {after:?}"
            );
        }
        lost_count += after.lost.len();
    }
    let sent: u64 = after.iter().map(|account| account.sent).sum();
    println!("{lost_count} of {sent} messages were in flight to the killed worker and are lost");
}

#[test]
fn a_killed_gateway_takes_only_its_own_clients_and_may_come_back() {
    let cluster = Cluster::new();
    let register = cluster.register();
    let [staying, doomed] = [0, 1].map(|number| cluster.gateway(number));
    let worker = WorkerProcess::start(&cluster, "worker");
    for gateway in [&staying, &doomed] {
        cluster.wait_for_workers(gateway, &["worker:0"]);
    }
    let load = Load::start(&staying.client, 8);
    let doomed_load = Load::start(&doomed.client, 8);
    let [mut asking, mut other, mut lost] =
        [&staying, &staying, &doomed].map(|gateway| Client::connect(&gateway.client));
    let [other_id, lost_id] = [&mut other, &mut lost].map(id);
    assert_eq!(asking.ask(&format!("tell {lost_id} hello")), "tell ok");
    assert_eq!(lost.receive(), "hello");
    let descriptors = || [worker.pid(), register.pid()].map(descriptor_count);
    let before = until("nobody asks the register anything", || {
        let status = cluster.status(&register)?;
        (status["shards"][0]["connections"] == 3).then(descriptors)
    });

    let address = doomed.inner.clone();
    doomed.process.signal(Signal::KILL);
    doomed.process.finish();
    cluster.wait_for_announced(&[&staying]);
    assert_eq!(lost.message(), None);
    until("the worker knows that the gateway is gone", || {
        (asking.ask(&format!("tell {lost_id} hello"))
            == format!("tell failed: gateway {address}: not linked"))
        .then_some(())
    });
    assert_eq!(asking.ask(&format!("online {lost_id}")), "online false");
    assert_eq!(asking.ask(&format!("tell {other_id} still here")), "tell ok");
    assert_eq!(other.receive(), "still here");
    load.wait_for_answers(50);
    assert!(doomed_load.finish().iter().all(|account| account.ended.is_some()));
    // The link to the gateway, and the gateway's connection to the register.
    let without = before.map(|count| count - 1);
    until("descriptors are closed", || (descriptors() == without).then_some(()));

    let again = cluster.gateway(1);
    assert_eq!(again.inner, address);
    cluster.wait_for_announced(&[&staying, &again]);
    cluster.wait_for_workers(&again, &["worker:0"]);
    let mut found = Client::connect(&again.client);
    let found_id = id(&mut found);
    assert_eq!(asking.ask(&format!("tell {found_id} welcome back")), "tell ok");
    assert_eq!(found.receive(), "welcome back");
    until("descriptors are as before", || (descriptors() == before).then_some(()));
    assert_nothing_lost(&load.finish());
}

#[test]
fn a_killed_register_disturbs_nobody_and_is_found_again() {
    let cluster = Cluster::new();
    let register = cluster.register();
    let old_gateway = cluster.gateway(0);
    let _old_worker = WorkerProcess::start(&cluster, "old");
    cluster.wait_for_workers(&old_gateway, &["old:0"]);
    let load = Load::start(&old_gateway.client, 16);

    register.signal(Signal::KILL);
    register.finish();
    until("the gateway misses the register", || {
        let status = cluster.status(&old_gateway.process)?;
        (status["registers"][0]["connected"] == false).then_some(())
    });
    load.wait_for_answers(200);
    // Whoever comes now waits for the register.
    let mut new_worker = WorkerProcess::start(&cluster, "new");
    new_worker.wait_for_line("started new");
    load.wait_for_answers(50);

    let _register = cluster.register();
    let new_gateway = cluster.gateway(1);
    cluster.wait_for_announced(&[&old_gateway, &new_gateway]);
    for gateway in [&old_gateway, &new_gateway] {
        cluster.wait_for_workers(gateway, &["old:0", "new:0"]);
    }
    let new_load = Load::start(&new_gateway.client, 4);
    load.wait_for_answers(50);
    assert_nothing_lost(&load.finish());
    let accounts = new_load.finish();
    assert_nothing_lost(&accounts);
    let names: BTreeSet<&String> = accounts.iter().flat_map(|one| one.answers.keys()).collect();
    assert_eq!(names.len(), 2, "both workers serve the new gateway: {accounts:?}");
}

#[test]
fn a_stopping_gateway_delivers_what_is_queued_and_tells_workers_of_every_client() {
    const COUNT: usize = QUEUE_MIB / 2;
    const BYTES: usize = 1 << 20;
    let cluster = Cluster::new();
    let _register = cluster.register();
    let gateway = cluster.gateway(0);
    let mut worker = WorkerProcess::start(&cluster, "worker");
    cluster.wait_for_workers(&gateway, &["worker:0"]);
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(&gateway.client)).collect();
    let ids: Vec<String> = clients.iter_mut().map(id).collect();
    let slow = &mut clients[0];
    slow.send(&format!("flood {COUNT} {BYTES}"));
    let slow_address = slow.local_address().to_string();
    until("all messages have come to the gateway, and the kernel takes no more", || {
        let shards = cluster.status(&gateway.process)?;
        let deliveries: u64 = counter(&shards, "deliveries");
        let listed = cluster.connections(&gateway.process)?;
        let row = rows(&listed).find(|row| row["foreign"] == slow_address.as_str())?;
        (deliveries == (ids.len() + COUNT) as u64 && row["send_queue_bytes"].as_u64()? > 0)
            .then_some(())
    });

    gateway.process.signal(Signal::TERM);
    for number in 0..COUNT {
        let message = slow.receive();
        assert_eq!(message.split(' ').next(), Some(number.to_string().as_str()));
        assert!(message.len() > BYTES);
    }
    for client in &mut clients {
        assert_eq!(client.message(), None);
    }
    let (code, log) = gateway.process.finish();
    assert_eq!(code, Some(0), "{log}");
    for id in &ids {
        worker.wait_for_line(&format!("closed {id}"));
        assert_eq!(worker.count_of(&format!("closed {id}")), 1);
    }
    cluster.wait_for_announced(&[]);
}

#[test]
fn status_and_connections_say_what_is_open() {
    let cluster = Cluster::new();
    let register = cluster.register();
    let gateway = cluster.gateway(0);
    let workers = ["one", "two", "three"].map(|name| WorkerProcess::start(&cluster, name));
    cluster.wait_for_workers(&gateway, &["one:0", "two:0", "three:0"]);
    let mut clients: Vec<Client> = (0..9).map(|_| Client::connect(&gateway.client)).collect();
    let ids: BTreeSet<String> = clients.iter_mut().map(id).collect();
    assert_eq!(ids.len(), 9);

    let status = cluster.status(&gateway.process).unwrap();
    assert_eq!(sum(&status, "clients"), 9);
    assert_eq!(sum(&status, "connections"), 12);
    assert_eq!((counter(&status, "client_messages"), counter(&status, "deliveries")), (9, 9));
    assert_eq!(sum(&status, "send_fail"), 0);
    assert_eq!(
        bound(&status).values().sum::<u64>(),
        9,
        "every client has one worker: {:?}",
        bound(&status)
    );
    assert_eq!(bound(&status).len(), 3);
    let at_register = cluster.status(&register).unwrap();
    assert_eq!((counter(&at_register, "gateways"), counter(&at_register, "workers")), (1, 3));

    let listed = cluster.connections(&gateway.process).unwrap();
    let of_clients = |row: &&Value| row["local"] == gateway.client.as_str();
    let foreign: BTreeSet<&str> =
        rows(&listed).filter(of_clients).map(|row| row["foreign"].as_str().unwrap()).collect();
    let opened: Vec<String> =
        clients.iter().map(|client| client.local_address().to_string()).collect();
    assert_eq!(foreign, opened.iter().map(String::as_str).collect());
    let numbers: BTreeSet<String> = rows(&listed)
        .filter(of_clients)
        .map(|row| format!("{:08x}", row["id"].as_u64().unwrap()))
        .collect();
    assert_eq!(numbers, ids.iter().map(|id| id[12..].to_owned()).collect());
    let links: BTreeSet<&str> =
        rows(&listed).filter_map(|row| row["worker_key"].as_str()).map(name).collect();
    assert_eq!(links, BTreeSet::from(["one", "two", "three"]));
    assert_eq!(rows(&listed).count(), 12);

    drop(workers);
    clients.truncate(4);
    cluster.wait_for_workers(&gateway, &[]);
    until("only the clients that stayed are open", || {
        let status = cluster.status(&gateway.process)?;
        (sum(&status, "clients") == 4 && sum(&status, "connections") == 4).then_some(())
    });
}

fn assert_nothing_lost(accounts: &[Account]) {
    for account in accounts {
        assert!(account.lost.is_empty() && account.ended.is_none(), "{account:?}");
        assert_eq!(account.answered, account.sent);
    }
}

/// The client's id, as its worker knows it.
fn id(client: &mut Client) -> String {
    let answer = client.ask("id");
    answer.strip_prefix("id ").unwrap_or_else(|| panic!("{answer:?} is no id")).to_owned()
}

fn shards(status: &Value) -> impl Iterator<Item = &Value> {
    status["shards"].as_array().unwrap().iter()
}

/// A number of all shards together.
fn sum(status: &Value, key: &str) -> u64 {
    shards(status).map(|shard| shard[key].as_u64().unwrap()).sum()
}

fn counter(status: &Value, key: &str) -> u64 {
    shards(status).map(|shard| shard["counters"][key].as_u64().unwrap()).sum()
}

/// How many clients each worker has.
fn bound(status: &Value) -> BTreeMap<&str, u64> {
    let mut bound = BTreeMap::new();
    for (key, count) in shards(status).flat_map(|shard| shard["workers"].as_object().unwrap()) {
        *bound.entry(name(key)).or_default() += count.as_u64().unwrap();
    }
    bound
}

/// `name` of `address:name:id`.
fn name(worker_key: &str) -> &str {
    worker_key.rsplit(':').nth(1).unwrap()
}

fn rows(listed: &Value) -> impl Iterator<Item = &Value> {
    listed["connections"].as_array().unwrap().iter()
}
