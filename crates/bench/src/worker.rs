//! The business code that the other modes expect. The first byte of a message says what to do with it.

use anyhow::Result;
use tengate_worker::{BusinessWorker, Context, Delivery, EventResult, Events};
use tokio::signal::unix::{SignalKind, signal};

use crate::lean;

/// First byte of a message that is to be broadcast.
pub(crate) const BROADCAST: u8 = b'*';

/// What a message asks for; php/Events.php does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb<'a> {
    /// `*…`: the whole message to everyone.
    Broadcast,
    /// `+group`: puts the client into a group, and comes back.
    Join(&'a str),
    /// `#group|payload`: the payload to the group.
    SendToGroup(&'a str, &'a [u8]),
    /// `=uid`: makes the client one of this uid, and comes back.
    Bind(&'a str),
    /// `@uid|payload`: the payload to the uid's clients.
    SendToUid(&'a str, &'a [u8]),
    /// Anything else comes back.
    Echo,
}

/// Where the worker registers. SIGTERM stops it in order.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The register.
    #[arg(long, default_value = "127.0.0.1:1236")]
    register: String,
    /// What the register and the gateways expect.
    #[arg(long, default_value = "", env = "TENGATE_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
    /// The id of the first worker: processes on one machine need different ones.
    #[arg(long, default_value_t = 0)]
    id: u32,
    /// How many workers.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Without the SDK, on blocking sockets: a fraction of the processor time, so that gateway and load have two cores nearly
    /// to themselves. For a register on loopback; a gateway that goes is not looked for again.
    #[arg(long, conflicts_with_all = ["count", "acknowledge"])]
    lean: bool,
    /// Acknowledge events, so that a dispatcher gives those of a worker that is gone to another one.
    #[arg(long)]
    acknowledge: bool,
}

#[derive(Debug)]
struct Business;

impl<'a> Verb<'a> {
    pub(crate) fn decode(message: &'a [u8]) -> Self {
        let Some((first, rest)) = message.split_first() else { return Self::Echo };
        let named = || {
            let (name, payload) = rest.split_at(rest.iter().position(|byte| *byte == b'|')?);
            Some((str::from_utf8(name).ok()?, &payload[1..]))
        };
        match first {
            &BROADCAST => Self::Broadcast,
            b'+' => str::from_utf8(rest).map_or(Self::Echo, Self::Join),
            b'=' => str::from_utf8(rest).map_or(Self::Echo, Self::Bind),
            b'#' => named().map_or(Self::Echo, |(name, payload)| Self::SendToGroup(name, payload)),
            b'@' => named().map_or(Self::Echo, |(name, payload)| Self::SendToUid(name, payload)),
            _ => Self::Echo,
        }
    }

    /// Appends the message that asks for it; `payload` follows a `*` and is all of an echo.
    pub(crate) fn encode(self, payload: &[u8], out: &mut Vec<u8>) {
        let (first, name, rest) = match self {
            Self::Broadcast => ("*", "", payload),
            Self::Join(group) => ("+", group, &[][..]),
            Self::SendToGroup(group, payload) => ("#", group, payload),
            Self::Bind(uid) => ("=", uid, &[][..]),
            Self::SendToUid(uid, payload) => ("@", uid, payload),
            Self::Echo => ("", "", payload),
        };
        out.extend_from_slice(first.as_bytes());
        out.extend_from_slice(name.as_bytes());
        if matches!(self, Self::SendToGroup(..) | Self::SendToUid(..)) {
            out.push(b'|');
        }
        out.extend_from_slice(rest);
    }
}

impl Events for Business {
    async fn on_connect(&self, ctx: &mut Context) -> EventResult {
        ctx.gateway().bind_uid(ctx.client_id(), ctx.client_id().to_string()).await?;
        Ok(())
    }

    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        let gateway = ctx.gateway();
        match Verb::decode(message) {
            Verb::Broadcast => gateway.send_to_all(message).await?,
            Verb::SendToGroup(group, payload) => gateway.send_to_group(group, payload).await?,
            Verb::SendToUid(uid, payload) => gateway.send_to_uid(uid, payload).await?,
            Verb::Join(group) => {
                gateway.join_group(ctx.client_id(), group).await?;
                ctx.send(message).await?;
            }
            Verb::Bind(uid) => {
                gateway.bind_uid(ctx.client_id(), uid).await?;
                ctx.send(message).await?;
            }
            Verb::Echo => ctx.send(message).await?,
        }
        Ok(())
    }
}

pub(crate) fn run(options: Options) -> Result<()> {
    if options.lean {
        return lean::run(&options.register, &options.secret_key, options.id);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = BusinessWorker::builder()
        .name("Bench")
        .id(options.id)
        .count(options.count)
        .delivery(if options.acknowledge { Delivery::AtLeastOnce } else { Delivery::AtMostOnce })
        .register(options.register)
        .secret_key(options.secret_key);
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let stop = async {
            terminated.recv().await;
        };
        worker.build()?.run_until(Business, stop).await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_does_what_its_first_byte_says() {
        let cases = [
            (&b"*all of it"[..], Verb::Broadcast),
            (b"+room", Verb::Join("room")),
            (b"#room|hello|you", Verb::SendToGroup("room", b"hello|you")),
            (b"=ann", Verb::Bind("ann")),
            (b"@ann|", Verb::SendToUid("ann", b"")),
            (b"", Verb::Echo),
            (b"hello", Verb::Echo),
            (b"#no end of the name", Verb::Echo),
            (b"@\xff|x", Verb::Echo),
        ];
        for (message, verb) in cases {
            assert_eq!(Verb::decode(message), verb, "{message:?}");
        }
    }

    #[test]
    fn what_asks_for_a_verb_is_decoded_as_it() {
        let verbs = [
            Verb::Join("g"),
            Verb::SendToGroup("g", b"payload"),
            Verb::Bind("u"),
            Verb::SendToUid("u", b"payload"),
            Verb::Broadcast,
            Verb::Echo,
        ];
        for verb in verbs {
            let mut message = Vec::new();
            verb.encode(b"x", &mut message);
            assert_eq!(Verb::decode(&message), verb);
        }
    }
}
