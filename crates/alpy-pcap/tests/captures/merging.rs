// SPDX-License-Identifier: GPL-3.0-or-later
//! Several captures in one file, read block by block and by tcpdump.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use alpy_pcap::{Capture, Error, Merge};

use crate::build::{File, zoo};

/// The moment at which a capture's last frame was written.
const ENDED: Duration = Duration::from_secs(1_700_000_000);

/// Frames at these microseconds of the guest's clock, the last of which was written at the moment above.
fn capture(dir: &Path, name: &str, micros: &[u32]) -> Capture {
    let path = dir.join(name);
    let add = |file: File, (index, micros): (usize, &u32)| file.frame(100, *micros, &zoo()[index]);
    let file = micros.iter().enumerate().fold(File::new(), add);
    std::fs::write(&path, file.bytes).expect("it is written");
    let file = std::fs::File::options().write(true).open(&path);
    let file = file.expect("it is there");
    file.set_modified(SystemTime::UNIX_EPOCH + ENDED)
        .expect("its time is set");
    Capture::open(path).expect("it is a capture")
}

/// A block of a pcapng file: its type and its body.
fn blocks(path: &Path) -> Vec<(u32, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut blocks, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = number(at + 4) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(
            number(at + length - 4) as usize,
            length,
            "the length is there twice"
        );
        blocks.push((number(at), bytes[at + 8..at + length - 4].to_vec()));
        at += length;
    }
    blocks
}

/// Interface, time, frame and comments of each packet.
fn packets(path: &Path) -> Vec<(u32, Duration, Vec<u8>, Vec<String>)> {
    let packet = |body: &[u8]| {
        let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let time = u64::from(number(4)) << 32 | u64::from(number(8));
        let length = number(12) as usize;
        let mut rest = &body[20 + length.next_multiple_of(4)..];
        let mut comments = Vec::new();
        while !rest.is_empty() {
            let [code, length] = [0, 2].map(|at| u16::from_le_bytes([rest[at], rest[at + 1]]) as usize);
            if code == 1 {
                comments.push(String::from_utf8(rest[4..4 + length].to_vec()).unwrap());
            }
            rest = &rest[4 + length.next_multiple_of(4)..];
        }
        (
            number(0),
            Duration::from_nanos(time),
            body[20..20 + length].to_vec(),
            comments,
        )
    };
    let all = blocks(path);
    let packets = all.iter().filter(|(kind, _)| *kind == 6);
    packets.map(|(_, body)| packet(body)).collect()
}

fn merged(dir: &Path, merge: &Merge) -> PathBuf {
    let path = dir.join("links.pcapng");
    merge.write(&path).unwrap();
    path
}

#[test]
fn packets_of_all_links_are_in_the_order_of_their_real_times() {
    let dir = tempfile::tempdir().unwrap();
    let lan = capture(dir.path(), "link0.pcap", &[0, 400, 1000]);
    // Written a moment earlier than its clock says: the other one is right for both.
    let wan = capture(dir.path(), "link1.pcap", &[200, 900]);
    let file = std::fs::File::options().write(true).open(wan.path()).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + ENDED + Duration::from_micros(50))
        .unwrap();
    let mut merge = Merge::new();
    merge.link("lan", &lan).unwrap();
    merge.link("wan", &wan).unwrap();
    merge
        .link("silent", &capture(dir.path(), "link2.pcap", &[]))
        .unwrap();
    let path = merged(dir.path(), &merge);

    let kinds: Vec<u32> = blocks(&path).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 1, 6, 6, 6, 6, 6]);
    for (block, name) in blocks(&path)[1..4].iter().zip(["lan", "wan", "silent"]) {
        assert!(
            block.1.windows(name.len()).any(|part| part == name.as_bytes()),
            "{name}"
        );
    }
    let micros = |before_end: u64| ENDED - Duration::from_micros(before_end);
    let packets = packets(&path);
    let seen: Vec<(u32, Duration)> = packets.iter().map(|(link, time, ..)| (*link, *time)).collect();
    let expected = [
        (0, micros(1000)),
        (1, micros(800)),
        (0, micros(600)),
        (1, micros(100)),
        (0, micros(0)),
    ];
    assert_eq!(seen, expected);
    let frames: Vec<&Vec<u8>> = packets.iter().map(|(_, _, frame, _)| frame).collect();
    let zoo = zoo();
    assert_eq!(frames, [&zoo[0], &zoo[0], &zoo[1], &zoo[1], &zoo[2]]);
}

#[test]
fn a_capture_that_was_opened_in_the_next_second_or_whose_clock_stood_still_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let lan = capture(dir.path(), "link0.pcap", &[1000, 2000]);
    let wan = capture(dir.path(), "link1.pcap", &[1500, 2000]);
    let late = capture(dir.path(), "link2.pcap", &[1700, 2000]);
    let written = |capture: &Capture, after: Duration| {
        let file = std::fs::File::options().write(true).open(capture.path()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + ENDED + after).unwrap();
    };
    // One second behind, but for a tick of the file system; and seconds after the machine was stopped.
    written(&wan, Duration::from_millis(1004));
    written(&late, Duration::from_secs(7));
    let mut merge = Merge::new();
    for (name, capture) in [("lan", &lan), ("wan", &wan), ("late", &late)] {
        merge.link(name, capture).unwrap();
    }
    let order: Vec<u32> = packets(&merged(dir.path(), &merge))
        .iter()
        .map(|packet| packet.0)
        .collect();
    assert_eq!(order, [0, 2, 0, 2, 1, 1]);
}

#[test]
fn captures_of_two_machines_have_a_clock_each() {
    let dir = tempfile::tempdir().unwrap();
    // The second machine's clock is 0.7 s behind, and both wrote their last frame at the same moment.
    let first = capture(dir.path(), "first", &[100_000, 900_000]);
    let second = capture(dir.path(), "second", &[150_000, 200_000]);
    let mut merge = Merge::new();
    merge.link_with_clock(0, "first", &first).unwrap();
    merge.link_with_clock(1, "second", &second).unwrap();
    let seen: Vec<_> = packets(&merged(dir.path(), &merge))
        .iter()
        .map(|(link, time, ..)| (*link, (ENDED - *time).as_millis()))
        .collect();
    let mut last = seen[2..].to_vec();
    last.sort_unstable();
    assert_eq!(seen[..2], [(0, 800), (1, 50)]);
    assert_eq!(last, [(0, 0), (1, 0)]);
}

#[test]
fn notes_and_marks_are_comments_of_the_packets_that_come_next() {
    let dir = tempfile::tempdir().unwrap();
    let lan = capture(dir.path(), "link0.pcap", &[0, 400, 1000]);
    // In this test, the present is later than any frame.
    lan.mark("failover").unwrap();
    let moment = |before_end: u64| SystemTime::UNIX_EPOCH + ENDED - Duration::from_micros(before_end);
    let mut merge = Merge::new();
    merge.note(moment(500), "between two");
    merge.note(moment(2000), "before all");
    merge.note(moment(1900), "before all, later");
    merge.link("lan", &lan).unwrap();
    let comments: Vec<_> = packets(&merged(dir.path(), &merge))
        .into_iter()
        .map(|packet| packet.3)
        .collect();
    let expected = [
        &["before all", "before all, later"][..],
        &[],
        &["between two", "lan: failover"],
    ];
    assert_eq!(comments, expected);
}

#[test]
fn tcpdump_reads_it() {
    alpy_need::need!(tcpdump);
    let dir = tempfile::tempdir().unwrap();
    let micros: Vec<u32> = (0..zoo().len() as u32).collect();
    let mut merge = Merge::new();
    merge
        .link("lan", &capture(dir.path(), "link0.pcap", &micros))
        .unwrap();
    merge.note(SystemTime::now(), "odd");
    let theirs = crate::tcpdump::tcpdump(&merged(dir.path(), &merge), "");
    let ours = crate::tcpdump::tcpdump(&dir.path().join("link0.pcap"), "");
    let without_time = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    };
    assert_eq!(without_time(&theirs), without_time(&ours));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let error = Merge::new()
        .write(dir.path().join("nowhere/links.pcapng"))
        .unwrap_err();
    assert!(matches!(error, Error::Write { .. }));
    assert!(error.to_string().contains("nowhere/links.pcapng"), "{error}");
}

#[test]
fn counts_frames_and_gives_up_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many");
    let frame = &zoo()[0];
    let file = (0..2000).fold(File::new(), |file, micros| file.frame(100, micros, frame));
    std::fs::write(&path, file.bytes).unwrap();
    let many = Capture::open(&path).unwrap();
    let mut merge = Merge::new();
    merge.link("a", &many).unwrap();
    merge.link("b", &capture(dir.path(), "few", &[1, 2])).unwrap();
    assert_eq!(merge.frames(), [2000, 2]);
    let mut merge = merge.deadline(std::time::Instant::now());
    let error = merge.write(dir.path().join("merged")).unwrap_err();
    assert!(matches!(error, Error::Late { frames: 1024, .. }), "{error:?}");
    let error = merge.link("c", &many).unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error:?}");
}
