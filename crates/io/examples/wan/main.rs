//! A bad link in user space, with Linux at one end and, at the other, our stack or Linux again: what `cargo xtask wan` runs.
//!
//! `wan relay TAP TAP` makes two TAP devices and carries frames between the first, the second and our stack, as badly as
//! lines on its input ask for. `wan serve ADDRESS` is Linux's server, `wan ask ...` is the client of both. See
//! docs/data-paths.md#over-a-bad-link.

mod ask;
mod link;
mod ours;
mod relay;
mod serve;
mod sys;
mod work;

use core::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["relay", client, server] => relay::run(client, server),
        ["serve", address] => serve::run(address.parse()?),
        ["ask", address, ref plan @ ..] => ask::run(address.parse()?, &ask::Plan::decode(plan)?),
        _ => Err("takes relay, serve or ask; cargo xtask wan knows their arguments".into()),
    }
}
