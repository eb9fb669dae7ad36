//! The worker of these tests: does what clients ask, and prints whose connections ended.
//!
//! A client says `COMMAND ARGUMENTS`; the answer begins with the command.
#![expect(clippy::print_stdout, reason = "the test that started it reads its output")]

use std::env;

use tengate_worker::{BusinessWorker, ClientId, Context, Delivery, EventResult, Events, Worker};

use super::cluster::{QUEUE_MIB, SECRET_KEY};

/// The test that is this worker when the binary is started as one.
pub(crate) const TEST_NAME: &str = "this_binary_is_a_worker_when_started_as_one";
/// Names the register, and makes the binary a worker.
pub(crate) const REGISTER_VARIABLE: &str = "TENGATE_TEST_WORKER_REGISTER";
/// The worker's name; its key is `name:0`.
pub(crate) const NAME_VARIABLE: &str = "TENGATE_TEST_WORKER_NAME";

/// Serves until it is killed, if the environment asks for it.
pub(crate) fn run_if_asked() {
    let (Ok(register), Ok(name)) = (env::var(REGISTER_VARIABLE), env::var(NAME_VARIABLE)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worker = BusinessWorker::builder()
        .name(&name)
        .register(register)
        .secret_key(SECRET_KEY)
        .send_queue_bytes_max(QUEUE_MIB << 20)
        // Makes a difference with dispatchers only.
        .delivery(Delivery::AtLeastOnce)
        .build()
        .unwrap();
    runtime.block_on(worker.run(Obedient { name }));
}

struct Obedient {
    name: String,
}

impl Events for Obedient {
    async fn on_worker_start(&self, worker: &Worker) -> EventResult {
        println!("started {}", worker.name());
        Ok(())
    }

    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        let message = str::from_utf8(message)?;
        let mut words = message.splitn(3, ' ');
        let (command, one, two) = (words.next(), words.next(), words.next());
        let answer = match (command, one, two) {
            (Some("echo"), Some(number), None) => format!("echo {number} {}", self.name),
            (Some("id"), None, None) => format!("id {}", ctx.client_id()),
            (Some("tell"), Some(client), Some(text)) => {
                let client: ClientId = client.parse()?;
                match ctx.gateway().send_to_client(client, text).await {
                    Ok(()) => "tell ok".to_owned(),
                    Err(error) => format!("tell failed: {error}"),
                }
            }
            (Some("online"), Some(client), None) => {
                match ctx.gateway().is_online(client.parse()?).await {
                    Ok(online) => format!("online {online}"),
                    Err(error) => format!("online failed: {error}"),
                }
            }
            (Some("bind"), Some(uid), None) => {
                ctx.gateway().bind_uid(ctx.client_id(), uid).await?;
                "bind ok".to_owned()
            }
            (Some("join"), Some(group), None) => {
                ctx.gateway().join_group(ctx.client_id(), group).await?;
                "join ok".to_owned()
            }
            (Some("all"), Some(text), None) => return Ok(ctx.gateway().send_to_all(text).await?),
            (Some("uid"), Some(uid), Some(text)) => {
                return Ok(ctx.gateway().send_to_uid(uid, text).await?);
            }
            (Some("group"), Some(group), Some(text)) => {
                return Ok(ctx.gateway().send_to_group(group, text).await?);
            }
            (Some("count"), None, None) => {
                format!("count {}", ctx.gateway().get_all_client_id_count().await?)
            }
            (Some("count"), Some(group), None) => {
                format!("count {}", ctx.gateway().get_client_id_count_by_group(group).await?)
            }
            (Some("whois"), Some(uid), None) => {
                let ids = ctx.gateway().get_client_id_by_uid(uid).await?;
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                format!("whois {}", ids.join(" "))
            }
            (Some("flood"), Some(count), Some(bytes)) => {
                let filler = "x".repeat(bytes.parse()?);
                for number in 0..count.parse::<usize>()? {
                    ctx.send(&*format!("{number} {filler}")).await?;
                }
                return Ok(());
            }
            _ => format!("{message:?} is no command"),
        };
        ctx.send(&*answer).await?;
        Ok(())
    }

    async fn on_close(&self, ctx: &mut Context) -> EventResult {
        println!("closed {}", ctx.client_id());
        Ok(())
    }
}
