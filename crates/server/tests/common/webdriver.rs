//! A browser, driven by the W3C WebDriver protocol: the few calls that the demo page's test needs.
#![expect(clippy::print_stderr, reason = "says where a failed test left its screenshots")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::patience::{PATIENCE, until};

/// Set to 1 to pass without a browser.
pub(crate) const WITHOUT_BROWSER: &str = "TENGATE_TESTS_WITHOUT_BROWSER";

/// A headless Chromium behind a chromedriver of its own; both end with it. When the test fails, what every tab shows is kept.
pub(crate) struct Browser {
    driver: Child,
    session: String,
}

/// One tab.
pub(crate) struct Tab<'a> {
    browser: &'a Browser,
    handle: String,
}

impl Browser {
    /// Starts with an empty profile in this directory, and one tab.
    ///
    /// # Panics
    /// There is no chromedriver, or no Chromium that it can start; the message says what to install.
    pub(crate) fn start(profile: &Path) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chromedriver cannot be started: {error}. {}", advice())
            });
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver ended before it had a port");
        // Whatever else it says must not fill its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self { driver, session: format!("http://127.0.0.1:{port}/session") };
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let options = json!({ "args": arguments });
        let wanted = json!({
            "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } }
        });
        match browser.call("", Some(&wanted)) {
            Ok(session) => browser.session += &format!("/{}", text(&session["sessionId"])),
            Err(error) => panic!("chromedriver cannot start Chromium: {error}. {}", advice()),
        }
        browser
    }

    /// The tab it started with.
    pub(crate) fn first_tab(&self) -> Tab<'_> {
        Tab { browser: self, handle: text(&self.must("/window", None)).to_owned() }
    }

    pub(crate) fn new_tab(&self) -> Tab<'_> {
        let tab = self.must("/window/new", Some(&json!({ "type": "tab" })));
        Tab { browser: self, handle: text(&tab["handle"]).to_owned() }
    }

    /// A GET without a body, a POST with one; the answer's value.
    fn call(&self, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let request = match body {
            Some(body) => minreq::post(url).with_body(body.to_string()),
            None => minreq::get(url),
        };
        let response = request.with_timeout(PATIENCE.as_secs()).send();
        let response =
            response.map_err(|error| format!("chromedriver does not answer: {error}"))?;
        let answer: Value = serde_json::from_slice(response.as_bytes())
            .map_err(|error| format!("chromedriver's answer is no JSON: {error}"))?;
        match answer["value"]["error"].as_str() {
            None => Ok(answer["value"].clone()),
            Some(error) => Err(format!("{error}: {}", text(&answer["value"]["message"]))),
        }
    }

    fn must(&self, path: &str, body: Option<&Value>) -> Value {
        self.call(path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Keeps what every tab shows, and says where.
    fn keep_screenshots(&self) {
        let Ok(Value::Array(handles)) = self.call("/window/handles", None) else { return };
        for (number, handle) in handles.iter().enumerate() {
            let tab = Tab { browser: self, handle: text(handle).to_owned() };
            // The driver's number tells tests apart that fail at the same time.
            let name = format!("failed-{}-tab-{number}.png", self.driver.id());
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            match tab.try_screenshot(&path) {
                Ok(()) => eprintln!("tab {number} showed {}", path.display()),
                Err(error) => eprintln!("tab {number} cannot be shown: {error}"),
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_screenshots();
        }
        // Chromium ends with its session, and would outlive its driver otherwise.
        let _ = minreq::delete(&self.session).with_timeout(PATIENCE.as_secs()).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Tab<'_> {
    pub(crate) fn open(&self, url: &str) {
        self.must("/url", Some(&json!({ "url": url })));
    }

    /// Waits for the one element of this selector that can be seen and clicked, and clicks it.
    pub(crate) fn click(&self, selector: &str) {
        until(&format!("{selector} can be clicked"), || self.try_on(selector, "click", &json!({})));
    }

    /// Replaces what is in a field.
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        until(&format!("{selector} can be cleared"), || self.try_on(selector, "clear", &json!({})));
        self.press(selector, text);
    }

    /// Types into a field.
    pub(crate) fn press(&self, selector: &str, keys: &str) {
        let keys = json!({ "text": keys });
        until(&format!("{selector} takes keys"), || self.try_on(selector, "value", &keys));
    }

    /// Waits until a script finds what it looks for.
    pub(crate) fn wait_for(&self, what: &str, condition: &str) {
        until(&format!("{what}: {condition}"), || {
            (self.script(&format!("return Boolean({condition})")) == true).then_some(())
        });
    }

    pub(crate) fn script(&self, script: &str) -> Value {
        self.must("/execute/sync", Some(&json!({ "script": script, "args": [] })))
    }

    /// A command of Chromium's own protocol.
    pub(crate) fn chromium(&self, command: &str, parameters: &Value) {
        self.must("/goog/cdp/execute", Some(&json!({ "cmd": command, "params": parameters })));
    }

    /// Keeps what the tab shows, as a PNG file.
    fn try_screenshot(&self, path: &Path) -> Result<(), String> {
        self.switch()?;
        let picture = self.browser.call("/screenshot", None)?;
        let picture = decode_base64(text(&picture)).ok_or("the picture is no base64")?;
        std::fs::write(path, picture).map_err(|error| error.to_string())
    }

    /// Does something to an element if it is there and ready.
    fn try_on(&self, selector: &str, action: &str, body: &Value) -> Option<()> {
        let wanted = json!({ "using": "css selector", "value": selector });
        self.switch().unwrap();
        let found = self.browser.call("/element", Some(&wanted)).ok()?;
        let (_, id) = found.as_object()?.iter().next()?;
        let path = format!("/element/{}/{action}", text(id));
        self.browser.call(&path, Some(body)).ok().map(drop)
    }

    fn must(&self, path: &str, body: Option<&Value>) -> Value {
        self.switch().unwrap();
        self.browser.must(path, body)
    }

    fn switch(&self) -> Result<(), String> {
        self.browser.call("/window", Some(&json!({ "handle": self.handle }))).map(drop)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn advice() -> String {
    format!("Install both (Debian: chromium, chromium-driver), or set {WITHOUT_BROWSER}=1")
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for chunk in digits.chunks(4) {
        let mut bits = 0;
        for place in 0..4 {
            let digit = chunk.get(place).copied().unwrap_or(b'A');
            bits = bits << 6
                | u32::try_from(ALPHABET.iter().position(|&known| known == digit)?).ok()?;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Nothing but the page: no sandbox, which needs rights that containers lack, and no traffic of the browser's own.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
