//! What a seed decides of a cluster with dispatchers.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use tengate_proto::dispatcher::{Balance, Config};
use tengate_proto::gateway::{self, Mode, SlowWorker};
use tengate_proto::secret::SecretKey;

use super::{FAULTS, Fault, Plan, config, faults};
use crate::rng::Rng;

/// What fails only where there are dispatchers.
const DISPATCHER_FAULTS: [Fault; 5] = [
    Fault::CutDispatcherLink,
    Fault::HalfOpenDispatcherLink,
    Fault::StallDispatcher,
    Fault::StopDispatcher,
    Fault::KillDispatcher,
];

impl Plan {
    /// The plan of a seed where workers link to dispatchers.
    pub(crate) fn dispatched(rng: &mut Rng) -> Self {
        let secret = SecretKey::new(if rng.percent(30) { "a key" } else { "" });
        let loopback = rng.percent(40);
        let number_bits = *rng.pick(&[22, 22, 24]);
        let kinds = [&FAULTS[..], &DISPATCHER_FAULTS[..]].concat();
        let faults = faults(rng, &kinds);
        let gateway_count = rng.between(1, 4);
        let dispatcher_count = rng.between(1, 3);
        let worker_count = rng.between(1, 6);
        let acknowledging = *rng.pick(&[0, 0, 50, 100]);
        let balance = *rng.pick(&[
            Balance::LeastConnections,
            Balance::LeastConnections,
            Balance::RoundRobin,
            Balance::RoundRobin,
            Balance::Random,
            Balance::HashIp,
            Balance::HashUid,
        ]);
        let client_count = match rng.below(200) {
            0 => rng.between(1000, 2000),
            1..=9 => rng.between(100, 400),
            _ => rng.between(5, 40),
        };
        Self {
            gateways: (0..gateway_count)
                .map(|at| dispatched_gateway(config(rng, at, loopback, &secret), rng, number_bits))
                .collect(),
            dispatchers: (0..dispatcher_count)
                .map(|at| dispatcher(rng, at, loopback, &secret, balance))
                .collect(),
            acknowledging: (0..worker_count).map(|_| rng.percent(acknowledging)).collect(),
            register_count: rng.between(1, 3),
            worker_count,
            client_count,
            round_count: rng.between(1, 2),
            round: rng.millis(100, 1500),
            latency_micros: if rng.percent(50) { (10, 200) } else { (10, 5000) },
            window_bytes: *rng.pick(&[500, 4000, 100_000, 1_000_000]),
            split_percent: *rng.pick(&[0, 5, 50]),
            command_percent: *rng.pick(&[20, 60, 90]),
            message_bytes: *rng.pick(&[0, 40, 300]),
            fault_millis: *rng.pick(&[10, 40, 150]),
            faults,
            secret,
            task_micros: *rng.pick(&[10, 2000, 40_000]),
            ipv6_percent: *rng.pick(&[0, 0, 30]),
            overture: rng.percent(90).then_some(Duration::from_secs(5)),
            rest: Duration::from_secs(12),
        }
    }
}

fn dispatched_gateway(
    mut config: gateway::Config,
    rng: &mut Rng,
    number_bits: u8,
) -> gateway::Config {
    config.mode = Mode::Dispatched;
    config.number_bits = number_bits;
    config.detach_timeout = *rng.pick(&[Duration::from_secs(1), Duration::from_secs(5)]);
    config
}

fn dispatcher(
    rng: &mut Rng,
    index: usize,
    loopback: bool,
    secret: &SecretKey,
    balance: Balance,
) -> Config {
    let number = u8::try_from(index).expect("few dispatchers");
    let address = if loopback {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3900 + u16::from(number))
    } else {
        SocketAddrV4::new(Ipv4Addr::new(10, 4, 0, number + 1), 3900)
    };
    let mut config = Config::with_defaults(address);
    config.secret_key = secret.clone();
    config.send_to_worker_bytes_max = *rng.pick(&[100, 600, 5000, 1_000_000]);
    config.send_to_gateway_bytes_max = *rng.pick(&[600, 5000, 1_000_000]);
    config.slow_worker = *rng.pick(&[
        SlowWorker::StopReading,
        SlowWorker::StopReading,
        SlowWorker::Drop,
        SlowWorker::Close,
    ]);
    config.default_group.balance = balance;
    config.no_worker_grace = rng.millis(0, 2500);
    config.no_worker_bytes_max = *rng.pick(&[200, 5000, 1_000_000]);
    config.pending_queries_max = *rng.pick(&[1, 2, 100]);
    config.detach_limit = rng.millis(20, 900);
    config.seed = rng.number();
    config
}
