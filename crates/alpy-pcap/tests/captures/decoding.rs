// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames made by hand and the layers found in them.

use std::borrow::Cow;
use std::time::Duration;

use alpy_pcap::{Frame, MacAddr, Packet};

use crate::build::*;

fn decode<'a>(frame: impl Into<Cow<'a, [u8]>>) -> Packet<'a> {
    Packet::decode(Frame::new(Duration::from_micros(45_296_000_001), frame))
}

#[test]
fn decodes_ethernet() {
    let packet = decode(ethernet(0x88cc, b"lldp"));
    let header = packet.ethernet().unwrap();
    assert_eq!(header.destination, MacAddr(DUT_MAC));
    assert_eq!(header.source, MacAddr(HOST_MAC));
    assert_eq!(header.ether_type, 0x88cc);
    assert_eq!(packet.payload(), b"lldp");
    assert_eq!(header.source.to_string(), "52:54:00:00:00:01");
    assert!(packet.ip().is_none() && packet.arp().is_none() && packet.vlans().next().is_none());
}

#[test]
fn cuts_the_padding_off_a_frame_with_a_length_for_a_type() {
    let packet = decode(ethernet(3, b"BPDUpadding"));
    assert_eq!(packet.payload(), b"BPD");
    // A length beyond the frame is no reason to panic.
    assert_eq!(decode(ethernet(1500, b"BPDU")).payload(), b"BPDU");
}

#[test]
fn decodes_vlan_tags_outermost_first() {
    let inner = vlan(20, IPV4, &ipv4(64, ICMP, &icmp(8, 0, [7, 1], b"")));
    let packet = decode(ethernet(0x88a8, &vlan(5 << 13 | 0x1000 | 10, 0x8100, &inner)));
    let tags: Vec<_> = packet
        .vlans()
        .map(|tag| (tag.tpid, tag.priority, tag.drop_eligible, tag.id))
        .collect();
    assert_eq!(tags, [(0x88a8, 5, true, 10), (0x8100, 0, false, 20)]);
    assert_eq!(packet.ethernet().unwrap().ether_type, IPV4);
    assert_eq!(packet.ip().unwrap().source, HOST);
    assert!(packet.icmp().unwrap().echo.unwrap().request);
}

#[test]
fn decodes_arp() {
    let packet = decode(ethernet(ARP, &[arp(2), vec![0; 18]].concat()));
    let arp = packet.arp().unwrap();
    assert_eq!(arp.operation, 2);
    assert_eq!((arp.sender_mac, arp.sender_ip), (MacAddr(HOST_MAC), HOST));
    assert_eq!((arp.target_mac, arp.target_ip), (MacAddr(DUT_MAC), FAR));
    assert_eq!(packet.payload(), b"");
}

#[test]
fn takes_arp_for_other_addresses_for_no_arp() {
    let mut infiniband = arp(1);
    infiniband[1] = 32;
    assert_eq!(decode(ethernet(ARP, &infiniband)).arp(), None);
}

#[test]
fn decodes_ipv4_and_ipv6_headers() {
    let packet = decode(ethernet(IPV4, &ipv4(63, 89, b"ospf")));
    let ip = packet.ip().unwrap();
    assert_eq!((ip.source, ip.destination), (HOST.into(), FAR.into()));
    assert_eq!(
        (ip.ttl, ip.protocol, ip.dscp, ip.ecn, ip.fragment),
        (63, 89, 46, 1, None)
    );
    assert_eq!(packet.payload(), b"ospf");

    let packet = decode(ethernet(IPV6, &ipv6(63, 89, b"ospf")));
    let ip = packet.ip().unwrap();
    assert_eq!((ip.source, ip.destination), (HOST6.into(), FAR6.into()));
    assert_eq!(
        (ip.ttl, ip.protocol, ip.dscp, ip.ecn, ip.fragment),
        (63, 89, 46, 1, None)
    );
    assert_eq!(packet.payload(), b"ospf");
}

#[test]
fn decodes_what_is_behind_extension_headers() {
    let datagram = udp(1, 2, b"data");
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let packet = decode(ethernet(IPV6, &ipv6(64, 0, &options)));
    assert_eq!(packet.ip().unwrap().protocol, UDP);
    assert_eq!(packet.udp().unwrap().payload, b"data");
}

#[test]
fn decodes_echo_requests_and_replies_of_both_families() {
    for (ether_type, packet, request, is_v6) in [
        (IPV4, ipv4(64, ICMP, &icmp(8, 0, [7, 1], b"ping")), true, false),
        (IPV4, ipv4(64, ICMP, &icmp(0, 0, [7, 1], b"ping")), false, false),
        (IPV6, ipv6(64, ICMPV6, &icmp(128, 0, [7, 1], b"ping")), true, true),
        (
            IPV6,
            ipv6(64, ICMPV6, &icmp(129, 0, [7, 1], b"ping")),
            false,
            true,
        ),
    ] {
        let packet = decode(ethernet(ether_type, &packet));
        let icmp = packet.icmp().unwrap();
        let echo = icmp.echo.unwrap();
        assert_eq!((echo.request, echo.id, echo.sequence), (request, 7, 1));
        assert_eq!((icmp.is_v6, icmp.payload), (is_v6, &b"ping"[..]));
    }
}

#[test]
fn does_not_take_other_messages_for_echoes() {
    let packet = decode(ethernet(IPV4, &ipv4(64, ICMP, &icmp(11, 1, [7, 1], b"original"))));
    let message = packet.icmp().unwrap();
    assert_eq!((message.icmp_type, message.code, message.echo), (11, 1, None));
    assert_eq!(message.payload, b"original");
    // ICMP's type of an echo request means nothing in ICMPv6.
    let packet = decode(ethernet(IPV6, &ipv6(64, ICMPV6, &icmp(8, 0, [7, 1], b""))));
    assert_eq!(packet.icmp().unwrap().echo, None);
}

#[test]
fn decodes_udp_without_the_padding() {
    let udp_bytes = udp(4000, 5000, b"data");
    let padded = [ipv4(64, UDP, &udp_bytes), vec![0; 14]].concat();
    let packet = decode(ethernet(IPV4, &padded));
    let udp = packet.udp().unwrap();
    assert_eq!(
        (udp.source_port, udp.destination_port, udp.payload),
        (4000, 5000, &b"data"[..])
    );
    assert_eq!(packet.payload(), b"data");
    assert!(packet.tcp().is_none() && packet.icmp().is_none());

    // The datagram says itself where it ends, even if the IP packet goes on.
    let surplus = [udp_bytes, b"surplus".to_vec()].concat();
    assert_eq!(
        decode(ethernet(IPV4, &ipv4(64, UDP, &surplus)))
            .udp()
            .unwrap()
            .payload,
        b"data"
    );
}

#[test]
fn decodes_tcp_behind_its_options() {
    let segment = tcp(40_000, 80, 0x12, &[2, 4, 5, 0xb4, 1, 1, 4, 2], b"data");
    let packet = decode(ethernet(IPV4, &[ipv4(64, TCP, &segment), vec![0; 6]].concat()));
    let tcp = packet.tcp().unwrap();
    assert_eq!((tcp.source_port, tcp.destination_port), (40_000, 80));
    assert_eq!(
        (tcp.sequence, tcp.acknowledgment, tcp.window),
        (1000, 2000, 64_240)
    );
    assert_eq!(tcp.payload, b"data");
    assert!(tcp.flags.syn() && tcp.flags.ack());
    assert!(packet.udp().is_none());
}

#[test]
fn tells_the_tcp_flags_apart() {
    for bit in 0..8 {
        let packet = decode(ethernet(IPV4, &ipv4(64, TCP, &tcp(1, 2, 1 << bit, &[], b""))));
        let flags = packet.tcp().unwrap().flags;
        let seen = [
            flags.fin(),
            flags.syn(),
            flags.rst(),
            flags.psh(),
            flags.ack(),
            flags.urg(),
            flags.ece(),
            flags.cwr(),
        ];
        assert_eq!(seen, std::array::from_fn(|number| number == bit));
    }
}

#[test]
fn decodes_the_transport_header_of_the_first_fragment_only() {
    let first = decode(ethernet(
        IPV4,
        &ipv4_fragment(0x2000, 64, UDP, &udp(4000, 5000, &[1; 16])),
    ));
    let fragment = first.ip().unwrap().fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (7, 0, true));
    assert_eq!(first.udp().unwrap().destination_port, 5000);

    let second = decode(ethernet(IPV4, &ipv4_fragment(3, 64, UDP, &[1; 16])));
    let fragment = second.ip().unwrap().fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (7, 24, false));
    assert_eq!(second.udp(), None);
    assert_eq!(second.payload(), [1; 16]);

    // IPv6 has a header for it: next header, offset and flag, identification.
    let header = [UDP, 0, 0, 8 << 3 | 1, 0, 0, 1, 0];
    let packet = decode(ethernet(IPV6, &ipv6(64, 44, &[&header[..], &[1; 16]].concat())));
    let fragment = packet.ip().unwrap().fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (256, 64, true));
    assert_eq!(packet.udp(), None);
}

#[test]
fn decodes_as_far_as_was_captured() {
    let whole = ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 80, 0x18, &[], b"some data")));
    for length in 0..whole.len() {
        let packet = decode(&whole[..length]);
        assert_eq!(packet.ethernet().is_some(), length >= 14, "{length} bytes");
        assert_eq!(packet.ip().is_some(), length >= 34, "{length} bytes");
        assert_eq!(packet.tcp().is_some(), length >= 54, "{length} bytes");
        let headers = [14, 34, 54]
            .into_iter()
            .rfind(|header| *header <= length)
            .unwrap_or(0);
        assert_eq!(packet.payload(), &whole[headers..length], "{length} bytes");
    }
}

#[test]
fn says_how_much_of_a_frame_was_captured() {
    let frame = ethernet(IPV4, &ipv4(64, UDP, &udp(4000, 5000, &[0; 100])));
    let file = File::new()
        .record([0, 0, 60, frame.len() as u32], &frame[..60])
        .bytes;
    let mut reader = alpy_pcap::Reader::new(&file[..], "a.pcap").unwrap();
    let packet = Packet::decode(reader.next_frame().unwrap().unwrap());
    let line =
        "00:00:00.000000 IP 192.168.0.1.4000 > 192.168.1.1.5000: UDP, length 18 [60 of 142 bytes captured]";
    assert_eq!(packet.to_string(), line);
}

#[test]
fn writes_in_one_line_what_tcpdump_has_no_such_line_for() {
    for (frame, line) in [
        (
            ethernet(0x88b5, b"data"),
            "52:54:00:00:00:01 > 52:54:00:00:00:02, ethertype 0x88b5, length 4",
        ),
        (b"short".to_vec(), "[no ethernet header]"),
        (
            ethernet(IPV4, &ipv4(64, 89, b"ospf")),
            "IP 192.168.0.1 > 192.168.1.1: ip-proto-89, length 4",
        ),
        (
            ethernet(
                0x8100,
                &vlan(3 << 13 | 100, IPV4, &ipv4(1, ICMP, &icmp(11, 0, [0, 0], b""))),
            ),
            "vlan 100, p 3, IP 192.168.0.1 > 192.168.1.1: ICMP time exceeded, length 8",
        ),
        (
            ethernet(IPV4, &ipv4(64, ICMP, &icmp(3, 3, [0, 0], b""))),
            "IP 192.168.0.1 > 192.168.1.1: ICMP destination unreachable, code 3, length 8",
        ),
        (
            ethernet(IPV4, &ipv4_fragment(0x2003, 64, UDP, &[1; 16])),
            "IP 192.168.0.1 > 192.168.1.1: ip-proto-17, length 16 (frag 7:16@24+)",
        ),
    ] {
        assert_eq!(decode(frame).to_string(), format!("12:34:56.000001 {line}"));
    }
}
