// SPDX-License-Identifier: GPL-3.0-or-later
//! The same captures, read by tcpdump.

use std::path::Path;
use std::process::Command;

use alpy_pcap::{Capture, Packet};

use crate::build::{DUT_MAC, FAR, File, HOST, HOST6, Layout, file_of, zoo};

/// The lines that `tcpdump -n` writes about a capture: times in UTC, TCP's numbers as they are.
pub(crate) fn tcpdump(path: &Path, filter: &str) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "a program that is waited for at once")]
    let output = Command::new("tcpdump")
        .env("TZ", "UTC")
        .args(["-S", "-n", "-r"])
        .arg(path)
        .arg(filter)
        .output()
        .expect("tcpdump runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "tcpdump {filter:?}: {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout)
        .expect("tcpdump writes text")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Removes what only one of the two tells: the TCP options, the VLAN tags.
fn common(line: &str) -> String {
    let line = match line.split_once(", options [") {
        Some((before, rest)) => [before, rest.split_once(']').expect("the options end").1].concat(),
        None => line.to_owned(),
    };
    let (time, mut rest) = line.split_once(' ').expect("a line begins with the time");
    while rest.starts_with("vlan ") {
        rest = rest.splitn(3, ", ").nth(2).expect("number and priority of a tag");
    }
    format!("{time} {rest}")
}

fn is_decoded_and_whole(packet: &Packet<'_>) -> bool {
    let transport = packet.tcp().is_some() || packet.udp().is_some() || packet.icmp().is_some();
    packet.arp().is_some() || transport && packet.ip().is_some_and(|ip| ip.fragment.is_none())
}

#[test]
fn writes_the_lines_that_tcpdump_writes() {
    alpy_need::need!(tcpdump);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.pcap");
    std::fs::write(&path, file_of(&zoo())).unwrap();

    let theirs = tcpdump(&path, "");
    let ours = Capture::open(&path).unwrap().filter(|_| true).unwrap();
    assert_eq!(ours.len(), theirs.len());
    let mut compared = 0;
    for (ours, theirs) in ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, _)| is_decoded_and_whole(ours))
    {
        assert_eq!(common(&ours.to_string()), common(theirs));
        compared += 1;
    }
    assert_eq!(
        compared,
        zoo().len() - 5,
        "all but two fragments, OSPF, LLDP and STP"
    );
}

#[test]
fn reads_each_layout_as_tcpdump_does() {
    alpy_need::need!(tcpdump);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout.pcap");
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            let layout = Layout {
                big_endian,
                nanoseconds,
            };
            let file = File::with_layout(layout)
                .frame(1_700_000_000, 999_999, &zoo()[2])
                .frame(1, 1000, &zoo()[4]);
            std::fs::write(&path, file.bytes).unwrap();
            let ours = Capture::open(&path).unwrap().filter(|_| true).unwrap();
            let ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
            assert_eq!(ours, tcpdump(&path, ""), "{layout:?}");
        }
    }
}

#[test]
fn counts_what_tcpdump_counts() {
    alpy_need::need!(tcpdump);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.pcap");
    std::fs::write(&path, file_of(&zoo())).unwrap();
    let capture = Capture::open(&path).unwrap();

    // A filter of libpcap looks behind VLAN tags only if it is told to, so `untagged` joins those that do not.
    type Predicate = fn(&Packet<'_>) -> bool;
    let questions: [(&str, Predicate); 15] = [
        ("ether dst 52:54:00:00:00:02", |p| {
            p.ethernet().is_some_and(|e| e.destination.0 == DUT_MAC)
        }),
        ("arp[6:2] = 2", |p| p.arp().is_some_and(|arp| arp.operation == 2)),
        ("vlan", |p| p.vlans().count() > 0),
        ("vlan and vlan", |p| p.vlans().count() > 1),
        ("vlan 100", |p| p.vlans().next().is_some_and(|tag| tag.id == 100)),
        ("ip[8] = 63", |p| {
            untagged(p) && p.ip().is_some_and(|ip| ip.source.is_ipv4() && ip.ttl == 63)
        }),
        ("ip6[7] = 63", |p| {
            untagged(p) && p.ip().is_some_and(|ip| ip.source.is_ipv6() && ip.ttl == 63)
        }),
        ("ip src 192.168.0.1 and dst 192.168.1.1", |p| {
            untagged(p)
                && p.ip()
                    .is_some_and(|ip| ip.source == HOST && ip.destination == FAR)
        }),
        ("ip6 src fd00::1", |p| {
            untagged(p) && p.ip().is_some_and(|ip| ip.source == HOST6)
        }),
        ("ip[1] = 185", |p| {
            untagged(p)
                && p.ip()
                    .is_some_and(|ip| ip.source.is_ipv4() && (ip.dscp, ip.ecn) == (46, 1))
        }),
        ("ip[6:2] & 0x3fff != 0", |p| {
            untagged(p) && p.ip().is_some_and(|ip| ip.fragment.is_some())
        }),
        (
            "icmp[icmptype] = icmp-echo and icmp[4:2] = 7 and icmp[6:2] = 1",
            |p| {
                let echo = p.icmp().filter(|icmp| !icmp.is_v6).and_then(|icmp| icmp.echo);
                untagged(p) && echo.is_some_and(|echo| echo.request && (echo.id, echo.sequence) == (7, 1))
            },
        ),
        ("tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn", |p| {
            let v4 = p.ip().is_some_and(|ip| ip.source.is_ipv4());
            v4 && p.tcp().is_some_and(|tcp| tcp.flags.syn() && !tcp.flags.ack())
        }),
        ("tcp dst port 5201", |p| {
            p.tcp().is_some_and(|tcp| tcp.destination_port == 5201)
        }),
        ("udp src port 4000", |p| {
            untagged(p) && p.udp().is_some_and(|udp| udp.source_port == 4000)
        }),
    ];
    for (filter, predicate) in questions {
        let theirs = tcpdump(&path, filter).len();
        assert!(theirs > 0, "{filter}: a question that tells nothing");
        assert_eq!(capture.count(predicate).unwrap(), theirs, "{filter}");
    }
}

fn untagged(packet: &Packet<'_>) -> bool {
    packet.vlans().next().is_none()
}
