//! The demo chat: rooms, direct messages, who is online. Its page is `web/demo/index.html`.
//!
//! `cargo run -p tengate-worker --example chat -- 127.0.0.1:1236 [secret key]`

use core::error::Error;
use std::env;

#[path = "../../server/src/demo/chat.rs"]
mod chat;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let mut arguments = env::args().skip(1);
    let register = arguments.next().unwrap_or_else(|| String::from("127.0.0.1:1236"));
    let secret_key = arguments.next().unwrap_or_default();
    chat::run(&register, &secret_key).await?;
    Ok(())
}
