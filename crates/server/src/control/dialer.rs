//! A dispatcher's links to gateways: made when a register names one, made again when one ends, and reported.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::TcpStream as StdTcpStream;

use tengate_io::ShardHandle;
use tengate_proto::dispatcher::{DIALED, Notice};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::SHARD_ANSWER_TIMEOUT;
use super::register_link::{News, Order};
use crate::shard::{Command, DispatcherLinks};

/// How often the shard is asked which links it has.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a gateway may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps a dispatcher linked, until it is dropped.
#[derive(Debug)]
pub(super) struct Dialer {
    shard: ShardHandle<Command>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    /// What each register named last, by its place in the configured order. A register that is gone disturbs no link.
    named: Vec<Vec<String>>,
    /// Gateways that are being connected to.
    dialing: BTreeSet<SocketAddr>,
    /// Gateways that could not be reached, and addresses that are none: each is logged once.
    unreachable: BTreeSet<String>,
}

/// What came of a connect.
type Dialed = (SocketAddr, Result<StdTcpStream, String>);

impl Dialer {
    pub(super) fn new(
        shard: ShardHandle<Command>,
        orders: Vec<mpsc::UnboundedSender<Order>>,
    ) -> Self {
        let named = orders.iter().map(|_| Vec::new()).collect();
        Self { shard, orders, named, dialing: BTreeSet::new(), unreachable: BTreeSet::new() }
    }

    pub(super) async fn keep(mut self, mut news: mpsc::UnboundedReceiver<(usize, News)>) {
        let mut dials = JoinSet::new();
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Some((index, news)) = news.recv() => {
                    let News::Gateways(addresses) = news else { continue };
                    self.named[index] = addresses;
                }
                Some(Ok(dialed)) = dials.join_next() => {
                    self.hand_over(dialed);
                    continue;
                }
            }
            self.look(&mut dials).await;
        }
    }

    /// Compares what is linked with what should be.
    async fn look(&mut self, dials: &mut JoinSet<Dialed>) {
        let Some(links) = ask(&self.shard).await else { return };
        for orders in &self.orders {
            let _ended = orders.send(Order::Report(links.reported.clone()));
        }
        let named: BTreeSet<&String> = self.named.iter().flatten().collect();
        self.unreachable.retain(|address| named.contains(address));
        for address in named {
            let Ok(gateway) = address.parse::<SocketAddr>() else {
                if self.unreachable.insert(address.clone()) {
                    warn!(gateway = address, "the register names a gateway whose address is none");
                }
                continue;
            };
            if !links.dialed.contains(&gateway) && self.dialing.insert(gateway) {
                dials.spawn(async move { (gateway, dial(gateway).await) });
            }
        }
    }

    fn hand_over(&mut self, (gateway, stream): Dialed) {
        self.dialing.remove(&gateway);
        let adopted = stream
            .and_then(|stream| self.shard.adopt(stream, DIALED).map_err(|error| error.to_string()));
        match adopted {
            Ok(()) => _ = self.unreachable.remove(&gateway.to_string()),
            Err(error) if self.unreachable.insert(gateway.to_string()) => {
                warn!(%gateway, error, "the gateway cannot be reached; trying again every second");
            }
            Err(_) => {}
        }
    }
}

/// What the dispatcher's shard is linked to; `None` when it does not answer in time. What it has noticed is logged.
pub(super) async fn ask(shard: &ShardHandle<Command>) -> Option<DispatcherLinks> {
    let (sender, answer) = oneshot::channel();
    shard.command(Command::Links(sender)).ok()?;
    let links = timeout(SHARD_ANSWER_TIMEOUT, answer).await.ok()?.ok()?;
    links.notices.iter().for_each(log);
    Some(links)
}

fn log(notice: &Notice) {
    if notice.is_warning() {
        warn!("{notice}");
    } else {
        info!("{notice}");
    }
}

async fn dial(gateway: SocketAddr) -> Result<StdTcpStream, String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(gateway)).await {
        Ok(Ok(stream)) => stream.into_std().map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}
