// SPDX-License-Identifier: GPL-3.0-or-later
//! Servers that break off, split, or talk nonsense. Whatever they do, a call ends, and nothing panics.

use std::time::Duration;

use alpy_qmp::commands::Stop;
use alpy_qmp::{Disconnect, Error, Options, Position, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::fake::{Fake, GREETING, LONG};

/// All that a server says to a handshake and one `stop`, if the client's ids are as they are.
fn transcript() -> Vec<u8> {
    let rest = concat!(
        "{\"return\": {}, \"id\": 0}\r\n",
        "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n",
        "{\"return\": {}, \"id\": 1}\r\n",
    );
    [GREETING, rest].concat().into_bytes()
}

/// A client's whole life with a server that says `parts`, each in a write of its own, and hangs up.
async fn session(parts: &[&[u8]]) -> Result<()> {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    let client = async {
        let client = Options::new().attach(ours).await?;
        client.execute(Stop).await?;
        client.wait_for("STOP", Position::START, LONG).await?;
        Ok(())
    };
    let server = async {
        for part in parts {
            // The client may have given up.
            _ = theirs.write_all(part).await;
            tokio::task::yield_now().await;
        }
        // Replies are only taken for commands, so those are read; a client that gave up has closed.
        let mut sink = [0; 1024];
        _ = theirs.shutdown().await;
        while theirs.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    let both = async { tokio::join!(client, server).0 };
    timeout(LONG, both).await.expect("no hang")
}

/// Like [`session`], but each line only after the command that it answers.
async fn polite_session(write: impl AsyncFn(&mut UnixStream, &[u8])) -> Result<()> {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut fake = Fake::new(theirs);
    let client = async {
        let client = Options::new().attach(ours).await?;
        client.execute(Stop).await?;
        client.wait_for("STOP", Position::START, LONG).await?;
        Ok(())
    };
    let server = async {
        let text = transcript();
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        write(&mut fake.socket, lines.next().expect("a greeting")).await;
        fake.command().await;
        write(&mut fake.socket, lines.next().expect("a reply")).await;
        fake.command().await;
        let rest: Vec<u8> = lines.flatten().copied().collect();
        write(&mut fake.socket, &rest).await;
        fake
    };
    let both = async { tokio::join!(client, server).0 };
    timeout(LONG, both).await.expect("no hang")
}

#[tokio::test]
async fn messages_may_come_byte_by_byte() {
    polite_session(async |socket, bytes| {
        for byte in bytes {
            socket.write_all(&[*byte]).await.expect("the client reads");
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a session as any other");
}

#[tokio::test]
async fn messages_may_be_split_anywhere() {
    for split in 0..transcript().len() {
        polite_session(async |socket, bytes| {
            let (first, second) = bytes.split_at(split.min(bytes.len()));
            socket.write_all(first).await.expect("the client reads");
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            socket.write_all(second).await.expect("the client reads");
        })
        .await
        .expect("a session as any other");
    }
}

#[tokio::test]
async fn an_end_at_any_byte_is_an_error() {
    let text = transcript();
    for length in 0..text.len() {
        let error = session(&[&text[..length]]).await.expect_err("cut off");
        let end = matches!(
            error,
            Error::Disconnected {
                source: Disconnect::Eof,
                ..
            } | Error::OutcomeUnknown {
                source: Disconnect::Eof,
                ..
            }
        );
        assert!(end, "after {length} bytes: {error:?}");
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_for_all() {
    for nonsense in [
        "\u{1}\n",
        "}\n",
        "{\"return\": {}, \"id\": 1\n",
        "\u{ff}\n",
        "[]\n",
        "{\"return\": {}\n",
    ] {
        let (client, mut fake) = Fake::pair(Options::new()).await;
        let since = client.position();
        let server = async {
            fake.command().await;
            fake.send(nonsense).await;
        };
        let both = async { tokio::join!(client.execute(Stop), client.wait_for("STOP", since, LONG), server) };
        let (stopped, waited, ()) = timeout(LONG / 2, both).await.expect("no hang");
        let Err(Error::OutcomeUnknown {
            source: Disconnect::Malformed { line, .. },
            ..
        }) = stopped
        else {
            panic!("{nonsense:?}: {stopped:?}")
        };
        assert_eq!(line, nonsense.trim_end());
        assert!(matches!(waited, Err(Error::Disconnected { .. })), "{waited:?}");
        assert_eq!(fake.next_command().await, None, "this side hangs up");
    }
}

#[tokio::test]
async fn a_line_without_end_is_an_error_not_a_full_memory() {
    let limit: usize = 1 << 20;
    let (client, mut fake) = Fake::pair(Options::new().max_line_bytes(limit)).await;
    let server = async {
        fake.command().await;
        let mut taken = 0;
        while let Ok(length) = fake.socket.write(&[b'x'; 4096]).await {
            taken += length;
        }
        taken
    };
    let both = async { tokio::join!(client.execute(Stop), server) };
    let (stopped, taken) = timeout(LONG, both).await.expect("no hang");
    // The limit, and what the buffers of a socket hold.
    assert!((limit..2 * limit).contains(&taken), "took {taken} bytes");
    let error = stopped.expect_err("too long");
    let Error::OutcomeUnknown {
        source: Disconnect::Oversized { limit: told },
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(told, limit);
}

#[tokio::test]
async fn a_huge_reply_is_fine() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let size = 3 << 20;
    let server = async {
        let command = fake.command().await;
        fake.reply(&command, json!("x".repeat(size))).await;
        let command = fake.command().await;
        fake.reply(&command, json!("small")).await;
    };
    let requests = async {
        let huge: String = client.execute_raw("x", json!(null)).reply_as().await?;
        let small: String = client.execute_raw("x", json!(null)).reply_as().await?;
        Ok::<_, Error>((huge.len(), small))
    };
    let (replies, ()) = tokio::join!(requests, server);
    assert_eq!(replies.expect("two replies"), (size, "small".to_owned()));
}

#[tokio::test]
async fn a_server_that_does_not_read_does_not_hold_a_caller_up() {
    let (client, fake) = Fake::pair(Options::new()).await;
    let start = std::time::Instant::now();
    let arguments = json!({"x": "x".repeat(4 << 20)});
    let error = client
        .execute_raw("x", arguments)
        .timeout(Duration::from_millis(200))
        .await
        .expect_err("no reply");
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
    assert!(error.to_string().len() < 1000, "a message, not the command");
    assert!(start.elapsed() < LONG);
    drop(fake);
    assert!(client.wait_disconnected(LONG).await.is_some());
}

#[tokio::test]
async fn a_flood_of_events_keeps_no_one_from_a_reply() {
    let (client, fake) = Fake::pair(Options::new()).await;
    let Fake { socket, .. } = fake;
    let (read, mut write) = socket.into_split();
    let flood = tokio::spawn(async move {
        let events =
            "{\"event\": \"E\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n".repeat(100);
        let mut request = [0; 1024];
        loop {
            write
                .write_all(events.as_bytes())
                .await
                .expect("the client reads");
            if read.try_read(&mut request).is_ok() {
                write
                    .write_all(b"{\"return\": {}, \"id\": 1}\r\n")
                    .await
                    .expect("the client reads");
                return;
            }
        }
    });
    client.execute(Stop).await.expect("a reply");
    flood.await.expect("no panic");
}

#[tokio::test]
async fn a_panic_of_the_wire_log_takes_no_caller_with_it() {
    let options = Options::new().wire_log(|_, line| {
        assert!(
            !String::from_utf8_lossy(line).contains("STOP"),
            "this test's own panic"
        );
    });
    let (client, mut fake) = Fake::pair(options).await;
    let server = async {
        fake.command().await;
        fake.event("STOP", json!({})).await;
    };
    let (stopped, ()) = tokio::join!(client.execute(Stop), server);
    assert!(
        matches!(stopped, Err(Error::OutcomeUnknown { .. })),
        "{stopped:?}"
    );
    let again = client.execute(Stop).await;
    assert!(matches!(again, Err(Error::Disconnected { .. })), "{again:?}");
}
