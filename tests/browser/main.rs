//! The report of a day of 500,000 records in a real browser: Debian's headless
//! Chromium, spoken to over a pipe. `.ci/browser` provides it and runs this,
//! which `cargo test` by itself does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../common/logs.rs"]
mod logs;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use serde_json::{Value, json};

use logs::Day;

const RECORDS: u64 = 500_000;

struct Browser {
    child: Child,
    to: fs::File,
    from: BufReader<fs::File>,
    sent: u64,
    session: Option<String>,
    /// What the page complained of.
    complaints: Vec<String>,
    _home: tempfile::TempDir,
}

impl Browser {
    fn open(page: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (theirs_in, to) = pipe();
        let (from, theirs_out) = pipe();
        // It reads descriptor 3 and writes 4.
        let script = format!(
            "exec chromium-headless-shell --no-sandbox --disable-gpu --remote-debugging-pipe \
             --hide-scrollbars --user-data-dir={} about:blank 3<&{} 4>&{}",
            home.path().display(),
            theirs_in.as_raw_fd(),
            theirs_out.as_raw_fd()
        );
        let child = Command::new("bash")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash");
        let mut browser = Self {
            child,
            to: to.into(),
            from: BufReader::new(from.into()),
            sent: 0,
            session: None,
            complaints: Vec::new(),
            _home: home,
        };
        drop((theirs_in, theirs_out));
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.call("Log.enable", json!({}));
        browser.call("Runtime.enable", json!({}));
        browser.call("Page.enable", json!({}));
        let url = format!("file://{}", page.display());
        browser.call("Page.navigate", json!({ "url": url }));
        while browser.js("document.readyState === 'complete' && location.protocol === 'file:'")
            != json!(true)
        {}
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .unwrap();
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).unwrap();
            assert_eq!(
                answer.pop(),
                Some(0),
                "the browser went away; see .ci/browser"
            );
            let mut answer: Value = serde_json::from_slice(&answer).unwrap();
            if matches!(
                answer["method"].as_str(),
                Some("Log.entryAdded" | "Runtime.exceptionThrown")
            ) {
                self.complaints.push(answer.to_string());
            }
            if answer["id"] == self.sent {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    fn js(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    fn screen(&mut self, width: u64, is_dark: bool) {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// A picture of the whole page, where somebody wants to look at it.
    fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("IMDSFW_PICTURES") else {
            return;
        };
        let shot = json!({ "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", shot);
        let png = base64::engine::general_purpose::STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap();
        fs::write(Path::new(&folder).join(name), png).unwrap();
    }

    /// Clicks in the middle of it, as a hand does.
    fn click(&mut self, selector: &str) {
        let at = self.js(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{block: 'center'}}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 }),
            );
        }
    }

    fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    fn key(&mut self, key: &str, code: u64) {
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killed, it would leave its own children behind.
        self.sent += 1;
        let close = json!({ "id": self.sent, "method": "Browser.close" });
        if self.to.write_all(format!("{close}\0").as_bytes()).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// One that the browser inherits.
fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().unwrap()
}

const SHOWN: &str =
    "[...document.querySelectorAll('tr[data-user]')].filter(it => it.checkVisibility())";

#[test]
fn filters_are_clicked_and_the_page_fits_phone_and_dark() {
    let day = Day::new(RECORDS);
    let begun = Instant::now();
    let page = day.report();
    println!(
        "{RECORDS} records, {} MiB: {:.1?}; the report has {} KiB",
        fs::metadata(day.log()).unwrap().len() >> 20,
        begun.elapsed(),
        page.len() >> 10
    );
    let mut browser = Browser::open(&day.page());

    browser.screen(1280, false);
    browser.picture("desktop.png");
    let all = browser.js(&format!("{SHOWN}.length")).as_u64().unwrap();
    assert!(all > 20, "{all}");
    // By keyboard: the last decision of the list.
    browser.js("document.querySelector('select[name=decision]').focus()");
    browser.key("End", 35);
    let denied = browser.js(&format!("{SHOWN}.length")).as_u64().unwrap();
    assert!(0 < denied && denied < all, "{denied} of {all}");
    assert_eq!(
        browser.js(&format!(
            "{SHOWN}.every(it => it.dataset.decision.includes('deny'))"
        )),
        json!(true)
    );
    // The search field takes the keyboard at `/`, and narrows down further.
    browser.click("h1");
    browser.call(
        "Input.dispatchKeyEvent",
        json!({ "type": "keyDown", "key": "/", "text": "/", "code": "Slash" }),
    );
    browser.type_text("mallory user-data");
    let found = browser.js(&format!("{SHOWN}.map(it => it.textContent).join('|')"));
    let found = found.as_str().unwrap();
    assert!(
        found.contains("mallory") && found.contains("/latest/user-data"),
        "{found}"
    );
    assert!(!found.contains("alice"), "{found}");
    let said = browser.js("document.querySelector('output').value");
    assert!(said.as_str().unwrap().contains(" of "), "{said}");
    browser.picture("filtered.png");
    browser.click("button[name=clear]");
    assert_eq!(browser.js(&format!("{SHOWN}.length")), json!(all));

    // A phone: nothing is wider than the screen but what scrolls by itself.
    for (is_dark, name) in [(false, "phone.png"), (true, "phone-dark.png")] {
        browser.screen(390, is_dark);
        browser.picture(name);
        assert_eq!(
            browser.js("document.documentElement.scrollWidth"),
            json!(390)
        );
    }
    let light = "getComputedStyle(document.body).backgroundColor";
    browser.screen(1280, true);
    browser.picture("dark.png");
    let dark = browser.js(light);
    browser.screen(1280, false);
    assert_ne!(browser.js(light), dark);
    assert_eq!(browser.complaints, [""; 0]);

    // Without script, every table is there, and no filter that would do nothing.
    let off = |value: bool| json!({ "value": value });
    browser.call("Emulation.setScriptExecutionDisabled", off(true));
    browser.js("window.before = true");
    browser.call("Page.reload", json!({}));
    while browser.js("!window.before && document.readyState === 'complete'") != json!(true) {}
    assert_eq!(browser.js(&format!("{SHOWN}.length")), json!(all));
    assert_eq!(
        browser.js("document.querySelector('form').checkVisibility()"),
        json!(false)
    );
}
