//! Starting the shard threads, and learning how they end.

use core::any::Any;
use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, mpsc};
use std::thread;

use tengate_base::{ConnId, Door, Instant, ShardId};
use tengate_netstack::{ConfigError, Stack};

use crate::affinity::allowed_cores;
use crate::bypass::{Bypass, Seat, Steering, Unfinished};
use crate::clock::Clock;
use crate::idle::{Idle, IdleConfig};
use crate::limits::SOCKETS_MAX;
use crate::listen::{Dealer, Listener, Sharing};
use crate::mailbox::{Mailbox, ShardHandle};
use crate::mesh::{Mesh, Waker};
use crate::net::{Accepting, Net, Token};
use crate::shard::{Host, OpenListener, Poll, Shard};
use crate::streams::Streams;
use crate::sys::{self, Epoll};

/// How many shards, and how they use the machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads, each with its own connections; at least 1.
    pub shard_count: u16,
    /// Whether each keeps to a core.
    pub pinning: Pinning,
    /// Connections a shard holds at most; more are accepted and closed at once.
    pub connections_max: u32,
    /// Whether shards leave new connections in the kernel's backlog until [`Net::resume_accepting`].
    pub starts_paused: bool,
}

/// Which cores the shards run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Wherever the kernel puts them.
    Off,
    /// Shard `i` on the core at `i`, around the list.
    Cores(Vec<usize>),
}

impl Config {
    /// The best for `shard_count` shards on the cores this process may use: pinned when there is a core for each.
    pub fn for_shards(shard_count: u16) -> Self {
        let cores = allowed_cores().unwrap_or_default();
        let has_core_each = usize::from(shard_count) <= cores.len();
        Self {
            shard_count,
            pinning: if has_core_each { Pinning::Cores(cores) } else { Pinning::Off },
            connections_max: u32::MAX >> 2,
            starts_paused: false,
        }
    }
}

impl Default for Config {
    /// A shard for each core this process may use.
    fn default() -> Self {
        let core_count = allowed_cores().map_or(1, |cores| cores.len().max(1));
        Self::for_shards(u16::try_from(core_count).unwrap_or(u16::MAX))
    }
}

/// The shards could not be started. Nothing is running then.
#[derive(Debug)]
pub enum StartError {
    /// `shard_count` is 0.
    NoShards,
    /// A core of [`Pinning::Cores`] that this process may not use, or an empty list.
    Core(Option<usize>),
    /// A per-shard listener was bound for another number of shards.
    ListenerShards(Door),
    /// A data path past the kernel has a queue for more or fewer shards than there are.
    Seats {
        /// Queues given.
        seats: usize,
        /// Shards.
        shards: usize,
    },
    /// The configuration of the TCP/IP stack.
    Stack(ConfigError),
    /// The kernel gave no thread, epoll or event counter.
    Kernel(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShards => f.write_str("at least one shard is needed"),
            Self::Core(None) => f.write_str("the list of cores to pin shards to is empty"),
            Self::Core(Some(core)) => write!(f, "core {core} is not one this process may use"),
            Self::ListenerShards(door) => {
                write!(f, "listener {} was opened for another number of shards", door.0)
            }
            Self::Seats { seats, shards } => {
                write!(f, "{shards} shards need as many queues; {seats} were opened")
            }
            Self::Stack(error) => error.fmt(f),
            Self::Kernel(error) => write!(f, "cannot start the shards: {error}"),
        }
    }
}

impl core::error::Error for StartError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Kernel(error) => Some(error),
            Self::Stack(error) => Some(error),
            Self::NoShards | Self::Core(_) | Self::ListenerShards(_) | Self::Seats { .. } => None,
        }
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Stack(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

/// How a shard ended.
#[derive(Debug)]
pub struct ShardExit {
    /// Which.
    pub shard: ShardId,
    /// `Ok` after a stop, else what went wrong: a panic's message, or epoll's failure.
    pub result: Result<(), String>,
}

/// Shards that run. Dropping it leaves them running.
#[derive(Debug)]
pub struct Running<C> {
    handles: Vec<ShardHandle<C>>,
    threads: Vec<thread::JoinHandle<()>>,
    exits: mpsc::Receiver<ShardExit>,
}

impl<C> Running<C> {
    /// A handle for each shard, by number.
    pub fn handles(&self) -> &[ShardHandle<C>] {
        &self.handles
    }

    /// Blocks until a shard ends, and says how; `None` when all have ended. The other shards go on: whether they
    /// should is the caller's decision.
    pub fn wait(&mut self) -> Option<ShardExit> {
        self.exits.recv().ok()
    }

    /// Blocks until every shard has ended. When one fails the others are stopped, with `grace`.
    ///
    /// # Errors
    /// The first shard that failed.
    pub fn join(mut self, grace: Duration) -> Result<(), ShardExit> {
        let mut first_failure = None;
        while let Some(exit) = self.wait() {
            if exit.result.is_err() && first_failure.is_none() {
                self.handles.iter().for_each(|handle| handle.stop(grace));
                first_failure = Some(exit);
            }
        }
        for thread in self.threads {
            // A panic was caught in the thread and has been reported as its exit.
            let _reported = thread.join();
        }
        first_failure.map_or(Ok(()), Err)
    }
}

/// Starts the shards. `make_app` is called once in each shard's thread, so that an app's memory is near its core.
/// A [`Door`] is a listener's place: those past the kernel come first, then those in `listeners`.
///
/// # Errors
/// See [`StartError`]; no thread is left running.
pub fn run<A: Host>(
    config: &Config,
    listeners: Vec<Listener>,
    bypass: Option<Bypass>,
    make_app: impl Fn(ShardId) -> A + Send + Sync + 'static,
) -> Result<Running<A::Command>, StartError> {
    let cores = check_cores(config)?;
    let first_door = bypass.as_ref().map_or(0, |bypass| bypass.listening.len());
    let clock = Clock::start();
    let wakers = (0..config.shard_count)
        .map(|_| Waker::new().map(Arc::new))
        .collect::<io::Result<Vec<_>>>()?;
    let mailboxes: Arc<[Arc<Mailbox<A::Command>>]> = (0..config.shard_count)
        .zip(&wakers)
        .map(|(shard, waker)| Arc::new(Mailbox::new(ShardId(shard), Arc::clone(waker))))
        .collect();
    let mut doors = deal(listeners, first_door, config.shard_count)?;
    let ways = divide(bypass, config, &wakers, clock.now())?;
    let mut parts = Vec::new();
    for (shard, mesh) in (0..config.shard_count).zip(Mesh::connect(&wakers)) {
        let shard_index = usize::from(shard);
        let epoll = Epoll::new()?;
        // Edge-triggered, so that the counter never has to be read.
        epoll.add(
            wakers[shard_index].counter(),
            sys::READABLE | sys::EDGES,
            Token::Wake.encode(),
        )?;
        for (position, listener) in (0..).zip(&doors[shard_index]) {
            epoll.add(&listener.socket, sys::READABLE, Token::Listener(position).encode())?;
        }
        parts.push((ShardId(shard), epoll, mesh));
    }
    let is_crowded = usize::from(config.shard_count) >= allowed_cores()?.len();
    let make_app = Arc::new(make_app);
    let (exit_sender, exits) = mpsc::channel();
    let handles: Vec<_> =
        mailboxes.iter().map(|mailbox| ShardHandle::new(Arc::clone(mailbox))).collect();
    let mut running = Running { handles, threads: Vec::new(), exits };
    let Config { connections_max, starts_paused, .. } = *config;
    for (index, (((shard, epoll, mesh), listeners), way)) in
        parts.into_iter().zip(doors.drain(..)).zip(ways).enumerate()
    {
        let (make_app, mailboxes) = (Arc::clone(&make_app), Arc::clone(&mailboxes));
        let core = cores.get(index % cores.len().max(1)).copied();
        let exit =
            ExitReport { mailbox: Arc::clone(&mailboxes[index]), sender: exit_sender.clone() };
        let spawned = thread::Builder::new().name(format!("tengate-{index}")).spawn(move || {
            exit.report(|| {
                if let Some(core) = core {
                    sys::pin(core)?;
                }
                let mut net = Net::new(shard, epoll, mesh, connections_max, clock.now());
                if starts_paused {
                    net.pause_accepting();
                }
                let mut shard = Shard::new(make_app(shard), net, clock, mailboxes, is_crowded);
                shard.listeners = listeners;
                if let Some(way) = way {
                    way.open(&mut shard)?;
                }
                shard.run()
            });
        });
        match spawned {
            Ok(thread) => running.threads.push(thread),
            Err(error) => {
                // Dropping the closure ended this shard and those not started; the others are told.
                drop(exit_sender);
                running.handles.iter().for_each(|handle| handle.stop(Duration::ZERO));
                let _kernel_error_is_the_cause = running.join(Duration::ZERO);
                return Err(error.into());
            }
        }
    }
    Ok(running)
}

/// A shard's part of a data path past the kernel, on its way to the shard's thread.
struct Way {
    seat: Seat,
    steering: Steering,
    stack: tengate_netstack::Config,
    listening: Vec<(u16, Door)>,
    idle: IdleConfig,
    connections_max: u32,
    unfinished: Unfinished,
}

impl Way {
    /// Takes the queue and makes the stack, in the shard's thread.
    fn open<A: Host>(self, shard: &mut Shard<A>) -> io::Result<()> {
        let (queue, burst) = self.seat.claim()?;
        if let Some(fd) = queue.as_fd() {
            shard.net.epoll.add(fd, sys::READABLE, Token::Queue.encode())?;
        }
        let first = ConnId(SOCKETS_MAX);
        let now = shard.clock.now();
        let streams =
            Streams::new(self.stack, self.listening, queue, first, self.connections_max, now);
        shard.net.streams = Some(Box::new(streams.map_err(io::Error::other)?));
        if shard.net.accepting == Accepting::Paused {
            shard.net.pause_accepting();
        }
        let idle = Idle::new(self.idle);
        shard.poll = Some(Poll::new(burst, self.steering, idle, self.unfinished));
        Ok(())
    }
}

/// Gives each shard its part of a data path past the kernel.
fn divide(
    bypass: Option<Bypass>,
    config: &Config,
    wakers: &[Arc<Waker>],
    now: Instant,
) -> Result<Vec<Option<Way>>, StartError> {
    let Some(bypass) = bypass else { return Ok(wakers.iter().map(|_| None).collect()) };
    let Bypass { seats, stack, listening, steers, idle } = bypass;
    if seats.len() != wakers.len() {
        return Err(StartError::Seats { seats: seats.len(), shards: wakers.len() });
    }
    // What is wrong with it is found here and not in every thread.
    Stack::new(stack.clone(), now)?;
    let listening: Vec<_> = listening.into_iter().zip((0..).map(Door)).collect();
    let meshes = Mesh::connect(wakers);
    let shares = Unfinished::shares(wakers.len());
    let parts = seats.into_iter().zip(meshes).zip(shares).zip((0..).map(ShardId));
    let ways = parts.map(|(((seat, mesh), unfinished), shard)| {
        Some(Way {
            seat,
            steering: Steering::new(mesh, shard, steers),
            stack: stack.clone(),
            listening: listening.clone(),
            idle,
            connections_max: config.connections_max,
            unfinished,
        })
    });
    Ok(ways.collect())
}

/// The cores to pin to, empty for none.
fn check_cores(config: &Config) -> Result<Vec<usize>, StartError> {
    if config.shard_count == 0 {
        return Err(StartError::NoShards);
    }
    let Pinning::Cores(cores) = &config.pinning else { return Ok(Vec::new()) };
    if cores.is_empty() {
        return Err(StartError::Core(None));
    }
    let allowed = allowed_cores()?;
    match cores.iter().find(|core| !allowed.contains(core)) {
        Some(&core) => Err(StartError::Core(Some(core))),
        None => Ok(cores.clone()),
    }
}

/// Gives each shard its sockets.
fn deal(
    listeners: Vec<Listener>,
    first_door: usize,
    shard_count: u16,
) -> Result<Vec<Vec<OpenListener>>, StartError> {
    let mut doors: Vec<Vec<OpenListener>> = (0..shard_count).map(|_| Vec::new()).collect();
    for (door, listener) in (0..).map(Door).skip(first_door).zip(listeners) {
        let Listener { sockets, sharing, addr } = listener;
        if sharing == Sharing::PerShard && sockets.len() != usize::from(shard_count) {
            return Err(StartError::ListenerShards(door));
        }
        for (shard, socket) in doors.iter_mut().zip(sockets) {
            shard.push(OpenListener {
                door,
                socket,
                port: addr.port(),
                sharing,
                is_armed: true,
                dealer: Dealer::default(),
            });
        }
    }
    Ok(doors)
}

/// Reports a shard's end, however it comes.
struct ExitReport<C> {
    mailbox: Arc<Mailbox<C>>,
    sender: mpsc::Sender<ShardExit>,
}

impl<C> ExitReport<C> {
    /// Runs a shard to its end. Nothing of a shard that panicked is used again, so that it does not matter how it is left.
    fn report(self, shard: impl FnOnce() -> io::Result<()>) {
        let result = match catch_unwind(AssertUnwindSafe(shard)) {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(panic_message(&*panic)),
        };
        self.mailbox.end();
        // Nobody may want to know any more.
        let _unheard = self.sender.send(ShardExit { shard: self.mailbox.shard(), result });
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}
