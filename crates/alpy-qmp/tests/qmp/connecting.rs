// SPDX-License-Identifier: GPL-3.0-or-later

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alpy_qmp::commands::{Cont, QueryVersion, Stop};
use alpy_qmp::{Client, Direction, Disconnect, Error, Options};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::fake::{Fake, GREETING, LONG, SHORT};

#[tokio::test]
async fn agrees_on_what_is_offered() {
    for (offer, enable) in [(r#"["oob"]"#, json!({"enable": ["oob"]})), ("[]", json!(null))] {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mut fake = Fake::new(theirs);
        let server = async {
            fake.send(&GREETING.replace(r#"["oob"]"#, offer)).await;
            let command = fake.command().await;
            assert_eq!(command["arguments"], enable);
            fake.reply(&command, json!({})).await;
        };
        let (client, ()) = tokio::join!(Options::new().attach(ours), server);
        let client = client.expect("a connection");
        assert_eq!(client.has_out_of_band(), !enable.is_null());
        assert_eq!(client.greeting().version.qemu.to_string(), "7.2.22");
        if enable.is_null() {
            let refused = client.execute(QueryVersion).out_of_band().await;
            assert!(matches!(refused, Err(Error::NoOutOfBand { .. })), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_silent_server_is_an_error_with_the_likely_reason() {
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let error = Options::new()
        .greeting_timeout(SHORT)
        .attach(ours)
        .await
        .expect_err("nobody greets");
    assert!(matches!(error, Error::GreetingTimeout { .. }));
    assert!(
        error.to_string().contains("another client may hold this socket"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_greets_and_falls_silent_is_an_error() {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut fake = Fake::new(theirs);
    fake.send(GREETING).await;
    let error = Options::new()
        .greeting_timeout(SHORT)
        .attach(ours)
        .await
        .expect_err("nobody answers");
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
}

#[tokio::test]
async fn a_server_of_another_protocol_is_an_error() {
    for line in [
        "220 mail.example ESMTP\r\n",
        "{\"return\": {}}\r\n",
        "{\"event\": \"STOP\"}\n",
    ] {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        Fake::new(theirs).send(line).await;
        let error = Options::new().attach(ours).await.expect_err("not QMP");
        let Error::Disconnected {
            source: Disconnect::Malformed { line: shown, .. },
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(shown, line.trim());
    }
}

#[tokio::test]
async fn a_server_that_ends_before_it_greets_is_an_error() {
    let (ours, _) = UnixStream::pair().expect("a socket pair");
    let error = Options::new().attach(ours).await.expect_err("no server");
    assert!(
        matches!(
            error,
            Error::Disconnected {
                source: Disconnect::Eof,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn waits_for_the_socket_to_appear() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("qmp");
    let connecting = tokio::spawn(Client::connect(path.clone(), LONG));
    tokio::task::yield_now().await;
    let listener = UnixListener::bind(&path).expect("a listener");
    let (socket, _) = listener.accept().await.expect("a client");
    Fake::new(socket).shake_hands().await;
    connecting.await.expect("no panic").expect("a connection");
}

#[tokio::test]
async fn a_socket_that_does_not_appear_is_an_error_with_its_path() {
    let error = Client::connect("/nonexistent/qmp", SHORT)
        .await
        .expect_err("no such socket");
    assert!(matches!(error, Error::Connect { .. }));
    assert!(error.to_string().contains("/nonexistent/qmp"), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_be_a_socket_is_refused_at_once() {
    let path = format!("/tmp/{}", "x".repeat(108));
    // Only a path that may appear later is waited for, here longer than the test is.
    let error = timeout(LONG, Client::connect(&path, 10 * LONG))
        .await
        .expect("no waiting")
        .expect_err("no such path");
    let Error::Connect { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::InvalidInput, "{error:?}");
}

#[tokio::test]
async fn a_listener_takes_server_after_server_and_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("qmp");
    let listener = Options::new().listen(&path).expect("a listener");
    for _ in 0..2 {
        let server = async {
            let mut fake = Fake::new(UnixStream::connect(&path).await.expect("a listener"));
            fake.shake_hands().await;
            fake
        };
        let (client, mut fake) = tokio::join!(listener.accept(), server);
        let client = client.expect("a connection");
        let answer = async {
            let command = fake.command().await;
            fake.reply(&command, json!({})).await;
        };
        let (answered, ()) = tokio::join!(client.execute(Cont), answer);
        answered.expect("an answer");
    }
    let taken = Options::new().listen(&path).expect_err("taken");
    assert!(matches!(taken, Error::Listen { .. }));
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_listener_does_not_wait_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = Options::new()
        .greeting_timeout(SHORT)
        .listen(dir.path().join("qmp"))
        .expect("a listener");
    let error = listener.accept().await.expect_err("nobody connects");
    assert!(matches!(error, Error::AcceptTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn any_stream_will_do() {
    let (ours, theirs) = tokio::io::duplex(7);
    let (mut read, mut write) = tokio::io::split(theirs);
    let (bridge, socket) = UnixStream::pair().expect("a socket pair");
    let (mut bridge_read, mut bridge_write) = bridge.into_split();
    let mut fake = Fake::new(socket);
    let there = tokio::spawn(async move { tokio::io::copy(&mut read, &mut bridge_write).await });
    let back = tokio::spawn(async move { tokio::io::copy(&mut bridge_read, &mut write).await });
    let server = async {
        fake.shake_hands().await;
        let command = fake.command().await;
        assert_eq!(command["execute"], "stop");
        fake.reply(&command, json!({})).await;
    };
    let client = async {
        let client = Options::new().attach_stream(ours).await?;
        client.execute(Stop).await?;
        Ok::<_, Error>(client)
    };
    let (client, ()) = tokio::join!(client, server);
    drop(client.expect("a connection and an answer"));
    drop(fake);
    there.await.expect("no panic").expect("the end");
    back.await.expect("no panic").expect("the end");
}

#[tokio::test]
async fn the_connection_ends_with_its_last_handle() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let events = client.events(client.position());
    let clone = client.clone();
    drop(client);
    drop(clone);
    assert!(fake.is_quiet().await, "the events are a handle too");
    drop(events);
    assert_eq!(timeout(LONG, fake.next_command()).await.expect("in time"), None);
}

#[tokio::test]
async fn a_connection_that_was_given_up_is_closed() {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut fake = Fake::new(theirs);
    timeout(SHORT, Options::new().attach(ours))
        .await
        .expect_err("nobody greets");
    assert_eq!(timeout(LONG, fake.next_command()).await.expect("in time"), None);
}

#[test]
fn nobody_waits_for_a_runtime_that_is_gone() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let first = runtime();
    let (client, _fake) = first.block_on(Fake::pair(Options::new()));
    drop(first);
    let result = runtime().block_on(async { timeout(LONG, client.execute(Cont).into_future()).await });
    assert!(
        matches!(result, Ok(Err(Error::Disconnected { .. }))),
        "{result:?}"
    );
}

#[tokio::test]
async fn the_wire_log_has_every_line_in_order() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let options = {
        let log = Arc::clone(&log);
        Options::new().wire_log(move |direction, line| {
            let sign = if direction == Direction::ToServer {
                '>'
            } else {
                '<'
            };
            log.lock()
                .expect("no panic")
                .push(format!("{sign}{}", String::from_utf8_lossy(line)));
        })
    };
    let (client, mut fake) = Fake::pair(options).await;
    let server = async {
        let command = fake.command().await;
        fake.event("STOP", json!({})).await;
        fake.reply(&command, json!({})).await;
    };
    let (answered, ()) = tokio::join!(client.execute(Stop), server);
    answered.expect("an answer");
    let log = log.lock().expect("no panic").clone();
    assert_eq!(
        log,
        [
            &format!("<{}", GREETING.trim_end()),
            r#">{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":0}"#,
            r#"<{"id":0,"return":{}}"#,
            r#">{"execute":"stop","id":1}"#,
            r#"<{"data":{},"event":"STOP","timestamp":{"microseconds":2,"seconds":1}}"#,
            r#"<{"id":1,"return":{}}"#,
        ]
    );
}

#[tokio::test]
async fn a_handshake_takes_only_the_time_it_is_given() {
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let attach = Options::new().greeting_timeout(Duration::ZERO).attach(ours);
    let error = timeout(LONG, attach)
        .await
        .expect("no waiting")
        .expect_err("no time at all");
    assert!(
        matches!(error, Error::GreetingTimeout { after } if after == Duration::ZERO),
        "{error:?}"
    );
}
