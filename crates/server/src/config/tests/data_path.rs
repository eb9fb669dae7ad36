//! What is refused of the data paths past the kernel.

use super::{EXAMPLE, check_finding, findings};

/// A gateway on a bypass path that nothing is wrong with, with further keys in its sections.
fn bypass(path: &str, netstack: &str, device: &str) -> String {
    let device = match path {
        "dpdk" => format!("[gateway.dpdk]\ndevice = \"net_null0\"\n{device}\n"),
        _ => format!("[gateway.af_xdp]\ninterface = \"eth0\"\n{device}\n"),
    };
    let client = "[[gateway.client]]\nlisten = \"0.0.0.0:8282\"\n";
    let netstack = format!("[gateway.netstack]\naddresses = [\"10.0.0.5/24\"]\n{netstack}\n");
    format!("[gateway]\ndata_path = \"{path}\"\n{netstack}{device}{client}")
}

/// The findings of a bypass path, without the one that every path over DPDK has in a program built without it.
fn bypass_findings(text: &str) -> Vec<String> {
    let mut found = findings(text, &[]);
    found.retain(|line| !line.contains("built without DPDK"));
    found
}

fn check_bypass(text: &str, expected: &[&str]) {
    let found = bypass_findings(text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    for part in expected {
        assert!(found[0].contains(part), "{part:?} is not in {:?}", found[0]);
    }
}

#[test]
fn a_bypass_path_needs_an_address_a_device_and_listeners_that_fit() {
    for path in ["dpdk", "af_xdp"] {
        assert_eq!(bypass_findings(&bypass(path, "", "")), Vec::<String>::new(), "{path}");
        let found = bypass_findings(&format!("[gateway]\ndata_path = \"{path}\"\n"));
        assert_eq!(found.len(), 3, "{found:#?}");
        for part in ["has no address", "is named for", "127.0.0.1:8282 is not an address of"] {
            assert!(found.iter().any(|line| line.contains(part)), "{part}: {found:#?}");
        }
        assert!(found.iter().all(|line| line.contains("t.toml:2:13")), "{found:#?}");
    }
    let two = "[\"10.0.0.5/24\", \"10.0.0.6/24\"]";
    let two = bypass("af_xdp", "", "").replace("[\"10.0.0.5/24\"]", two);
    let two = two.replace("0.0.0.0:8282", "10.0.0.5:8282");
    check_bypass(&two, &["Warning", "port 8282 is open on all addresses"]);
    let second = "[[gateway.client]]\nlisten = \"10.0.0.6:8282\"\n";
    let found = bypass_findings(&(two + second));
    assert!(found[1].contains("t.toml:12:10: port 8282 has a client listener"), "{found:#?}");
    let own = bypass("af_xdp", "", "").replace("0.0.0.0:8282", "10.0.0.5:8282");
    assert_eq!(bypass_findings(&own), Vec::<String>::new());
}

#[test]
fn a_program_built_without_dpdk_says_how_to_build_it_with_it() {
    let found = findings(&bypass("dpdk", "", ""), &[]);
    let says_so = found.iter().any(|line| {
        line.contains("Error t.toml:2:13: this tengate was built without DPDK")
            && line.contains("--features dpdk")
    });
    assert_eq!(says_so, !cfg!(feature = "dpdk"), "{found:#?}");
}

#[test]
fn sections_of_another_data_path_are_a_warning() {
    check_finding(
        "[gateway.netstack]\nmtu = 1400\n",
        &["Warning t.toml:1:1", "no effect with data_path = \"kernel\"", "\"af_xdp\" or \"dpdk\""],
    );
    check_finding(
        "[gateway.dpdk]\npages = \"huge\"\n",
        &["Warning", "[gateway.dpdk] has no effect"],
    );
    let both = bypass("af_xdp", "", "[gateway.dpdk]\ndevice = \"net_null0\"");
    check_bypass(&both, &["Warning t.toml:8:1", "data_path = \"af_xdp\""]);
}

#[test]
fn addresses_and_links_of_the_stack_that_cannot_work_are_refused() {
    let stack = |keys: &str| bypass("dpdk", keys, "");
    let addresses = |list: &str| stack("").replace("[\"10.0.0.5/24\"]", list);
    check_bypass(&addresses("[\"10.0.0.5\"]"), &["t.toml:4:14", "such as \"10.0.0.5/24\""]);
    check_bypass(&addresses("[\"127.0.0.1/8\"]"), &["t.toml:4:14", "the address of a host"]);
    check_bypass(&addresses("[\"10.0.0.5/24\", \"10.0.0.5/8\"]"), &["t.toml:4:29", "listed twice"]);
    check_bypass(&addresses("[]"), &["t.toml:4:13", "has no address"]);
    check_bypass(&stack("gateways = [\"10.0.1.1\"]"), &["t.toml:5:13", "in no network"]);
    check_bypass(&stack("gateways = [\"10.0.0.5\"]"), &["not a router's"]);
    check_bypass(
        &stack("gateways = [\"10.0.0.1\", \"10.0.0.2\"]"),
        &["t.toml:5:25", "second router of the same IP version"],
    );
    check_bypass(&stack("mtu = 100"), &["t.toml:5:7", "from 576 to 9000"]);
    check_bypass(&bypass("af_xdp", "mtu = 9000", ""), &["t.toml:5:7", "from 576 to 3822"]);
    let v6 = addresses("[\"2001:db8::5/64\"]\nmtu = 1279");
    check_bypass(&v6, &["from 1280 to 9000"]);
    check_bypass(&stack("vlan = 4095"), &["there is no vlan 4095"]);
    check_bypass(&stack("mac = \"01:00:00:00:00:01\""), &["t.toml:5:7", "must be even"]);
    check_bypass(&stack("mac = \"1\""), &["a hardware address such as"]);
}

#[test]
fn capacities_of_the_stack_that_cannot_work_are_refused() {
    let stack = |keys: &str| bypass("dpdk", keys, "");
    check_bypass(&stack("connections_target = 0"), &["t.toml:5:22", "connections_target 0"]);
    check_bypass(&stack("recv_window_bytes = \"2GiB\""), &["from 2KiB to 1GiB"]);
    check_bypass(&stack("time_wait = 0"), &["time_wait is zero"]);
    check_bypass(&stack("keepalive_probes = 2"), &["no effect without keepalive_idle"]);
    check_bypass(&stack("keepalive_idle = 60\nkeepalive_probes = 0"), &["from 1 to 255"]);
    let shards = stack("").replace("[gateway]\n", "[gateway]\nshards = 65\n");
    let found = bypass_findings(&shards);
    assert!(found.iter().any(|line| line.contains("t.toml:2:10: 65 shards are more")), "{found:?}");
    check_bypass(&stack("congestion = \"bbr\""), &["t.toml:5:14", "cubic"]);
    let limit = stack("").replace("[gateway]\n", "[gateway]\nmax_connections = 100001\n");
    check_bypass(&limit, &["Warning t.toml:2:19", "over connections_target 100000"]);
}

#[test]
fn devices_of_dpdk_that_cannot_work_are_refused() {
    let dpdk = |keys: &str| bypass("dpdk", "", keys);
    let device = |device: &str| dpdk("").replace("net_null0", device);
    for good in ["0000:3b:00.0", "3b:00.1", "net_memif0,role=server,socket=/run/x", "net_tap7"] {
        assert_eq!(bypass_findings(&device(good)), Vec::<String>::new(), "{good}");
    }
    check_bypass(&device("eth0"), &["t.toml:7:10", "neither a PCI address nor"]);
    check_bypass(&device("0000:3b:00"), &["neither a PCI address nor"]);
    check_bypass(&device("net_memif0,server"), &["\"server\" is not an argument"]);
    check_bypass(&device("net_memif0,zero-copy=yes"), &["shares buffers"]);
    let ordinary = device("0000:3b:00.0").replace("device", "pages = \"ordinary\"\ndevice");
    check_bypass(&ordinary, &["a real device cannot use ordinary pages"]);
    check_bypass(&dpdk("descriptors = 32"), &["t.toml:8:15", "from 64 to 4096"]);
    check_bypass(&dpdk("file_prefix = \"a/b\""), &["not a file's name"]);
    check_bypass(&dpdk("memory_bytes = \"1MiB\""), &["from 32MiB"]);
    check_bypass(&dpdk("sleep_min = \"2ms\""), &["sleep_min is longer than sleep_max"]);
    check_bypass(&dpdk("sleep_max = \"1s\""), &["sleep_max is over 100 ms"]);
    check_bypass(&dpdk("busy_poll = true\nspin_turns = 1"), &["no effect with busy_poll"]);
}

#[test]
fn interfaces_of_af_xdp_that_cannot_work_are_refused() {
    let af_xdp = |keys: &str| bypass("af_xdp", "", keys);
    let interface = af_xdp("").replace("eth0", "an interface name");
    check_bypass(&interface, &["t.toml:7:13", "not the name of an interface"]);
    check_bypass(&af_xdp("mode = \"generic\"\nzero_copy = \"on\""), &["t.toml:9:13", "copies"]);
    check_bypass(&af_xdp("frames = 1000"), &["t.toml:8:10", "a power of two"]);
    check_bypass(&af_xdp("busy_poll = true\npause_turns = 1"), &["no effect with busy_poll"]);
}

#[test]
fn the_example_is_right_for_every_data_path() {
    let uncommented = |section: &str| {
        let (_, rest) = EXAMPLE.split_once(&format!("# [gateway.{section}]\n")).unwrap();
        let lines = rest.lines().map_while(|line| line.strip_prefix("# "));
        lines.fold(format!("[gateway.{section}]\n"), |text, line| text + line + "\n")
    };
    for (path, device) in [("dpdk", "dpdk"), ("af_xdp", "af_xdp")] {
        let text = format!(
            "[gateway]\ndata_path = \"{path}\"\n{}{}[[gateway.client]]\nlisten = \"0.0.0.0:8282\"\n",
            uncommented("netstack"),
            uncommented(device)
        );
        assert_eq!(bypass_findings(&text), Vec::<String>::new(), "{text}");
    }
}
