//! The demo page in a real browser, on a running `tengate start`, on every data path.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]

mod common;

use std::env;

use common::cluster::loopback;
use common::netns::{self, Namespace};
use common::patience::until;
use common::webdriver::{Browser, Tab, WITHOUT_BROWSER};
use common::{Place, Running};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What `tengate start` needs to know, and the page it serves.
struct Demo {
    place: Place,
    page: String,
    /// What has to be done once it runs.
    prepare: fn(),
    /// Whether somebody resets the connections of one that was killed.
    is_missed_at_once: bool,
    _namespace: Option<Namespace>,
}

impl Demo {
    fn new() -> Self {
        let ip = loopback().to_string();
        let page = format!("http://{ip}:8080/");
        Self::with(Place::new(), &ip, &ip, "", &page)
    }

    /// The gateway on a pair of virtual interfaces, in a namespace of its own. The page comes from the same address over the
    /// kernel, which keeps what is not the gateway's.
    fn over_af_xdp() -> Self {
        let namespace = Namespace::new();
        netns::veth(&namespace, 2);
        let mut place = Place::new();
        place.move_to(namespace.pid());
        let sections = format!(
            "data_path = \"af_xdp\"\nshards = 2\npin_cores = false\n\
             [gateway.af_xdp]\ninterface = \"in\"\n{NETSTACK}"
        );
        let page = "http://10.1.0.1:8080/";
        let demo = Self::with(place, "10.1.0.1", "0.0.0.0", &sections, page);
        Self { _namespace: Some(namespace), ..demo }
    }

    /// The gateway on a TAP of DPDK, where only the gateway has its address: the page comes from another one.
    #[cfg(feature = "dpdk")]
    fn over_dpdk() -> Self {
        let ip = loopback().to_string();
        let sections = format!(
            "data_path = \"dpdk\"\nshards = 2\npin_cores = false\n\
             [gateway.dpdk]\ndevice = \"net_tap0,iface=tap0\"\npages = \"ordinary\"\n{NETSTACK}"
        );
        let page = format!("http://{ip}:8080/?gateway=10.1.0.1:8282");
        let demo = Self::with(Place::new(), &ip, "0.0.0.0", &sections, &page);
        // Without its gateway nobody has the address; the tabs' next words come to the next one, which resets them.
        Self { prepare: netns::prepare_tap, is_missed_at_once: false, ..demo }
    }

    fn with(place: Place, page_ip: &str, client_ip: &str, gateway: &str, page: &str) -> Self {
        let ip = loopback();
        place.file(
            "t.toml",
            &format!(
                "[register]\nlisten = \"{ip}:1236\"\n[gateway]\nregister_address = \"{ip}:1236\"\n{gateway}\n\
                 [gateway.inner]\nlisten = \"{ip}:2900\"\n[[gateway.client]]\nlisten = \"{client_ip}:8282\"\n\
                 [demo]\npage_listen = \"{page_ip}:8080\"\n"
            ),
        );
        Self {
            place,
            page: page.to_owned(),
            prepare: || (),
            is_missed_at_once: true,
            _namespace: None,
        }
    }

    fn start(&self) -> Running {
        let mut start = self.place.start(&["start", "--config", "t.toml"]);
        start.wait_for(&format!("open {} in two tabs", self.page));
        (self.prepare)();
        start
    }

    /// How many clients this process has.
    fn clients(&self, start: &Running) -> u64 {
        let output = self.place.output(&["status", "--json"]);
        let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let of_start = answers.iter().filter(|answer| answer["pid"] == start.pid());
        let shards = of_start.filter_map(|answer| answer["shards"].as_array()).flatten();
        shards.filter_map(|shard| shard["clients"].as_u64()).sum()
    }

    fn browser(&self) -> Browser {
        Browser::start(&self.place.path("profile"))
    }
}

#[test]
fn two_tabs_chat_and_go_on_after_the_gateway_was_killed() {
    if !is_without_browser() {
        chat_and_go_on(&Demo::new());
    }
}

#[test]
fn two_tabs_chat_over_af_xdp_and_go_on_after_the_gateway_was_killed() {
    if !is_without_browser() {
        let name = "two_tabs_chat_over_af_xdp_and_go_on_after_the_gateway_was_killed";
        netns::inside(name, || chat_and_go_on(&Demo::over_af_xdp()));
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn two_tabs_chat_over_dpdk_and_go_on_after_the_gateway_was_killed() {
    if !is_without_browser() {
        let name = "two_tabs_chat_over_dpdk_and_go_on_after_the_gateway_was_killed";
        netns::inside(name, || chat_and_go_on(&Demo::over_dpdk()));
    }
}

fn chat_and_go_on(demo: &Demo) {
    let start = demo.start();
    let browser = demo.browser();
    let (ann, bob) = (browser.first_tab(), browser.new_tab());
    join(&ann, demo, "Ann");
    join(&bob, demo, "Bob");
    wait_for_people(&ann, &["Ann (you)", "Bob"]);
    wait_for_people(&bob, &["Ann", "Bob (you)"]);

    ann.fill(&id("new-room-input"), "garden");
    ann.click(&id("enter-room-button"));
    wait_for_people(&bob, &["Bob (you)"]);
    bob.click(&format!("{} [data-name=garden] button", id("room-list")));
    wait_for_text(&bob, "conversation-title", "garden");
    wait_for_people(&ann, &["Ann (you)", "Bob"]);
    chat(&ann, "Ann", &bob, "what a garden");
    chat(&bob, "Bob", &ann, "<b>fine</b> indeed");

    ann.click(&format!("{} [data-name=Bob] button", id("online-list")));
    wait_for_text(&ann, "conversation-title", "Bob");
    say(&ann, "only you");
    let direct = format!("{} [data-name=Ann]", id("direct-list"));
    bob.wait_for(
        "Bob has an unread message",
        &format!("document.querySelector('{direct} .unread')?.textContent === '1'"),
    );
    bob.wait_for("it is not in the room", &format!("!({})", line("Ann", "only you")));
    bob.click(&format!("{direct} button"));
    wait_for_line(&bob, "Ann", "only you");

    start.signal(Signal::KILL);
    start.finish();
    if demo.is_missed_at_once {
        for tab in [&ann, &bob] {
            tab.wait_for("the tab misses the gateway", &format!("!({CONNECTED})"));
        }
    }
    let start = demo.start();
    until("both tabs are back", || (demo.clients(&start) == 2).then_some(()));
    for tab in [&ann, &bob] {
        tab.wait_for("the tab is connected again", CONNECTED);
    }
    wait_for_people(&ann, &["Ann (you)", "Bob"]);
    wait_for_people(&bob, &["Ann", "Bob (you)"]);
    chat(&bob, "Bob", &ann, "still only me?");
    for tab in [&ann, &bob] {
        tab.click(&format!("{} [data-name=garden] button", id("room-list")));
        wait_for_line(tab, "Ann", "what a garden");
    }
    chat(&ann, "Ann", &bob, "back again");
}

#[test]
fn a_taken_name_is_refused_and_another_is_not() {
    if is_without_browser() {
        return;
    }
    let demo = Demo::new();
    let _start = demo.start();
    let browser = demo.browser();
    let (ann, other) = (browser.first_tab(), browser.new_tab());
    join(&ann, &demo, "Ann");
    // Tabs of one browser are one user; only another browser's token makes it somebody else.
    other.open(&demo.page);
    other.script("localStorage.setItem('tengate-chat-token', 'f'.repeat(32)); location.reload()");
    other.wait_for("the page is there again", CONNECTED);
    fill_form(&other, "ann");
    other.wait_for(
        "the name is refused",
        &format!(
            "document.querySelector('{}').textContent.includes('is here already')",
            id("join-error")
        ),
    );
    fill_form(&other, "Anna");
    wait_for_people(&ann, &["Ann (you)", "Anna"]);
}

#[test]
fn a_phone_has_the_room_first_and_the_lists_behind_the_menu() {
    if is_without_browser() {
        return;
    }
    let demo = Demo::new();
    let _start = demo.start();
    let browser = demo.browser();
    let tab = browser.first_tab();
    tab.chromium(
        "Emulation.setDeviceMetricsOverride",
        &json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true }),
    );
    join(&tab, &demo, "Ann");
    say(&tab, &"Donaudampfschifffahrt".repeat(20));
    tab.wait_for("nothing is wider than the screen", FITS);
    tab.wait_for("the lists are away", &format!("!({SIDE_IS_SEEN})"));
    tab.click(&id("menu-button"));
    tab.wait_for("the lists are there", SIDE_IS_SEEN);
    tab.wait_for("nothing is wider than the screen", FITS);
    tab.fill(&id("new-room-input"), "kitchen");
    tab.click(&id("enter-room-button"));
    wait_for_text(&tab, "conversation-title", "kitchen");
    tab.wait_for("the lists are away", &format!("!({SIDE_IS_SEEN})"));
    tab.wait_for("nothing is wider than the screen", FITS);
}

#[expect(clippy::print_stdout, reason = "says that nothing was tested")]
fn is_without_browser() -> bool {
    let skipped = env::var(WITHOUT_BROWSER).is_ok_and(|value| value == "1");
    if skipped {
        println!("SKIPPED: {WITHOUT_BROWSER}=1");
    }
    skipped
}

/// Opens the page and joins, in the room the page proposes.
fn join(tab: &Tab<'_>, demo: &Demo, name: &str) {
    tab.open(&demo.page);
    fill_form(tab, name);
    wait_for_text(tab, "me", name);
    wait_for_text(tab, "conversation-title", "lobby");
}

fn fill_form(tab: &Tab<'_>, name: &str) {
    tab.wait_for("the page is connected", CONNECTED);
    tab.fill(&id("name-input"), name);
    tab.click(&id("join-button"));
}

/// Says something in one tab, and waits until both show it.
fn chat(from: &Tab<'_>, name: &str, to: &Tab<'_>, text: &str) {
    say(from, text);
    for tab in [from, to] {
        wait_for_line(tab, name, text);
    }
}

fn say(tab: &Tab<'_>, text: &str) {
    tab.press(&id("message-input"), text);
    tab.click(&id("send-button"));
}

fn wait_for_line(tab: &Tab<'_>, from: &str, text: &str) {
    tab.wait_for("the message is shown", &line(from, text));
}

/// Whether the conversation shows a message.
fn line(from: &str, text: &str) -> String {
    let lines = format!("{} [data-from={from}] .text", id("message-list"));
    format!(
        "[...document.querySelectorAll('{lines}')].some(line => line.textContent === {})",
        json!(text)
    )
}

fn wait_for_people(tab: &Tab<'_>, names: &[&str]) {
    let people = format!("{} .entry-name", id("online-list"));
    let (joined, count) = (json!(names.join(",")), names.len());
    tab.wait_for(
        "who is here",
        &format!(
            "[...document.querySelectorAll('{people}')].map(name => name.textContent).join() === {joined} \
             && document.querySelector('{}').textContent === '{count}'",
            id("online-count")
        ),
    );
}

fn wait_for_text(tab: &Tab<'_>, test_id: &str, text: &str) {
    let element = format!("document.querySelector('{}').textContent", id(test_id));
    tab.wait_for("the page shows it", &format!("{element} === {}", json!(text)));
}

/// The element that the page marks for tests.
fn id(test_id: &str) -> String {
    format!("[data-testid={test_id}]")
}

const NETSTACK: &str =
    "[gateway.netstack]\naddresses = [\"10.1.0.1/24\"]\nconnections_target = 1000\n";
const CONNECTED: &str = "document.querySelector('.state')?.dataset.state === 'online'";
const FITS: &str = "document.documentElement.scrollWidth <= 360";
const SIDE_IS_SEEN: &str =
    "document.querySelector('#side').checkVisibility({ visibilityProperty: true })";
