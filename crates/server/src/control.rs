//! The control thread: signals, registers, the admin socket. Nothing here is on a message's path.

mod dialer;
mod lease;
mod register_link;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use tengate_io::{Clock, ShardHandle};
use tengate_proto::register::{RegisterClientConfig, RegisterRole};
use tengate_proto::secret::SecretKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use crate::admin::{self, Answers, Connections, Process, Question, RegisterLink, Shard, Socket};
use crate::cli::{self, Reader};
use crate::config::{self, Config, Mode, Secret, secret_of};
use crate::log::Level;
use crate::roles::{self, DemoWorker, Exits, Role, Service};
use crate::shard::Command;
use crate::{Failure, complain};

use dialer::Dialer;
use lease::Lease;
use register_link::Line;

/// How long a shard may take to answer the control thread.
const SHARD_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a stop looks whether its clients are gone.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Signals this close together are one wish.
const SAME_STOP: Duration = Duration::from_millis(500);
/// What a drained dispatcher's gateways get beyond the time its workers have.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// What workers get to handle the events of a stop before their links go.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What worker links get to be flushed once clients are gone.
const LINK_GRACE: Duration = Duration::from_secs(1);

/// A running process, seen from its control thread.
#[derive(Debug)]
pub(crate) struct Control {
    config: Config,
    reader: Reader,
    level: Level,
    shared: Arc<Shared>,
}

/// What answers to questions are made from.
#[derive(Debug)]
struct Shared {
    role: Role,
    services: Vec<Service>,
    registers: Vec<RegisterPeer>,
    started_unix_secs: i64,
    memory_at_start_bytes: u64,
}

/// A register that a service of this process announces itself to.
#[derive(Debug)]
struct RegisterPeer {
    service: &'static str,
    address: String,
    connected: Arc<AtomicBool>,
}

/// The connections of one service to its registers, seen from the other end.
struct Followed {
    registers: Vec<String>,
    orders: Vec<mpsc::UnboundedSender<register_link::Order>>,
    news: mpsc::UnboundedReceiver<(usize, register_link::News)>,
}

impl Control {
    /// Opens the admin socket of services that run already. It goes away with the runtime.
    pub(crate) fn new(
        role: Role,
        config: Config,
        reader: Reader,
        level: Level,
        services: Vec<Service>,
    ) -> anyhow::Result<Self> {
        let run_dir = config.admin.run_dir.clone().unwrap_or_else(admin::default_run_dir);
        let socket = Socket::bind(&run_dir, role.name())?;
        let peers = |service: &Service| {
            let addresses = match service.name {
                roles::GATEWAY => config.gateway.register_address.get_ref().0.as_slice(),
                roles::DISPATCHER => config.dispatcher_registers().get_ref().0.as_slice(),
                _ => &[],
            };
            let service = service.name;
            let peer = |address: &config::PeerAddress| RegisterPeer {
                service,
                address: address.to_string(),
                connected: Arc::default(),
            };
            addresses.iter().map(peer).collect::<Vec<_>>()
        };
        let registers = services.iter().flat_map(peers).collect();
        let shared = Arc::new(Shared {
            role,
            services,
            registers,
            started_unix_secs: jiff::Timestamp::now().as_second(),
            memory_at_start_bytes: memory_bytes(),
        });
        tokio::spawn(socket.serve(Arc::clone(&shared)));
        Ok(Self { config, reader, level, shared })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Keeps gateway and dispatcher known to their registers, and does what those want, until the set is dropped.
    fn announce(&self) -> anyhow::Result<JoinSet<()>> {
        let (gateway, dispatcher) = (&self.config.gateway, &self.config.dispatcher);
        let mut tasks = JoinSet::new();
        if let Some(service) = self.shared.service(roles::GATEWAY) {
            let address = gateway.inner.announced().to_string().into();
            let key = secret_of(gateway.secret_key.as_ref(), gateway.secret_key_file.as_ref())?;
            let shards = service.handles.clone();
            match gateway.mode {
                Mode::Direct => {
                    self.follow(service, &RegisterRole::Gateway { address }, key, &mut tasks);
                }
                Mode::Dispatched => {
                    let role = RegisterRole::DispatchedGateway {
                        address,
                        shards: u16::try_from(shards.len()).unwrap_or(u16::MAX),
                        number_bits: *gateway.number_bits.get_ref(),
                        first_proc_id: None,
                    };
                    let followed = self.follow(service, &role, key, &mut tasks);
                    let lease = Lease::new(shards, followed.orders);
                    tasks.spawn(lease.keep(followed.registers, followed.news));
                }
            }
        }
        if let Some((service, shard)) = self.shared.dispatcher() {
            let role =
                RegisterRole::Dispatcher { address: dispatcher.announced().to_string().into() };
            let key =
                secret_of(dispatcher.secret_key.as_ref(), dispatcher.secret_key_file.as_ref())?;
            let followed = self.follow(service, &role, key, &mut tasks);
            tasks.spawn(Dialer::new(shard.clone(), followed.orders).keep(followed.news));
        }
        Ok(tasks)
    }

    /// Connects a service to each of its registers.
    fn follow(
        &self,
        service: &Service,
        role: &RegisterRole,
        key: Option<Secret>,
        tasks: &mut JoinSet<()>,
    ) -> Followed {
        let secret_key = SecretKey::new(key.map_or_else(String::new, |key| key.0));
        let clock = Clock::start();
        let (news_sender, news) = mpsc::unbounded_channel();
        let mut followed = Followed { registers: Vec::new(), orders: Vec::new(), news };
        let peers = self.shared.registers.iter().filter(|peer| peer.service == service.name);
        for (register_index, peer) in peers.enumerate() {
            let config = RegisterClientConfig {
                register: peer.address.as_str().into(),
                role: role.clone(),
                secret_key: secret_key.clone(),
            };
            let (order_sender, orders) = mpsc::unbounded_channel();
            let line = Line {
                register_index,
                news: news_sender.clone(),
                orders,
                connected: Arc::clone(&peer.connected),
            };
            followed.registers.push(peer.address.clone());
            followed.orders.push(order_sender);
            tasks.spawn(register_link::follow(config, clock, line));
        }
        followed
    }

    /// SIGHUP: takes over what can be taken over, all or nothing.
    fn reload(&mut self) {
        let loaded = match self.reader.read() {
            Ok(loaded) => loaded,
            Err(error) => {
                error!(error = format!("{error:#}"), "nothing is reloaded");
                return;
            }
        };
        complain(&cli::render(&loaded));
        if loaded.has_errors() {
            error!("the configuration has mistakes; nothing is reloaded");
            return;
        }
        let changes = config::changes(&self.config, &loaded.config);
        let merged = config::with_live_keys(&self.config, &loaded.config);
        if let Err(error) = self.reload_services(&merged) {
            error!(error = format!("{error:#}"), "nothing is reloaded");
            return;
        }
        self.level.set(merged.log.level);
        self.config = merged;
        let keys = |live| -> Vec<&str> {
            changes
                .iter()
                .filter(|change| change.live == live)
                .map(|change| change.key.as_str())
                .collect()
        };
        info!(changed = keys(true).join(", "), "configuration reloaded");
        if !keys(false).is_empty() {
            warn!(keys = keys(false).join(", "), "these changes need a restart");
        }
    }

    fn reload_services(&self, merged: &Config) -> anyhow::Result<()> {
        let (gateway, dispatcher) =
            (self.shared.service(roles::GATEWAY), self.shared.service(roles::DISPATCHER));
        let gateway_settings = gateway.map(|_| roles::gateway_settings(merged)).transpose()?;
        let dispatcher_settings =
            dispatcher.map(|_| roles::dispatcher_settings(merged)).transpose()?;
        if let Some(settings) = gateway_settings.map(Arc::new) {
            self.tell_all(|| Command::ReloadGateway(Arc::clone(&settings)));
        }
        if let Some(settings) = dispatcher_settings.map(Arc::new) {
            self.tell_all(|| Command::ReloadDispatcher(Arc::clone(&settings)));
        }
        Ok(())
    }

    /// Tells every shard; one whose service does not know the command ignores it.
    fn tell_all(&self, command: impl Fn() -> Command) {
        for handle in self.shared.services.iter().flat_map(|service| &service.handles) {
            // A shard that has ended is reported by its exit.
            let _ = handle.command(command());
        }
    }
}

/// Runs until a signal asks for the end, or a shard fails.
pub(crate) async fn run(
    mut control: Control,
    demo: Option<DemoWorker>,
    mut exits: Exits,
) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let registers = control.announce()?;
    loop {
        tokio::select! {
            name = stop.recv() => {
                info!(signal = name, "stopping; a second signal stops at once");
                break;
            }
            _ = hangup.recv() => control.reload(),
            Some((service, exit)) = exits.recv() => {
                let error = exit.result.err().unwrap_or_else(|| "it ended by itself".to_owned());
                return Err(anyhow!("shard {} of the {service} failed: {error}", exit.shard).into());
            }
        }
    }
    let since = Instant::now();
    tokio::select! {
        () = shut_down(&control, registers, demo, &mut exits) => {
            info!("stopped");
            Ok(())
        }
        () = insist(&mut stop, since) => Err(anyhow!("stopped at once, before every client had its last messages").into()),
    }
}

/// Waits for a second wish to stop. Supervisors that signal a process and then its whole group say the first one twice.
async fn insist(stop: &mut Stop, since: Instant) {
    loop {
        stop.recv().await;
        if since.elapsed() >= SAME_STOP {
            return;
        }
    }
}

/// A graceful stop: no worker is sent here any more, clients get what is queued for them, then workers hear of their
/// going, gateways of other processes move to another dispatcher, then everything is closed. Who asks a dispatcher alone is
/// sent there until its gateways have moved: before, nobody else covers them.
async fn shut_down(
    control: &Control,
    registers: JoinSet<()>,
    demo: Option<DemoWorker>,
    exits: &mut Exits,
) {
    let is_dispatcher = control.shared.role == Role::Dispatcher;
    let registers = is_dispatcher.then_some(registers);
    let had_clients = control.shared.client_count().await > 0;
    control.tell_all(|| Command::CloseClients);
    let deadline = Instant::now() + control.config.gateway.close_linger.get_ref().0;
    while Instant::now() < deadline && control.shared.client_count().await > 0 {
        tokio::time::sleep(STOP_POLL).await;
    }
    let had_gateways = drain(control).await;
    drop(registers);
    if had_clients || had_gateways {
        // Workers are busy with the last events and may want to ask the gateway about them.
        tokio::time::sleep(LAST_WORDS).await;
    }
    if let Some(demo) = demo {
        demo.stop();
    }
    control.tell_all(|| Command::CloseLinks);
    for handle in control.shared.services.iter().flat_map(|service| &service.handles) {
        handle.stop(LINK_GRACE);
    }
    // The channel closes when the last shard has ended.
    while let Some((service, exit)) = exits.recv().await {
        if let Err(error) = exit.result {
            error!(service, shard = exit.shard.0, error, "a shard failed while stopping");
        }
    }
}

/// Has every gateway choose another dispatcher, and waits until they have, as long as workers may take to finish. Tells
/// whether there was one.
async fn drain(control: &Control) -> bool {
    let Some((_, shard)) = control.shared.dispatcher() else { return false };
    let Some(links) = dialer::ask(shard).await else { return false };
    let _ended = shard.command(Command::Drain);
    let limit = control.config.dispatcher.detach_limit.get_ref().0 + DRAIN_GRACE;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if dialer::ask(shard).await.is_none_or(|links| links.is_drained) {
            break;
        }
        tokio::time::sleep(STOP_POLL).await;
    }
    links.reported.gateways.iter().any(|gateway| gateway.home)
}

impl Shared {
    fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The dispatcher and its shard, if this process runs one.
    fn dispatcher(&self) -> Option<(&Service, &ShardHandle<Command>)> {
        let service = self.service(roles::DISPATCHER)?;
        service.handles.first().map(|shard| (service, shard))
    }

    /// Asks every shard; one that does not answer in time gets `otherwise`.
    async fn ask_all<A>(
        &self,
        command: impl Fn(oneshot::Sender<A>) -> Command,
        otherwise: impl Fn() -> A,
    ) -> Vec<(&Service, u16, A)> {
        let asked: Vec<_> = self
            .services
            .iter()
            .flat_map(|service| service.handles.iter().map(move |handle| (service, handle)))
            .map(|(service, handle)| {
                let (sender, answer) = oneshot::channel();
                // A shard that has ended drops the sender, and that is its answer.
                let _ = handle.command(command(sender));
                (service, handle.shard().0, answer)
            })
            .collect();
        let mut answers = Vec::new();
        for (service, shard, answer) in asked {
            let answer = timeout(SHARD_ANSWER_TIMEOUT, answer).await;
            answers.push((
                service,
                shard,
                answer.ok().and_then(Result::ok).unwrap_or_else(&otherwise),
            ));
        }
        answers
    }

    async fn shards(&self) -> Vec<Shard> {
        let answers = self.ask_all(Command::Status, Shard::default).await;
        let complete = |(service, index, shard): (&Service, u16, Shard)| Shard {
            service: service.name.to_owned(),
            listening: service.listening.clone(),
            shard: index,
            core: service.cores.get(usize::from(index)).copied(),
            ..shard
        };
        answers.into_iter().map(complete).collect()
    }

    /// Clients that are connected to this process.
    async fn client_count(&self) -> u64 {
        let shards = self.shards().await;
        shards
            .iter()
            .filter(|shard| shard.service == roles::GATEWAY)
            .map(|shard| shard.clients)
            .sum()
    }

    async fn process(&self) -> Process {
        let link = |peer: &RegisterPeer| RegisterLink {
            service: peer.service.to_owned(),
            address: peer.address.clone(),
            connected: peer.connected.load(Ordering::Relaxed),
        };
        Process {
            pid: std::process::id(),
            role: self.role.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_secs: self.started_unix_secs,
            memory_bytes: memory_bytes(),
            memory_at_start_bytes: self.memory_at_start_bytes,
            registers: self.registers.iter().map(link).collect(),
            shards: self.shards().await,
            device: self.device_counts(),
        }
    }

    /// What the device of a data path past the kernel counted.
    fn device_counts(&self) -> BTreeMap<String, u64> {
        let devices = self.services.iter().filter_map(|service| service.device.as_ref());
        let counts = |device: &Mutex<roles::Device>| {
            device.lock().unwrap_or_else(PoisonError::into_inner).counts()
        };
        devices.flat_map(counts).map(|(name, count)| (name.to_owned(), count)).collect()
    }

    async fn connections(&self) -> Connections {
        let mut all = Connections { pid: std::process::id(), connections: Vec::new(), left_out: 0 };
        for (service, index, (listed, left_out)) in
            self.ask_all(Command::Connections, Default::default).await
        {
            all.left_out += left_out;
            all.connections.extend(listed.into_iter().map(|mut connection| {
                connection.service = service.name.to_owned();
                connection.shard = index;
                connection
            }));
        }
        all
    }
}

impl Answers for Arc<Shared> {
    async fn answer(&self, question: Question) -> String {
        let answer = match question {
            Question::Status => serde_json::to_string(&self.process().await),
            Question::Connections => serde_json::to_string(&self.connections().await),
        };
        answer.expect(
            "maps have text keys and numbers are finite, so that JSON can hold every answer",
        )
    }
}

/// The signals that end a process.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Resident memory of this process, 0 when the kernel does not tell.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}
