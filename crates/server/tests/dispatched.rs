//! Register, gateways, dispatchers and workers as processes: what a cluster in dispatched mode does for its clients, also
//! while parts of it are killed, stopped and started.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use common::client::{Account, Client, Load};
use common::cluster::{Cluster, DispatcherProcess, GatewayProcess, SECRET_KEY, WorkerProcess};
use common::patience::until;
use common::{Place, Running, free_addresses, stderr, stdout, worker};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn this_binary_is_a_worker_when_started_as_one() {
    worker::run_if_asked();
}

/// Two gateways, two dispatchers, and workers that are linked to both of these.
struct Dispatched {
    cluster: Cluster,
    _register: Running,
    gateways: [GatewayProcess; 2],
    dispatchers: [DispatcherProcess; 2],
    workers: Vec<WorkerProcess>,
}

impl Dispatched {
    fn start(worker_count: usize) -> Self {
        let cluster = Cluster::new();
        let register = cluster.register();
        let dispatchers = [0, 1].map(|number| cluster.dispatcher(number));
        let gateways = [0, 1].map(|number| cluster.dispatched_gateway(number));
        let workers = (0..worker_count)
            .map(|number| WorkerProcess::start(&cluster, &format!("worker{number}")))
            .collect();
        let all = Self { cluster, _register: register, gateways, dispatchers, workers };
        all.wait_for_links();
        all
    }

    fn wait_for_links(&self) {
        let (gateways, dispatchers) = (self.gateways.each_ref(), self.dispatchers.each_ref());
        self.cluster.wait_for_links(&gateways, &dispatchers, self.workers.len());
    }

    /// Clients of both gateways, each with its id.
    fn clients(&self, each: usize) -> Vec<(Client, String)> {
        let gateways = self.gateways.iter().cycle().take(2 * each);
        gateways
            .map(|gateway| {
                let mut client = Client::connect(&gateway.client);
                let id = id(&mut client);
                (client, id)
            })
            .collect()
    }

    /// Which dispatcher is the home of each gateway.
    fn homes(&self) -> Vec<String> {
        let topology = self.cluster.topology();
        let gateways = topology["gateways"].as_array().unwrap();
        let home = |gateway: &GatewayProcess| {
            let found = gateways.iter().find(|one| one["address"] == gateway.inner.as_str());
            found.unwrap()["home"].as_str().unwrap_or_default().to_owned()
        };
        self.gateways.iter().map(home).collect()
    }
}

#[test]
fn sends_reach_every_client_once_and_nobody_is_counted_twice() {
    let all = Dispatched::start(3);
    assert_eq!(all.homes().iter().collect::<BTreeSet<_>>().len(), 2, "homes are balanced");
    let mut clients = all.clients(3);
    let ids: BTreeSet<&String> = clients.iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), 6);
    let [first_id, second_id] = [0, 1].map(|index| clients[index].1.clone());
    // A client_id leads to the dispatcher that was its gateway's home.
    assert_ne!(first_id[..12], second_id[..12]);

    for (number, (client, _)) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("bind u{}", number / 2)), "bind ok");
        if number < 4 {
            assert_eq!(client.ask("join room"), "join ok");
        }
    }
    for (client, _) in &mut clients {
        assert_eq!(client.ask("count"), "count 6");
        assert_eq!(client.ask("count room"), "count 4");
        assert_eq!(client.ask("count nobody"), "count 0");
        let answer = client.ask("whois u0");
        let found: BTreeSet<&str> = answer.split(' ').skip(1).collect();
        assert_eq!(found, BTreeSet::from([first_id.as_str(), second_id.as_str()]), "{answer}");
    }
    for asker in 0..6 {
        clients[asker].0.send(&format!("all a{asker}"));
        assert_receive(&mut clients, 0..6, &format!("a{asker}"));
        clients[asker].0.send(&format!("group room g{asker}"));
        assert_receive(&mut clients, 0..4, &format!("g{asker}"));
        clients[asker].0.send(&format!("uid u2 {asker}"));
        assert_receive(&mut clients, 4..6, &asker.to_string());
    }
    // Whatever came twice would come before this.
    for (number, (client, _)) in clients.iter_mut().enumerate() {
        assert!(client.ask(&format!("echo {number}")).starts_with(&format!("echo {number} ")));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let to_id = clients[to].1.clone();
        assert_eq!(clients[from].0.ask(&format!("tell {to_id} hello")), "tell ok");
        assert_eq!(clients[to].0.receive(), "hello");
        assert_eq!(clients[from].0.ask(&format!("online {to_id}")), "online true");
    }
}

#[test]
fn workers_are_told_of_dispatchers_only() {
    let all = Dispatched::start(0);
    let mut expected = all.dispatchers.each_ref().map(|dispatcher| dispatcher.address.clone());
    expected.sort();
    assert_eq!(all.cluster.announced(), expected);
}

#[test]
fn a_killed_dispatcher_costs_no_client_and_ids_that_name_it_go_on_working() {
    let mut all = Dispatched::start(2);
    let mut clients = all.clients(2);
    for (client, _) in &mut clients {
        assert_eq!(client.ask("join room"), "join ok");
        assert_eq!(client.ask("bind u"), "bind ok");
    }
    let loads = all.gateways.each_ref().map(|gateway| Load::start(&gateway.client, 6));
    let doomed = all.homes()[0].clone();
    let index = all.dispatchers.iter().position(|one| one.address == doomed).unwrap();
    let staying = all.dispatchers[1 - index].address.clone();
    // Their gateways had different homes, so that one id leads to the doomed dispatcher.
    let doomed_id = clients[0].1.clone();

    all.dispatchers[index].process.signal(Signal::KILL);
    until("both gateways are at home at the other one", || {
        (all.homes() == [&*staying, &*staying]).then_some(())
    });
    loads.iter().for_each(|load| load.wait_for_answers(50));
    for asker in 0..4 {
        clients[asker].0.send(&format!("group room g{asker}"));
        assert_receive(&mut clients, 0..4, &format!("g{asker}"));
        clients[asker].0.send(&format!("uid u u{asker}"));
        assert_receive(&mut clients, 0..4, &format!("u{asker}"));
        // Clients of the loads are there, too.
        assert_eq!(clients[asker].0.ask("count"), "count 16");
        assert_eq!(clients[asker].0.ask("count room"), "count 4");
    }
    // The id names a dispatcher that is gone; the other one knows the gateway by its number.
    let tell = format!("tell {doomed_id} hello");
    assert_eq!(clients[1].0.ask(&tell), "tell ok");
    assert_eq!(clients[0].0.receive(), "hello");

    let number = u16::try_from(index).unwrap();
    all.dispatchers[index] = all.cluster.dispatcher(number);
    assert_eq!(all.dispatchers[index].address, doomed);
    all.wait_for_links();
    until("homes are balanced again", || (all.homes().contains(&doomed)).then_some(()));
    assert_eq!(clients[1].0.ask(&tell), "tell ok");
    assert_eq!(clients[0].0.receive(), "hello");
    assert_eq!(clients[0].0.ask("count"), "count 16");
    loads.iter().for_each(|load| load.wait_for_answers(50));
    for account in loads.into_iter().flat_map(Load::finish) {
        assert_eq!(account.ended, None, "{account:?}");
    }
}

#[test]
fn a_killed_worker_that_acknowledges_loses_no_message() {
    let mut all = Dispatched::start(2);
    let loads = all.gateways.each_ref().map(|gateway| Load::start(&gateway.client, 8));
    loads.iter().for_each(|load| load.wait_for_answers(50));
    loads.iter().for_each(Load::allow_repeats);
    all.workers.swap_remove(0).kill();
    loads.iter().for_each(|load| load.wait_for_answers(100));
    let accounts: Vec<Account> = loads.into_iter().flat_map(Load::finish).collect();
    assert!(
        accounts.iter().any(|account| account.answers.contains_key("worker0")),
        "it had clients"
    );
    assert_nothing_lost(&accounts);
    let repeated: u64 = accounts.iter().map(|account| account.repeated).sum();
    println!("{repeated} messages were handled twice");
}

#[test]
fn ports_have_workers_of_their_own_and_a_reload_changes_that() {
    let cluster = Cluster::new();
    let _register = cluster.register();
    let groups = |of_first: &str, of_second: &str| {
        let group = |port: u16, worker: &str| {
            format!("[[dispatcher.group]]\nports = [{port}]\nworkers = [\"{worker}\"]\n")
        };
        group(8280, of_first) + &group(8281, of_second)
    };
    let path = cluster.place.file("groups.toml", &groups("worker0", "worker1"));
    let dispatcher = cluster.dispatcher_with(0, &["--config", "groups.toml"]);
    let gateways = [0, 1].map(|number| cluster.dispatched_gateway(number));
    let _workers = ["worker0", "worker1"].map(|name| WorkerProcess::start(&cluster, name));
    let mut dispatchers = [dispatcher];
    cluster.wait_for_links(&gateways.each_ref(), &dispatchers.each_ref(), 2);
    let mut clients = gateways.each_ref().map(|gateway| Client::connect(&gateway.client));
    assert_eq!(
        clients.each_mut().map(|client| client.ask("echo 1")),
        ["echo 1 worker0", "echo 1 worker1"]
    );

    std::fs::write(&path, groups("worker1", "worker0")).unwrap();
    let dispatcher = &mut dispatchers[0].process;
    dispatcher.signal(Signal::HUP);
    let line = dispatcher.wait_for("configuration reloaded");
    assert!(line.contains("dispatcher.group.workers"), "{line}");
    let mut later = gateways.each_ref().map(|gateway| Client::connect(&gateway.client));
    assert_eq!(
        later.each_mut().map(|client| client.ask("echo 2")),
        ["echo 2 worker1", "echo 2 worker0"]
    );
    // Who has a worker keeps it.
    assert_eq!(
        clients.each_mut().map(|client| client.ask("echo 3")),
        ["echo 3 worker0", "echo 3 worker1"]
    );
}

#[test]
fn a_rolling_restart_of_dispatchers_loses_nothing() {
    let mut all = Dispatched::start(2);
    let loads = all.gateways.each_ref().map(|gateway| Load::start(&gateway.client, 8));
    for number in 0..2_u16 {
        let index = usize::from(number);
        loads.iter().for_each(|load| load.wait_for_answers(20));
        all.dispatchers[index].process.signal(Signal::TERM);
        loads.iter().for_each(|load| load.wait_for_answers(100));
        let again = until("the dispatcher has ended", || {
            let status = all.cluster.status(&all.dispatchers[index].process);
            status.is_none().then(|| all.cluster.dispatcher(number))
        });
        let stopped = core::mem::replace(&mut all.dispatchers[index], again);
        let (code, log) = stopped.process.finish();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("has another home now") && log.ends_with("stopped\n"), "{log}");
        all.wait_for_links();
    }
    loads.iter().for_each(|load| load.wait_for_answers(20));
    let accounts: Vec<Account> = loads.into_iter().flat_map(Load::finish).collect();
    assert_nothing_lost(&accounts);
}

#[test]
fn a_stopping_gateway_tells_workers_of_every_client() {
    let mut all = Dispatched::start(1);
    let mut clients = all.clients(3);
    let [stopping, _staying] = &all.gateways;
    stopping.process.signal(Signal::TERM);
    for (index, (client, id)) in clients.iter_mut().enumerate() {
        if index % 2 == 0 {
            assert_eq!(client.message(), None);
            let worker = &mut all.workers[0];
            worker.wait_for_line(&format!("closed {id}"));
            assert_eq!(worker.count_of(&format!("closed {id}")), 1);
        } else {
            assert!(client.ask("echo 1").starts_with("echo 1 "));
            // Others of the stopping gateway may still be on their way out.
            until("only clients of the other gateway are counted", || {
                (client.ask("count") == "count 3").then_some(())
            });
        }
    }
}

#[test]
fn a_restarted_gateway_keeps_its_numbers() {
    let mut all = Dispatched::start(1);
    let first_proc_ids = |all: &Dispatched| {
        let topology = all.cluster.topology();
        all.gateways.each_ref().map(|gateway| {
            let mut gateways = topology["gateways"].as_array().unwrap().iter();
            let found = gateways.find(|one| one["address"] == gateway.inner.as_str()).unwrap();
            found["first_proc_id"].as_u64().unwrap()
        })
    };
    let before = first_proc_ids(&all);
    assert_eq!(BTreeSet::from(before), BTreeSet::from([0, 2]), "two shards each");

    all.gateways[0].process.signal(Signal::KILL);
    until("the register knows that it is absent", || {
        let topology = all.cluster.topology();
        let absent = topology["absent_leases"].as_array().unwrap();
        (absent.len() == 1 && absent[0]["first_proc_id"] == before[0]).then_some(())
    });
    all.gateways[0] = all.cluster.dispatched_gateway(0);
    all.wait_for_links();
    assert_eq!(first_proc_ids(&all), before);
    let mut client = Client::connect(&all.gateways[0].client);
    assert_eq!(client.ask("count"), "count 1");
}

#[test]
fn a_dispatched_gateway_takes_nobody_in_before_it_has_its_lease() {
    let cluster = Cluster::new();
    let mut gateway = cluster.start_gateway(0, 2, "dispatched");
    gateway.process.wait_for("the register cannot be reached");
    let _early = std::net::TcpStream::connect(&gateway.client).unwrap();
    let status = cluster.status(&gateway.process).unwrap();
    assert!(shards(&status).all(|shard| shard["connections"] == 0), "{status}");

    let _register = cluster.register();
    gateway.process.wait_for("clients are welcome");
    until("who waited is a client now", || {
        let status = cluster.status(&gateway.process)?;
        let clients: u64 = shards(&status).map(|shard| shard["clients"].as_u64().unwrap()).sum();
        (clients == 1).then_some(())
    });
}

#[test]
fn a_gateway_that_gets_no_lease_says_why() {
    let cluster = Cluster::new();
    let args = ["register", "--listen", &cluster.register_address(), "--secret-key", SECRET_KEY];
    let register = cluster.place.command(&args);
    let mut register = Running::spawn(with_variable(register, "TENGATE_REGISTER__PROC_IDS", "0-2"));
    register.wait_for("the register listens");
    let _first = cluster.dispatched_gateway(0);
    let mut second = cluster.start_gateway(1, 2, "dispatched");
    let line = second.process.wait_for("the register gives no lease");
    assert!(line.contains("proc_ids"), "{line}");

    let page = topology_page(&cluster);
    assert!(page.contains("refused: "), "{page}");
}

#[test]
fn a_register_without_leases_is_named_as_the_fault() {
    let register = silent_register();
    let place = Place::new();
    let [client, inner] = free_addresses();
    let client = format!("text://{client}");
    let args = ["--client", &client, "--inner", &inner, "--register", &register];
    let mut gateway = place.start(&[&["gateway", "--mode", "dispatched"][..], &args].concat());
    let line = gateway.wait_for("the register gives no lease");
    assert!(line.contains("dispatched mode needs tengate's register"), "{line}");
}

#[test]
fn status_shows_what_a_dispatcher_is_linked_to() {
    let all = Dispatched::start(2);
    let _clients = all.clients(2);
    let homes = all.homes();
    for dispatcher in &all.dispatchers {
        let status = all.cluster.status(&dispatcher.process).unwrap();
        assert_eq!(
            (status["role"].as_str(), status["registers"][0]["connected"].as_bool()),
            (Some("dispatcher"), Some(true))
        );
        let shard = &status["shards"][0];
        let home = homes.iter().position(|home| *home == dispatcher.address).unwrap();
        let gateways = shard["gateways"].as_array().unwrap();
        assert_eq!(gateways.len(), 2, "{shard}");
        for gateway in gateways {
            let at_home = gateway["address"] == all.gateways[home].inner.as_str();
            assert_eq!(gateway["home"].as_bool(), Some(at_home));
            assert_eq!(gateway["clients"].as_u64(), Some(if at_home { 2 } else { 0 }));
        }
        let counters = &shard["counters"];
        assert_eq!(
            (&counters["gateways"], &counters["homes"], &counters["workers"]),
            (&2.into(), &1.into(), &2.into())
        );
        let bound = shard["workers"].as_object().unwrap().values();
        assert_eq!(bound.map(|count| count.as_u64().unwrap()).sum::<u64>(), 2);
    }
    let page = stdout(&all.cluster.place.output(&["status"]));
    for (gateway, home) in all.gateways.iter().zip(&homes) {
        assert!(page.contains(&format!("gateway {} home proc_ids", gateway.inner)), "{page}");
        assert!(page.contains(&format!("home dispatcher {home}")), "{page}");
    }
}

#[test]
fn topology_is_a_tree_for_people_and_json_for_programs() {
    let all = Dispatched::start(1);
    let page = topology_page(&all.cluster);
    let rows: Vec<Vec<&str>> = page.lines().map(|line| line.split_whitespace().collect()).collect();
    for (gateway, home) in all.gateways.iter().zip(all.homes()) {
        let row = rows.iter().find(|row| row.first() == Some(&gateway.inner.as_str())).unwrap();
        assert_eq!((row[1], row.last()), ("dispatched", Some(&home.as_str())), "{page}");
        let linked = rows.iter().filter(|row| row.get(1..3) == Some(&["gateway", &gateway.inner]));
        assert_eq!(linked.count(), 2, "{page}");
    }
    assert!(
        page.contains("worker 127.0.0.1:worker0:0   0 clients") && !page.contains('\x1b'),
        "{page}"
    );

    let topology = all.cluster.topology();
    assert_eq!(topology["event"], "topology");
    assert_eq!(topology["proc_ids"], serde_json::json!([0, 1023]));
    assert_eq!(topology["dispatchers"].as_array().unwrap().len(), 2);
}

#[test]
fn topology_says_why_it_has_no_answer() {
    let cluster = Cluster::new();
    let _register = cluster.register();
    let [nobody] = free_addresses();
    let old = silent_register();
    let right = cluster.register_address();
    let cases = [
        (nobody.as_str(), SECRET_KEY, "no register answers"),
        (right.as_str(), "another", "secret key is another"),
        (old.as_str(), SECRET_KEY, "knows no topology: it is GatewayWorker's"),
    ];
    for (register, key, expected) in cases {
        let args = ["topology", "--register", register, "--secret-key", key];
        let output = cluster.place.output(&args);
        assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(1)));
        assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{expected}\n{}", stderr(&output));
    }
    // Of several registers the first that answers counts.
    let args =
        ["topology", "--register", &nobody, "--register", &right, "--secret-key", SECRET_KEY];
    let output = cluster.place.output(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with(&format!("register {right}")), "{}", stdout(&output));
    assert!(stderr(&output).starts_with("warning: no register answers"), "{}", stderr(&output));
}

#[test]
fn start_runs_the_chat_in_dispatched_mode_too() {
    let place = Place::new();
    let [register, inner, client, dispatcher, page] = free_addresses();
    let config = format!(
        "[register]\nlisten = \"{register}\"\n[gateway]\nregister_address = \"{register}\"\n\
         [gateway.inner]\nlisten = \"{inner}\"\n[[gateway.client]]\nlisten = \"{client}\"\n\
         [dispatcher]\nlisten = \"{dispatcher}\"\n\
         [demo]\npage_listen = \"{page}\"\n"
    );
    place.file("t.toml", &config);
    let mut start = place.start(&["start", "--mode", "dispatched", "--config", "t.toml"]);
    start.wait_for(&format!("workers      {dispatcher}"));
    start.wait_for("clients are welcome");
    let mut client = Client::connect(&client);
    client.send(r#"{"type":"join","name":"Ann","token":"0123456789abcdef","room":"lobby"}"#);
    until("the chat answers", || {
        client.receive().contains(r#"{"type":"joined","name":"Ann","room":"lobby"}"#).then_some(())
    });
    start.signal(Signal::TERM);
    // What the chat was just telling comes first, then the end.
    while client.message().is_some() {}
    let (code, log) = start.finish();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
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

/// The next message of each of these clients is this one.
fn assert_receive(clients: &mut [(Client, String)], these: core::ops::Range<usize>, text: &str) {
    for (client, _) in &mut clients[these] {
        assert_eq!(client.receive(), text);
    }
}

fn shards(status: &Value) -> impl Iterator<Item = &Value> {
    status["shards"].as_array().unwrap().iter()
}

fn topology_page(cluster: &Cluster) -> String {
    let register = cluster.register_address();
    let args = ["topology", "--register", &register, "--secret-key", SECRET_KEY];
    let output = cluster.place.output(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

fn with_variable(
    mut command: std::process::Command,
    name: &str,
    value: &str,
) -> std::process::Command {
    command.env(name, value);
    command
}

/// A register as GatewayWorker's: knows gateways and workers, closes on everything else, and leases nothing.
fn silent_register() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut gateways = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            if line.contains("worker_connect") {
                stream
                    .write_all(b"{\"event\":\"broadcast_addresses\",\"addresses\":[]}\n")
                    .unwrap();
            } else if line.contains("gateway_connect") {
                gateways.push(stream);
            }
        }
    });
    address
}
