//! The command line and `tengate check`, through the real binary.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Place, stderr, stdout};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/tengate.toml");

#[test]
fn check_shows_every_mistake_with_its_line_and_exits_with_2() {
    let place = Place::new();
    place.file("t.toml", "[gateway]\nsahrds = 4\nclose_linger = \"10 years\"\n");
    let output = place.output(&["check", "--config", "t.toml"]);
    let expected = "\
error: t.toml:2:1: unknown key `sahrds`
  |
2 | sahrds = 4
  | ^^^^^^
  = did you mean `shards`?
error: t.toml:3:16: string \"10 years\" does not fit here
  |
3 | close_linger = \"10 years\"
  |                ^^^^^^^^^^
  = expected a duration such as \"10s\", \"500ms\", \"2m\" or a number of seconds
t.toml: 2 errors, 0 warnings
";
    assert_eq!(stderr(&output), expected);
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(2)));
}

#[test]
fn check_accepts_the_example_and_nothing_at_all() {
    let place = Place::new();
    let output = place.output(&["check", "--config", EXAMPLE]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    let summary = "tengate.toml: 0 errors, 0 warnings\nthis machine: 0 errors, 0 warnings\n";
    assert!(stdout(&output).ends_with(summary), "{}", stdout(&output));
    let output = place.output(&["check", "--config-only", "--config", EXAMPLE]);
    assert!(stdout(&output).ends_with("tengate.toml: 0 errors, 0 warnings\n"));
    assert_eq!(place.output(&["check"]).status.code(), Some(0));
}

#[test]
fn a_missing_file_is_a_configuration_error() {
    let output = Place::new().output(&["gateway", "--config", "absent.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("error: cannot read the configuration absent.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn mistakes_in_flags_and_variables_are_reported_under_their_names() {
    let place = Place::new();
    let output = place
        .command(&["gateway", "--client", "websockt://127.0.0.1:1", "--shards", "0"])
        .env("TENGATE_LOG__LEVLE", "info")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in [
        "error: TENGATE_LOG__LEVLE: unknown key `levle`\n  = did you mean `level`?",
        "error: --client: `websockt` is not a value of this key\n  = did you mean `websocket`?",
        "error: --shards: 0 shards do not work",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn mistakes_of_a_dispatcher_are_reported_with_their_places() {
    let place = Place::new();
    place.file(
        "t.toml",
        "[[dispatcher.group]]\nports = [8282]\n[[dispatcher.group]]\nports = [8282]\n",
    );
    let args =
        ["dispatcher", "--config", "t.toml", "--listen", "0.0.0.0:3900", "--register", "3900"];
    let output = place.output(&args);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "error: t.toml:4:10: port 8282 is in a group already\n  |\n4 | ports = [8282]\n",
        "error: --listen: lan_ip is needed",
        "warning: --listen: 0.0.0.0:3900 is open to the network and [dispatcher] has no secret key",
        "error: --register: ",
    ] {
        assert!(stderr(&output).contains(part), "{part}\nis not in\n{}", stderr(&output));
    }
}

#[test]
fn start_with_keys_that_differ_is_refused() {
    let place = Place::new();
    let keys = "[register]\nsecret_key = \"a\"\n[gateway]\nsecret_key = \"a\"\n";
    place.file("t.toml", keys);
    let output = place.output(&["start", "--mode", "dispatched", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = "error: [register], [gateway] and [dispatcher] have different secret keys";
    assert!(stderr(&output).contains(text), "{}", stderr(&output));
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let place = Place::new();
    place.file("t.toml", "[gateway]\nshards = 0\n");
    let check = |env: &[(&str, &str)]| {
        place
            .command(&["check", "--config", "t.toml"])
            .envs(env.iter().copied())
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(check(&[]), Some(2));
    assert_eq!(check(&[("TENGATE_GATEWAY__SHARDS", "1")]), Some(0));
    let output = place
        .command(&["gateway", "--config", "t.toml", "--shards", "2000"])
        .env("TENGATE_GATEWAY__SHARDS", "1")
        .output()
        .unwrap();
    assert!(stderr(&output).contains("--shards: 2000 shards"), "{}", stderr(&output));
}

#[test]
fn a_secret_key_is_never_shown() {
    let place = Place::new();
    place.file("t.toml", "[gateway]\nsecret_key = 314159\nregister = { secret_key = 314159 }\n");
    let output = place
        .command(&["check", "--config", "t.toml"])
        .env("TENGATE_REGISTER__SECRET_KEY", "[314159]")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("314159"), "{}", stderr(&output));
}

#[test]
fn a_secret_file_everybody_can_read_is_a_warning_and_a_missing_one_an_error() {
    let place = Place::new();
    let key = place.file("key", "s3cret\n");
    place.file("t.toml", "[register]\nsecret_key_file = \"key\"\n");
    assert_eq!(stderr(&place.output(&["check", "--config", "t.toml"])), "");

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = place.output(&["check", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("warning: t.toml:2:19: key can be read by everyone"),
        "{}",
        stderr(&output)
    );

    std::fs::remove_file(&key).unwrap();
    let output = place.output(&["check", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("error: t.toml:2:19: key cannot be read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_names_commands_defaults_variables_and_the_danger_of_keys_on_a_command_line() {
    let place = Place::new();
    let help = |args: &[&str]| {
        let output = place.output(args);
        assert_eq!(output.status.code(), Some(0));
        stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let general = help(&["--help"]);
    for part in [
        "start",
        "register",
        "gateway",
        "dispatcher",
        "check",
        "plan",
        "status",
        "connections",
        "topology",
        "TENGATE_GATEWAY__SHARDS=4",
    ] {
        assert!(general.contains(part), "{part}\n{general}");
    }
    let gateway = help(&["gateway", "--help"]);
    for part in [
        "[default: websocket://127.0.0.1:8282]",
        "[default: 127.0.0.1:2900]",
        "[default: direct]",
        "(`ps`)",
        "TENGATE_SECRET_KEY",
    ] {
        assert!(gateway.contains(part), "{part}\n{gateway}");
    }
    assert!(help(&["register", "--help"]).contains("[default: 127.0.0.1:1236]"));
    let dispatcher = help(&["dispatcher", "--help"]);
    for part in ["[default: 127.0.0.1:3900]", "[default: 127.0.0.1:1236]", "(`ps`)"] {
        assert!(dispatcher.contains(part), "{part}\n{dispatcher}");
    }
    assert!(help(&["start", "--help"]).contains("workers 127.0.0.1:3900"));
    assert!(help(&["topology", "--help"]).contains("--json"));
    assert!(help(&["check", "--help"]).contains("--config-only"));
    assert!(help(&["plan", "--help"]).contains("af_xdp: Frames that the kernel hands over"));
}

#[test]
fn what_this_machine_lacks_is_told_apart_from_mistakes() {
    let place = Place::new();
    place.file(
        "t.toml",
        "[gateway]\ndata_path = \"af_xdp\"\n[gateway.netstack]\naddresses = [\"192.0.2.77/24\"]\n[gateway.af_xdp]\ninterface = \"absent0\"\n[[gateway.client]]\nlisten = \"0.0.0.0:8282\"\n",
    );
    let output = place.output(&["check", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "error: t.toml:6:13: on this machine: there is no interface absent0\n",
        "6 | interface = \"absent0\"\n",
        "t.toml: 0 errors, 0 warnings\nthis machine: ",
    ] {
        assert!(stderr(&output).contains(part), "{part}\nis not in\n{}", stderr(&output));
    }
    let output = place.output(&["check", "--config-only", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let output = place.output(&["gateway", "--config", "t.toml"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_plan_says_what_runs_out_first() {
    let place = Place::new();
    let machine = ["--cores", "4", "--memory", "16GiB", "--data-path", "dpdk"];
    let plan = |args: &[&str]| {
        let output = place.output(&[&["plan"], &machine[..], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let page = plan(&["--clients", "1000000", "--message-rate", "100"]);
    assert!(page.contains("1 000 000 clients on dpdk, 4 shards"), "{page}");
    assert!(page.contains("What runs out first: cores"), "{page}");
    assert!(page.ends_with("It does not fit.\n"), "{page}");
    let json: serde_json::Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    assert_eq!((&json["fits"], &json["load"]["clients"]), (&true.into(), &100_000.into()));
    assert_eq!(json["resources"].as_array().map(Vec::len), Some(5));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let place = Place::new();
    for args in [
        &[][..],
        &["gatewya"],
        &["gateway", "--client", "8282"],
        &["gateway", "--mode", "routed"],
        &["dispatcher", "--shards", "2"],
        &["status", "--nonsense"],
        &["plan", "--message-rate", "-1"],
        &["plan", "--memory", "much"],
    ] {
        assert_eq!(place.output(args).status.code(), Some(2), "{args:?}");
    }
}
