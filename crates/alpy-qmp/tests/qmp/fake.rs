// SPDX-License-Identifier: GPL-3.0-or-later
//! A QMP server that does what a test tells it to.

use std::time::Duration;

use alpy_qmp::{Client, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longer than anything takes here that does not hang.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Short enough to wait for in vain.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// What QEMU 7.2 says first.
pub(crate) const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "#,
    r#""capabilities": ["oob"]}}"#,
    "\r\n"
);

pub(crate) struct Fake {
    pub(crate) socket: UnixStream,
    received: Vec<u8>,
}

impl Fake {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            received: Vec::new(),
        }
    }

    /// A client and its server, behind the handshake.
    pub(crate) async fn pair(options: Options) -> (Client, Self) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mut fake = Self::new(theirs);
        let (client, ()) = tokio::join!(options.attach(ours), fake.shake_hands());
        (client.expect("a connection"), fake)
    }

    pub(crate) async fn shake_hands(&mut self) {
        self.send(GREETING).await;
        let command = self.command().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        self.reply(&command, json!({})).await;
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket
            .write_all(text.as_bytes())
            .await
            .expect("the client reads");
    }

    /// The next command. Nothing but its closing brace ends one.
    pub(crate) async fn command(&mut self) -> Value {
        timeout(LONG, self.next_command())
            .await
            .expect("a command in time")
            .expect("a command, not the end")
    }

    /// Whether no command comes for a while.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        timeout(SHORT, self.next_command()).await.is_err()
    }

    /// The next command; `None` when the client is gone. Cancel safe.
    pub(crate) async fn next_command(&mut self) -> Option<Value> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.received).into_iter::<Value>();
            match values.next() {
                Some(Ok(command)) => {
                    let length = values.byte_offset();
                    self.received.drain(..length);
                    return Some(command);
                }
                Some(Err(error)) => assert!(error.is_eof(), "the client wrote nonsense: {error}"),
                None => {}
            }
            if self
                .socket
                .read_buf(&mut self.received)
                .await
                .expect("the client's bytes")
                == 0
            {
                return None;
            }
        }
    }

    pub(crate) async fn reply(&mut self, command: &Value, value: Value) {
        self.send(&format!("{}\r\n", json!({"return": value, "id": command["id"]})))
            .await;
    }

    pub(crate) async fn event(&mut self, name: &str, data: Value) {
        let timestamp = json!({"seconds": 1, "microseconds": 2});
        self.send(&format!(
            "{}\r\n",
            json!({"event": name, "data": data, "timestamp": timestamp})
        ))
        .await;
    }
}
