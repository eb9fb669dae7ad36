//! One connection to one register: moves the bytes of a `RegisterClient`, and hands on what it is told.

use core::future::pending;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use tengate_base::Instant;
use tengate_io::Clock;
use tengate_proto::register::{RegisterClient, RegisterClientConfig, RegisterClientOutput};
use tengate_proto::wire::register::Links;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// What a register has to say to the role it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// To a dispatched gateway: these proc_ids are its own.
    Lease { first_proc_id: u16, shards: u16 },
    /// To a dispatched gateway: it gets none, and why.
    Refused(String),
    /// To a dispatched gateway: the register has no proc_ids to give.
    NoLease,
    /// To a dispatched gateway: this dispatcher is to be its home.
    Home(Option<String>),
    /// To a dispatcher: these gateways are to be linked.
    Gateways(Vec<String>),
    /// The connection is gone; what the register said before may not be so any more.
    Lost,
}

/// What is to be told to a register.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// This gateway holds a lease that begins so.
    Claim(u16),
    /// This dispatcher's links.
    Report(Links),
}

/// The connection's other end, for the role that it is made for.
#[derive(Debug)]
pub(super) struct Line {
    /// The register's place in the configured order.
    pub(super) register_index: usize,
    pub(super) news: mpsc::UnboundedSender<(usize, News)>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    /// Follows the connection.
    pub(super) connected: Arc<AtomicBool>,
}

/// Stays connected until it is dropped.
pub(super) async fn follow(config: RegisterClientConfig, clock: Clock, mut line: Line) {
    let register = config.register.to_string();
    let mut client = RegisterClient::new(config);
    let mut stream: Option<TcpStream> = None;
    // One line when it is lost, not one for every attempt.
    let mut lost_is_known = false;
    loop {
        while let Some(output) = client.poll_output() {
            if let Err(error) =
                obey(output, &register, clock, &mut client, &mut stream, &line).await
            {
                stream = None;
                client.handle_closed(clock.now());
                if !lost_is_known {
                    warn!(register, %error, "the register cannot be reached; trying again every second");
                    lost_is_known = true;
                }
            }
        }
        let is_connected = client.is_connected();
        let was_connected = line.connected.swap(is_connected, Ordering::Relaxed);
        if is_connected && !was_connected {
            info!(register, "announced to the register");
            lost_is_known = false;
        }
        if !is_connected && was_connected {
            line.tell(News::Lost);
            if !lost_is_known {
                warn!(register, "the register closed the connection; connecting again");
                lost_is_known = true;
            }
        }
        let deadline = client.poll_timeout();
        let mut bytes = [0; 4096];
        tokio::select! {
            read = read(&mut stream, &mut bytes) => match read {
                Some(count) => client.handle_bytes(clock.now(), &bytes[..count]),
                None => {
                    stream = None;
                    client.handle_closed(clock.now());
                }
            },
            // A role that orders nothing has dropped its end.
            Some(order) = line.orders.recv() => match order {
                Order::Claim(first_proc_id) => client.set_claim(first_proc_id),
                Order::Report(links) => client.report(clock.now(), &links),
            },
            () = sleep_until(clock, deadline) => client.handle_timeout(clock.now()),
        }
    }
}

/// Does one thing the client wants done. An error ends the connection.
async fn obey(
    output: RegisterClientOutput,
    register: &str,
    clock: Clock,
    client: &mut RegisterClient,
    stream: &mut Option<TcpStream>,
    line: &Line,
) -> std::io::Result<()> {
    match output {
        RegisterClientOutput::Connect => {
            *stream = Some(TcpStream::connect(register).await?);
            client.handle_connected(clock.now());
        }
        RegisterClientOutput::Transmit(bytes) => {
            if let Some(stream) = stream {
                stream.write_all(&bytes).await?;
            }
        }
        RegisterClientOutput::Close => *stream = None,
        RegisterClientOutput::Lease { first_proc_id, shards } => {
            line.tell(News::Lease { first_proc_id, shards });
        }
        RegisterClientOutput::Refused(reason) => line.tell(News::Refused(reason)),
        RegisterClientOutput::NoLease => line.tell(News::NoLease),
        RegisterClientOutput::Home(address) => line.tell(News::Home(address)),
        RegisterClientOutput::Gateways(addresses) => line.tell(News::Gateways(addresses)),
        // Only workers are told addresses.
        RegisterClientOutput::Addresses(_) => {}
        RegisterClientOutput::BadLine(error) => debug!(register, %error, "the line is ignored"),
    }
    Ok(())
}

impl Line {
    fn tell(&self, news: News) {
        // A gateway in direct mode does not listen.
        let _unheard = self.news.send((self.register_index, news));
    }
}

/// Bytes read, or `None` at the end of the connection. Waits for ever when there is none.
async fn read(stream: &mut Option<TcpStream>, bytes: &mut [u8]) -> Option<usize> {
    match stream {
        Some(stream) => stream.read(bytes).await.ok().filter(|&count| count > 0),
        None => pending().await,
    }
}

async fn sleep_until(clock: Clock, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_since(clock.now())).await,
        None => pending().await,
    }
}
