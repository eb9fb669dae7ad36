//! The command line: what may be written, and which key of the configuration each flag stands for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use toml::{Table, Value};

use crate::config::{
    self, Finding, Inputs, Loaded, LogFormat, LogLevel, Mode, Override, PathName, Severity, Size,
};
use crate::machine::Machine;
use crate::sizing::Sizing;
use crate::{Failure, admin, complain, log, machine, plan, roles, say, topology};

const EXAMPLES: &str = "\
Examples:
  tengate start
      register, gateway, demo worker and page, all on this machine
  tengate register --listen 10.0.0.1:1236
      the address book of a cluster
  tengate gateway --client websocket://0.0.0.0:8282 \\
      --inner 10.0.0.2:2900 --register 10.0.0.1:1236
      client connections on one side, workers on the other
  tengate gateway --mode dispatched ... and tengate dispatcher \\
      --listen 10.0.0.3:3900 --register 10.0.0.1:1236
      workers on dispatchers, any number of gateways behind those
  tengate topology --register 10.0.0.1:1236
      which gateway is whose, across the cluster
  tengate check --config tengate.toml
      every mistake of a configuration, with its line
  tengate plan --clients 1000000 --message-rate 0.1 --data-path dpdk
      the memory and cores that takes, and what runs out first
  tengate status
      what runs here, and how busy it is

Settings come from flags, then the environment, then the file, then defaults.
Every key of the file is also a variable:
  TENGATE_GATEWAY__SHARDS=4      `shards` in [gateway]
  TENGATE_CONFIG                 the file, as --config
  TENGATE_SECRET_KEY             the secret key, as --secret-key
  TENGATE_RUN_DIR                admin sockets, as --run-dir

Exit status: 0 done, 1 failed while running, 2 wrong command line or configuration.";

/// The long-connection gateway for GatewayWorker applications.
#[derive(Debug, Parser)]
#[command(name = "tengate", version, after_help = EXAMPLES, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML); see docs/configuration.md
    #[arg(long, short, global = true, value_name = "FILE", env = "TENGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Least serious messages to log [default: info]
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How log lines look [default: plain]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Directory of the admin sockets [default: $XDG_RUNTIME_DIR/tengate, /run/tengate for root, else /tmp/tengate-UID]
    #[arg(long, global = true, value_name = "DIR", env = "TENGATE_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run register, gateway, demo worker and demo page in this process
    #[command(after_help = "\
Without a configuration it listens on this machine only:
  websocket clients    127.0.0.1:8282
  workers              127.0.0.1:2900
  register             127.0.0.1:1236
  demo page            http://127.0.0.1:8080

With --mode dispatched it runs a dispatcher too, and workers connect to that:
  workers              127.0.0.1:3900")]
    Start(StartFlags),
    /// Run a register: the address book through which workers find gateways
    #[command(
        after_help = "Example: tengate register --listen 127.0.0.1:1236 --secret-key-file /etc/tengate/key"
    )]
    Register(RegisterFlags),
    /// Run a gateway: client connections on one side, workers on the other
    #[command(after_help = "\
Example:
  tengate gateway --client websocket://127.0.0.1:8282 \\
      --inner 127.0.0.1:2900 --register 127.0.0.1:1236

A --client on the command line replaces every [[gateway.client]] of the file.")]
    Gateway(GatewayFlags),
    /// Run a dispatcher: between gateways in dispatched mode and workers
    #[command(after_help = "\
Example:
  tengate dispatcher --listen 127.0.0.1:3900 --register 127.0.0.1:1236

It links itself to every gateway in dispatched mode that the register knows.
Groups of workers, weights and limits are set in [dispatcher], see docs/configuration.md.")]
    Dispatcher(DispatcherFlags),
    /// Check a configuration and this machine: every mistake with its line, and what a gateway would miss here
    Check(CheckFlags),
    /// Compute the memory, huge pages and cores that clients take, and say which runs out first
    #[command(
        after_help = "Example: tengate plan --clients 1000000 --message-rate 0.1 --data-path dpdk --cores 8 --memory 64GiB"
    )]
    Plan(PlanFlags),
    /// Show what runs on this machine, in the columns of Workerman's `status`
    Status(Query),
    /// List every open connection, in the columns of Workerman's `connections`
    Connections(Query),
    /// Show the whole cluster as a register knows it: gateways, dispatchers, workers
    #[command(after_help = "Example: tengate topology --register 10.0.0.1:1236")]
    Topology(TopologyFlags),
}

#[derive(Debug, Args)]
struct StartFlags {
    #[command(flatten)]
    mode: ModeFlag,
}

#[derive(Debug, Args)]
struct ModeFlag {
    /// Whom the gateway tells of its clients: workers, or dispatchers to which workers connect [default: direct]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<Mode>,
}

#[derive(Debug, Args)]
struct RegisterFlags {
    /// Where gateways and workers connect [default: 127.0.0.1:1236]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    secret: SecretFlags,
}

#[derive(Debug, Args)]
struct GatewayFlags {
    /// Where clients connect; repeat for several. PROTOCOL is websocket, text, frame, tcp or length_field
    /// [default: websocket://127.0.0.1:8282]
    #[arg(long, value_name = "PROTOCOL://IP:PORT", value_parser = decode_client)]
    client: Vec<Table>,
    /// Where workers and GatewayClient connect; IPv4 [default: 127.0.0.1:2900]
    #[arg(long, value_name = "IP:PORT")]
    inner: Option<String>,
    /// Register to announce this gateway to; repeat for several [default: 127.0.0.1:1236]
    #[arg(long, value_name = "HOST:PORT")]
    register: Vec<String>,
    /// Threads that serve connections, each on a core of its own [default: one a core]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    #[command(flatten)]
    mode: ModeFlag,
    #[command(flatten)]
    secret: SecretFlags,
}

#[derive(Debug, Args)]
struct DispatcherFlags {
    /// Where workers and GatewayClient connect; IPv4 [default: 127.0.0.1:3900]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Register to announce this dispatcher to; repeat for several [default: 127.0.0.1:1236]
    #[arg(long, value_name = "HOST:PORT")]
    register: Vec<String>,
    #[command(flatten)]
    secret: SecretFlags,
}

#[derive(Debug, Args)]
struct TopologyFlags {
    /// Register to ask; of several, the first that answers [default: those of the configuration, else 127.0.0.1:1236]
    #[arg(long, value_name = "HOST:PORT")]
    register: Vec<String>,
    #[command(flatten)]
    secret: SecretFlags,
    /// Print JSON with everything, as the register sends it
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckFlags {
    /// Look at the configuration only, not at this machine
    #[arg(long)]
    config_only: bool,
}

/// What `plan` takes.
#[derive(Debug, Args)]
struct PlanFlags {
    /// Clients connected at once [default: connections_target, with the kernel's path max_connections, else 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 31))]
    clients: Option<u32>,
    /// Messages each client sends a second
    #[arg(long, value_name = "RATE", default_value = "0.1", value_parser = decode_rate)]
    message_rate: f64,
    /// Bytes of a message and of its answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=10 << 20))]
    bytes: u32,
    /// Clients that get each answer; 1 is an echo, 0 no answer
    #[arg(long, value_name = "N", default_value = "1", value_parser = decode_rate)]
    fan_out: f64,
    /// How long a client stays before another one takes its place, in seconds [default: for ever]
    #[arg(long, value_name = "SECONDS", value_parser = decode_session)]
    session: Option<f64>,
    /// How clients' bytes come [default: that of the configuration, else kernel]
    #[arg(long, value_enum, value_name = "PATH")]
    data_path: Option<PathName>,
    /// Threads that serve connections [default: that of the configuration, else one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
    /// Cores of the machine planned for [default: those of this one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,
    /// Memory of the machine planned for, such as 64GiB [default: what this one has left]
    #[arg(long, value_name = "SIZE", value_parser = decode_size)]
    memory: Option<u64>,
    /// File descriptors of the process planned for [default: those of this one]
    #[arg(long, value_name = "N")]
    descriptors: Option<u64>,
    /// Speed of its link, each way
    #[arg(long, value_name = "GBIT/S", value_parser = decode_rate)]
    link: Option<f64>,
    /// Print JSON with everything instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SecretFlags {
    /// Secret key that peers must show. Everyone on this machine can read a command line (`ps`): prefer
    /// --secret-key-file or TENGATE_SECRET_KEY
    #[arg(long, value_name = "KEY", conflicts_with = "secret_key_file")]
    secret_key: Option<String>,
    /// File that holds the secret key
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<String>,
}

/// What `status` and `connections` take.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Print JSON with everything instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second
    #[arg(long, short = 'd')]
    pub(crate) watch: bool,
}

/// Does what the command line asks.
pub(crate) fn run() -> Result<(), Failure> {
    let cli = Cli::parse();
    let flags = overrides(&cli);
    match cli.command {
        Command::Check(asked) => check(&cli.common, flags, asked.config_only),
        Command::Plan(asked) => print_plan(&cli.common, flags, &asked),
        Command::Status(query) => admin::print_status(cli.common.run_dir, &query),
        Command::Connections(query) => admin::print_connections(cli.common.run_dir, &query),
        Command::Topology(topology) => print_topology(&cli.common, flags, topology.json),
        Command::Start(_) => serve(roles::Role::Start, &cli.common, flags),
        Command::Register(_) => serve(roles::Role::Register, &cli.common, flags),
        Command::Gateway(_) => serve(roles::Role::Gateway, &cli.common, flags),
        Command::Dispatcher(_) => serve(roles::Role::Dispatcher, &cli.common, flags),
    }
}

/// How a running process reads its configuration again.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Option<PathBuf>,
    flags: Vec<Override>,
}

impl Reader {
    /// Reads and checks everything the configuration is made of.
    pub(crate) fn read(&self) -> anyhow::Result<Loaded> {
        let mut loaded = self.load()?;
        config::check(&loaded.config, &usable_cores(), &mut loaded.findings);
        Ok(loaded)
    }

    /// Reads it without asking whether it can work.
    fn load(&self) -> anyhow::Result<Loaded> {
        let file = match &self.file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the configuration {}", path.display()))?;
                Some((path.clone(), text))
            }
        };
        // Only text can be a setting; a variable that is none belongs to somebody else.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        // In order of their names, so that findings do not depend on the order of the environment.
        let env: BTreeMap<String, String> = env.collect();
        let env = env.into_iter().filter_map(|(name, value)| Override::from_env(name, value));
        Ok(config::load(&Inputs { file, overrides: env.chain(self.flags.clone()).collect() }))
    }
}

/// The cores this process may run on, in ascending order.
pub(crate) fn usable_cores() -> Vec<usize> {
    // The call fails only on machines with more cores than it can tell; then nothing is known of them but the first.
    tengate_io::allowed_cores().unwrap_or_else(|_| vec![0])
}

fn check(common: &Common, flags: Vec<Override>, config_only: bool) -> Result<(), Failure> {
    let reader = Reader { file: common.config.clone(), flags };
    let loaded = reader.read().map_err(|error| Failure::Config(format!("error: {error:#}\n")))?;
    let what = common
        .config
        .as_ref()
        .map_or_else(|| "defaults and environment".to_owned(), |path| path.display().to_string());
    let mut shown = render(&loaded);
    let mut summary = summary(&what, &loaded.findings);
    let mut has_errors = loaded.has_errors();
    // What a mistaken configuration would miss here is not what it will, so one thing after the other.
    if !has_errors && !config_only {
        let missing = missing_here(&loaded);
        has_errors = missing.iter().any(|finding| finding.severity == Severity::Error);
        shown += &missing.iter().map(|one| loaded.sources.render(one)).collect::<String>();
        summary += &self::summary("this machine", &missing);
    }
    if has_errors {
        return Err(Failure::Config(shown + &summary));
    }
    complain(&shown);
    say(&summary);
    Ok(())
}

/// How many findings of each kind there are of something.
fn summary(what: &str, findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let plural =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let errors = plural(count(Severity::Error), "error");
    format!("{what}: {errors}, {}\n", plural(count(Severity::Warning), "warning"))
}

/// What a gateway with this configuration would miss on this machine.
fn missing_here(loaded: &Loaded) -> Vec<Finding> {
    let gateway = &loaded.config.gateway;
    let mut findings = Vec::new();
    machine::check::check(
        gateway,
        roles::gateway_layout(gateway).0,
        &Machine::look(),
        &mut findings,
    );
    for finding in &mut findings {
        finding.problem = format!("on this machine: {}", finding.problem);
    }
    findings
}

fn serve(role: roles::Role, common: &Common, flags: Vec<Override>) -> Result<(), Failure> {
    let reader = Reader { file: common.config.clone(), flags };
    let mut loaded =
        reader.read().map_err(|error| Failure::Config(format!("error: {error:#}\n")))?;
    if role.runs_gateway() && !loaded.has_errors() {
        let missing = missing_here(&loaded);
        loaded.findings.extend(missing);
    }
    let shown = render(&loaded);
    if loaded.has_errors() {
        return Err(Failure::Config(shown));
    }
    complain(&shown);
    let level = log::start(&loaded.config.log);
    roles::run(role, loaded.config, reader, level)
}

fn print_plan(common: &Common, flags: Vec<Override>, asked: &PlanFlags) -> Result<(), Failure> {
    let reader = Reader { file: common.config.clone(), flags };
    // A plan comes before addresses and devices are known, so only what cannot be read stops it.
    let loaded = reader.load().map_err(|error| Failure::Config(format!("error: {error:#}\n")))?;
    if loaded.has_errors() {
        return Err(Failure::Config(render(&loaded)));
    }
    let gateway = &loaded.config.gateway;
    let mut supply = plan::Supply::of(&Machine::look(), gateway);
    let says_shards = gateway.shards.is_some();
    let shards = match asked.cores.filter(|_| !says_shards) {
        Some(cores) => cores.min(SHARDS_MAX),
        None => roles::gateway_layout(gateway).0,
    };
    supply.cores = asked.cores.unwrap_or(supply.cores);
    supply.descriptors = asked.descriptors.or(supply.descriptors);
    supply.link_gbits = asked.link.or(supply.link_gbits);
    if let Some(memory) = asked.memory {
        (supply.memory_bytes, supply.huge_pages_free) = (Some(memory), None);
    }
    let target = Sizing::of(gateway, shards).map_or(CLIENTS_DEFAULT, |sizing| sizing.clients);
    let load = plan::Load {
        clients: asked.clients.unwrap_or(target),
        message_rate: asked.message_rate,
        bytes: asked.bytes,
        fan_out: asked.fan_out,
        session_secs: asked.session,
    };
    let plan = plan::plan(gateway, shards, load, supply);
    if asked.json {
        let json = serde_json::to_string_pretty(&plan).context("cannot write JSON")?;
        say(&(json + "\n"));
    } else {
        say(&plan::table(&plan));
    }
    Ok(())
}

/// Most shards of a gateway.
const SHARDS_MAX: u16 = 1024;
/// Clients planned for when nothing says how many.
const CLIENTS_DEFAULT: u32 = 100_000;

fn print_topology(common: &Common, flags: Vec<Override>, json: bool) -> Result<(), Failure> {
    let reader = Reader { file: common.config.clone(), flags };
    let loaded = reader.read().map_err(|error| Failure::Config(format!("error: {error:#}\n")))?;
    if loaded.has_errors() {
        return Err(Failure::Config(render(&loaded)));
    }
    topology::print(&loaded.config, json)
}

/// Every finding, as `check` shows it.
pub(crate) fn render(loaded: &Loaded) -> String {
    loaded.findings.iter().map(|finding: &Finding| loaded.sources.render(finding)).collect()
}

/// The flags as settings, so that a mistake in one is reported like any other, under its name.
fn overrides(cli: &Cli) -> Vec<Override> {
    let mut flags = Flags::default();
    let common = &cli.common;
    flags.set("--log-level", &["log", "level"], common.log_level.map(word));
    flags.set("--log-format", &["log", "format"], common.log_format.map(word));
    let run_dir = common.run_dir.as_ref().and_then(|dir| dir.to_str());
    flags.set("--run-dir", &["admin", "run_dir"], run_dir.map(Value::from));
    let secret = match &cli.command {
        Command::Register(register) => {
            let listen = register.listen.as_deref().map(Value::from);
            flags.set("--listen", &["register", "listen"], listen);
            Some(("register", &register.secret))
        }
        Command::Gateway(gateway) => {
            flags.set_gateway(gateway);
            Some(("gateway", &gateway.secret))
        }
        Command::Dispatcher(dispatcher) => {
            let listen = dispatcher.listen.as_deref().map(Value::from);
            flags.set("--listen", &["dispatcher", "listen"], listen);
            let registers = registers(&dispatcher.register);
            flags.set("--register", &["dispatcher", "register_address"], registers);
            Some(("dispatcher", &dispatcher.secret))
        }
        Command::Topology(topology) => {
            // What a gateway needs to know of a register is all that a question needs.
            let registers = registers(&topology.register);
            flags.set("--register", &["gateway", "register_address"], registers);
            Some(("gateway", &topology.secret))
        }
        Command::Start(start) => {
            flags.set("--mode", &["gateway", "mode"], start.mode.mode.map(word));
            None
        }
        Command::Plan(plan) => {
            flags.set("--data-path", &["gateway", "data_path"], plan.data_path.map(word));
            let shards = plan.shards.map(|shards| Value::Integer(shards.into()));
            flags.set("--shards", &["gateway", "shards"], shards);
            None
        }
        Command::Check(_) | Command::Status(_) | Command::Connections(_) => None,
    };
    flags.set_secret(secret);
    flags.0
}

/// Flags that were given.
#[derive(Debug, Default)]
struct Flags(Vec<Override>);

impl Flags {
    fn set(&mut self, name: &str, path: &[&str], value: Option<Value>) {
        let path = path.iter().map(ToString::to_string).collect();
        self.0.extend(value.map(|value| Override {
            name: name.to_owned(),
            path,
            text: value.to_string(),
        }));
    }

    fn set_gateway(&mut self, gateway: &GatewayFlags) {
        let clients = gateway.client.iter().map(|client| Value::Table(client.clone())).collect();
        self.set("--client", &["gateway", "client"], given(clients));
        let inner = gateway.inner.as_deref().map(Value::from);
        self.set("--inner", &["gateway", "inner", "listen"], inner);
        let registers = registers(&gateway.register);
        self.set("--register", &["gateway", "register_address"], registers);
        let shards = gateway.shards.map(|shards| Value::Integer(shards.into()));
        self.set("--shards", &["gateway", "shards"], shards);
        self.set("--mode", &["gateway", "mode"], gateway.mode.mode.map(word));
    }

    /// The key of a section; without one the variable counts, for every section.
    fn set_secret(&mut self, secret: Option<(&str, &SecretFlags)>) {
        let flagged = secret
            .filter(|(_, secret)| secret.secret_key.is_some() || secret.secret_key_file.is_some());
        if let Some((section, secret)) = flagged {
            let key = secret.secret_key.as_deref().map(Value::from);
            self.set("--secret-key", &[section, "secret_key"], key);
            let file = secret.secret_key_file.as_deref().map(Value::from);
            self.set("--secret-key-file", &[section, "secret_key_file"], file);
        } else if let Ok(key) = std::env::var("TENGATE_SECRET_KEY") {
            for section in ["register", "gateway", "dispatcher"] {
                let key = Some(Value::from(key.as_str()));
                self.set("TENGATE_SECRET_KEY", &[section, "secret_key"], key);
            }
        }
    }
}

fn word(value: impl ValueEnum) -> Value {
    Value::from(value.to_possible_value().as_ref().map_or("", |possible| possible.get_name()))
}

/// `--register`, once or more.
fn registers(flags: &[String]) -> Option<Value> {
    given(flags.iter().map(|peer| Value::from(peer.as_str())).collect())
}

/// A repeatable flag: not given at all, or a list.
fn given(values: Vec<Value>) -> Option<Value> {
    (!values.is_empty()).then_some(Value::Array(values))
}

/// `websocket://0.0.0.0:8282`, and Workerman's spelling `Websocket://0.0.0.0:8282`, as a [[gateway.client]].
fn decode_client(flag: &str) -> Result<Table, String> {
    let (protocol, listen) = flag
        .split_once("://")
        .ok_or("write PROTOCOL://IP:PORT, such as websocket://127.0.0.1:8282")?;
    let entries = [("protocol", protocol.to_lowercase()), ("listen", listen.to_owned())];
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect())
}

/// A number that is neither negative nor endless.
fn decode_rate(flag: &str) -> Result<f64, String> {
    let rate = flag.parse::<f64>().ok().filter(|rate| (0.0..=1e9).contains(rate));
    rate.ok_or_else(|| "write a number from 0 to 1000000000, such as 0.1".to_owned())
}

fn decode_session(flag: &str) -> Result<f64, String> {
    decode_rate(flag).and_then(|secs| {
        let is_long = secs >= 0.001;
        is_long.then_some(secs).ok_or_else(|| "write seconds, such as 600".to_owned())
    })
}

fn decode_size(flag: &str) -> Result<u64, String> {
    let size = Size::decode(flag).map(|size| size.0);
    size.ok_or_else(|| "write a size such as 64GiB".to_owned())
}
