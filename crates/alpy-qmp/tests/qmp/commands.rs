// SPDX-License-Identifier: GPL-3.0-or-later

use std::collections::HashSet;
use std::future::IntoFuture;
use std::time::Duration;

use alpy_qmp::commands::{Cont, QueryStatus, QueryVersion, SetLink, Stop};
use alpy_qmp::{Client, Disconnect, Error, ErrorClass, Options, Position};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fake::{Fake, LONG, SHORT};

/// Starts a command that says its number, and that is not awaited here.
fn start(client: &Client, number: usize) -> tokio::task::JoinHandle<alpy_qmp::Result<Value>> {
    tokio::spawn(client.execute_raw("echo", json!({"n": number})).into_future())
}

fn number(command: &Value) -> &Value {
    &command["arguments"]["n"]
}

#[tokio::test]
async fn replies_find_their_commands_in_any_order() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let handles: Vec<_> = (0..8).map(|number| start(&client, number)).collect();
    let mut commands = Vec::new();
    for _ in 0..8 {
        commands.push(fake.command().await);
    }
    for command in commands.iter().rev() {
        fake.reply(command, number(command).clone()).await;
    }
    for (number, handle) in handles.into_iter().enumerate() {
        assert_eq!(handle.await.expect("no panic").expect("a reply"), number);
    }
}

#[tokio::test]
async fn no_more_than_eight_commands_are_with_the_server() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let handles: Vec<_> = (0..10).map(|number| start(&client, number)).collect();
    let mut commands = Vec::new();
    for expected in 0..8 {
        let command = fake.command().await;
        assert_eq!(*number(&command), expected, "in the order they were started");
        commands.push(command);
    }
    assert!(fake.is_quiet().await, "the window is full");
    fake.reply(&commands.remove(3), json!({})).await;
    commands.push(fake.command().await);
    assert_eq!(*number(&commands[7]), 8);
    assert!(fake.is_quiet().await, "the window is full again");
    for command in commands {
        fake.reply(&command, json!({})).await;
    }
    let last = fake.command().await;
    fake.reply(&last, json!({})).await;
    for handle in handles {
        handle.await.expect("no panic").expect("a reply");
    }
}

#[tokio::test]
async fn an_out_of_band_command_passes_those_that_wait() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let _handles: Vec<_> = (0..20).map(|number| start(&client, number)).collect();
    for _ in 0..8 {
        fake.command().await;
    }
    let urgent = tokio::spawn(client.execute_raw("yank", json!({})).out_of_band().into_future());
    let command = fake.command().await;
    assert_eq!(command["exec-oob"], "yank");
    fake.reply(&command, json!({})).await;
    urgent.await.expect("no panic").expect("a reply");
}

#[tokio::test]
async fn a_refusal_has_its_class_its_text_and_its_command() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let server = async {
        let id = fake.command().await["id"].clone();
        let error = json!({"class": "DeviceNotFound", "desc": "Device 'x' not found"});
        fake.send(&format!("{}\r\n", json!({"error": error, "id": id})))
            .await;
    };
    let (result, ()) = tokio::join!(
        client.execute(SetLink {
            name: "x".into(),
            up: true
        }),
        server
    );
    let Err(Error::Server(error)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(error.class, ErrorClass::DeviceNotFound);
    assert_eq!(error.desc, "Device 'x' not found");
    assert_eq!(
        error.command,
        r#"{"execute":"set_link","arguments":{"name":"x","up":true}}"#
    );
    assert!(error.to_string().contains("set_link"), "{error}");
}

#[tokio::test]
async fn an_error_without_id_is_the_oldest_commands() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let first = start(&client, 0);
    fake.command().await;
    let second = start(&client, 1);
    let command = fake.command().await;
    fake.send("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\r\n")
        .await;
    let error = first.await.expect("no panic").expect_err("an error");
    assert!(matches!(error, Error::Server(_)), "{error}");
    fake.reply(&command, json!(1)).await;
    assert_eq!(second.await.expect("no panic").expect("a reply"), 1);
}

#[tokio::test]
async fn replies_to_nothing_disturb_nothing() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    fake.send("{\"error\": {\"class\": \"GenericError\", \"desc\": \"out of the blue\"}}\r\n")
        .await;
    fake.event("E", json!({})).await;
    client
        .wait_for("E", Position::START, LONG)
        .await
        .expect("it came after the error");
    let handle = start(&client, 5);
    let command = fake.command().await;
    for id in [
        json!(99),
        json!("0"),
        json!({"a": 1}),
        json!(null),
        json!(-1),
        json!(1e99),
    ] {
        fake.send(&format!("{}\r\n\r\n", json!({"return": "wrong", "id": id})))
            .await;
    }
    fake.reply(&command, json!("right")).await;
    assert_eq!(handle.await.expect("no panic").expect("a reply"), "right");
}

#[tokio::test]
async fn a_late_reply_is_dropped_and_the_client_goes_on() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let error = client.execute(Stop).timeout(SHORT).await.expect_err("no reply");
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
    let late = fake.command().await;
    // Over one hundred commands, so that every id comes up again if it may.
    for round in 0..150 {
        let handle = start(&client, round);
        let command = fake.command().await;
        assert_ne!(command["id"], late["id"], "this id has no reply yet");
        fake.reply(&command, json!(round)).await;
        assert_eq!(handle.await.expect("no panic").expect("a reply"), round);
    }
    fake.reply(&late, json!({})).await;
    let handle = start(&client, 1);
    let command = fake.command().await;
    fake.reply(&command, json!("on time")).await;
    assert_eq!(handle.await.expect("no panic").expect("a reply"), "on time");
}

#[tokio::test]
async fn a_command_that_timed_out_in_the_queue_is_never_sent() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let mut commands = Vec::new();
    let _handles: Vec<_> = (0..8).map(|number| start(&client, number)).collect();
    for _ in 0..8 {
        commands.push(fake.command().await);
    }
    let error = client
        .execute(Stop)
        .timeout(SHORT)
        .await
        .expect_err("the window is full");
    assert!(matches!(error, Error::Timeout { sent: false, .. }), "{error}");
    timeout(SHORT, client.execute(Cont).into_future())
        .await
        .expect_err("dropped");
    for command in &commands {
        fake.reply(command, json!({})).await;
    }
    assert!(fake.is_quiet().await, "neither stop nor cont");
}

#[tokio::test]
async fn a_cancelled_command_keeps_its_place_in_the_window_until_its_reply() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let mut commands = Vec::new();
    for number in 0..8 {
        let handle = start(&client, number);
        commands.push(fake.command().await);
        handle.abort();
        _ = handle.await;
    }
    let handle = start(&client, 8);
    assert!(
        fake.is_quiet().await,
        "eight are with the server, cancelled or not"
    );
    for command in &commands {
        fake.reply(command, json!("late")).await;
    }
    let command = fake.command().await;
    fake.reply(&command, json!("right")).await;
    assert_eq!(handle.await.expect("no panic").expect("a reply"), "right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cancellations_misroutes_nothing() {
    const COMMANDS: usize = 10_000;
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let server = tokio::spawn(async move {
        // Every third command has to wait until there are four of them, or no more commands for a while.
        let mut kept: Vec<Value> = Vec::new();
        loop {
            match timeout(Duration::from_millis(1), fake.next_command()).await {
                Ok(Some(command)) if number(&command).as_u64().is_some_and(|number| number % 3 == 0) => {
                    kept.push(command);
                    if kept.len() < 4 {
                        continue;
                    }
                }
                Ok(Some(command)) => {
                    fake.reply(&command, number(&command).clone()).await;
                    continue;
                }
                Ok(None) => return,
                Err(_) => {}
            }
            for command in kept.drain(..).rev() {
                fake.reply(&command, number(&command).clone()).await;
            }
        }
    });
    let mut tasks = JoinSet::new();
    for chunk in 0..COMMANDS / 100 {
        let client = client.clone();
        tasks.spawn(async move {
            let mut random = chunk as u64;
            let mut answered = 0;
            for number in chunk * 100..(chunk + 1) * 100 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let command = client.execute_raw("echo", json!({"n": number}));
                let limit = match random >> 33 {
                    even if even % 2 == 0 => Duration::from_micros(even % 1000),
                    _ => LONG,
                };
                if let Ok(reply) = timeout(limit, command.into_future()).await {
                    assert_eq!(reply.expect("no lost session"), number);
                    answered += 1;
                }
            }
            answered
        });
    }
    let answered: usize = timeout(LONG * 2, tasks.join_all())
        .await
        .expect("no hang")
        .into_iter()
        .sum();
    assert!(answered >= COMMANDS / 3, "{answered} of {COMMANDS} answered");
    // No place in the window is lost: eight more at once go through.
    for handle in (0..8).map(|number| start(&client, number)).collect::<Vec<_>>() {
        timeout(LONG, handle)
            .await
            .expect("a place")
            .expect("no panic")
            .expect("a reply");
    }
    drop(client);
    server.await.expect("no panic in the server");
}

#[tokio::test]
async fn the_end_tells_what_was_sent_from_what_was_not() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let handles: Vec<_> = (0..10).map(|number| start(&client, number)).collect();
    for _ in 0..8 {
        fake.command().await;
    }
    drop(fake);
    for (number, handle) in handles.into_iter().enumerate() {
        let error = timeout(LONG, handle)
            .await
            .expect("in time")
            .expect("no panic")
            .expect_err("no reply");
        match error {
            Error::OutcomeUnknown {
                source: Disconnect::Eof,
                ..
            } => assert!(number < 8),
            Error::Disconnected {
                source: Disconnect::Eof,
                ..
            } => assert!(number >= 8),
            other => panic!("{other}"),
        }
    }
    let error = client.execute(Cont).await.expect_err("nobody there");
    assert_eq!(
        error.to_string(),
        r#"the QMP connection ended before {"execute":"cont"} was sent"#
    );
    assert!(
        matches!(
            error,
            Error::Disconnected {
                source: Disconnect::Eof,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_last_word_is_heard_even_if_nobody_can_be_spoken_to() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    fake.event("SHUTDOWN", json!({"guest": true})).await;
    drop(fake);
    let error = client.execute(Cont).await.expect_err("nobody there");
    let end = matches!(
        error,
        Error::OutcomeUnknown {
            source: Disconnect::Eof,
            ..
        } | Error::Disconnected {
            source: Disconnect::Eof,
            ..
        }
    );
    assert!(end, "{error:?}");
    client
        .wait_for("SHUTDOWN", Position::START, LONG)
        .await
        .expect("it was said");
    let reason = client.wait_disconnected(LONG).await;
    assert!(matches!(reason, Some(Disconnect::Eof)), "{reason:?}");
}

#[tokio::test]
async fn quit_takes_the_end_for_success() {
    // With a reply and without, and when the server was gone before.
    for replies in [true, false] {
        let (client, mut fake) = Fake::pair(Options::new()).await;
        let server = async {
            let command = fake.command().await;
            assert_eq!(command["execute"], "quit");
            if replies {
                fake.reply(&command, json!({})).await;
            }
            drop(fake);
        };
        let (quit, ()) = tokio::join!(client.quit(LONG), server);
        quit.expect("what was asked for");
        client.quit(LONG).await.expect("it has ended");
    }
}

#[tokio::test]
async fn quit_does_not_wait_for_ever() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let error = client.quit(SHORT).await.expect_err("no reply");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let late = fake.command().await;
    fake.reply(&late, json!({})).await;
    let server = async {
        let command = fake.command().await;
        fake.reply(&command, json!({})).await;
    };
    let (quit, ()) = tokio::join!(client.quit(SHORT), server);
    let error = quit.expect_err("a reply, but no end");
    assert!(error.to_string().contains("end of the connection"), "{error}");
}

#[tokio::test]
async fn a_reply_of_another_shape_is_an_error_that_shows_it() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let server = async {
        let command = fake.command().await;
        fake.reply(&command, json!({"status": 7})).await;
    };
    let (status, ()) = tokio::join!(client.execute(QueryStatus), server);
    let error = status.expect_err("not a status");
    assert!(matches!(error, Error::Decode { .. }));
    assert_eq!(
        error.to_string(),
        r#"unexpected reply to {"execute":"query-status"}: {"status":7}"#
    );
}

#[tokio::test]
async fn a_reply_can_be_taken_as_any_type() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let server = async {
        for _ in 0..2 {
            let command = fake.command().await;
            fake.reply(&command, json!([1, 2])).await;
        }
    };
    let requests = async {
        let numbers: HashSet<u8> = client.execute_raw("x", Value::Null).reply_as().await?;
        let text = client
            .execute(QueryVersion)
            .reply_as::<Box<serde_json::value::RawValue>>()
            .await?;
        Ok::<_, Error>((numbers, text))
    };
    let (result, ()) = tokio::join!(requests, server);
    let (numbers, text) = result.expect("two replies");
    assert_eq!((numbers, text.get()), (HashSet::from([1, 2]), "[1,2]"));
}

#[tokio::test]
async fn an_unplugged_device_is_waited_for() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let server = async {
        let command = fake.command().await;
        assert_eq!(command["arguments"], json!({"id": "nic0"}));
        fake.event("DEVICE_DELETED", json!({"device": "nic1", "path": "/x"}))
            .await;
        fake.event("DEVICE_DELETED", json!({"path": "/y"})).await;
        fake.event("DEVICE_DELETED", json!({"device": "nic0", "path": "/z"}))
            .await;
        fake.reply(&command, json!({})).await;
    };
    let (unplugged, ()) = tokio::join!(client.unplug("nic0", LONG), server);
    unplugged.expect("gone");

    let server = async {
        let command = fake.command().await;
        fake.event("DEVICE_DELETED", json!({"device": "nic7", "path": "/other"}))
            .await;
        fake.reply(&command, json!({})).await;
    };
    let (unplugged, ()) = tokio::join!(client.unplug("nic1", SHORT), server);
    let error = unplugged.expect_err("the guest does not run").to_string();
    assert!(
        error.contains("DEVICE_DELETED of nic1") && error.contains("/other"),
        "{error}"
    );
}
