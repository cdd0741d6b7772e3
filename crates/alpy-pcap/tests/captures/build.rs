// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures and frames made by hand, byte by byte, from the RFCs.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
pub(crate) const DUT_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// How the numbers of a capture file are written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) big_endian: bool,
    pub(crate) nanoseconds: bool,
}

/// A capture file in memory.
pub(crate) struct File {
    layout: Layout,
    pub(crate) bytes: Vec<u8>,
}

impl File {
    pub(crate) fn new() -> Self {
        Self::with_layout(Layout::default())
    }

    /// The file header as QEMU's filter-dump writes it, apart from the layout.
    pub(crate) fn with_layout(layout: Layout) -> Self {
        let mut file = Self {
            layout,
            bytes: Vec::new(),
        };
        file.u32(if layout.nanoseconds {
            0xa1b2_3c4d
        } else {
            0xa1b2_c3d4
        });
        for field in [2_u16, 4] {
            file.bytes.extend(if layout.big_endian {
                field.to_be_bytes()
            } else {
                field.to_le_bytes()
            });
        }
        for field in [0, 0, 65_536, 1] {
            file.u32(field);
        }
        file
    }

    /// A frame that was captured whole. `fraction` is in the units of the layout.
    pub(crate) fn frame(self, seconds: u32, fraction: u32, bytes: &[u8]) -> Self {
        let len = bytes.len() as u32;
        self.record([seconds, fraction, len, len], bytes)
    }

    /// A record: seconds, fraction, captured length, original length; and what follows them.
    pub(crate) fn record(mut self, header: [u32; 4], bytes: &[u8]) -> Self {
        for field in header {
            self.u32(field);
        }
        self.bytes.extend(bytes);
        self
    }

    fn u32(&mut self, field: u32) {
        let bytes = if self.layout.big_endian {
            field.to_be_bytes()
        } else {
            field.to_le_bytes()
        };
        self.bytes.extend(bytes);
    }
}

/// A capture file of these frames, a millisecond apart.
pub(crate) fn file_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let numbered = (0_u32..).zip(frames);
    numbered
        .fold(File::new(), |file, (number, frame)| {
            file.frame(45_296, number * 1000, frame)
        })
        .bytes
}

pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&DUT_MAC, &HOST_MAC, &ether_type.to_be_bytes()[..], payload].concat()
}

/// A VLAN tag and what it carries, to be put behind `tpid`.
pub(crate) fn vlan(control: u16, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&control.to_be_bytes(), &ether_type.to_be_bytes()[..], payload].concat()
}

/// An ARP packet; the target's MAC address is given in a reply only.
pub(crate) fn arp(operation: u16) -> Vec<u8> {
    let target = if operation == 1 { [0; 6] } else { DUT_MAC };
    let head = [0, 1, 8, 0, 6, 4];
    [
        &head,
        &operation.to_be_bytes()[..],
        &HOST_MAC,
        &HOST.octets(),
        &target,
        &FAR.octets(),
    ]
    .concat()
}

/// An IPv4 packet: DSCP 46, ECN 1.
pub(crate) fn ipv4(ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(0, ttl, protocol, payload)
}

/// An IPv4 packet with the number 7 and this word of flags and offset.
pub(crate) fn ipv4_fragment(flags: u16, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len() as u16).to_be_bytes();
    let [flags, offset] = flags.to_be_bytes();
    let head = [
        0x45,
        46 << 2 | 1,
        len[0],
        len[1],
        0,
        7,
        flags,
        offset,
        ttl,
        protocol,
        0,
        0,
    ];
    [&head[..], &HOST.octets(), &FAR.octets(), payload].concat()
}

/// An IPv6 packet: DSCP 46, ECN 1.
pub(crate) fn ipv6(hop_limit: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let head = [0x6b, 0x90, 0, 0, len[0], len[1], next_header, hop_limit];
    [&head[..], &HOST6.octets(), &FAR6.octets(), payload].concat()
}

pub(crate) fn icmp(icmp_type: u8, code: u8, word: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let [high, low] = word.map(u16::to_be_bytes);
    [&[icmp_type, code, 0, 0], &high[..], &low, payload].concat()
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let head = [source, destination, len, 0].map(u16::to_be_bytes).concat();
    [&head, payload].concat()
}

/// A TCP segment with the sequence number 1000, acknowledging 2000.
pub(crate) fn tcp(source: u16, destination: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ports = [source, destination].map(u16::to_be_bytes).concat();
    let numbers = [1000_u32, 2000].map(u32::to_be_bytes).concat();
    let words = (5 + options.len() / 4) as u8;
    [
        &ports,
        &numbers,
        &[words << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0][..],
        options,
        payload,
    ]
    .concat()
}

/// One frame of each kind that is decoded, and some that are not.
pub(crate) fn zoo() -> Vec<Vec<u8>> {
    let echo = icmp(8, 0, [7, 1], &[0xaa; 56]);
    let datagram = udp(4000, 5000, b"hello, wire");
    let mss = [2, 4, 5, 0xb4];
    vec![
        ethernet(ARP, &arp(1)),
        ethernet(ARP, &[arp(2), vec![0; 18]].concat()),
        ethernet(IPV4, &ipv4(64, ICMP, &echo)),
        ethernet(IPV4, &ipv4(63, ICMP, &icmp(0, 0, [7, 1], &[0xaa; 56]))),
        ethernet(IPV4, &ipv4(64, UDP, &datagram)),
        // A short frame, padded to Ethernet's minimum.
        ethernet(
            IPV4,
            &[ipv4(64, UDP, &udp(4000, 5000, b"x")), vec![0; 17]].concat(),
        ),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 5201, 0x02, &mss, b""))),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(5201, 40_000, 0x12, &[], b""))),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 5201, 0x18, &[], b"some data"))),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 5201, 0x11, &[], b""))),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 5201, 0x04, &[], b""))),
        ethernet(IPV4, &ipv4(64, TCP, &tcp(40_000, 5201, 0xd1, &[], b""))),
        ethernet(IPV6, &ipv6(64, ICMPV6, &icmp(128, 0, [9, 3], &[0xbb; 56]))),
        ethernet(IPV6, &ipv6(63, ICMPV6, &icmp(129, 0, [9, 3], &[0xbb; 56]))),
        ethernet(IPV6, &ipv6(255, ICMPV6, &icmp(133, 0, [0, 0], b""))),
        ethernet(IPV6, &ipv6(64, UDP, &datagram)),
        ethernet(IPV6, &ipv6(64, TCP, &tcp(40_000, 5201, 0x02, &mss, b""))),
        // One tag, two tags, and two of the provider's kind.
        ethernet(0x8100, &vlan(3 << 13 | 100, IPV4, &ipv4(64, ICMP, &echo))),
        ethernet(
            0x8100,
            &vlan(10, 0x8100, &vlan(20, IPV6, &ipv6(64, UDP, &datagram))),
        ),
        ethernet(
            0x88a8,
            &vlan(0x1000 | 10, 0x8100, &vlan(20, IPV4, &ipv4(64, UDP, &datagram))),
        ),
        ethernet(0x8100, &vlan(100, ARP, &arp(1))),
        // Two fragments of a datagram.
        ethernet(
            IPV4,
            &ipv4_fragment(0x2000, 64, UDP, &udp(4000, 5000, &[0xcc; 16])),
        ),
        ethernet(IPV4, &ipv4_fragment(3, 64, UDP, &[0xcc; 16])),
        // OSPF, LLDP, and STP, which has a length for a type.
        ethernet(IPV4, &ipv4(1, 89, &[0; 24])),
        ethernet(0x88cc, &[0; 46]),
        ethernet(38, &[&[0x42, 0x42, 3][..], &[0; 43]].concat()),
    ]
}
