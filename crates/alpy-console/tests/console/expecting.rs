// SPDX-License-Identifier: GPL-3.0-or-later
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use alpy_console::{Console, Error, Guest, ReadUntil, Timer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::far_end::{LONG, SHORT, pair, pair_of};

#[tokio::test]
async fn reads_up_to_the_needle_and_no_further() {
    let (console, mut far) = pair();
    far.say("Welcome\r\nrabbit login: more").await;
    let found = console.expect("login: ", LONG).await.unwrap();
    assert_eq!(
        (&*found.before_text(), &*found.matched_text()),
        ("Welcome\r\nrabbit ", "login: ")
    );
    assert_eq!((found.index, found.dropped), (0, 0));
    assert_eq!(
        console.expect(ReadUntil::NBytes(2), LONG).await.unwrap().matched,
        b"mo"
    );
    let found = console.expect_any(["x", "e"], LONG).await.unwrap();
    assert_eq!((found.index, &*found.before), (1, &b"r"[..]));
}

#[tokio::test]
async fn finds_what_comes_byte_by_byte() {
    let (console, mut far) = pair();
    let expecting = console.expect_regex(r"up (\d+) days(, idle)?\r\n", LONG);
    let saying = async {
        for byte in "grün: up 42 days\r\nrest".bytes() {
            far.say([byte]).await;
            tokio::task::yield_now().await;
        }
    };
    let (found, ()) = tokio::join!(expecting, saying);
    let found = found.unwrap();
    assert_eq!(found.before_text(), "grün: ");
    assert_eq!(found.group_text(1).unwrap(), "42");
    assert_eq!(
        (found.group_text(2), found.group_text(0), found.group_text(9)),
        (None, None, None)
    );
    assert_eq!(console.expect_string("rest", LONG).await.unwrap(), "");
}

#[tokio::test]
async fn waits_in_another_task_and_without_an_end() {
    let (console, mut far) = pair();
    let waiting = tokio::spawn(async move { console.expect("login: ", Duration::MAX).await });
    far.say("login: ").await;
    assert_eq!(
        timeout(LONG, waiting).await.unwrap().unwrap().unwrap().before,
        b""
    );
}

#[tokio::test]
async fn reads_lines_and_what_is_there() {
    let (console, mut far) = pair();
    far.say(b"one\r\ntwo\n\r\nca\xe9\n?").await;
    for line in ["one", "two", "", "ca\u{fffd}"] {
        assert_eq!(console.read_line(LONG).await.unwrap(), line);
    }
    assert_eq!(console.try_read(), b"?");
    assert_eq!(console.try_read(), b"");
}

#[tokio::test]
async fn says_at_the_deadline_what_was_expected_and_what_came() {
    let (console, mut far) = pair();
    for line in 0..40 {
        far.say(format!("line {line}\r\n")).await;
    }
    far.say("\x1b[1mrabbit:~# ").await;
    let start = Instant::now();
    let failure = console.expect("login: ", SHORT).await.unwrap_err();
    assert!(start.elapsed() >= SHORT);
    let text = failure.to_string();
    assert!(
        text.starts_with("expected \"login: \" within 100ms; last lines seen:\nline 11\n"),
        "{text}"
    );
    assert!(text.ends_with("line 39\n\\x1b[1mrabbit:~# "), "{text}");
    // Nothing is lost.
    assert!(
        console
            .expect_string("line 1\r\n", LONG)
            .await
            .unwrap()
            .contains("line 0")
    );
}

#[tokio::test]
async fn loses_nothing_when_a_wait_is_cancelled() {
    let (console, mut far) = pair();
    let mut sent = Vec::new();
    let mut read = Vec::new();
    for number in 0..200 {
        let chunk = format!("{number:05}\r\n");
        sent.extend_from_slice(chunk.as_bytes());
        far.say(&chunk).await;
        // Polled once or a few times, and dropped wherever it is then.
        let expecting = console.expect(if number % 3 == 0 { "never" } else { "\r\n" }, LONG);
        if let Ok(found) = timeout(Duration::from_micros(number % 50), expecting).await {
            read.extend([found.unwrap().before, b"\r\n".to_vec()].concat());
        }
    }
    drop(far);
    read.extend(console.expect(ReadUntil::EOF, LONG).await.unwrap().matched);
    assert_eq!(read, sent);
}

#[tokio::test]
async fn says_that_the_console_ended_wherever_it_does() {
    let banner = "Welcome\r\nlogin: ";
    for length in 0..banner.len() {
        let (console, mut far) = pair();
        far.say(&banner[..length]).await;
        drop(far);
        let failure = console.expect("login: ", LONG).await.unwrap_err();
        assert!(matches!(failure, Error::Ended { .. }), "{failure}");
        assert!(failure.to_string().contains("end of file"), "{failure}");
        assert_eq!(console.expect_eof(LONG).await.unwrap(), banner[..length]);
        assert_eq!(console.expect_eof(LONG).await.unwrap(), "");
    }
}

#[tokio::test]
async fn finds_what_came_just_before_the_end() {
    let (console, mut far) = pair();
    far.say(format!("BEGIN{}END", "x".repeat(10_000))).await;
    drop(far);
    let found = console.expect_regex("BEGIN(x*)END", LONG).await.unwrap();
    assert_eq!(found.captures[0].as_ref().unwrap().len(), 10_000);
}

#[tokio::test]
async fn finds_a_long_regex_match_when_the_stream_pauses() {
    let (console, mut far) = pair();
    let expecting = console.expect_regex("BEGIN(x*)END", LONG);
    let saying = async {
        for chunk in ["BEGIN", &"x".repeat(100_000), "END"] {
            far.say(chunk).await;
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::join!(expecting, saying).0.unwrap().matched.len(), 100_008);
}

/// The most bytes that a console may read after the deadline: the rest of its reader's current turn, and one more turn. The test counts bytes
/// because the time that they take depends on the host.
const LATE: u64 = 2 << 20;

#[tokio::test]
async fn keeps_its_deadline_while_output_floods() {
    const DEADLINE: u64 = 10 << 20;
    for needle in [ReadUntil::from("never"), ReadUntil::regex("never|NEVER").unwrap()] {
        let flood = Flood::default();
        let given = Arc::clone(&flood.given);
        let timer: Timer = Arc::new({
            let given = Arc::clone(&given);
            move |_| {
                let given = Arc::clone(&given);
                Box::pin(poll_fn(move |context| {
                    if given.load(Ordering::Relaxed) >= DEADLINE {
                        return Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    Poll::Pending
                }))
            }
        });
        let console = Console::builder().timer(timer).start(flood).unwrap();
        let failure = console.expect(needle, LONG).await.unwrap_err();
        let late = given.load(Ordering::Relaxed) - DEADLINE;
        assert!(matches!(failure, Error::Timeout { .. }), "{failure}");
        assert!(late <= LATE, "{late} bytes late");
        console.close(LONG).await.unwrap();
    }
}

/// A far end that always has more to say, and counts what it has said.
#[derive(Default)]
struct Flood {
    given: Arc<AtomicU64>,
}

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = b"the same line all over again\r\n";
        while buffer.remaining() > 0 {
            let length = buffer.remaining().min(line.len());
            buffer.put_slice(&line[..length]);
            self.given.fetch_add(length as u64, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn says_how_much_fell_out_of_the_window() {
    let (console, mut far) = pair_of(Console::builder().window_bytes(1000));
    far.say("x".repeat(5000)).await;
    far.say("needle").await;
    let failure = console.expect("never", SHORT).await.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("4006 bytes before what is kept fell out"),
        "{failure}"
    );
    let found = console.expect("needle", LONG).await.unwrap();
    assert_eq!((found.before.len(), found.dropped), (994, 4006));
    let failure = console.expect(ReadUntil::NBytes(1001), LONG).await.unwrap_err();
    assert!(matches!(failure, Error::NeedleTooLong { .. }), "{failure}");
}

#[tokio::test]
async fn refuses_a_pattern_that_is_none() {
    let (console, _far) = pair();
    let failure = console.expect_regex("(", LONG).await.unwrap_err();
    assert_eq!(failure.to_string(), "\"(\" is not a regular expression");
}

#[test]
fn needs_a_runtime() {
    let failure = Console::builder().start(tokio::io::empty()).unwrap_err();
    assert!(matches!(failure, Error::NoRuntime));
}

#[tokio::test]
async fn what_is_said_aside_is_among_the_last_lines_only_if_it_failed() {
    let (console, mut far) = pair();
    far.say(b"before\r\n").await;
    console.expect("before\r\n", LONG).await.unwrap();
    far.say(b"aside\r\n").await;
    console.aside(console.expect("aside\r\n", LONG)).await.unwrap();
    assert_eq!(console.tail(9), "before");
    far.say(b"failed\r\n").await;
    let failed = async {
        console.expect("failed\r\n", LONG).await?;
        console.expect("more", SHORT).await
    };
    let failure = console.aside(failed).await.unwrap_err();
    assert!(matches!(failure, Error::Timeout { .. }), "{failure}");
    assert_eq!(console.tail(9), "before\nfailed");
}

#[tokio::test(start_paused = true)]
async fn the_consoles_timer_measures_every_limit() {
    let second = Duration::from_secs(1);
    // The far end runs for one second in eight.
    let starved: Timer = Arc::new(|limit| {
        Box::pin(async move {
            sleep_until(Instant::now() + 8 * limit).await;
        })
    });
    for (timer, found) in [(Some(starved), true), (None, false)] {
        let (near, far) = tokio::io::duplex(100);
        let builder = match timer {
            Some(timer) => Console::builder().timer(timer),
            None => Console::builder(),
        };
        let console = builder.start(near).unwrap();
        let login = Guest::busybox().boot_limit(second);
        let (expected, ready, came) = tokio::join!(
            console.expect("login: ", second),
            async {
                let _ = login.log_in(&console).await;
            },
            async {
                let mut far = far;
                sleep_until(Instant::now() + 4 * second).await;
                far.write_all(b"login: login: ").await.unwrap();
                far
            },
        );
        drop(came);
        let () = ready;
        assert_eq!(expected.is_ok(), found, "{expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_tells_the_limit_from_the_time_that_passed() {
    let limit = Duration::from_secs(2);
    let starved: Timer = Arc::new(|limit| {
        Box::pin(async move {
            sleep_until(Instant::now() + 10 * limit).await;
        })
    });
    let (near, _far) = tokio::io::duplex(100);
    let console = Console::builder().timer(starved).start(near).unwrap();
    let error = console.expect("login: ", limit).await.unwrap_err().to_string();
    let text = "expected \"login: \" within 2s (20.0 s passed; for 18.0 s of them the host kept the machine from running);";
    assert!(error.starts_with(text), "{error}");
}
