// SPDX-License-Identifier: GPL-3.0-or-later
//! The file format: layouts, torn ends, damage, foreign files.

use std::io::{self, Read};
use std::time::Duration;

use alpy_pcap::{Error, Reader};

use crate::build::{File, Layout};

fn reader(bytes: &[u8]) -> Reader<&[u8]> {
    Reader::new(bytes, "a.pcap").expect("the header is right")
}

fn refusal(bytes: &[u8]) -> String {
    Reader::new(bytes, "a.pcap")
        .expect_err("this is no capture")
        .to_string()
}

#[test]
fn reads_both_byte_orders_and_both_resolutions() {
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            let layout = Layout {
                big_endian,
                nanoseconds,
            };
            let file = File::with_layout(layout)
                .frame(1_700_000_000, 123_456, b"first")
                .frame(1_700_000_001, 0, b"");
            let mut reader = reader(&file.bytes);

            let frame = reader.next_frame().unwrap().expect("a frame");
            let fraction = if nanoseconds {
                Duration::from_nanos(123_456)
            } else {
                Duration::from_micros(123_456)
            };
            assert_eq!(
                frame.timestamp(),
                Duration::from_secs(1_700_000_000) + fraction,
                "{layout:?}"
            );
            assert_eq!(frame.bytes(), b"first");
            assert_eq!(frame.original_len(), 5);
            assert!(!frame.is_truncated());

            let frame = reader.next_frame().unwrap().expect("a second frame");
            assert_eq!(frame.bytes(), b"");
            assert_eq!(reader.next_frame().unwrap(), None);
            assert_eq!(reader.offset(), file.bytes.len() as u64);
        }
    }
}

#[test]
fn reads_frames_of_which_only_the_beginning_was_captured() {
    let file = File::new().record([1, 0, 4, 1514], b"head");
    let mut reader = reader(&file.bytes);
    let frame = reader.next_frame().unwrap().expect("a frame");
    assert_eq!((frame.bytes(), frame.original_len()), (&b"head"[..], 1514));
    assert!(frame.is_truncated());
}

#[test]
fn reads_records_that_cross_the_end_of_the_buffer() {
    // A megabyte and a half of frames whose lengths are coprime to any buffer's; the longest that there can be among them.
    let lengths = (0..1500)
        .map(|number| 997 + number % 7)
        .chain([262_144, 1, 262_144]);
    let frames: Vec<Vec<u8>> = lengths
        .enumerate()
        .map(|(number, length)| vec![number as u8; length])
        .collect();
    let file = frames
        .iter()
        .fold(File::new(), |file, frame| file.frame(1, 0, frame));
    let mut reader = reader(&file.bytes);
    for frame in &frames {
        assert_eq!(reader.next_frame().unwrap().expect("a frame").bytes(), frame);
    }
    assert_eq!(reader.next_frame().unwrap(), None);
}

#[test]
fn reads_a_source_that_gives_a_byte_at_a_time_and_is_interrupted() {
    struct Slow<'a>(&'a [u8], bool);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let one = 1.min(buffer.len());
            self.0.read(&mut buffer[..one])
        }
    }
    let file = File::new().frame(1, 0, b"first").frame(2, 0, b"second");
    let mut reader = Reader::new(Slow(&file.bytes, false), "slow").unwrap();
    assert_eq!(reader.next_frame().unwrap().expect("a frame").bytes(), b"first");
    assert_eq!(reader.next_frame().unwrap().expect("a frame").bytes(), b"second");
    assert_eq!(reader.next_frame().unwrap(), None);
}

#[test]
fn tells_a_torn_end_from_damage() {
    let mut torn = File::new().frame(1, 0, b"whole").frame(1, 0, b"torn off").bytes;
    torn.truncate(torn.len() - 3);
    let mut reader = reader(&torn);
    assert!(reader.next_frame().unwrap().is_some());
    let error = reader.next_frame().unwrap_err();
    assert!(error.is_torn());
    assert_eq!(
        error.to_string(),
        "a.pcap: byte 45: the capture ends 21 bytes into a record of 24 bytes"
    );

    for (header, found) in [
        (
            [1, 0, 262_145, 262_145],
            "262145 bytes captured, more than the 262144 that can be",
        ),
        ([1, 0, 61, 60], "61 bytes captured of a frame of 60"),
        (
            [1, 1_000_000, 60, 60],
            "a fraction of 1000000/1000000 of a second",
        ),
    ] {
        let damaged = File::new().frame(1, 0, b"whole").record(header, b"").bytes;
        let mut reader = self::reader(&damaged);
        assert!(reader.next_frame().unwrap().is_some());
        // What is damaged stays so.
        for _ in 0..2 {
            let error = reader.next_frame().unwrap_err();
            assert!(!error.is_torn());
            assert_eq!(
                error.to_string(),
                format!("a.pcap: byte 45: damaged record: {found}")
            );
        }
    }
}

#[test]
fn names_what_a_foreign_file_is() {
    let not = "a.pcap: not a classic pcap file of ethernet frames: byte 0: expected a magic number, found";
    for (bytes, found) in [
        (
            &b"\x0a\x0d\x0d\x0a\x1c\0\0\0"[..],
            r#"pcapng (`tcpdump -r` reads it, and `-w` writes classic pcap): "\n\r\r\n\x1c\x00\x00\x00""#,
        ),
        (b"\x1f\x8b\x08\0", r#"gzip data: "\x1f\x8b\x08\x00""#),
        (b"\x28\xb5\x2f\xfd", r#"zstd data: "(\xb5/\xfd""#),
        (
            b"\x34\xcd\xb2\xa1",
            r#"pcap with Kuznetzov's record headers: "4\xcd\xb2\xa1""#,
        ),
        (b"No such capture, sorry", r#"text: "No such capture,""#),
        (b"hi", r#"text: "hi""#),
        (b"\x7fELF\x02\x01\x01", r#"unknown data: "\x7fELF\x02\x01\x01""#),
        (
            &[0; 64],
            r#"unknown data: "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00""#,
        ),
    ] {
        assert_eq!(refusal(bytes), format!("{not} {found}"));
    }
}

#[test]
fn refuses_other_versions_and_links_than_ethernet() {
    let head = File::new().bytes;
    let with = |at: usize, byte: u8| {
        let mut head = head.clone();
        head[at] = byte;
        refusal(&head)
    };
    let not = "a.pcap: not a classic pcap file of ethernet frames";
    assert_eq!(
        with(6, 3),
        format!("{not}: byte 4: expected version 2.4, found 2.3")
    );
    assert_eq!(
        with(20, 101),
        format!("{not}: byte 20: expected link type 1 (ethernet), found 101")
    );
}

#[test]
fn takes_the_beginning_of_a_header_for_a_torn_one() {
    let head = File::new().bytes;
    for have in 0..head.len() {
        let error = Reader::new(&head[..have], "a.pcap").expect_err("the header is not whole");
        assert!(error.is_torn(), "{error}");
        let expected =
            format!("a.pcap: byte 0: the capture ends {have} bytes into a file header of 24 bytes");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn names_a_file_that_cannot_be_opened_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.pcap");
    let error = Reader::open(&missing).expect_err("there is no such file");
    assert!(matches!(error, Error::Open { .. }));
    assert_eq!(
        error.to_string(),
        format!("{}: cannot open the capture", missing.display())
    );

    let error = Reader::open(dir.path()).expect_err("a directory cannot be read");
    assert!(matches!(error, Error::Read { offset: 0, .. }));
    assert_eq!(
        error.to_string(),
        format!("{}: cannot read the capture at byte 0", dir.path().display())
    );
}

/// A pipe that nobody writes to never opens, and a device never ends.
#[test]
fn refuses_what_is_not_a_regular_file() {
    let refused = |path: &std::path::Path| {
        let error = Reader::open(path).expect_err("it is not a file");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("it is not a regular file"), "{error}");
    };
    refused("/dev/zero".as_ref());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    refused(&socket);
}
