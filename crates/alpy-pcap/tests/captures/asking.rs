// SPDX-License-Identifier: GPL-3.0-or-later
//! The questions that a test asks a capture.

use alpy_pcap::{Capture, Error, Packet};
use tempfile::TempDir;

use crate::build::{File, file_of, zoo};

fn capture(bytes: &[u8]) -> (TempDir, Capture) {
    let dir = tempfile::tempdir().expect("a directory is made");
    let path = dir.path().join("link0.pcap");
    std::fs::write(&path, bytes).expect("the capture is written");
    let capture = Capture::open(&path).expect("the header is right");
    assert_eq!(capture.path(), path);
    (dir, capture)
}

fn is_ping(packet: &Packet<'_>) -> bool {
    packet
        .icmp()
        .is_some_and(|icmp| icmp.echo.is_some_and(|echo| echo.request && echo.id == 7))
}

#[test]
fn counts_finds_and_filters_by_closure() {
    let (_dir, capture) = capture(&file_of(&zoo()));
    assert_eq!(capture.count(|_| true).unwrap(), zoo().len());
    // One ping is untagged, one in VLAN 100.
    assert_eq!(capture.count(is_ping).unwrap(), 2);

    let first = capture.find(is_ping).unwrap().expect("a ping");
    assert_eq!(first.frame().bytes(), zoo()[2]);
    let pings = capture.filter(is_ping).unwrap();
    assert_eq!(pings[0], first);
    assert_eq!(pings[1].frame().bytes(), zoo()[17]);
    assert_eq!(capture.find(|_| false).unwrap(), None);
}

#[test]
fn gives_every_packet_in_order() {
    let (_dir, capture) = capture(&file_of(&zoo()));
    let packets: Vec<Packet<'static>> = capture.packets().unwrap().collect::<Result<_, _>>().unwrap();
    let bytes: Vec<&[u8]> = packets.iter().map(|packet| packet.frame().bytes()).collect();
    assert_eq!(bytes, zoo());

    let mut visited = Vec::new();
    capture
        .for_each(|packet| visited.push(packet.clone().into_owned()))
        .unwrap();
    assert_eq!(visited, packets);
}

#[test]
fn gives_the_last_packets_oldest_first() {
    let (_dir, capture) = capture(&file_of(&zoo()));
    let last = capture.last(3).unwrap();
    let bytes: Vec<&[u8]> = last.iter().map(|packet| packet.frame().bytes()).collect();
    assert_eq!(bytes, zoo()[zoo().len() - 3..]);
    assert_eq!(capture.last(1000).unwrap().len(), zoo().len());
    assert_eq!(capture.last(0).unwrap(), []);
}

#[test]
fn stops_at_damage_whatever_is_asked() {
    let bytes = File::new()
        .frame(1, 0, &zoo()[0])
        .record([1, 0, u32::MAX, u32::MAX], b"")
        .bytes;
    let (_dir, capture) = capture(&bytes);
    let capture = capture.ignore_torn_tail();
    let is_damage = |error: &Error| matches!(error, Error::Damaged { offset: 82, .. });
    assert!(is_damage(&capture.count(|_| true).unwrap_err()));
    assert!(is_damage(&capture.find(|_| false).unwrap_err()));
    assert!(is_damage(&capture.filter(|_| true).unwrap_err()));
    assert!(is_damage(&capture.last(1).unwrap_err()));
    // What was found before the damage was found.
    assert!(capture.find(|_| true).unwrap().is_some());

    let mut packets = capture.packets().unwrap();
    assert!(packets.next().is_some_and(|packet| packet.is_ok()));
    assert!(
        packets
            .next()
            .is_some_and(|packet| is_damage(&packet.unwrap_err()))
    );
    assert!(packets.next().is_none());
}
