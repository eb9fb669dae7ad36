//! A gateway in dispatched mode: its registers give it a lease before it takes anybody in, and wish it a home.

use tengate_io::ShardHandle;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info};

use super::register_link::{News, Order};
use crate::shard::Command;

/// Carries out what registers say, until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// By shard number.
    shards: Vec<ShardHandle<Command>>,
    /// By the registers' place in the configured order, as in `homes`.
    orders: Vec<mpsc::UnboundedSender<Order>>,
    /// What each connected register wishes; `None` for one that has said nothing.
    homes: Vec<Option<Option<String>>>,
    /// What the shards were told.
    wish: Option<String>,
    first_proc_id: Option<u16>,
}

impl Lease {
    pub(super) fn new(
        shards: Vec<ShardHandle<Command>>,
        orders: Vec<mpsc::UnboundedSender<Order>>,
    ) -> Self {
        let homes = orders.iter().map(|_| None).collect();
        Self { shards, orders, homes, wish: None, first_proc_id: None }
    }

    /// `registers` are their addresses, for log lines.
    pub(super) async fn keep(
        mut self,
        registers: Vec<String>,
        mut news: mpsc::UnboundedReceiver<(usize, News)>,
    ) {
        while let Some((index, news)) = news.recv().await {
            let register = registers[index].as_str();
            match news {
                News::Lease { first_proc_id, shards } => {
                    self.take(register, first_proc_id, shards).await;
                }
                News::Refused(reason) => self.complain(register, &reason),
                News::NoLease => {
                    let reason = "it is not tengate's, or an older one; dispatched mode needs tengate's register";
                    self.complain(register, reason);
                }
                News::Home(address) => self.homes[index] = Some(address),
                News::Lost => self.homes[index] = None,
                // Only dispatchers are told.
                News::Gateways(_) => {}
            }
            self.follow_wish();
        }
    }

    /// The first lease counts. A register that gave another is told of it, and takes its own back.
    async fn take(&mut self, register: &str, first_proc_id: u16, shards: u16) {
        if usize::from(shards) != self.shards.len() {
            let count = self.shards.len();
            error!(
                register,
                shards, "the register has leased numbers for other than {count} shards"
            );
            return;
        }
        if let Some(held) = self.first_proc_id {
            debug!(register, first_proc_id, held, "a register has answered a claim");
            return;
        }
        // Every shard knows its number before any of them takes a client in, of which the others would hear.
        let told: Vec<_> = self
            .shards
            .iter()
            .map(|shard| {
                let (done, is_done) = oneshot::channel();
                let _ended = shard.command(Command::SetFirstProcId(first_proc_id, done));
                is_done
            })
            .collect();
        for is_done in told {
            // A shard that has ended is reported by its exit.
            if let Ok(Err(error)) = is_done.await {
                error!(register, first_proc_id, %error, "the register has leased numbers that cannot be used");
                return;
            }
        }
        self.first_proc_id = Some(first_proc_id);
        for shard in &self.shards {
            let _ended = shard.command(Command::ResumeAccepting);
        }
        for orders in &self.orders {
            let _ended = orders.send(Order::Claim(first_proc_id));
        }
        info!(
            register,
            first_proc_id, shards, "the register has given a lease; clients are welcome"
        );
    }

    fn complain(&self, register: &str, reason: &str) {
        match self.first_proc_id {
            None => error!(register, reason, "the register gives no lease; no client is taken in"),
            Some(first_proc_id) => error!(
                register,
                reason, first_proc_id, "the register does not accept the lease of this gateway"
            ),
        }
    }

    /// The first register that has said what it wishes counts. While none has, the last wish does.
    fn follow_wish(&mut self) {
        let Some(wish) = self.homes.iter().flatten().next() else { return };
        if *wish == self.wish {
            return;
        }
        self.wish.clone_from(wish);
        if let Some(first) = self.shards.first() {
            let _ended = first.command(Command::SetHomeWish(wish.clone()));
        }
    }
}
