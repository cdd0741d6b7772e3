// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds of the lines, the messages and whole connections whatever a server says: one oracle for the fuzzer and for the
//! property tests in `tests`.

mod server;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::command::{self, Line};
use crate::error::{Disconnect, Error};
use crate::wire::{LineBuffer, Message};
use crate::{Client, Options, Position};

pub use server::{Aside, Exchange, GREETING};
use server::{Play, Stage, error_of};

/// Longer than anything takes here that does not hang.
const LONG: Duration = Duration::from_secs(20);

/// Splits a server's bytes into lines, and compares those with a plain splitting; takes little more memory than the longest
/// line may have.
///
/// The bytes come in pieces of these lengths and then the rest.
pub fn lines(bytes: &[u8], pieces: &[usize], limit: usize) {
    let (expected, is_oversized) = plain_lines(bytes, limit);
    let mut expected = expected.into_iter();
    let mut buffer = LineBuffer::new(limit);
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied();
    while !rest.is_empty() {
        let spare = buffer.spare();
        assert!(!spare.is_empty(), "a read without room looks like the end");
        let piece = pieces.next().unwrap_or(usize::MAX);
        let length = piece.min(rest.len()).min(spare.len());
        spare[..length].copy_from_slice(&rest[..length]);
        buffer.filled(length);
        rest = &rest[length..];
        loop {
            match buffer.next_line() {
                Ok(Some(line)) => assert_eq!(Some(line), expected.next()),
                Ok(None) => break,
                Err(error) => {
                    let is_limit = matches!(error, Disconnect::Oversized { limit: said } if said == limit);
                    assert!(is_limit && is_oversized, "{error}");
                    assert_eq!(expected.next(), None);
                    return;
                }
            }
        }
        let (held, most) = (buffer.room(), limit + LineBuffer::LARGE_CHUNK + LineBuffer::CHUNK);
        assert!(held <= most, "{held} bytes of memory for lines of up to {limit}");
    }
    assert_eq!(expected.next(), None);
    assert!(!is_oversized);
    let unfinished = bytes.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    assert_eq!(buffer.rest(), unfinished);
}

/// Takes a line for a message: what is understood is what it says, and what is plainly a message is understood.
pub fn message(line: &[u8]) {
    let value = serde_json::from_slice::<Value>(line).ok();
    let said = |key: &str| value.as_ref().map(|value| value[key].clone());
    let is_null = |key: &str| said(key).is_none_or(|value| value.is_null());
    let message = Message::parse(line);
    if message.is_ok() {
        assert_eq!(line.trim_ascii_start().first(), Some(&b'{'), "{message:?}");
    }
    match &message {
        Ok(Message::Reply { id, result }) => {
            assert!(is_null("QMP") && is_null("event"));
            // A value may be more than a `Value` can hold, and is for the caller to say.
            let id = id.and_then(|id| serde_json::from_str::<Value>(id.get()).ok());
            if let (Some(id), Some(said)) = (id, said("id")) {
                assert_eq!(id, said);
            }
            match result {
                Ok(value) => {
                    assert!(is_null("error"));
                    let value = serde_json::from_str::<Value>(value.get());
                    if let (Ok(value), Some(said)) = (value, said("return")) {
                        assert_eq!(value, said);
                    }
                }
                Err((class, desc)) => {
                    assert!(is_null("return"));
                    if let Some(error @ Value::Object(_)) = said("error") {
                        assert_eq!((&error["class"], &error["desc"]), (&json!(class), &json!(desc)));
                    }
                }
            }
        }
        Ok(Message::Event { name, data, .. }) => {
            assert!(is_null("QMP") && is_null("return") && is_null("error"));
            if value.is_some() {
                assert_eq!(
                    (said("event"), said("data")),
                    (Some(json!(name)), Some(data.clone()))
                );
            }
        }
        Ok(Message::Greeting(greeting)) => {
            assert!(is_null("return") && is_null("error") && is_null("event"));
            if let Some(qmp @ Value::Object(_)) = said("QMP") {
                assert_eq!(qmp["capabilities"], json!(greeting.capabilities));
            }
        }
        Err(Disconnect::Malformed { reason, line }) => {
            assert!(!reason.is_empty() && line.len() < 1000, "{reason}: {line}");
        }
        Err(error) => panic!("{error}"),
    }
    if let Some(Value::Object(object)) = &value {
        let is_expected = |message: &Message<'_>| match message {
            Message::Reply { result: Ok(_), .. } => is_plain(object, &["return"], &["id"]),
            Message::Reply { result: Err(_), .. } => is_plain(object, &["error"], &["id"]),
            Message::Event { .. } => is_plain(object, &["event", "timestamp"], &["data"]),
            Message::Greeting(_) => false,
        };
        let is_text = |value: &Value, key: &str| value[key].is_string();
        let is_integer = |value: &Value, key: &str| value[key].is_i64();
        let is_event = is_plain(object, &["event", "timestamp"], &["data"])
            && object["event"].is_string()
            && object["timestamp"].is_object()
            && is_integer(&object["timestamp"], "seconds")
            && is_integer(&object["timestamp"], "microseconds");
        let is_error = is_plain(object, &["error"], &["id"])
            && object["error"].is_object()
            && is_text(&object["error"], "class")
            && is_text(&object["error"], "desc");
        let is_message = is_plain(object, &["return"], &["id"]) || is_error || is_event;
        // A key that is there twice is an error, and this is too plain to see it.
        if is_message && !has_a_key_twice(line) {
            assert!(message.as_ref().is_ok_and(is_expected), "{object:?}: {message:?}");
        }
    }
}

/// What is written for a command is one line of JSON, and says what was to be said.
pub fn command(verb: &str, name: &str, arguments: &Value, id: u32) {
    let text = command::arguments(name, arguments).expect("a value is JSON");
    let nesting = 1 + nesting(arguments);
    let line = match Line::new(verb, name, &text) {
        Ok(line) => line,
        Err(Error::BeyondServerLimit { command, .. }) => {
            assert!(nesting > 1024, "{command}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // What is too short for the limit is not looked at.
    assert!(nesting <= 1024);
    let mut out = b"before".to_vec();
    line.write(id, &mut out);
    let out = out.strip_prefix(b"before").expect("it only appends");
    assert!(out.iter().all(|byte| *byte >= b' '), "{}", out.escape_ascii());
    let mut expected = json!({"id": id});
    expected[verb] = json!(name);
    if !arguments.is_null() && *arguments != json!({}) {
        expected["arguments"] = arguments.clone();
    }
    // Deeper values than the parser takes are written too.
    if nesting < 120 {
        assert_eq!(serde_json::from_slice::<Value>(out).expect("JSON"), expected);
    }
    assert!(line.shown().len() < 400);
}

/// A whole connection to a server that behaves, with all commands at once. Each gets the reply that is meant for it, and each
/// event is there, in order, whatever the order of the replies and however the bytes are cut in either direction.
///
/// A piece of no length is a pause.
pub fn connection(exchanges: &[Exchange], pieces: &[usize]) {
    let stage = Stage::new(Play::Behaved(exchanges.to_vec()), pieces);
    run(async {
        let client = Options::new()
            .attach_stream(stage.clone())
            .await
            .expect("a handshake");
        let mut tasks = Vec::new();
        for (number, exchange) in exchanges.iter().enumerate() {
            let arguments = json!({"number": number, "more": exchange.arguments});
            let mut request = client.execute_raw(exchange.name.as_str(), arguments);
            if exchange.out_of_band {
                request = request.out_of_band();
            }
            let mut request = request.into_future();
            let is_abandoned = exchange.abandoned;
            tasks.push(tokio::spawn(async move {
                if is_abandoned {
                    poll_fn(|cx| Poll::Ready(_ = request.as_mut().poll(cx))).await;
                    return None;
                }
                Some(request.await)
            }));
        }
        for (exchange, task) in exchanges.iter().zip(tasks) {
            match (task.await.expect("no panic"), &exchange.reply) {
                (None, _) => assert!(exchange.abandoned),
                (Some(Ok(value)), Some(expected)) => assert_eq!(value, *expected),
                (Some(Err(Error::Server(error))), None) => {
                    assert_eq!(error.desc, error_of(&exchange.name));
                    assert_eq!(error.class.as_str(), "GenericError");
                }
                (result, expected) => panic!("expected {expected:?}: {result:?}"),
            }
        }
        stage.hang_up();
        let reason = client.wait_disconnected(LONG).await;
        assert!(matches!(reason, Some(Disconnect::Eof)), "{reason:?}");
        assert_eq!(events(&client), stage.lock().events);
        let late = client.execute_raw("late", Value::Null).await;
        assert!(matches!(late, Err(Error::Disconnected { .. })), "{late:?}");
    });
}

/// A whole connection to a server that says these bytes and hangs up. Every call ends, with a reply or a reason, and so does the
/// connection; every event up to the first thing that is no message is there, and the reason is the right one.
///
/// A line with an id waits for a command, if one comes.
pub fn hostile(bytes: &[u8], pieces: &[usize], commands: usize, limit: usize) {
    let stage = Stage::new(Play::Hostile(bytes.to_vec()), pieces);
    run(async {
        let options = Options::new().max_line_bytes(limit).history_events(usize::MAX);
        let client = match options.attach_stream(stage.clone()).await {
            Ok(client) => client,
            Err(error) => return assert_is_an_outcome(&error),
        };
        let tasks: Vec<_> = (0..commands)
            .map(|number| client.execute_raw("x", json!({ "number": number })))
            .map(|request| tokio::spawn(request.into_future()))
            .collect();
        for task in tasks {
            if let Err(error) = task.await.expect("no panic") {
                assert_is_an_outcome(&error);
            }
        }
        let reason = client
            .wait_disconnected(LONG)
            .await
            .expect("every connection ends");
        let (lines, is_oversized) = plain_lines(bytes, limit);
        let mut expected = Vec::new();
        let mut is_malformed = false;
        for line in lines {
            match Message::parse(line) {
                Ok(Message::Event { name, data, .. }) => expected.push((name, data)),
                Ok(_) => {}
                Err(_) => {
                    is_malformed = true;
                    break;
                }
            }
        }
        let is_right = match reason {
            Disconnect::Malformed { .. } => is_malformed,
            Disconnect::Oversized { .. } => is_oversized && !is_malformed,
            Disconnect::Eof => !is_oversized && !is_malformed,
            Disconnect::Closed | Disconnect::Io(_) => false,
        };
        assert!(is_right, "{reason}");
        assert_eq!(events(&client), expected);
    });
}

fn assert_is_an_outcome(error: &Error) {
    let is_outcome = matches!(
        error,
        Error::Server(_) | Error::OutcomeUnknown { .. } | Error::Disconnected { .. } | Error::Decode { .. }
    );
    assert!(is_outcome, "{error:?}");
}

fn events(client: &Client) -> Vec<(String, Value)> {
    let events = client.recent_events(usize::MAX);
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event.position, Position(place as u64));
    }
    let named = events
        .iter()
        .map(|event| (event.name.clone(), event.data.clone()));
    named.collect()
}

/// The lines of a server that are to be understood, and whether one after them is too long.
fn plain_lines(bytes: &[u8], limit: usize) -> (Vec<&[u8]>, bool) {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let oversized = lines.iter().position(|line| line.len() > limit);
    // What follows the last line's end is no line.
    lines.truncate(oversized.unwrap_or(lines.len() - 1));
    let is_blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
    let trimmed = lines
        .into_iter()
        .filter(|line| !is_blank(line))
        .map(<[u8]>::trim_ascii_end);
    (trimmed.collect(), oversized.is_some())
}

/// Whether an object has all of these keys, and none but these and those.
fn is_plain(object: &Map<String, Value>, all: &[&str], those: &[&str]) -> bool {
    let is_known = |key: &str| all.contains(&key) || those.contains(&key);
    all.iter().all(|key| object.contains_key(*key)) && object.keys().all(|key| is_known(key))
}

/// Whether that may be so.
fn has_a_key_twice(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let keys = [
        "return",
        "error",
        "event",
        "timestamp",
        "data",
        "id",
        "class",
        "desc",
        "seconds",
        "microseconds",
    ];
    text.contains('\\')
        || keys
            .iter()
            .any(|key| text.matches(&format!("\"{key}\"")).count() > 1)
}

/// How deep arrays and objects lie in each other.
fn nesting(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(nesting).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(nesting).max().unwrap_or(0),
        _ => 0,
    }
}

fn run(body: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        let ended = runtime.block_on(async { tokio::time::timeout(3 * LONG, body).await });
        ended.expect("no hang");
    });
}
