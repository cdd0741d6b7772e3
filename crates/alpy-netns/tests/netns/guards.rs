// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use alpy_need::need;
use alpy_netns::{Guardian, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::{DEADLINE, Kill, Lab, name};

/// A folder that is in use, with a link out of it.
fn folder() -> (TempDir, std::path::PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("scratch");
    fs::create_dir_all(folder.join("inner")).unwrap();
    fs::write(base.path().join("precious"), "x").unwrap();
    symlink(base.path(), folder.join("inner/link")).unwrap();
    (base, folder)
}

#[tokio::test]
async fn what_was_entrusted_goes_when_nobody_speaks_any_more() {
    let (base, folder) = folder();
    let guardian = Guardian::start("a test").unwrap();
    guardian.folder(&folder).unwrap();
    drop(guardian);
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while folder.exists() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    assert!(base.path().join("precious").exists());
}

/// xtask leaves tests in a module of this name out for anybody but root.
mod as_root {
    use super::*;

    #[test]
    fn guards_where_files_in_memory_are_not_executed() {
        need!(root, memfd_noexec);
        alpy_need::again_with_memfd_noexec("guards::what_was_entrusted_goes_when_nobody_speaks_any_more");
    }
}

#[tokio::test]
async fn a_guardian_that_is_dismissed_removes_nothing() {
    let (_base, folder) = folder();
    let guardian = Guardian::start("a test").unwrap();
    guardian.folder(&folder).unwrap();
    // When this returns it has ended.
    guardian.dismiss(DEADLINE).await.unwrap();
    assert!(folder.exists());
}

#[tokio::test]
async fn a_guardian_that_was_killed_is_an_error() {
    let guardian = Guardian::start("a test").unwrap();
    let pid = Pid::from_raw(guardian.pid().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while guardian.folder("/nonexistent/alpy".as_ref()).is_ok() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    let error = guardian.dismiss(DEADLINE).await.unwrap_err();
    assert!(
        error.to_string().starts_with("cannot speak to the guardian"),
        "{error}"
    );
}

#[tokio::test]
async fn containers_have_a_moment_to_end_and_then_are_removed() {
    let base = tempfile::tempdir().unwrap();
    let socket = base.path().join("engine");
    let requests = fake_engine(&socket);
    let guardian = Guardian::start("a test").unwrap();
    guardian.containers(&socket, "alpy.run=1").unwrap();
    drop(guardian);
    let list = "GET /containers/json?all=1&filters=%7B%22label%22%3A%5B%22alpy.run%3D1%22%5D%7D";
    let mut looks = 0;
    loop {
        let request = requests.recv_timeout(DEADLINE).unwrap();
        match request.strip_prefix("DELETE ") {
            None => assert_eq!(request, list),
            Some(removed) => {
                assert_eq!(removed, "/containers/c0ffee?force=1&v=1");
                break;
            }
        }
        looks += 1;
    }
    assert!(looks > 2, "removed after {looks} looks");
}

#[tokio::test]
async fn a_tap_that_would_stay_goes() {
    need!(tun, user_namespaces);
    let lab = Lab::new();
    let tap = name("stays0");
    lab.run(&Request::new().persistent_tap(tap, 0)).await.unwrap();
    let mut guard = lab.enter();
    guard
        .arg(lab.helper())
        .args(["guard", "a test"])
        .stdin(Stdio::piped());
    let mut guard = Kill(guard.spawn().unwrap());
    // The form of it is between the library and its own executable.
    writeln!(guard.0.stdin.take().unwrap(), r#"{{"ward":{{"tap":"stays0"}}}}"#).unwrap();
    assert!(guard.0.wait().unwrap().success());
    let links = lab.ip("link");
    let left: Vec<_> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["ifname"].clone())
        .collect();
    assert_eq!(left, ["lo"]);
}

/// An engine with one container, until it is removed; says which requests came.
fn fake_engine(socket: &std::path::Path) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        let mut containers = r#"[{"Id":"c0ffee","State":"running"}]"#;
        for stream in listener.incoming() {
            let mut stream: UnixStream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request = line.trim_end().trim_end_matches(" HTTP/1.0").to_owned();
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{containers}").unwrap();
            if request.starts_with("DELETE") {
                containers = "[]";
            }
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    requests
}
