//! Sends every message back to its client.
//!
//! `cargo run -p tengate-worker --example echo -- 127.0.0.1:1236 [secret key]`

use core::error::Error;
use std::env;

use tengate_worker::{BusinessWorker, Context, EventResult, Events};

struct Echo;

impl Events for Echo {
    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        ctx.send(message).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let mut arguments = env::args().skip(1);
    let register = arguments.next().unwrap_or_else(|| String::from("127.0.0.1:1236"));
    let secret_key = arguments.next().unwrap_or_default();
    BusinessWorker::builder()
        .name("Echo")
        .register(register)
        .secret_key(secret_key)
        .run(Echo)
        .await?;
    Ok(())
}
