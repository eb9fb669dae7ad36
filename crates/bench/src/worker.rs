//! The business code that the other modes expect: each client gets a uid, a message comes back, or goes to everyone.

use anyhow::Result;
use tengate_worker::{BusinessWorker, Context, EventResult, Events};

/// First byte of a message that is to be broadcast.
pub(crate) const BROADCAST: u8 = b'*';

/// Where the worker registers.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The register.
    #[arg(long, default_value = "127.0.0.1:1236")]
    register: String,
    /// What the register and the gateways expect.
    #[arg(long, default_value = "", env = "TENGATE_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
    /// How many workers.
    #[arg(long, default_value_t = 1)]
    count: u32,
}

#[derive(Debug)]
struct Echo;

impl Events for Echo {
    async fn on_connect(&self, ctx: &mut Context) -> EventResult {
        ctx.gateway().bind_uid(ctx.client_id(), ctx.client_id().to_string()).await?;
        Ok(())
    }

    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        if message.first() == Some(&BROADCAST) {
            ctx.gateway().send_to_all(message).await?;
        } else {
            ctx.send(message).await?;
        }
        Ok(())
    }
}

pub(crate) fn run(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = BusinessWorker::builder()
        .name("Bench")
        .count(options.count)
        .register(options.register)
        .secret_key(options.secret_key);
    runtime.block_on(worker.run(Echo))?;
    Ok(())
}
