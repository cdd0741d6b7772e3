// SPDX-License-Identifier: GPL-3.0-or-later
//! As much blocking HTTP as it takes to ask an engine whether it is there.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::Reason;

/// How long an engine has to answer.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Sends `GET path` and returns the body of the answer. Blocks for at most [`LIMIT`].
///
/// # Errors
/// Why the socket is of no use; also that the answer has another status than 200.
pub fn get(socket: &Path, path: &str) -> Result<String, Reason> {
    get_within(LIMIT, socket, path)
}

fn get_within(limit: Duration, socket: &Path, path: &str) -> Result<String, Reason> {
    let (socket, path): (PathBuf, String) = (socket.to_owned(), path.to_owned());
    let (sender, answer) = mpsc::channel();
    // In a thread, because `connect` itself blocks where the backlog of a socket is full.
    thread::spawn(move || sender.send(request(&socket, &path)));
    let answer = answer.recv_timeout(limit).map_err(|_| Reason::Silent(limit))??;
    body(&answer).map(str::to_owned)
}

fn request(socket: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // With HTTP/1.0 the answer ends with the connection and has no chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn body(answer: &str) -> Result<&str, Reason> {
    let parts = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?;
        Some((status, body))
    });
    match parts {
        Some(("200", body)) => Ok(body),
        Some((status, body)) => Err(Reason::Other(format!("status {status}: {}", body.trim()))),
        None => Err(Reason::Other("what listens there does not speak HTTP".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn takes_success_alone_for_an_answer() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nOK"), Ok("OK"));
        let busy = body("HTTP/1.0 503 Busy\r\n\r\nlater").unwrap_err().to_string();
        assert_eq!(busy, "status 503: later");
        for other in ["SSH-2.0-x\r\n\r\n", ""] {
            assert!(body(other).unwrap_err().to_string().contains("HTTP"));
        }
    }

    #[test]
    fn a_socket_that_no_engine_serves_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert_eq!(get(&socket, "/_ping"), Err(Reason::NoSocket));
        let listener = UnixListener::bind(&socket).unwrap();
        let short = Duration::from_millis(50);
        assert_eq!(get_within(short, &socket, "/_ping"), Err(Reason::Silent(short)));
        // The connection that found no answer is the first in the queue.
        drop(listener.accept().unwrap());
        let closing = thread::spawn(move || listener.accept().map(drop));
        assert!(matches!(get(&socket, "/_ping"), Err(Reason::Other(_))));
        closing.join().unwrap().unwrap();
        assert_eq!(get(&socket, "/_ping"), Err(Reason::NotListening));
    }
}
