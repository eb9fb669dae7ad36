//! What `tengate start` adds to a register and a gateway: the demo worker, its page, and words about them.

use core::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::error;

use crate::config::{Config, Mode, PathName, Protocol, secret_of};
use crate::{complain, demo, page};

/// The demo worker, on a thread of its own.
#[derive(Debug)]
pub(crate) struct DemoWorker {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl DemoWorker {
    /// Ends it, whatever it is doing: its clients are gone.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the demo worker has panicked");
        }
    }
}

/// Starts the demo worker, if there is to be one, and the page on this thread, and says what runs where.
pub(super) async fn extras(config: &Config) -> anyhow::Result<Option<DemoWorker>> {
    let address = config.demo.page_listen.get_ref().0;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for the demo page; set page_listen in [demo] to another address")
    })?;
    let websocket = websocket(config);
    tokio::spawn(async move {
        if let Err(error) = page::serve(listener, websocket).await {
            error!(%error, "the demo page has ended");
        }
    });
    let worker = if config.demo.worker { Some(start_worker(config)?) } else { None };
    complain(&console(config, websocket));
    Ok(worker)
}

/// The first websocket listener.
fn websocket(config: &Config) -> Option<SocketAddr> {
    let clients = config.gateway.client.get_ref().iter().map(toml::Spanned::get_ref);
    let mut websockets = clients.filter(|client| client.protocol == Protocol::Websocket);
    let listen = websockets.find_map(|client| Some(client.listen.as_ref()?.get_ref().0))?;
    let mut own = config.gateway.netstack.get_ref().addresses.get_ref().iter();
    match (config.gateway.data_path.get_ref(), own.next()) {
        // Every address means those of its own stack there, and no other of this machine.
        (PathName::AfXdp | PathName::Dpdk, Some(own)) if listen.ip().is_unspecified() => {
            Some(SocketAddr::new(own.get_ref().address, listen.port()))
        }
        (PathName::Kernel | PathName::AfXdp | PathName::Dpdk, _) => Some(listen),
    }
}

fn start_worker(config: &Config) -> anyhow::Result<DemoWorker> {
    let gateway = &config.gateway;
    let register = gateway
        .register_address
        .get_ref()
        .0
        .first()
        .ok_or_else(|| anyhow!("there is no register"))?;
    let register = register.to_string();
    let key = secret_of(gateway.secret_key.as_ref(), gateway.secret_key_file.as_ref())?;
    let key = key.map_or_else(String::new, |key| key.0);
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return error!(%error, "the demo worker cannot start"),
        };
        runtime.block_on(async {
            tokio::select! {
                // The sender is never used, only dropped.
                _ = stopped => {}
                Err(error) = demo::chat::run(&register, &key) => error!(%error, "the demo worker has ended"),
            }
        });
    };
    let thread = thread::Builder::new()
        .name("demo-worker".to_owned())
        .spawn(run)
        .context("cannot start the demo worker")?;
    Ok(DemoWorker { stop, thread })
}

/// What a person sees first.
fn console(config: &Config, websocket: Option<SocketAddr>) -> String {
    let mut lines = format!("\ntengate {} runs:\n", env!("CARGO_PKG_VERSION"));
    let mut line = |what: &str, place: String| lines += &format!("  {what:<12} {place}\n");
    for client in config.gateway.client.get_ref() {
        let client = client.get_ref();
        if let Some(listen) = &client.listen {
            line("clients", format!("{}://{}", client.protocol, listen.get_ref().0));
        }
    }
    let (inner, dispatcher) = (&config.gateway.inner, &config.dispatcher);
    let place =
        |listen: SocketAddr, announced: SocketAddr| format!("{listen} (announced as {announced})");
    match config.gateway.mode {
        Mode::Direct => line("workers", place(inner.listen.get_ref().0, inner.announced())),
        Mode::Dispatched => {
            line("workers", place(dispatcher.listen.get_ref().0, dispatcher.announced()));
            line("dispatchers", place(inner.listen.get_ref().0, inner.announced()));
        }
    }
    line("register", config.register.listen.get_ref().0.to_string());
    if config.demo.worker {
        line("demo worker", "a chat, in this process".to_owned());
    }
    let page = config.demo.page_listen.get_ref().0;
    let query = websocket.map_or_else(String::new, |gateway| page_query(page, gateway));
    lines
        + &format!(
            "\nNext:\n  open http://{page}/{query} in two tabs and chat\n  tengate status         what is going on in here\n  \
             tengate connections    who is connected\n  start a PHP BusinessWorker with registerAddress {}\n  \
             Ctrl+C stops it\n\n",
            config.register.listen.get_ref().0
        )
}

/// What the page must be told: it looks for the gateway at port 8282 of the host it came from.
fn page_query(page: SocketAddr, gateway: SocketAddr) -> String {
    // A gateway at every address is at the page's, too, and "every address" is none to connect to.
    let ip = if gateway.ip().is_unspecified() { page.ip() } else { gateway.ip() };
    if (ip, gateway.port()) == (page.ip(), 8282) {
        return String::new();
    }
    format!("?gateway={}", SocketAddr::new(ip, gateway.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_kernel_every_address_is_the_stacks_first() {
        for (path, listen, expected) in [
            ("kernel", "0.0.0.0:8282", "0.0.0.0:8282"),
            ("af_xdp", "0.0.0.0:8282", "10.1.0.1:8282"),
            ("dpdk", "0.0.0.0:8282", "10.1.0.1:8282"),
            ("dpdk", "10.1.0.2:8282", "10.1.0.2:8282"),
        ] {
            let config: Config = toml::from_str(&format!(
                "[gateway]\ndata_path = \"{path}\"\n[gateway.netstack]\n\
                 addresses = [\"10.1.0.1/24\", \"10.1.0.2/24\"]\n[[gateway.client]]\nlisten = \"{listen}\"\n"
            ))
            .unwrap();
            assert_eq!(websocket(&config).unwrap().to_string(), expected, "{path}");
        }
    }

    #[test]
    fn the_page_is_told_of_a_gateway_where_it_would_not_look() {
        let cases = [
            ("127.0.0.1:8080", "127.0.0.1:8282", ""),
            ("127.0.0.1:8080", "0.0.0.0:8282", ""),
            ("0.0.0.0:8080", "0.0.0.0:8282", ""),
            ("127.0.0.1:8080", "127.0.0.1:9000", "?gateway=127.0.0.1:9000"),
            ("127.0.0.1:8080", "127.0.0.2:8282", "?gateway=127.0.0.2:8282"),
            ("127.0.0.1:8080", "0.0.0.0:9000", "?gateway=127.0.0.1:9000"),
            ("[::1]:8080", "127.0.0.1:8282", "?gateway=127.0.0.1:8282"),
        ];
        for (page, gateway, query) in cases {
            assert_eq!(page_query(page.parse().unwrap(), gateway.parse().unwrap()), query);
        }
    }
}
