//! The outside client: calls into a cluster from programs that are no workers.

use core::time::Duration;

use tengate_proto::secret::SecretKey;

use crate::gateway::Gateway;
use crate::query::Timeouts;

/// GatewayClient: makes a [`Gateway`] that finds the gateways through a register.
///
/// ```no_run
/// # async fn example() -> Result<(), tengate_worker::CallError> {
/// let gateway = tengate_worker::Client::builder().register("127.0.0.1:1236").secret_key("s").build();
/// gateway.send_to_uid("ann", "hello").await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    registers: Vec<String>,
    secret_key: SecretKey,
    timeouts: Timeouts,
}

impl Client {
    /// Settings, to begin with: no register, no secret key.
    pub fn builder() -> Self {
        Self {
            registers: Vec::new(),
            secret_key: SecretKey::default(),
            timeouts: Timeouts::DEFAULT,
        }
    }

    /// A register's address, `host:port`. With several, the first that answers is asked.
    pub fn register(mut self, address: impl Into<String>) -> Self {
        self.registers.push(address.into());
        self
    }

    /// The key that the registers and gateways of the cluster share.
    pub fn secret_key(mut self, secret_key: impl Into<String>) -> Self {
        self.secret_key = SecretKey::new(secret_key.into());
        self
    }

    /// How long connecting and answering may take: 3 s and 5 s by default, as in GatewayClient.
    pub fn timeouts(mut self, connect: Duration, reply: Duration) -> Self {
        self.timeouts = Timeouts { connect, reply };
        self
    }

    /// The handle for calls. Nothing is connected before the first call.
    pub fn build(self) -> Gateway {
        Gateway::asked(self.registers, self.secret_key, self.timeouts)
    }
}
