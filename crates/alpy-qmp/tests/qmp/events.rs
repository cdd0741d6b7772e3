// SPDX-License-Identifier: GPL-3.0-or-later

use alpy_qmp::commands::Stop;
use alpy_qmp::{Error, Options, Position};
use serde_json::json;

use crate::fake::{Fake, LONG, SHORT};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn an_event_before_the_reply_is_not_lost() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let before = client.position();
    let server = async {
        let command = fake.command().await;
        fake.event("STOP", json!({})).await;
        fake.reply(&command, json!({})).await;
    };
    let (stopped, ()) = tokio::join!(client.execute(Stop), server);
    stopped.expect("a reply");
    let event = client.wait_for("STOP", before, LONG).await.expect("it came");
    assert_eq!(event.position, before);
    let error = client
        .wait_for("STOP", event.next_position(), SHORT)
        .await
        .expect_err("no second one");
    assert!(matches!(error, Error::EventTimeout { .. }));
    assert!(error.to_string().ends_with("the last events: STOP {}"), "{error}");
}

#[tokio::test]
async fn a_wait_takes_the_first_event_that_fits() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    for number in 0..5 {
        fake.event(if number % 2 == 0 { "EVEN" } else { "ODD" }, json!({"n": number}))
            .await;
    }
    let odd = client
        .wait_for("ODD", Position::START, LONG)
        .await
        .expect("it came");
    assert_eq!(odd.data["n"], 1);
    let larger = client.wait_until("n > 2", Position::START, LONG, |event| {
        event.data["n"].as_u64() > Some(2)
    });
    assert_eq!(larger.await.expect("it came").data["n"], 3);
}

#[tokio::test]
async fn all_who_wait_are_told() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let since = client.position();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.wait_for("RESET", since, LONG).await })
        })
        .collect();
    tokio::task::yield_now().await;
    fake.event("NOISE", json!({})).await;
    fake.event("RESET", json!({})).await;
    for task in waiting {
        task.await.expect("no panic").expect("an event");
    }
}

#[tokio::test]
async fn the_end_ends_every_wait() {
    let (client, fake) = Fake::pair(Options::new()).await;
    let wait = client.wait_for("SHUTDOWN", client.position(), LONG);
    let mut events = client.events(client.position());
    let end = async {
        tokio::task::yield_now().await;
        drop(fake);
    };
    let (waited, next, ()) = tokio::join!(wait, events.next(LONG), end);
    assert!(matches!(waited, Err(Error::Disconnected { .. })), "{waited:?}");
    assert!(matches!(next, Err(Error::Disconnected { .. })), "{next:?}");
    assert!(client.disconnected().is_some());
}

#[tokio::test]
async fn a_sequence_gives_each_event_once_and_then_the_end() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let mut events = client.events(Position::START);
    for number in 0..100 {
        fake.event("E", json!({"n": number})).await;
    }
    drop(fake);
    for number in 0..100 {
        assert_eq!(events.next(LONG).await.expect("an event").data["n"], number);
    }
    let end = events.next(LONG).await.expect_err("no more");
    assert!(matches!(end, Error::Disconnected { .. }), "{end}");
}

#[tokio::test]
async fn a_sequence_without_an_event_does_not_wait_for_ever() {
    let (client, _fake) = Fake::pair(Options::new()).await;
    let late = client.events(Position::START).next(SHORT).await;
    assert!(matches!(late, Err(Error::EventTimeout { .. })), "{late:?}");
}

#[tokio::test]
async fn what_came_too_fast_is_reported() {
    let (client, mut fake) = Fake::pair(Options::new().history_events(4)).await;
    let mut events = client.events(Position::START);
    for number in 0..10 {
        fake.event("E", json!({"n": number})).await;
    }
    let last = |event: &alpy_qmp::Event| event.data["n"] == 9;
    client
        .wait_until("the last", Position::START, LONG, last)
        .await
        .expect("kept");

    let lag = events.next(LONG).await.expect_err("the first are gone");
    assert!(matches!(lag, Error::Lagged { missed: 6 }), "{lag}");
    assert_eq!(events.next(LONG).await.expect("an event").data["n"], 6);

    let lag = client
        .wait_for("F", Position::START, LONG)
        .await
        .expect_err("it may have been among them");
    assert!(matches!(lag, Error::Lagged { missed: 6 }), "{lag}");
    let shown: Vec<_> = client
        .recent_events(2)
        .iter()
        .map(|event| event.data["n"].clone())
        .collect();
    assert_eq!(shown, [8, 9]);
}

#[tokio::test]
async fn a_wait_that_sees_all_events_needs_no_history_of_them() {
    let (client, mut fake) = Fake::pair(Options::new().history_events(2)).await;
    let since = client.position();
    let server = async {
        for number in 0..20 {
            let before = client.position();
            fake.event("E", json!({"n": number})).await;
            client.wait_for("E", before, LONG).await.expect("an event");
        }
        fake.event("F", json!({})).await;
    };
    let (waited, ()) = tokio::join!(client.wait_for("F", since, LONG), server);
    waited.expect("nothing was missed");
}

#[tokio::test]
async fn the_clients_timer_measures_the_limit_of_a_wait_for_an_event() {
    let options = Options::new().timer(Arc::new(|_| Box::pin(std::future::pending())));
    let (client, mut fake) = Fake::pair(options).await;
    let before = client.position();
    let none = Duration::ZERO;
    let (stopped, ()) = tokio::join!(
        client.wait_for("STOP", before, none),
        fake.event("STOP", json!({}))
    );
    stopped.expect("the limit is not over");
    let mut events = client.events(client.position());
    let (next, ()) = tokio::join!(events.next(none), fake.event("RESUME", json!({})));
    assert_eq!(next.expect("the limit is not over").name, "RESUME");
}
