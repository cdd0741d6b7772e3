// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;
use std::thread;

use alpy_console::Console;
use alpy_console::rexpect::ReadUntil;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::far_end::{LONG, SHORT, pair, pair_of};

/// Begins a dialogue that blocks, on a thread of its own. Dropping a runtime waits for its blocking tasks, so a dialogue that hangs
/// there would hang the test.
fn begin<T: Send + 'static>(dialogue: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, outcome) = oneshot::channel();
    // The test has failed if it no longer waits.
    thread::spawn(move || drop(done.send(dialogue())));
    outcome
}

/// Waits for the end of a dialogue. Its own timeouts are at most [`LONG`] each.
async fn end<T>(dialogue: oneshot::Receiver<T>) -> T {
    let outcome = timeout(2 * LONG, dialogue).await;
    outcome
        .expect("the dialogue ends")
        .expect("the dialogue does not panic")
}

#[tokio::test]
async fn speaks_through_the_same_console() {
    let dir = tempfile::tempdir().unwrap();
    let (console, mut far) = pair_of(Console::builder().transcript(dir.path()));
    far.say("boot\r\nrabbit login: ").await;
    console.expect("boot\r\n", LONG).await.unwrap();
    let tail = console.clone();
    let mut session = console.into_rexpect(LONG);
    let typing = begin(move || {
        assert_eq!(session.exp_string("login: ").unwrap(), "rabbit ");
        session.send_line("root").unwrap();
        let (before, prompt) = session.exp_regex("[#$] ").unwrap();
        assert_eq!((&*before, &*prompt), ("root\r\nWelcome\r\n", "# "));
        session.send_control('c').unwrap();
        session
            .exp_any(vec![ReadUntil::String("bye".into()), ReadUntil::EOF])
            .unwrap();
        assert_eq!(session.exp_eof().unwrap(), "\r\n");
    });
    far.hear("root\n").await;
    far.say("root\r\nWelcome\r\n# ").await;
    far.hear("\x03").await;
    far.say("bye\r\n").await;
    drop(far);
    end(typing).await;
    let log = "< boot\n< rabbit login: \n> root\n< root\n< Welcome\n< # \n> \\x03\n< bye\n";
    assert_eq!(fs::read_to_string(dir.path().join("console.log")).unwrap(), log);
    assert_eq!(tail.tail(1), "# bye");
}

#[tokio::test]
async fn runs_into_its_timeout() {
    let (console, _far) = pair();
    let mut session = console.into_rexpect(SHORT);
    let error = end(begin(move || session.exp_string("never").unwrap_err())).await;
    assert!(
        matches!(error, alpy_console::rexpect::error::Error::Timeout { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn closes_the_console_when_the_session_goes() {
    let (console, mut far) = pair();
    let mut session = console.into_rexpect(LONG);
    end(begin(move || {
        session.send_line("last words").unwrap();
        drop(session);
    }))
    .await;
    far.hear("last words\n").await;
    far.hear_the_end().await;
}

#[tokio::test]
async fn leaves_the_console_to_other_handles_when_the_session_goes() {
    let (console, mut far) = pair();
    let session = console.clone().into_rexpect(LONG);
    end(begin(move || drop(session))).await;
    for _ in 0..100 {
        far.say("login: ").await;
        console.expect("login: ", LONG).await.unwrap();
    }
}
