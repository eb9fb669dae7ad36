//! Speaks to a cluster's clients from outside, as a web server would: GatewayClient.
//!
//! `cargo run -p tengate-worker --example outside -- "hello everybody" 127.0.0.1:1236 [secret key]`

use core::error::Error;
use std::env;

use tengate_worker::Client;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the example's answer is for the terminal")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let message = arguments.next().ok_or("say what to tell everybody")?;
    let register = arguments.next().unwrap_or_else(|| String::from("127.0.0.1:1236"));
    let secret_key = arguments.next().unwrap_or_default();

    let gateway = Client::builder().register(register).secret_key(secret_key).build();
    println!("clients: {}", gateway.get_all_client_id_count().await?);
    println!("uids: {:?}", gateway.get_all_uid_list().await?);
    println!("groups: {:?}", gateway.get_all_group_client_id_count().await?);
    gateway.send_to_all(&message).await?;
    Ok(())
}
