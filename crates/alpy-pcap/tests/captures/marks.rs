// SPDX-License-Identifier: GPL-3.0-or-later
//! Parts of a capture, and what is told of one as a whole.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use alpy_pcap::{Capture, Error, filter};

use crate::build::{FAR, File, HOST, IPV4, TCP, UDP, ethernet, file_of, ipv4, tcp, udp, zoo};

fn records(frames: &[Vec<u8>]) -> Vec<u8> {
    file_of(frames).split_off(File::new().bytes.len())
}

/// An IPv4 packet from one address to another.
fn ipv4_from(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv4(64, protocol, payload);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

#[test]
fn a_mark_divides_a_capture_that_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    std::fs::write(&path, file_of(&zoo()[..3])).unwrap();
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    let capture = Capture::open(&path).unwrap();

    let first = capture.mark("first").unwrap();
    assert_eq!(first.name(), "first");
    assert_eq!(capture.since(&first).unwrap().count(|_| true).unwrap(), 0);
    // What is torn at a mark lies behind it.
    let later = records(&zoo()[3..7]);
    writer.write_all(&later[..5]).unwrap();
    let torn = capture.mark("torn").unwrap();
    writer.write_all(&later[5..]).unwrap();
    let second = capture.mark("second").unwrap();
    writer.write_all(&records(&zoo()[7..9])).unwrap();

    let count = |capture: &Capture| capture.count(|_| true).unwrap();
    let (since, until) = (capture.since(&first).unwrap(), capture.until(&first).unwrap());
    assert_eq!([count(&until), count(&since), count(&capture)], [3, 6, 9]);
    assert_eq!(count(&capture.since(&torn).unwrap()), 6);
    let between = since.until(&second).unwrap();
    assert_eq!(count(&between), 4);
    let packets: Vec<_> = between.packets().unwrap().map(Result::unwrap).collect();
    let frames: Vec<_> = packets.iter().map(|packet| packet.frame().bytes()).collect();
    assert_eq!(frames, zoo()[3..7]);
    assert_eq!(between.last(1).unwrap(), packets[3..]);
    // A part of a part is never more than the part.
    assert_eq!(count(&between.since(&first).unwrap()), 4);
    assert_eq!(count(&until.since(&second).unwrap()), 0);
}

#[test]
fn a_mark_is_good_for_its_own_capture_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        std::fs::write(dir.path().join(name), file_of(&zoo())).unwrap();
        Capture::open(dir.path().join(name)).unwrap()
    };
    let (one, other) = (open("link0.pcap"), open("link1.pcap"));
    let mark = one.mark("failover").unwrap();
    for result in [other.since(&mark), other.until(&mark)] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::ForeignMark { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("\"failover\"") && text.contains("link0") && text.contains("link1"));
    }
}

#[test]
fn well_known_filters_tell_their_frames_from_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    std::fs::write(&path, file_of(&zoo())).unwrap();
    let capture = Capture::open(&path).unwrap();
    let far6 = crate::build::FAR6;
    let counts = [
        capture.count(filter::icmp_echo_to(FAR)),
        capture.count(filter::icmp_echo_to(far6)),
        capture.count(filter::icmp_echo_to(HOST)),
        capture.count(filter::icmp_reply_from(HOST)),
        capture.count(filter::icmp_reply_from(FAR)),
        capture.count(filter::tcp_syn_to(5201)),
        capture.count(filter::tcp_syn_to(40_000)),
        capture.count(filter::tcp_to(40_000)),
        capture.count(filter::udp_to(5000)),
        capture.count(filter::arp_request_for(FAR)),
        capture.count(filter::arp_request_for(HOST)),
        capture.count(filter::ether_type(0x88cc)),
        capture.count(filter::vlan(10)),
        capture.count(filter::vlan(20)),
    ];
    let counts = counts.map(Result::unwrap);
    assert_eq!(counts, [2, 1, 0, 1, 0, 2, 0, 1, 6, 2, 0, 1, 2, 0]);
    let (from, to) = (filter::ip_from(HOST), filter::ip_to(FAR));
    let of_host = capture.count(|packet| from(packet) && to(packet)).unwrap();
    assert_eq!(
        of_host,
        capture
            .count(|packet| packet.ip().is_some_and(|ip| ip.source == HOST))
            .unwrap()
    );
}

#[test]
fn tells_who_spoke_with_whom() {
    let ask = ethernet(IPV4, &ipv4(64, UDP, &udp(4000, 53, b"name?")));
    let answer = ethernet(IPV4, &ipv4_from(FAR, HOST, UDP, &udp(53, 4000, b"address")));
    let opened = ethernet(IPV4, &ipv4(64, TCP, &tcp(4000, 53, 0x02, &[], b"")));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    let frames = [
        ask.clone(),
        opened.clone(),
        answer.clone(),
        ask.clone(),
        zoo()[0].clone(),
    ];
    std::fs::write(&path, file_of(&frames)).unwrap();
    let conversations = Capture::open(&path).unwrap().conversations().unwrap();
    let [name, connection] = &conversations[..] else {
        panic!("expected two: {conversations:?}");
    };
    assert_eq!([name.protocol, connection.protocol], [17, 6]);
    assert_eq!(
        [name.client.to_string(), name.server.to_string()],
        ["192.168.0.1:4000", "192.168.1.1:53"]
    );
    assert_eq!((name.sent.frames, name.received.frames), (2, 1));
    assert_eq!(name.sent.bytes, 2 * ask.len() as u64);
    assert_eq!(name.received.bytes, answer.len() as u64);
    assert_eq!(name.last - name.first, Duration::from_millis(3));
    assert_eq!((connection.sent.frames, connection.received.frames), (1, 0));

    // What a host sends itself, as an attack does (LAND), goes one way.
    let land = ethernet(IPV4, &ipv4_from(HOST, HOST, UDP, &udp(53, 53, b"x")));
    std::fs::write(&path, file_of(&[land.clone(), land])).unwrap();
    let conversations = Capture::open(&path).unwrap().conversations().unwrap();
    assert_eq!(
        (conversations[0].sent.frames, conversations[0].received.frames),
        (2, 0)
    );
}

#[test]
fn tells_how_much_there_was_when() {
    let frame = zoo()[4].clone();
    let file = [(1, 0), (1, 400_000), (1, 999_999), (4, 100_000), (0, 900_000)]
        .iter()
        .fold(File::new(), |file, (second, micros)| {
            file.frame(*second, *micros, &frame)
        });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    std::fs::write(&path, file.bytes).unwrap();
    let capture = Capture::open(&path).unwrap();
    let second = Duration::from_secs(1);
    let intervals = capture.over_time(second, |_| true).unwrap();
    // The last one is of a clock that went backwards.
    let frames: Vec<u64> = intervals.iter().map(|interval| interval.frames).collect();
    assert_eq!(frames, [4, 0, 0, 1]);
    let bits = frame.len() as f64 * 8.0;
    assert_eq!(intervals[3].bits_per_second(second), bits);
    assert_eq!(intervals[0].bits_per_second(second * 2), bits * 2.0);
    assert_eq!(capture.over_time(second, |_| false).unwrap(), []);
    for length in [Duration::ZERO, Duration::from_micros(1)] {
        let error = capture.over_time(length, |_| true).unwrap_err();
        assert!(matches!(error, Error::Intervals { .. }), "{error}");
    }
}
