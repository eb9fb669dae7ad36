//! What the configuration refuses, where it says so, and that the documentation knows every key.

mod data_path;

use super::*;

const DOCUMENTATION: &str = include_str!("../../../../docs/configuration.md");
const EXAMPLE: &str = include_str!("../../../../deploy/tengate.toml");
const CORES: [usize; 2] = [0, 1];
/// Keys that are sections of their own.
const SECTIONS: [&str; 6] = ["inner", "client", "group", "netstack", "dpdk", "af_xdp"];

fn inputs(text: &str, overrides: &[(&str, &str)]) -> Inputs {
    let env = overrides
        .iter()
        .filter_map(|(name, text)| Override::from_env((*name).to_owned(), (*text).to_owned()));
    Inputs { file: Some((PathBuf::from("t.toml"), text.to_owned())), overrides: env.collect() }
}

fn read(text: &str, overrides: &[(&str, &str)]) -> Loaded {
    let mut loaded = load(&inputs(text, overrides));
    check(&loaded.config, &CORES, &mut loaded.findings);
    loaded
}

/// The `[gateway]` of a text, whether it can work or not.
pub(crate) fn gateway_of(text: &str) -> Gateway {
    load(&inputs(text, &[])).config.gateway
}

/// The findings of a text, one line each: severity, place, problem, advice.
fn findings(text: &str, overrides: &[(&str, &str)]) -> Vec<String> {
    let loaded = read(text, overrides);
    let line = |finding: &Finding| {
        let place = loaded.sources.place(&finding.span);
        format!("{:?} {place}: {}; {}", finding.severity, finding.problem, finding.advice)
    };
    loaded.findings.iter().map(line).collect()
}

fn check_finding(text: &str, expected: &[&str]) {
    let found = findings(text, &[]);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    for part in expected {
        assert!(found[0].contains(part), "{part:?} is not in {:?}", found[0]);
    }
}

/// Every key of the structs, by asking each section which keys it knows.
fn keys() -> Vec<(String, Vec<String>)> {
    let probe = |section: &str| {
        let (path, name) = (section.trim_matches(['[', ']']), "__probe");
        let header = if path.is_empty() { String::new() } else { format!("{section}\n") };
        let text = format!("{header}{name} = 1\n");
        // Names of workers are free, so that such a table knows no keys.
        let error = toml::from_str::<Config>(&text).err()?.message().to_owned();
        let (unknown, known) = error.split_once(", expected ")?;
        let known: Vec<String> = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (unknown.starts_with("unknown field") && unknown.contains(name)).then_some(known)
    };
    let mut sections = vec![String::new()];
    let mut found = Vec::new();
    while let Some(section) = sections.pop() {
        let Some(known) = probe(&section) else { continue };
        let path = section.trim_matches(['[', ']']).to_owned();
        for key in &known {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // A list of sections is entered by its first element.
            let plain = format!("[{below}]");
            let list = format!("[[{below}]]");
            if probe(&plain).is_some() {
                sections.push(plain);
            } else if probe(&list).is_some() {
                sections.push(list);
            }
        }
        found.push((section, known));
    }
    found
}

#[test]
fn every_key_is_documented_in_its_section() {
    let sections = keys();
    assert!(sections.len() >= 10, "{sections:?}");
    for (section, known) in sections.iter().filter(|(section, _)| !section.is_empty()) {
        let heading = format!("\n## `{section}`\n");
        let (_, rest) =
            DOCUMENTATION.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        let body = rest.split("\n## ").next().unwrap_or_default();
        let documented: Vec<&str> =
            body.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut known: Vec<&str> =
            known.iter().map(String::as_str).filter(|key| !SECTIONS.contains(key)).collect();
        let mut sorted = documented.clone();
        sorted.sort_unstable();
        known.sort_unstable();
        assert_eq!(sorted, known, "{section}");
    }
}

#[test]
fn documentation_and_code_agree_on_what_a_reload_changes() {
    let mut section = "";
    for line in DOCUMENTATION.lines() {
        if let Some(heading) = line.strip_prefix("## `") {
            section = heading.trim_matches(['[', ']', '`']);
        }
        let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else {
            continue;
        };
        let documented = line.ends_with("| yes |");
        if documented || line.ends_with("| no |") {
            let path = format!("{section}.{key}");
            assert_eq!(reload::LIVE.contains(&path.as_str()), documented, "{path}");
        }
    }
}

#[test]
fn the_example_is_accepted_and_uses_every_section() {
    assert_eq!(findings(EXAMPLE, &[]), Vec::<String>::new());
    for (section, _) in keys() {
        assert!(EXAMPLE.contains(&section), "{section}");
    }
}

#[test]
fn nothing_at_all_is_a_configuration() {
    assert_eq!(findings("", &[]), Vec::<String>::new());
    let config = read("", &[]).config;
    assert_eq!(config.gateway.client.get_ref().len(), 1);
    assert_eq!(config.gateway.inner.announced().to_string(), "127.0.0.1:2900");
    assert_eq!(config.dispatcher.announced().to_string(), "127.0.0.1:3900");
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_one() {
    check_finding(
        "[gateway]\nsahrds = 1\n",
        &["t.toml:2:1", "unknown key `sahrds`", "did you mean `shards`?"],
    );
    check_finding("[gatewya]\nshards = 1\n", &["t.toml:1:2", "did you mean `gateway`?"]);
    check_finding("[log]\nzzz = 1\n", &["keys known here: level, format"]);
    check_finding("[log]\nlevel = \"wran\"\n", &["t.toml:2:9", "did you mean `warn`?"]);
}

#[test]
fn a_value_of_the_wrong_kind_says_what_fits() {
    check_finding(
        "[gateway]\nshards = \"two\"\n",
        &["t.toml:2:10", "a whole number from 0 to 65535"],
    );
    check_finding("[gateway]\nclose_linger = \"soon\"\n", &["t.toml:2:16", "a duration such as"]);
    check_finding("[gateway]\npin_cores = 3\n", &["true, false or a list"]);
    check_finding("[gateway.inner]\nno_worker_bytes_max = \"ten\"\n", &["\"10MiB\""]);
    check_finding("[gateway.inner]\nlisten = \"2900\"\n", &["t.toml:2:10", "ip:port"]);
    check_finding("[demo]\nworker = \"yes\"\n", &["true or false"]);
    check_finding("[register]\nlisten = = 1\n", &["t.toml:2:10", "not TOML"]);
}

#[test]
fn every_mistake_is_reported_in_the_order_of_lines() {
    let text = "[log]\nlevel = 1\nlevle = 2\n[gateway]\nshards = 0\npin_cores = [7]\n[demo]\npage_listen = 80\n";
    let places: Vec<String> = findings(text, &[])
        .iter()
        .filter_map(|line| line.split(' ').nth(1).map(str::to_owned))
        .collect();
    assert_eq!(
        places,
        [
            "t.toml:2:9:",
            "t.toml:3:1:",
            "t.toml:5:10:",
            "t.toml:6:13:",
            "t.toml:6:13:",
            "t.toml:8:15:"
        ]
    );
}

#[test]
fn addresses_that_cannot_work_are_refused() {
    let client = |listen: &str| format!("[[gateway.client]]\nlisten = \"{listen}\"\n");
    check_finding(&client("127.0.0.1:0"), &["t.toml:2:10", "port 0"]);
    check_finding(
        &client("127.0.0.1:2900"),
        &["t.toml:2:10", "already taken by [gateway.inner] listen"],
    );
    check_finding(&client("0.0.0.0:1236"), &["already taken by [register] listen"]);
    check_finding("[gateway.inner]\nlisten = \"[::1]:2900\"\n", &["t.toml:2:10", "not IPv4"]);
    check_finding("[gateway.inner]\nlan_ip = \"0.0.0.0\"\n", &["t.toml:2:10", "lan_ip 0.0.0.0"]);
    check_finding("[gateway.inner]\nlan_ip = \"::1\"\n", &["lan_ip is not IPv4"]);
    check_finding(
        "[gateway]\nregister_address = \"127.0.0.1:2900\"\n",
        &["own [gateway.inner] listen"],
    );
    check_finding("[gateway]\nregister_address = [\"a:1\", \"a:1\"]\n", &["listed twice"]);
    check_finding("[gateway]\nregister_address = []\n", &["is empty", "127.0.0.1:1236"]);
    check_finding("[gateway]\nclient = []\n", &["no client listener"]);
    check_finding(
        "[[gateway.client]]\nprotocol = \"text\"\n",
        &["t.toml:1:1", "no listen address"],
    );
}

#[test]
fn an_inner_address_open_to_all_needs_lan_ip_and_a_key() {
    let found = findings("[gateway.inner]\nlisten = \"0.0.0.0:2900\"\n", &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().any(|line| line.starts_with("Error") && line.contains("lan_ip is needed")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.starts_with("Warning") && line.contains("no secret key")),
        "{found:?}"
    );
    let closed = "[gateway]\nsecret_key = \"s\"\n[gateway.inner]\nlisten = \"0.0.0.0:2900\"\nlan_ip = \"10.0.0.2\"\n";
    assert_eq!(findings(closed, &[]), Vec::<String>::new());
}

#[test]
fn a_register_and_its_gateway_need_the_same_key() {
    let register = "[register]\nlisten = \"127.0.0.1:1236\"\n";
    check_finding(
        &format!("{register}secret_key = \"a\"\n[gateway]\nsecret_key = \"b\"\n"),
        &["Warning", "same key"],
    );
    check_finding(
        &format!("{register}[gateway]\nsecret_key = \"b\"\n"),
        &["Warning", "different secret keys"],
    );
    let elsewhere = "secret_key = \"a\"\n[gateway]\nregister_address = \"10.0.0.1:1236\"\n";
    assert_eq!(findings(&format!("{register}{elsewhere}"), &[]), Vec::<String>::new());
    assert_eq!(findings("[gateway]\nsecret_key = \"b\"\n", &[]), Vec::<String>::new());
}

#[test]
fn a_register_and_its_dispatcher_need_the_same_key() {
    check_finding(
        "[register]\nlisten = \"127.0.0.1:1236\"\nsecret_key = \"a\"\n[dispatcher]\nsecret_key = \"b\"\n",
        &["Warning", "t.toml:2:10", "[register] and [dispatcher] have different secret keys"],
    );
}

#[test]
fn a_dispatcher_needs_an_address_of_its_own_that_workers_reach() {
    let listen = |address: &str| format!("[dispatcher]\nlisten = \"{address}\"\n");
    check_finding(&listen("127.0.0.1:2900"), &["t.toml:2:10", "taken by [gateway.inner] listen"]);
    check_finding(&listen("[::1]:3900"), &["the dispatcher's address [::1]:3900 is not IPv4"]);
    check_finding(
        "[dispatcher]\nsecret_key = \"s\"\nlisten = \"0.0.0.0:3900\"\n",
        &["t.toml:3:10", "lan_ip is needed"],
    );
    check_finding(
        &listen("0.0.0.0:3900\"\nlan_ip = \"10.0.0.2"),
        &["Warning", "[dispatcher] has no secret key"],
    );
    check_finding(
        "[dispatcher]\nlisten = \"127.0.0.1:3900\"\nregister_address = \"127.0.0.1:3900\"\n",
        &["t.toml:3:20", "this dispatcher's own [dispatcher] listen"],
    );
    check_finding("[dispatcher]\nregister_address = []\n", &["register_address is empty"]);
    let client = "[[gateway.client]]\nlisten = \"127.0.0.1:3900\"\n";
    assert_eq!(findings(client, &[]), Vec::<String>::new());
    check_finding(
        &format!("[gateway]\nmode = \"dispatched\"\n{client}"),
        &["t.toml:4:10", "already taken by [dispatcher] listen"],
    );
}

#[test]
fn a_dispatcher_uses_the_registers_of_its_gateway_unless_it_has_its_own() {
    let registers = |text: &str| read(text, &[]).config.dispatcher_registers().get_ref().0[0].port;
    assert_eq!(registers(""), 1236);
    assert_eq!(registers("[gateway]\nregister_address = \"r:1\"\n"), 1);
    let own = "[dispatcher]\nregister_address = \"r:2\"\n";
    assert_eq!(registers(&format!("[gateway]\nregister_address = \"r:1\"\n{own}")), 2);
}

#[test]
fn groups_of_workers_that_contradict_are_refused() {
    let group = |keys: &str| format!("[[dispatcher.group]]\nports = [8282]\n{keys}\n");
    assert_eq!(
        findings(&group("workers = [\"a\", \"b\"]\nweights = { a = 2 }"), &[]),
        Vec::<String>::new()
    );
    check_finding("[[dispatcher.group]]\nworkers = [\"a\"]\n", &["t.toml:1:1", "no ports"]);
    check_finding(
        &group("[[dispatcher.group]]\nports = [8283, 8282]"),
        &["t.toml:4:16", "port 8282 is in a group already"],
    );
    check_finding("[[dispatcher.group]]\nports = [0]\n", &["t.toml:2:10", "no port 0"]);
    check_finding(&group("workers = [\"a\", \"a\"]"), &["t.toml:3:17", "listed twice"]);
    check_finding(&group("workers = [\"\"]"), &["name is empty"]);
    check_finding(&group("workers = [\"a:0\"]"), &["t.toml:3:12", "not its name"]);
    check_finding(&group("weights = { a = 0 }"), &["t.toml:3:17", "weight of 0", "from 1 to 1000"]);
    check_finding(
        &group("workers = [\"a\"]\nweights = { b = 2 }"),
        &["t.toml:4:17", "weight of `b` has no effect"],
    );
    check_finding(&group("wieghts = { a = 2 }"), &["t.toml:3:1", "did you mean `weights`?"]);
    check_finding(&group("balance = \"hash_id\""), &["did you mean `hash_uid`?"]);
    check_finding("[dispatcher]\nweights = { a = 1001 }\n", &["t.toml:2:17", "weight of 1001"]);
    check_finding(
        "[dispatcher]\nweights = { a = \"much\" }\n",
        &["a whole number from 0 to 65535"],
    );
}

#[test]
fn limits_of_a_dispatcher_that_cannot_work_are_refused() {
    let keys = |keys: &str| format!("[dispatcher]\n{keys}\n");
    check_finding(&keys("query_timeout = 0"), &["t.toml:2:17", "query_timeout is zero"]);
    check_finding(&keys("reply_bytes_max = \"61MiB\""), &["t.toml:2:19", "over 60 MiB"]);
    check_finding(&keys("pending_queries_max = 0"), &["pending_queries_max 0"]);
    check_finding(&keys("detach_limit = 5"), &["Warning", "t.toml:2:16", "not shorter"]);
    check_finding("[gateway]\ndetach_timeout = 1\n", &["Warning", "t.toml:2:18", "not shorter"]);
}

#[test]
fn numbers_of_shards_must_fit_into_a_connection_id() {
    check_finding("[register]\nproc_ids = \"0-1024\"\n", &["t.toml:2:12", "from 0 to 1023"]);
    check_finding("[register]\nproc_ids = \"9-3\"\n", &["t.toml:2:12", "smaller one first"]);
    check_finding("[gateway]\nnumber_bits = 20\n", &["t.toml:2:15", "22 for 1024 shards"]);
    check_finding("[gateway]\nnumber_bits = 24\nshards = 257\n", &["t.toml:3:10", "from 1 to 256"]);
}

#[test]
fn every_policy_for_slow_clients_has_its_word() {
    for word in ["drop", "drop_oldest", "close"] {
        let text =
            format!("[[gateway.client]]\nlisten = \"127.0.0.1:8282\"\nslow_client = \"{word}\"\n");
        assert_eq!(findings(&text, &[]), Vec::<String>::new());
    }
}

#[test]
fn limits_and_heartbeats_that_contradict_are_refused() {
    let client = |keys: &str| format!("[[gateway.client]]\nlisten = \"127.0.0.1:8282\"\n{keys}\n");
    check_finding(&client("message_bytes_max = 3"), &["t.toml:3:21", "from 128"]);
    check_finding(
        &client("ping_data = \"p\""),
        &["t.toml:3:13", "no effect without ping_interval"],
    );
    check_finding(&client("ping_interval = 10"), &["Warning", "neither sends nor closes"]);
    check_finding(&client("ping_interval = \"1ms\"\nping_data = \"p\""), &["shorter than 100 ms"]);
    check_finding(
        &client("ping_interval = 9\nping_data = \"p\"\nping_websocket = true"),
        &["both set"],
    );
    check_finding(&client("ping_interval = 9\nping_not_response_limit = 10001"), &["over 10000"]);
    check_finding(
        &client("protocol = \"tcp\"\ncheck_utf8 = true"),
        &["t.toml:4:14", "no meaning for protocol tcp"],
    );
    check_finding(&client("handshake_timeout = 0"), &["handshake_timeout is zero"]);
    check_finding("[gateway]\nclose_linger = 0\n", &["close_linger is zero"]);
}

#[test]
fn a_length_outside_its_header_is_refused() {
    let field = |keys: &str| {
        let client =
            "[[gateway.client]]\nlisten = \"127.0.0.1:8282\"\nprotocol = \"length_field\"\n";
        format!("{client}[gateway.client.length_field]\n{keys}\n")
    };
    check_finding(&field("length_offset = 2"), &["t.toml:5:17", "ends at byte 6"]);
    check_finding(&field("length_bytes = 5"), &["t.toml:5:16", "1, 2, 3, 4 or 8"]);
    check_finding(&field("magic = \"ff\""), &["t.toml:5:9", "after the magic"]);
    check_finding(&field("magic = \"f\""), &["two digits each"]);
    let bare = "[[gateway.client]]\nlisten = \"127.0.0.1:8282\"\nprotocol = \"length_field\"\n";
    check_finding(bare, &["t.toml:1:1", "needs its header described"]);
}

#[test]
fn cores_must_exist_and_match_the_shards() {
    check_finding("[gateway]\npin_cores = [0, 9]\n", &["t.toml:2:13", "core 9", "[0, 1]"]);
    check_finding("[gateway]\nshards = 1\npin_cores = [0, 1]\n", &["2 cores for 1 shards"]);
    check_finding("[gateway]\nshards = 3\n", &["Warning", "3 shards share 2 cores"]);
    check_finding("[gateway]\npin_cores = [1, 1]\n", &["Warning", "core 1 is given to 2 shards"]);
}

#[test]
fn the_environment_overrides_the_file_and_is_named_in_errors() {
    let text = "[gateway]\nshards = 1\nsecret_key_file = \"/nonexistent\"\n";
    let env = [("TENGATE_GATEWAY__SHARDS", "2"), ("TENGATE_GATEWAY__SECRET_KEY", "12345")];
    let loaded = read(text, &env);
    assert_eq!(loaded.findings, Vec::new());
    assert_eq!(loaded.config.gateway.shards.map(Spanned::into_inner), Some(2));
    assert_eq!(
        loaded.config.gateway.secret_key.map(Spanned::into_inner),
        Some(Secret("12345".into()))
    );

    let found = findings("", &[("TENGATE_GATEWAY__SHRDS", "2"), ("TENGATE_LOG__LEVEL", "loud")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("TENGATE_GATEWAY__SHRDS") && found[0].contains("did you mean `shards`?"),
        "{found:?}"
    );
    assert!(found[1].contains("TENGATE_LOG__LEVEL: `loud`"), "{found:?}");
}

#[test]
fn the_environment_reaches_into_lists_of_sections() {
    let env = [("TENGATE_GATEWAY__CLIENT__0__LISTEN", "127.0.0.1:9000")];
    let text = "[[gateway.client]]\nprotocol = \"text\"\nlisten = \"127.0.0.1:8000\"\n";
    for text in ["", text] {
        let loaded = read(text, &env);
        assert_eq!(loaded.findings, Vec::new(), "{text}");
        let clients = loaded.config.gateway.client.into_inner();
        let listen =
            clients[0].get_ref().listen.as_ref().map(|listen| listen.get_ref().0.to_string());
        assert_eq!(listen.as_deref(), Some("127.0.0.1:9000"));
    }
}

#[test]
fn a_reload_knows_what_needs_a_restart() {
    let old = read("", &[]).config;
    let new = read("[log]\nlevel = \"debug\"\n[gateway]\nshards = 2\n[gateway.inner]\nslow_worker = \"drop\"\n", &[]).config;
    let found: Vec<(String, bool)> =
        changes(&old, &new).into_iter().map(|change| (change.key, change.live)).collect();
    let expected =
        [("gateway.inner.slow_worker", true), ("gateway.shards", false), ("log.level", true)];
    assert_eq!(found, expected.map(|(key, live)| (key.to_owned(), live)));

    let new = read("[dispatcher]\nlisten = \"127.0.0.1:3901\"\nweights = { a = 2 }\n", &[]).config;
    let found: Vec<(String, bool)> =
        changes(&old, &new).into_iter().map(|change| (change.key, change.live)).collect();
    let expected = [("dispatcher.listen", false), ("dispatcher.weights", true)];
    assert_eq!(found, expected.map(|(key, live)| (key.to_owned(), live)));
    let merged = with_live_keys(&old, &new).dispatcher;
    assert_eq!(merged.announced().port(), 3900);
    assert_eq!(merged.weights["a"].get_ref(), &2);
}
