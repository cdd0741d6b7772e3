// SPDX-License-Identifier: GPL-3.0-or-later
//! Plain HTTP, for what bollard cannot say or does not understand where the engine is Podman: fields of Podman's own, its names
//! for the states of a container, and a parameter that comes more than once.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::pin;

use bollard::errors::Error;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// What the engine says of itself in the head of its answer to a ping, by names in lower case.
pub(crate) async fn ping(socket: &Path) -> Result<HashMap<String, String>, Error> {
    let (head, _) = request(socket, "GET", "/_ping", 0, stream::empty()).await?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    Ok(fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect())
}

/// The JSON at a path.
pub(crate) async fn get(socket: &Path, path: &str) -> Result<Value, Error> {
    let (_, answer) = request(socket, "GET", path, 0, stream::empty()).await?;
    Ok(serde_json::from_str(&answer).map_err(io::Error::other)?)
}

/// Posts an archive of so many bytes. The engine's reports are looked through for an error.
pub(crate) async fn post(
    socket: &Path,
    path: &str,
    length: u64,
    body: impl Stream<Item = io::Result<Bytes>>,
) -> Result<(), Error> {
    let (_, answer) = request(socket, "POST", path, length, body).await?;
    let mut reported = false;
    for line in answer.lines().filter(|line| !line.trim().is_empty()) {
        let report: Value = serde_json::from_str(line).map_err(io::Error::other)?;
        // What goes wrong after the answer has begun is one of the reports.
        if let Some(error) = report["error"].as_str() {
            let error = error.to_owned();
            return Err(Error::DockerStreamError { error });
        }
        reported = true;
    }
    if reported { Ok(()) } else { Err(cut_off()) }
}

/// A value in a request's path.
pub(crate) fn encode(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn request(
    socket: &Path,
    method: &str,
    path: &str,
    length: u64,
    body: impl Stream<Item = io::Result<Bytes>>,
) -> Result<(String, String), Error> {
    let mut engine = UnixStream::connect(socket).await?;
    // By version 1.0 the answer comes in one piece and ends with the connection.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    );
    engine.write_all(head.as_bytes()).await?;
    let mut body = pin!(body);
    let mut sent = Ok(());
    // A body that breaks off is not answered: the engine waits for the rest.
    while let Some(chunk) = body.try_next().await? {
        sent = engine.write_all(&chunk).await;
        if sent.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = engine.read_to_end(&mut answer).await;
    // An engine that has heard enough answers and closes, whatever is still to come.
    if answer.is_empty() {
        sent.and(read.map(drop))?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_off)?;
    if length_in(head).is_some_and(|length| body.len() < length) {
        return Err(cut_off());
    }
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(200) => Ok((head.to_owned(), body.to_owned())),
        Some(status_code) => Err(Error::DockerResponseServerError {
            status_code,
            message: serde_json::from_str(body)
                .ok()
                .and_then(|body: Value| Some(body["message"].as_str()?.to_owned()))
                .unwrap_or_else(|| body.to_owned()),
        }),
        None => Err(cut_off()),
    }
}

/// How long the body of an answer is, as its head says.
fn length_in(head: &str) -> Option<usize> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    length.trim().parse().ok()
}

fn cut_off() -> Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the engine's answer was cut off").into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UnixListener;
    use tokio::time::timeout;

    use super::*;

    /// The engine waits for the rest of what was announced.
    #[tokio::test]
    async fn a_body_that_breaks_off_ends_the_request() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _silent = UnixListener::bind(&socket).unwrap();
        let body = stream::iter([Ok(Bytes::from("begin")), Err(io::Error::other("broken"))]);
        let posted = timeout(Duration::from_secs(30), post(&socket, "/", 100, body)).await;
        let error = posted.expect("it is not waited for").unwrap_err();
        assert!(crate::engine::chain(&error).contains("broken"), "{error}");
    }
}
