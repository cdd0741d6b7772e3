// SPDX-License-Identifier: GPL-3.0-or-later
//! As much HTTP as it takes to ask an engine whether it is there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A socket that accepts and stays silent is given up after this time.
const LIMIT: Duration = Duration::from_secs(3);

/// Whether an engine answers on this socket.
pub fn ping(socket: &Path) -> bool {
    get(socket, "/_ping").is_some()
}

/// The body of the answer to a request, if it is one of success.
pub fn get(socket: &Path, path: &'static str) -> Option<String> {
    let socket: PathBuf = socket.to_owned();
    let (sender, answer) = mpsc::channel();
    // In a thread, because `connect` itself waits where the queue of a socket is full.
    thread::spawn(move || sender.send(request(&socket, path)));
    parse(&answer.recv_timeout(LIMIT).ok()??)
}

fn request(socket: &Path, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    // With HTTP/1.0 the answer ends with the connection and has no chunks.
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?;
    (head.starts_with("HTTP/1.") && status == "200").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn takes_success_alone_for_an_answer() {
        assert_eq!(parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\nOK").unwrap(), "OK");
        assert_eq!(parse("HTTP/1.0 503 Busy\r\n\r\nOK"), None);
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_socket_that_nobody_serves_or_that_says_nothing_is_no_engine() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert!(!ping(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let mute = thread::spawn(move || listener.accept().map(drop));
        assert!(!ping(&socket));
        mute.join().unwrap().unwrap();
    }
}
