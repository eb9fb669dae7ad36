//! Developer tasks: `cargo xtask ci` is what CI runs, `tidy` the house rules, `golden` the recorded test data.

mod bench;
mod ci;
mod compat;
mod golden;
mod hold;
mod instructions;
mod tidy;
mod wan;

use std::process::ExitCode;

use anyhow::Result;

const HELP: &str = "\
cargo xtask <task>

  ci [--install]        everything CI runs; --install first installs the Debian packages the tests need
  bench [SET...] [--peers DIR] [--rounds N]
                        the same loads on several servers, in turn; sets: php, latency, trouble, floor, handshakes,
                        shards, dispatcher, bypass, hold. The first three need DIR, a folder with checkouts of
                        GatewayWorker, workerman and coroutine; bypass needs libdpdk-dev
  bench tables [--rounds N]
                        tables of uids at ten million keys, beside hashbrown's and DPDK's
  bench failover [FAULT...] [--rounds N]
                        what clients notice while parts of a cluster are killed and restarted; faults: nothing,
                        kill-dispatcher, kill-worker, roll-dispatchers, roll-workers, kill-gateway, kill-register
  compat --peers DIR --compat DIR [--golden FILE] [--path kernel|dpdk|af_xdp|all] [--release] [--rounds N]
                        the calls of real PHP workers on every data path, compared with a recording of the PHP programs; DIR
                        are checkouts as for bench, and the folder of drive.py. Needs root
  hold [--clients N] [--path kernel|dpdk] [--seconds S] [--rate N] [--ping S] [--opening N]
                        very many clients held at once, each with a uid and heartbeats, and echoes meanwhile; dpdk needs
                        libdpdk-dev and goes over shared memory
  wan [--quick]         our TCP stack and Linux in its place over a bad link, beside each other; needs root and iproute2;
                        --quick takes under a minute
  instructions [--accept]
                        instructions of each path through the gateway, against the figures kept; --accept keeps these
  tidy                  house rules that no lint knows: module docs, file lengths, citations
  golden [--from DIR]   rewrites crates/proto/testdata/golden from recordings of the real PHP programs
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done: Result<()> = match arguments.split_first() {
        Some((&"ci", rest)) => ci::run(rest),
        Some((&"bench", rest)) => bench::run(rest),
        Some((&"hold", rest)) => hold::run(rest),
        Some((&"compat", rest)) => compat::run(rest),
        Some((&"instructions", rest)) => instructions::run(rest),
        Some((&"wan", rest)) => wan::run(rest),
        Some((&"tidy", [])) => tidy::run(),
        Some((&"golden", rest)) => golden::run(rest),
        _ => {
            say(HELP);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Says something to the developer.
#[expect(clippy::print_stderr, reason = "this is a command-line tool")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The repository's root.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
