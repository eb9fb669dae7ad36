//! Machines that are directories of files, and what a gateway would miss on them.

use super::check::check;
use super::*;
use crate::config::{Finding, gateway_of};

/// The `/proc` and `/sys` of a machine. Removed when dropped.
struct Fake(PathBuf);

impl Fake {
    /// A machine with 1 GiB of memory to be had, all privileges and no huge pages.
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("tengate-{}-{name}", std::process::id()));
        let fake = Self(root);
        fake.put("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\nHugePages_Free: 0\nHugepagesize: 2048 kB\n");
        fake.put("proc/self/status", "Name:\ttengate\nCapEff:\t000001ffffffffff\n");
        fake
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.0.join(path)).unwrap();
    }

    fn interface(&self, name: &str, flags: &str, queues: usize) {
        self.put(&format!("sys/class/net/{name}/flags"), flags);
        self.put(&format!("sys/class/net/{name}/mtu"), "1500\n");
        self.put(&format!("sys/class/net/{name}/speed"), "10000\n");
        self.put(&format!("sys/class/net/{name}/queues/tx-0/x"), "");
        for queue in 0..queues {
            self.put(&format!("sys/class/net/{name}/queues/rx-{queue}/x"), "");
        }
    }

    fn machine(&self) -> Machine {
        Machine::look_below(&self.0, vec![0, 1])
    }

    /// The findings of a configuration for two shards.
    fn findings(&self, text: &str) -> Vec<Finding> {
        findings(&self.machine(), text)
    }

    fn check(&self, text: &str, expected: &[&str]) {
        check_one(&self.machine(), text, expected);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // What is left of a test in a temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn findings(machine: &Machine, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    check(&gateway_of(text), 2, machine, &mut findings);
    findings
}

fn check_one(machine: &Machine, text: &str, expected: &[&str]) {
    let found = findings(machine, text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    let shown = format!("{:?}: {}; {}", found[0].severity, found[0].problem, found[0].advice);
    for part in expected {
        assert!(shown.contains(part), "{part:?} is not in {shown:?}");
    }
    assert!(!found[0].span.is_empty(), "{found:?}");
}

fn dpdk(device: &str, keys: &str) -> String {
    format!("[gateway]\ndata_path = \"dpdk\"\n[gateway.dpdk]\ndevice = \"{device}\"\n{keys}\n")
}

fn af_xdp(netstack: &str) -> String {
    format!(
        "[gateway]\ndata_path = \"af_xdp\"\n[gateway.af_xdp]\ninterface = \"eth7\"\n[gateway.netstack]\n{netstack}\n"
    )
}

#[test]
fn a_machine_tells_what_it_has() {
    let fake = Fake::new("has");
    fake.put("proc/meminfo", "MemAvailable:  1000 kB\nHugePages_Free:   7\nHugePages_Rsvd:   2\nHugepagesize:   2048 kB\n");
    fake.put("proc/net/fib_trie", "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n");
    fake.put("proc/net/if_inet6", "20010db8000000000000000000000005 02 40 00 80     eth7\n");
    fake.put("proc/net/tcp", "  sl  local_address rem_address   st\n   0: 00000000:205A 00000000:0000 0A 0\n   1: 0100007F:0050 0100007F:1234 01 0\n");
    fake.interface("eth7", "0x1003\n", 3);
    let machine = fake.machine();
    assert_eq!(machine.memory_bytes, Some(1_024_000));
    assert_eq!((machine.huge_pages_free, machine.huge_page_bytes), (5, 2 << 20));
    let addresses = ["10.0.0.5", "2001:db8::5"].map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(machine.addresses(), addresses);
    assert_eq!(machine.listening_ports(), [8282]);
    let interface = Interface { is_up: true, queues: 3, mtu: Some(1500), mbits: Some(10_000) };
    assert_eq!(machine.interface("eth7"), Some(interface));
    assert_eq!(machine.interface("eth8"), None);
    assert!(machine.may(Capability::Bpf));
}

#[test]
fn a_cgroup_may_leave_less_than_the_machine_has() {
    let fake = Fake::new("cgroup");
    assert!(!fake.machine().is_confined);
    fake.put("proc/self/cgroup", "0::/system/tengate\n");
    fake.put("sys/fs/cgroup/system/tengate/memory.max", "max\n");
    fake.put("sys/fs/cgroup/system/memory.max", "1000000\n");
    fake.put("sys/fs/cgroup/system/memory.current", "700000\n");
    fake.put("sys/fs/cgroup/system/memory.stat", "anon 1\ninactive_file 200000\n");
    let machine = fake.machine();
    assert_eq!((machine.memory_bytes, machine.is_confined), (Some(500_000), true));

    let fake = Fake::new("cgroup-v1");
    fake.put("proc/self/cgroup", "4:memory:/host/path\n0::/\n");
    fake.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");
    fake.put("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n");
    assert_eq!(fake.machine().memory_bytes, Some(900_000));
}

#[test]
fn nothing_is_missed_on_a_machine_that_has_it_all() {
    let fake = Fake::new("all");
    fake.interface("eth7", "0x1003\n", 2);
    fake.put("proc/net/if_inet6", "20010db8000000000000000000000005 02 40 00 80     eth7\n");
    fake.put("proc/meminfo", "MemAvailable: 1048576 kB\nHugePages_Free: 64\n");
    let texts = [
        String::new(),
        dpdk("net_null0", ""),
        dpdk("net_af_packet0,iface=eth7", ""),
        af_xdp("addresses = [\"2001:db8::5/64\"]"),
    ];
    for text in texts {
        assert_eq!(fake.findings(&text), Vec::new(), "{text}");
    }
}

#[test]
fn pools_that_do_not_fit_are_refused_with_figures() {
    let fake = Fake::new("memory");
    let target = "pages = \"ordinary\"\n[gateway.netstack]\nconnections_target = 4000000";
    let text = dpdk("net_null0", target);
    fake.check(
        &text,
        &[
            "Error: sized for 4 000 000 clients on 2 shards: ",
            " MiB (clients 1 458",
            "but 1 024 MiB are available",
            "lower pool_bytes or connections_target",
        ],
    );
    fake.check("[gateway]\nmax_connections = 1000000\n", &["Warning", "lower max_connections"]);
    let mut machine = fake.machine();
    machine.is_confined = true;
    check_one(&machine, &text, &["Error", "but its cgroup leaves 1 024 MiB"]);
}

#[test]
fn descriptors_bound_what_the_kernel_path_can_hold() {
    let fake = Fake::new("descriptors");
    let mut machine = fake.machine();
    machine.descriptors_max = Some(20_000);
    let expected = ["Warning", "100 256 file descriptors", "can have 20 000", "ulimit -Hn 100256"];
    check_one(&machine, "[gateway]\nmax_connections = 100000\n", &expected);
    assert_eq!(findings(&machine, "[gateway]\nmax_connections = 19000\n"), Vec::new());
    assert_eq!(findings(&machine, &dpdk("net_null0", "pages = \"ordinary\"")), Vec::new());
}

#[test]
fn huge_pages_must_be_free_and_mounted_when_they_are_files() {
    let fake = Fake::new("pages");
    fake.check(
        &dpdk("net_null0", ""),
        &["Error: 14 huge pages of 2 MiB", "0 are free", "sysctl vm.nr_hugepages=14"],
    );
    assert_eq!(fake.findings(&dpdk("net_null0", "pages = \"ordinary\"")), Vec::new());
    fake.put("proc/meminfo", "MemAvailable: 1048576 kB\nHugePages_Free: 14\n");
    let text = dpdk("net_null0", "file_prefix = \"gate\"");
    fake.check(&text, &["Error", "no hugetlbfs is mounted"]);
    fake.put("proc/self/mounts", "nodev /dev/hugepages hugetlbfs rw 0 0\n");
    assert_eq!(fake.findings(&text), Vec::new());
}

#[test]
fn a_pci_device_must_be_there_and_with_a_driver_of_dpdk() {
    let fake = Fake::new("pci");
    fake.put("proc/meminfo", "MemAvailable: 1048576 kB\nHugePages_Free: 64\n");
    let text = dpdk("3b:00.0", "");
    fake.check(&text, &["Error", "no PCI device 0000:3b:00.0"]);
    fake.put("sys/bus/pci/devices/0000:3b:00.0/vendor", "0x8086");
    fake.check(&text, &["is with no driver", "--bind=vfio-pci 0000:3b:00.0"]);
    fake.link("sys/bus/pci/devices/0000:3b:00.0/driver", "/x/ixgbe");
    fake.check(&text, &["is with ixgbe"]);
    fs::remove_file(fake.0.join("sys/bus/pci/devices/0000:3b:00.0/driver")).unwrap();
    fake.link("sys/bus/pci/devices/0000:3b:00.0/driver", "/x/vfio-pci");
    fake.check(&text, &["Error", "is in no IOMMU group"]);
    fake.put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    fake.check(&text, &["Warning", "can write anywhere in memory"]);
    fake.link("sys/bus/pci/devices/0000:3b:00.0/iommu_group", "/x/17");
    fake.check(&text, &["Error", "/dev/vfio/17"]);
    fake.put("dev/vfio/17", "");
    assert_eq!(fake.findings(&text), Vec::new());
    let mut machine = fake.machine();
    (machine.locked_bytes_max, machine.capabilities) = (Some(8 << 20), 0);
    check_one(&machine, &text, &["Error", "28 MiB of locked memory", "may lock 8 MiB"]);
}

#[test]
fn software_devices_need_interfaces_privileges_and_sockets() {
    let fake = Fake::new("software");
    let on = |device: &str| dpdk(device, "pages = \"ordinary\"");
    fake.check(&on("net_af_packet0,iface=eth7"), &["no interface eth7"]);
    fake.interface("eth7", "0x1002\n", 1);
    fake.check(&on("net_af_packet0,iface=eth7"), &["eth7 is down", "ip link set eth7 up"]);
    fake.check(&on("net_tap0"), &["/dev/net/tun is not there"]);
    fake.check(
        &on("net_memif0,role=client,socket=/run/x"),
        &["/run/x is not there", "server first"],
    );
    fake.check(&on("net_memif0,role=server,socket=/run/x"), &["the folder of /run/x"]);
    fake.put("run/x", "");
    assert_eq!(fake.findings(&on("net_memif0,role=server,socket=/run/x")), Vec::new());
    fake.put("dev/net/tun", "");
    fake.put("proc/self/status", "CapEff:\t0000000000000000\n");
    fake.check(&on("net_tap0"), &["does not have CAP_NET_ADMIN", "AmbientCapabilities="]);
}

#[test]
fn an_interface_of_af_xdp_needs_queues_privileges_and_addresses() {
    let fake = Fake::new("xdp");
    let text = af_xdp("addresses = [\"2001:db8::5/64\"]");
    fake.check(&text, &["Error", "no interface eth7"]);
    fake.interface("eth7", "0x1003\n", 1);
    fake.put("proc/net/if_inet6", "20010db8000000000000000000000005 02 40 00 80     eth7\n");
    fake.check(&text, &["Error", "1 receive queue for 2 shards", "shards = 1"]);
    fake.interface("eth7", "0x1003\n", 4);
    fake.check(&text, &["Error", "to the others would be lost", "ethtool -L eth7 combined 2"]);
    fs::remove_dir_all(fake.0.join("sys/class/net/eth7")).unwrap();
    fake.interface("eth7", "0x1003\n", 2);
    assert_eq!(fake.findings(&text), Vec::new());
    fake.check(
        &af_xdp("addresses = [\"10.0.0.5/24\"]"),
        &["Warning", "ip address add 10.0.0.5/24 dev eth7"],
    );
    fake.check(&af_xdp("mtu = 3000"), &["Error", "packets of 3000 bytes do not fit eth7"]);
    fake.put("sys/class/net/eth7/mtu", "9000\n");
    fake.check(&text, &["Error", "an mtu of 9000, and AF_XDP takes 3822"]);
    fake.put("sys/class/net/eth7/mtu", "1500\n");
    fake.put("proc/net/tcp6", "head\n 0: 00000000000000000000000000000000:205A 0:0 0A\n");
    let client = "[[gateway.client]]\nlisten = \"0.0.0.0:8282\"\n";
    fake.check(&(text.clone() + client), &["Warning", "something listens on port 8282"]);
    fake.put("proc/net/tcp6", "");
    fake.put("proc/self/status", "CapEff:\t0000000000201000\n");
    fake.check(&text, &["Error", "does not have CAP_NET_RAW;"]);
    let mut machine = fake.machine();
    (machine.locked_bytes_max, machine.capabilities) = (Some(8 << 20), 1 << 12 | 1 << 13 | 1 << 39);
    check_one(&machine, &text, &["Error", "16 MiB of locked memory", "CAP_IPC_LOCK"]);
}
