//! Keeps this gateway known to one register: moves the bytes of a `RegisterClient`.

use core::future::pending;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use tengate_base::Instant;
use tengate_io::Clock;
use tengate_proto::register::{RegisterClient, RegisterClientConfig, RegisterClientOutput};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::{info, warn};

/// Announces until it is dropped. `connected` follows the connection.
pub(super) async fn announce(
    config: RegisterClientConfig,
    clock: Clock,
    connected: Arc<AtomicBool>,
) {
    let register = config.register.to_string();
    let mut client = RegisterClient::new(config);
    let mut stream: Option<TcpStream> = None;
    // One line when it is lost, not one for every attempt.
    let mut lost_is_known = false;
    loop {
        while let Some(output) = client.poll_output() {
            let outcome = match output {
                RegisterClientOutput::Connect => match TcpStream::connect(&register).await {
                    Ok(opened) => {
                        stream = Some(opened);
                        client.handle_connected(clock.now());
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                RegisterClientOutput::Transmit(bytes) => match &mut stream {
                    Some(stream) => stream.write_all(&bytes).await,
                    None => Ok(()),
                },
                RegisterClientOutput::Close => {
                    stream = None;
                    Ok(())
                }
                RegisterClientOutput::Addresses(_) | RegisterClientOutput::BadLine(_) => Ok(()),
            };
            if let Err(error) = outcome {
                stream = None;
                client.handle_closed(clock.now());
                if !lost_is_known {
                    warn!(register, %error, "the register cannot be reached; trying again every second");
                    lost_is_known = true;
                }
            }
        }
        let is_connected = client.is_connected();
        if is_connected && !connected.swap(is_connected, Ordering::Relaxed) {
            info!(register, "announced to the register");
            lost_is_known = false;
        }
        if !is_connected && connected.swap(is_connected, Ordering::Relaxed) && !lost_is_known {
            warn!(register, "the register closed the connection; connecting again");
            lost_is_known = true;
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
            () = sleep_until(clock, deadline) => client.handle_timeout(clock.now()),
        }
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
