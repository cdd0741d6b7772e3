// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;

use alpy_console::Console;

use crate::far_end::{LONG, pair_of};

#[tokio::test]
async fn records_both_directions_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = dir.path().join("made/here");
    let read = |name: &str| fs::read_to_string(evidence.join(name)).unwrap();
    let (console, mut far) = pair_of(Console::builder().transcript(&evidence));
    far.say("Welcome\r\nlogin: ").await;
    console.expect("login: ", LONG).await.unwrap();
    assert_eq!(read("console.log"), "< Welcome\n< login: ");
    console.send_line("root").await.unwrap();
    assert_eq!(read("console.log"), "< Welcome\n< login: \n> root\n");
    far.say("root\r\n\x1b[32mgr\u{fc}n\x1b[0m\r\nC:\\\r# \r").await;
    console.expect("# \r", LONG).await.unwrap();
    console.send_control('c').await.unwrap();
    far.say("\nbye").await;
    drop(far);
    console.expect_eof(LONG).await.unwrap();
    let log = "< Welcome\n< login: \n> root\n< root\n< \\x1b[32mgrün\\x1b[0m\n< C:\\\\\\r# \\r\n> \\x03\n< \n< bye\n";
    assert_eq!(read("console.log"), log);
    assert_eq!(
        read("console.raw"),
        "Welcome\r\nlogin: root\r\n\x1b[32mgrün\x1b[0m\r\nC:\\\r# \r\nbye"
    );
    assert_eq!(console.tail(2), "C:\\\\\\r# \nbye");
}

#[tokio::test]
async fn records_that_a_secret_was_sent_and_what_the_far_end_makes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (console, mut far) = pair_of(Console::builder().transcript(dir.path()));
    let log = || fs::read_to_string(dir.path().join("console.log")).unwrap();
    far.say("Password: ").await;
    console.expect("Password: ", LONG).await.unwrap();
    console.send_secret_line("open sesame").await.unwrap();
    far.hear("open sesame\n").await;
    assert_eq!(log(), "< Password: \n> <password>\n");
    console.send_line("id").await.unwrap();
    assert_eq!(log(), "< Password: \n> <password>\n> id\n");
    // One that the far end takes in parts is the same: a socket holds some hundred kilobytes.
    let long = "sesame".repeat(1_000_000);
    let taken = format!("id\n{long}\n");
    let (sent, ()) = tokio::join!(console.send_secret_line(&long), far.hear(&taken));
    sent.unwrap();
    assert_eq!(log(), "< Password: \n> <password>\n> id\n> <password>\n");
    far.say("open sesame\r\n").await;
    console.expect("sesame", LONG).await.unwrap();
    assert!(log().ends_with("< open sesame\n"), "what it shows is its own");
}

#[tokio::test]
async fn records_every_byte_of_noise() {
    let dir = tempfile::tempdir().unwrap();
    let (console, mut far) = pair_of(Console::builder().transcript(dir.path()).window_bytes(10_000));
    let mut state = 0x5eed_u64;
    let mut noise = Vec::new();
    while noise.len() < 1 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_be_bytes()[..5]);
    }
    let mut rest = &noise[..];
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (chunk, after) = rest.split_at(rest.len().min(1 + (state >> 52) as usize));
        far.say(chunk).await;
        rest = after;
    }
    drop(far);
    console.expect_eof(LONG).await.unwrap();
    assert!(fs::read(dir.path().join("console.raw")).unwrap() == noise);
    let log = fs::read_to_string(dir.path().join("console.log")).unwrap();
    assert!(!log.contains(|character: char| character.is_control() && !matches!(character, '\n' | '\t')));
    let mut told = Vec::new();
    for line in log.split_inclusive('\n') {
        told.extend(unescaped(line.strip_prefix("< ").unwrap()));
    }
    // The log has one kind of line end, and ends its last line.
    let mut said = Vec::new();
    for (index, byte) in noise.iter().enumerate() {
        if !(*byte == b'\r' && noise.get(index + 1) == Some(&b'\n')) {
            said.push(*byte);
        }
    }
    if !said.ends_with(b"\n") {
        said.push(b'\n');
    }
    let differ = told.iter().zip(&said).position(|(told, said)| told != said);
    assert_eq!((differ, told.len()), (None, said.len()));
}

/// The bytes that a line of the log stands for.
fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (kind, after) = escape.split_at(1);
        rest = after;
        match kind {
            "\\" => bytes.push(b'\\'),
            "r" => bytes.push(b'\r'),
            "x" => {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = after;
            }
            "u" => {
                let (digits, after) = rest.strip_prefix('{').unwrap().split_once('}').unwrap();
                let character = char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap();
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            other => panic!("no such escape: \\{other}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[tokio::test]
async fn replaces_a_link_that_is_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, "x").unwrap();
    std::os::unix::fs::symlink(&precious, dir.path().join("console.raw")).unwrap();
    let (console, mut far) = pair_of(Console::builder().transcript(dir.path()));
    far.say("login: ").await;
    console.expect("login: ", LONG).await.unwrap();
    console.close(LONG).await.unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("console.raw")).unwrap(),
        "login: "
    );
    assert_eq!(fs::read_to_string(precious).unwrap(), "x");
}

#[tokio::test]
async fn says_that_it_cannot_be_made() {
    let (stream, _far) = tokio::net::UnixStream::pair().unwrap();
    let failure = Console::builder()
        .transcript("/dev/null/here")
        .start(stream)
        .unwrap_err();
    assert_eq!(failure.to_string(), "transcript /dev/null/here");
}
