//! The worker: follows the registers, keeps a link to every gateway, and runs business code on what comes.

mod lane;

use core::error::Error;
use core::fmt;
use core::future::{Future, pending};
use core::net::SocketAddrV4;
use core::time::Duration;
use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;

use tengate_proto::secret::SecretKey;
use tengate_proto::wire::extension::{Extension, Offer, VERSION, Welcome};
use tengate_proto::wire::header::InnerFrame;
use tengate_proto::worker::{Event, encode_worker_connect_with_offer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use self::lane::{Lanes, Received};
use crate::events::{EventResult, Events, Worker};
use crate::gateway::{Gateway, Links};
use crate::link::{FrameReader, ReadError, SendQueue};
use crate::query::{Timeouts, connect};
use crate::register::{self, Notice, RECONNECT_DELAY};

/// One worker or several, ready to run: GatewayWorker's BusinessWorker.
#[derive(Clone, Debug)]
pub struct BusinessWorker {
    settings: Settings,
}

/// Settings of a [`BusinessWorker`]; see [`BusinessWorker::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    name: String,
    id: u32,
    count: u32,
    registers: Vec<String>,
    secret_key: SecretKey,
    send_queue_bytes_max: usize,
    tasks_per_link: usize,
    delivery: Delivery,
    timeouts: Timeouts,
}

/// What becomes of events that a worker was sent and has not handled when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// They are lost, as with PHP's workers.
    AtMostOnce,
    /// Dispatchers keep each event until this worker has handled it, and give it to another one if that does not come
    /// about: not even `kill -9` of a worker loses a client's message. An event may come twice: the worker had handled it,
    /// and was gone before it could say so. Gateways that workers link to directly, tengate's and PHP's, keep nothing;
    /// there it is as with [`AtMostOnce`](Self::AtMostOnce).
    AtLeastOnce,
}

/// Why workers cannot start; the caller's settings are at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No register was named.
    NoRegister,
    /// The count of workers, or of tasks for each link, is 0, or ids would exceed `u32`.
    Count,
}

impl BusinessWorker {
    /// Settings, to begin with: name `BusinessWorker`, one worker with id 0, no register, no secret key.
    pub fn builder() -> Builder {
        Builder {
            settings: Settings {
                name: String::from("BusinessWorker"),
                id: 0,
                count: 1,
                registers: Vec::new(),
                secret_key: SecretKey::default(),
                send_queue_bytes_max: SEND_QUEUE_BYTES_MAX,
                tasks_per_link: 1,
                delivery: Delivery::AtMostOnce,
                timeouts: Timeouts::DEFAULT,
            },
        }
    }

    /// Runs until the future is dropped.
    ///
    /// # Panics
    /// When [`Events::on_worker_start`] or [`Events::on_worker_stop`] does.
    pub async fn run(self, events: impl Events) {
        self.run_until(events, pending()).await;
    }

    /// Runs until `stop` is ready. Then no more events are taken, [`Events::on_worker_stop`] is called, handlers that run are
    /// awaited, and what is queued for gateways is written, acknowledgements included, for 5 seconds at most.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub async fn run_until(self, events: impl Events, stop: impl Future<Output = ()>) {
        let events = Arc::new(events);
        let (stop_sender, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for id in self.settings.id..self.settings.id + self.settings.count {
            workers.spawn(run_one(self.settings.clone(), id, events.clone(), stopped.clone()));
        }
        tokio::select! {
            () = stop => {}
            Some(ended) = workers.join_next() => pass_on_panic(ended),
        }
        stop_sender.send_replace(true);
        workers.join_all().await;
    }
}

impl Builder {
    /// The name that gateways know these workers by. Workers of one name on one machine need different ids.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// The id of the first worker.
    pub fn id(mut self, id: u32) -> Self {
        self.settings.id = id;
        self
    }

    /// How many workers to run, with ids one after the other. Each has its own links, and gets its share of the clients.
    pub fn count(mut self, count: u32) -> Self {
        self.settings.count = count;
        self
    }

    /// A register's address, `host:port`. Call it once for each register of the cluster.
    pub fn register(mut self, address: impl Into<String>) -> Self {
        self.settings.registers.push(address.into());
        self
    }

    /// The key that the registers and gateways of the cluster share.
    pub fn secret_key(mut self, secret_key: impl Into<String>) -> Self {
        self.settings.secret_key = SecretKey::new(secret_key.into());
        self
    }

    /// Bytes that may wait for one gateway before calls fail with
    /// [`QueueFull`](crate::GatewayFault::QueueFull). 10 MiB by default.
    pub fn send_queue_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.send_queue_bytes_max = bytes;
        self
    }

    /// How many tasks handle the events of one link. With 1, the default, a link's events are handled one after the other,
    /// as in PHP. With more, clients are spread over the tasks by connection id: order holds for each client only.
    pub fn tasks_per_link(mut self, tasks: usize) -> Self {
        self.settings.tasks_per_link = tasks;
        self
    }

    /// What becomes of events when a worker is gone: [`AtMostOnce`](Delivery::AtMostOnce) by default.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.settings.delivery = delivery;
        self
    }

    /// How long connecting and answering may take: 3 s and 5 s by default, as in Lib\Gateway.php.
    pub fn timeouts(mut self, connect: Duration, reply: Duration) -> Self {
        self.settings.timeouts = Timeouts { connect, reply };
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// A setting makes no sense.
    pub fn build(self) -> Result<BusinessWorker, StartError> {
        let Settings { registers, id, count, tasks_per_link, .. } = &self.settings;
        if registers.is_empty() {
            return Err(StartError::NoRegister);
        }
        if *count == 0 || *tasks_per_link == 0 || id.checked_add(*count).is_none() {
            return Err(StartError::Count);
        }
        Ok(BusinessWorker { settings: self.settings })
    }

    /// Builds and [runs](BusinessWorker::run).
    ///
    /// # Errors
    /// A setting makes no sense.
    pub async fn run(self, events: impl Events) -> Result<(), StartError> {
        self.build()?.run(events).await;
        Ok(())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRegister => "no register was named",
            Self::Count => "the counts of workers and of tasks must be at least 1",
        })
    }
}

impl Error for StartError {}

/// One worker: everything that its links share.
#[derive(Debug)]
struct Shared<E> {
    settings: Settings,
    worker: Worker,
    links: Arc<Links>,
    events: Arc<E>,
    stage: watch::Receiver<Stage>,
}

/// How far the life of a worker has come, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It has links and takes events.
    Running,
    /// It takes no more events. Handlers that run go on, and calls can be made.
    Stopping,
    /// Links write what is queued, and end.
    Closing,
}

async fn run_one<E: Events>(
    settings: Settings,
    id: u32,
    events: Arc<E>,
    mut stopped: watch::Receiver<bool>,
) {
    let links = Arc::new(Links::default());
    let gateway = Gateway::linked(links.clone(), settings.secret_key.clone(), settings.timeouts);
    let worker = Worker { name: settings.name.clone(), id, gateway };
    let (stage_sender, stage) = watch::channel(Stage::Running);
    let shared = Arc::new(Shared { settings, worker, links, events, stage });
    note(shared.events.on_worker_start(&shared.worker).await, "on_worker_start failed");

    let (notices_in, notices) = mpsc::channel(NOTICES_WAITING_MAX);
    let mut registers = JoinSet::new();
    for (index, register) in shared.settings.registers.iter().cloned().enumerate() {
        registers.spawn(register::follow(
            index,
            register,
            shared.settings.secret_key.clone(),
            notices_in.clone(),
        ));
    }
    let mut links = JoinSet::new();
    tokio::select! {
        () = keep_links(&shared, notices, &mut links) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    stage_sender.send_replace(Stage::Stopping);
    note(shared.events.on_worker_stop(&shared.worker).await, "on_worker_stop failed");
    stage_sender.send_replace(Stage::Closing);
    // Links end by themselves now, each after its running handlers and its queue.
    if timeout(STOP_TIMEOUT, links.join_all()).await.is_err() {
        warn!(
            worker = id,
            "gateways or handlers took too long to stop; what they still had is lost"
        );
    }
}

/// Starts a link for every gateway that is announced and has none.
async fn keep_links<E: Events>(
    shared: &Arc<Shared<E>>,
    mut notices: mpsc::Receiver<Notice>,
    links: &mut JoinSet<()>,
) {
    let mut lists = Announcements::new(shared.settings.registers.len());
    while let Some(notice) = notices.recv().await {
        // Links that have ended are of no more interest; those that panicked have told so themselves.
        while links.try_join_next().is_some() {}
        let mut state = shared.links.state();
        state.announced = lists.handle(notice);
        for gateway in state.announced.clone() {
            state.kept.entry(gateway).or_insert_with(|| {
                links.spawn(keep_link(shared.clone(), gateway));
                None
            });
        }
    }
}

/// Which gateways there are, from what several registers said.
///
/// Every gateway tells every register, so one register would do; a gateway counts while any connected register names it.
/// When no register is connected, what was known last stays true.
#[derive(Debug)]
struct Announcements {
    lists: Vec<Option<BTreeSet<SocketAddrV4>>>,
    known: BTreeSet<SocketAddrV4>,
}

impl Announcements {
    fn new(register_count: usize) -> Self {
        Self { lists: vec![None; register_count], known: BTreeSet::new() }
    }

    fn handle(&mut self, notice: Notice) -> BTreeSet<SocketAddrV4> {
        match notice {
            Notice::Announced(register, gateways) => self.lists[register] = Some(gateways),
            Notice::Lost(register) => self.lists[register] = None,
        }
        if self.lists.iter().any(Option::is_some) {
            self.known = self.lists.iter().flatten().flatten().copied().collect();
        }
        self.known.clone()
    }
}

/// Keeps a link to one gateway while it is announced: connects again a second after each end.
async fn keep_link<E: Events>(shared: Arc<Shared<E>>, gateway: SocketAddrV4) {
    let mut stage = shared.stage.clone();
    loop {
        // A task of its own, so that a panic ends this link and not the keeping of it.
        let mut linking = JoinSet::new();
        linking.spawn(link_once(shared.clone(), gateway));
        let ended = linking.join_next().await;
        if let Some(Err(_)) = ended {
            warn!(%gateway, "the link's task panicked; the link is made again");
        }
        if let Some(queue) = shared.links.state().kept.get_mut(&gateway) {
            *queue = None;
        }
        tokio::select! {
            biased;
            () = past(&mut stage, Stage::Running) => return,
            () = tokio::time::sleep(RECONNECT_DELAY) => {}
        }
        let mut state = shared.links.state();
        if !state.announced.contains(&gateway) {
            info!(%gateway, "gateway is gone");
            state.kept.remove(&gateway);
            return;
        }
    }
}

async fn link_once<E: Events>(shared: Arc<Shared<E>>, gateway: SocketAddrV4) {
    let mut stage = shared.stage.clone();
    let connected = tokio::select! {
        // A worker that stops opens no link that clients would be bound to.
        biased;
        () = past(&mut stage, Stage::Running) => return,
        connected = connect(gateway, shared.settings.timeouts.connect) => connected,
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(fault) => {
            warn!(%gateway, %fault, "no link to the gateway");
            return;
        }
    };
    match serve_link(&shared, gateway, stream).await {
        Ok(()) => info!(%gateway, "link closed"),
        Err(error) => warn!(%gateway, %error, "link lost"),
    }
}

/// One link from its greeting to its end: `Ok` when this worker stops.
async fn serve_link<E: Events>(
    shared: &Arc<Shared<E>>,
    gateway: SocketAddrV4,
    stream: impl AsyncRead + AsyncWrite,
) -> Result<(), ReadError> {
    let (reader, mut writer) = tokio::io::split(stream);
    writer.write_all(&greeting(shared)).await.map_err(ReadError::Io)?;

    let queue = Arc::new(SendQueue::new(shared.settings.send_queue_bytes_max));
    shared.links.state().handle_linked(gateway, queue.clone());
    info!(%gateway, name = shared.worker.name, id = shared.worker.id, "linked");
    let mut stage = shared.stage.clone();
    let mut frames = FrameReader::new(reader, gateway);
    let reading = async {
        read_events(shared, gateway, &mut frames, &queue).await?;
        past(&mut stage, Stage::Stopping).await;
        queue.close();
        Ok(())
    };
    let writing = async { queue.write_to(writer).await.map_err(ReadError::Io) };
    let end = tokio::try_join!(reading, writing);
    queue.close();
    end?;
    frames.drain().await;
    Ok(())
}

/// What opens a link. The offer costs PHP's gateways nothing, which pass over it, and lets tengate's roles say what they are
/// and whose clients have IPv6 addresses, without anyone having to configure in a worker what cluster it is in.
fn greeting<E>(shared: &Shared<E>) -> Vec<u8> {
    let worker_key = format!("{}:{}", shared.worker.name, shared.worker.id);
    let ack = shared.settings.delivery == Delivery::AtLeastOnce;
    let offer = Offer { version: VERSION, ack, ipv6: true, dispatcher: None };
    let mut greeting = Vec::new();
    encode_worker_connect_with_offer(
        &worker_key,
        &shared.settings.secret_key,
        offer,
        &mut greeting,
    );
    greeting
}

/// Hands events to the lanes until the link ends or the worker stops, then waits for running handlers.
async fn read_events<E: Events>(
    shared: &Arc<Shared<E>>,
    gateway: SocketAddrV4,
    frames: &mut FrameReader<impl AsyncRead + Unpin>,
    queue: &Arc<SendQueue>,
) -> Result<(), ReadError> {
    let mut lanes = Lanes::new(shared, queue);
    let mut stage = shared.stage.clone();
    let end = loop {
        let next = async {
            queue.room_for_events().await;
            frames.next().await
        };
        let frame = tokio::select! {
            biased;
            () = past(&mut stage, Stage::Running) => break Ok(()),
            () = lanes.broken() => continue,
            frame = next => frame,
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => break Err(error),
        };
        let Ok(Some((decoded, _))) = InnerFrame::decode(&frame, frame.len()) else { continue };
        if decoded.header.command == Extension::Welcome as u8 {
            match Welcome::decode(decoded.body) {
                Ok(welcome) => handle_welcome(shared, gateway, queue, &welcome),
                Err(error) => break Err(ReadError::Welcome(error)),
            }
        } else if Event::from_frame(&decoded).is_some() {
            let connection_id = decoded.header.connection_id;
            let receipt = queue.event_received();
            lanes.handle(connection_id, Received { frame, receipt }).await;
        }
    };
    lanes.finish().await;
    end
}

/// The peer of a link says what it is. It does so before its first event.
fn handle_welcome<E>(
    shared: &Shared<E>,
    gateway: SocketAddrV4,
    queue: &SendQueue,
    welcome: &Welcome,
) {
    if welcome.ack && shared.settings.delivery == Delivery::AtLeastOnce {
        queue.acknowledge_events();
    }
    if welcome.dispatcher.is_some() {
        shared.links.state().handle_dispatcher(gateway);
    }
}

/// Waits until the worker's life is past `stage`, or nobody runs it any more.
async fn past(now: &mut watch::Receiver<Stage>, stage: Stage) {
    let _ = now.wait_for(|now| *now > stage).await;
}

/// Goes on with the panic of business code in a task of ours, as if it had been called here.
fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
        resume_unwind(panic);
    }
}

fn note(result: EventResult, what: &str) {
    if let Err(error) = result {
        warn!(%error, "{what}");
    }
}

/// Bytes that may wait for one gateway: PHP's `sendToGatewayBufferSize`, in round binary numbers.
const SEND_QUEUE_BYTES_MAX: usize = 10 << 20;

/// Changes of the list of gateways that may wait; registers wait after that.
const NOTICES_WAITING_MAX: usize = 16;

/// How long handlers and gateways may take when the worker stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
