// SPDX-License-Identifier: GPL-3.0-or-later
use std::time::Instant;

use alpy_console::{Console, Error};

use crate::far_end::{LONG, SHORT, pair, pair_of};

#[tokio::test]
async fn sends_lines_bytes_and_control_characters() {
    let (console, mut far) = pair();
    console.send_line("grün").await.unwrap();
    console.send(b"abc").await.unwrap();
    for (character, code) in [
        ('c', "\x03"),
        ('D', "\x04"),
        ('[', "\x1b"),
        ('\\', "\x1c"),
        ('@', "\0"),
        ('_', "\x1f"),
    ] {
        console.send_control(character).await.unwrap();
        far.hear(if character == 'c' { "grün\nabc\x03" } else { code })
            .await;
    }
    for character in ['1', 'ü', '?'] {
        assert!(matches!(
            console.send_control(character).await,
            Err(Error::Control(_))
        ));
    }
}

#[tokio::test]
async fn reads_while_it_sends_to_a_far_end_that_echoes() {
    let (console, far) = pair();
    let echo = Console::builder().start(far.into_inner()).unwrap();
    let text = "0123456789".repeat(200_000);
    let echoing = async {
        let mut left = text.len();
        while left > 0 {
            let bytes = echo
                .expect(alpy_console::ReadUntil::NBytes(left.min(1000)), LONG)
                .await
                .unwrap()
                .matched;
            left -= bytes.len();
            echo.send(bytes).await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(console.send(&text), echoing);
    sent.unwrap();
    let echoed = console
        .expect(alpy_console::ReadUntil::NBytes(text.len()), LONG)
        .await
        .unwrap();
    assert!(echoed.matched == text.as_bytes());
}

#[tokio::test]
async fn gives_up_on_a_far_end_that_does_not_read() {
    let (console, far) = pair_of(Console::builder().send_deadline(SHORT));
    let start = Instant::now();
    match console.send(vec![b'x'; 10 << 20]).await {
        Err(Error::SendTimeout { sent, length, after }) => {
            assert!(
                sent < length && length == 10 << 20 && after == SHORT,
                "{sent}, {length}, {after:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < LONG);
    drop(far);
    assert!(matches!(
        console.send("x").await,
        Err(Error::Send {
            sent: 0,
            length: 1,
            ..
        })
    ));
}

#[tokio::test]
async fn closes_the_stream_when_the_last_handle_goes() {
    let (console, mut far) = pair();
    let other = console.clone();
    drop(console);
    other.send("still here").await.unwrap();
    far.hear("still here").await;
    drop(other);
    far.hear_the_end().await;
}

#[tokio::test]
async fn closes_the_stream_for_every_handle() {
    let (console, mut far) = pair();
    far.say("last words").await;
    let other = console.clone();
    let (waiting, closed) = tokio::join!(other.expect("never", LONG), console.close(LONG));
    closed.unwrap();
    assert!(matches!(waiting, Err(Error::Ended { .. })), "{waiting:?}");
    assert_eq!(other.expect_eof(LONG).await.unwrap(), "last words");
    assert!(matches!(other.send("x").await, Err(Error::Send { .. })));
    far.hear_the_end().await;
    console.close(LONG).await.unwrap();
}

#[tokio::test]
async fn closes_while_output_floods() {
    let (console, far) = pair();
    let flood = far.flood(b"line\r\n".repeat(10_000));
    console.expect("line", LONG).await.unwrap();
    console.close(LONG).await.unwrap();
    tokio::time::timeout(LONG, flood).await.unwrap().unwrap();
}
