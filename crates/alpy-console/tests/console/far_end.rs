// SPDX-License-Identifier: GPL-3.0-or-later
//! The far end of a console, as a test plays it.

use std::time::Duration;

use alpy_console::{Builder, Console};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Never reached, unless a test fails.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// Reached on purpose.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

pub(crate) struct FarEnd(UnixStream);

/// A console with default settings and its far end.
pub(crate) fn pair() -> (Console, FarEnd) {
    pair_of(Console::builder())
}

pub(crate) fn pair_of(builder: Builder) -> (Console, FarEnd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (builder.start(ours).unwrap(), FarEnd(theirs))
}

impl FarEnd {
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn hear(&mut self, expected: &str) {
        let mut heard = vec![0; expected.len()];
        tokio::time::timeout(LONG, self.0.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), expected);
    }

    pub(crate) fn into_inner(self) -> UnixStream {
        self.0
    }

    /// Waits until the console has closed its end.
    pub(crate) async fn hear_the_end(&mut self) {
        let mut rest = Vec::new();
        // What is still unread when a socket closes resets it.
        let _ = tokio::time::timeout(LONG, self.0.read_to_end(&mut rest))
            .await
            .unwrap();
    }

    /// Says the same again and again until it is aborted or the console is gone.
    pub(crate) fn flood(mut self, bytes: Vec<u8>) -> JoinHandle<()> {
        tokio::spawn(async move { while self.0.write_all(&bytes).await.is_ok() {} })
    }
}
