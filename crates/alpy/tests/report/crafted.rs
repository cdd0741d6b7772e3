// SPDX-License-Identifier: GPL-3.0-or-later
//! Evidence that was made to lead `alpy report` and `alpy sweep` elsewhere, or to have them wait for ever.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What must not be in a page.
const SECRET: &str = "the secret of another directory";

/// An evidence directory, with a secret beside it.
struct Crafted {
    base: TempDir,
}

impl Crafted {
    fn new(run: &Value) -> Self {
        let base = tempfile::tempdir().unwrap();
        let this = Self { base };
        fs::create_dir_all(this.dir().join("containers")).unwrap();
        fs::create_dir_all(this.outside().join("containers")).unwrap();
        for name in [
            "secret.stdout",
            "console.log",
            "link0.pcap",
            "qemu-command.txt",
            "containers/node0.stdout",
        ] {
            fs::write(this.outside().join(name), SECRET).unwrap();
        }
        fs::write(this.dir().join("run.json"), run.to_string()).unwrap();
        this
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("t")
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    /// The page, which must be there in time.
    fn page(&self) -> Result<String, String> {
        let (done, result) = mpsc::channel();
        let dir = self.dir();
        std::thread::spawn(move || done.send(alpy::report::render(dir)));
        let rendered = result.recv_timeout(Duration::from_secs(60));
        let page = rendered.expect("it does not wait for ever");
        match page {
            Ok(page) => Ok(fs::read_to_string(page).unwrap()),
            Err(error) => Err(std::error::Error::source(&error).unwrap().to_string()),
        }
    }

    fn embeds_nothing(&self) {
        let page = self.page().unwrap();
        // A capture is there in base 64.
        for secret in [SECRET, "dGhlIHNlY3JldCBvZi"] {
            assert!(!page.contains(secret), "{page}");
        }
    }
}

fn run(ended: bool) -> Value {
    json!({
        "format": 1,
        "test": "t",
        "verdict": "under-way",
        "began": 1000,
        "ended": ended.then_some(1001),
        "machines": [{"folder": ""}, {"folder": "machine1"}],
        "links": [{"capture": "link0.pcap", "ends": [{"node": 0}, {"machine": 0}]}],
        "containers": [{"name": "node0"}],
    })
}

fn with(place: &str, value: Value) -> Value {
    let mut run = run(true);
    *run.pointer_mut(place).unwrap() = value;
    run
}

#[test]
fn a_name_that_leads_elsewhere_is_an_error_that_names_the_field() {
    for (place, value, field) in [
        (
            "/links/0/capture",
            json!("../outside/link0.pcap"),
            "links[0].capture",
        ),
        ("/links/0/capture", json!("/etc/passwd"), "links[0].capture"),
        ("/machines/1/folder", json!("../outside"), "machines[1].folder"),
        (
            "/containers/0/name",
            json!("../../outside/secret"),
            "containers[0].name",
        ),
        ("/test", json!("../outside"), "test"),
    ] {
        let crafted = Crafted::new(&with(place, value));
        let error = crafted.page().unwrap_err();
        assert!(error.starts_with(&format!("run.json: {field} is ")), "{error}");
        assert!(!crafted.dir().join("report.html").exists());
        let unread = alpy::runs::read(&crafted.dir()).unwrap_err();
        let source = std::error::Error::source(&unread).unwrap();
        assert_eq!(source.to_string(), error);
        assert!(alpy::runs::below(crafted.base.path()).is_empty());
    }
}

#[test]
fn a_link_in_the_place_of_a_file_or_of_a_folder_is_not_followed() {
    let crafted = Crafted::new(&run(true));
    fs::remove_dir(crafted.dir().join("containers")).unwrap();
    for (name, target) in [
        ("link0.pcap", "link0.pcap"),
        ("console.log", "console.log"),
        ("containers", "containers"),
        ("machine1", ""),
    ] {
        symlink(crafted.outside().join(target), crafted.dir().join(name)).unwrap();
    }
    crafted.embeds_nothing();
}

#[test]
fn a_log_names_no_file_elsewhere() {
    let crafted = Crafted::new(&run(false));
    let line = "    0.300 DEBUG alpy_docker::running   started a container name=\"alpy-t-7-0-ab12-../../outside/secret\" id=\"1\"\n";
    fs::write(crafted.dir().join("debug.log"), line).unwrap();
    crafted.embeds_nothing();
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let names = [
        "link0.pcap",
        "console.log",
        "console.times",
        "qmp.log",
        "debug.log",
        "qemu-command.txt",
        "containers/node0.stdout",
        "containers/node0.status",
        "machine1",
        "held",
        ".lock",
    ];
    for ended in [true, false] {
        for name in names {
            let crafted = Crafted::new(&run(ended));
            pipe(&crafted.dir().join(name));
            crafted.embeds_nothing();
        }
    }
    let crafted = Crafted::new(&run(true));
    fs::remove_file(crafted.dir().join("run.json")).unwrap();
    pipe(&crafted.dir().join("run.json"));
    assert_eq!(crafted.page().unwrap_err(), "it is not a regular file");
}

#[test]
fn a_run_does_not_wait_for_a_pipe_in_the_place_of_its_lock() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("t")).unwrap();
    pipe(&base.path().join("t/.lock"));
    let (done, result) = mpsc::channel();
    let folder = base.path().to_owned();
    std::thread::spawn(move || done.send(alpy::evidence::Evidence::create_in(&folder, "t").map(drop)));
    let created = result.recv_timeout(Duration::from_secs(60));
    let error = created.expect("it does not wait for ever").unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    // The error of open(2) for a pipe that no process reads.
    assert_eq!(
        source.to_string(),
        ".lock: No such device or address (os error 6)"
    );
}

fn pipe(path: &Path) {
    mkfifo(path, Mode::S_IRWXU).unwrap();
}
