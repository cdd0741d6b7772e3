// SPDX-License-Identifier: GPL-3.0-or-later
//! What the tests of testbeds and skeletons share: an engine to look into from outside.
#![allow(dead_code, reason = "each test executable uses a part of this")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use alpy::RUN_LABEL;
use alpy::docker::{Archive, Engine};
use serde_json::Value;

/// A question to the engine without alpy in between, in HTTP 1.0; null if it refuses.
pub(crate) fn ask(socket: &Path, path: &str) -> Value {
    let mut engine = UnixStream::connect(socket).expect("the engine accepts");
    write!(engine, "GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").expect("the engine reads");
    let mut answer = String::new();
    engine.read_to_string(&mut answer).expect("the engine answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    if head.split(' ').nth(1) != Some("200") {
        return Value::Null;
    }
    serde_json::from_str(body).expect("the engine speaks JSON")
}

/// Containers of an ended test that the engine still knows.
pub(crate) async fn containers_of(engine: &Engine, run: &str) -> Vec<String> {
    engine
        .labelled(&format!("{RUN_LABEL}={run}"))
        .await
        .expect("the engine lists")
}

/// Looks until the engine has a container of this test whose name ends so, and tells what the engine knows of it. Some are there
/// for a tenth of a second only. It looks for at most 30 s.
pub(crate) async fn seen(engine: &Engine, test: &str, name: &str) -> Value {
    let (socket, label) = (engine.socket(), format!("alpy.test={test}"));
    let look = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            tick.tick().await;
            for id in engine.labelled(&label).await.expect("the engine lists") {
                let container = ask(&socket, &format!("/containers/{id}/json"));
                let found = container["Name"].as_str();
                if found.is_some_and(|found| found.ends_with(name)) {
                    return container;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look)
        .await
        .unwrap_or_else(|_| panic!("no container {name} of {test} was seen"))
}

/// Waits for a condition that something else brings about, for at most 10 s.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while !condition().await {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met)
        .await
        .unwrap_or_else(|_| panic!("not within 10 s: {what}"));
}

/// The name of an image with a static BusyBox in it, which is imported if it is not there.
pub(crate) async fn busybox(engine: &Engine) -> String {
    let image = "alpy-test-busybox:2";
    let program = std::fs::read(alpy_need::busybox_path().expect("it is needed")).expect("it is there");
    let make = async || {
        let root = Archive::new()
            .folder("bin", 0o755)?
            .file("bin/busybox", 0o755, &program)?;
        let root = root
            .symlink("bin/cat", "busybox")?
            .symlink("bin/sh", "busybox")?
            .symlink("bin/ip", "busybox")?
            .finish();
        engine.import_image(image, root, &["ENV PATH=/bin"]).await
    };
    engine
        .ensure_image(image, make)
        .await
        .expect("the engine imports");
    image.to_owned()
}
