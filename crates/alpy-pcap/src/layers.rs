// SPDX-License-Identifier: GPL-3.0-or-later
//! The layers of a packet as plain values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// The Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ethernet {
    /// To whom the frame goes.
    pub destination: MacAddr,
    /// From whom it comes.
    pub source: MacAddr,
    /// What the frame carries behind any VLAN tags: 0x0800 is IPv4, 0x86dd IPv6, 0x0806 ARP
    /// ([IANA's list](https://www.iana.org/assignments/ieee-802-numbers)). Less than 0x0600 is the length of an IEEE 802.3 frame,
    /// as of STP.
    pub ether_type: u16,
}

/// A VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vlan {
    /// The tag protocol identifier that announces the tag: 0x8100, or 0x88a8 or 0x9100 for the outer tag of two.
    pub tpid: u16,
    /// The priority code point, 0 to 7.
    pub priority: u8,
    /// The drop eligible indicator.
    pub drop_eligible: bool,
    /// The number of the VLAN, 0 to 4095.
    pub id: u16,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arp {
    /// 1 for a request, 2 for a reply.
    pub operation: u16,
    /// The sender's MAC address.
    pub sender_mac: MacAddr,
    /// The sender's IP address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC address, usually zero in a request.
    pub target_mac: MacAddr,
    /// The target's IP address.
    pub target_ip: Ipv4Addr,
}

/// The IPv4 or IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ip {
    /// From whom the packet comes.
    pub source: IpAddr,
    /// To whom it goes.
    pub destination: IpAddr,
    /// The time to live; with IPv6, the hop limit.
    pub ttl: u8,
    /// What the packet carries, behind any extension headers: 1 is ICMP, 6 TCP, 17 UDP, 58 ICMPv6
    /// ([IANA's list](https://www.iana.org/assignments/protocol-numbers)).
    pub protocol: u8,
    /// The differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// The explicit congestion notification, 0 to 3 (RFC 3168).
    pub ecn: u8,
    /// Which part of a fragmented packet this is; none if the packet is whole.
    pub fragment: Option<Fragment>,
}

/// The place of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fragment {
    /// What the fragments of a packet have in common.
    pub id: u32,
    /// Where the fragment's payload belongs, in bytes. Only the first fragment, at 0, has a transport header.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Icmp<'a> {
    /// Whether this is ICMPv6, whose types have other numbers.
    pub is_v6: bool,
    /// The type: with ICMP, 3 is "destination unreachable" and 11 "time exceeded"
    /// ([IANA's list](https://www.iana.org/assignments/icmp-parameters)); with ICMPv6, 1 and 3
    /// ([IANA's list](https://www.iana.org/assignments/icmpv6-parameters)).
    pub icmp_type: u8,
    /// The code, whose meaning depends on the type.
    pub code: u8,
    /// What a ping put in, if this is an echo request or reply of either family.
    pub echo: Option<Echo>,
    /// What follows the first 8 bytes of the message.
    pub payload: &'a [u8],
}

/// The identification of an echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Echo {
    /// Whether this is the request; otherwise it is the reply.
    pub request: bool,
    /// The identifier, the same for all requests of one ping.
    pub id: u16,
    /// The sequence number.
    pub sequence: u16,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Udp<'a> {
    /// The port that sent it.
    pub source_port: u16,
    /// The port that it goes to.
    pub destination_port: u16,
    /// The data captured.
    pub payload: &'a [u8],
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tcp<'a> {
    /// The port that sent it.
    pub source_port: u16,
    /// The port that it goes to.
    pub destination_port: u16,
    /// The number of the first byte of data (of the SYN itself, if it is one).
    pub sequence: u32,
    /// The number of the byte that the sender expects next; it counts only if the flag [`ack`](TcpFlags::ack) is set.
    pub acknowledgment: u32,
    /// The flags.
    pub flags: TcpFlags,
    /// The receive window as it is in the header, before any scaling.
    pub window: u16,
    /// The data captured.
    pub payload: &'a [u8],
}

/// The flags of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data comes from the sender.
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Synchronize sequence numbers: with [`ack`](Self::ack) the answer to a connection request, without it the request.
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// The connection is reset.
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// The data should be pushed to the application.
    pub fn psh(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// The acknowledgment number counts.
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// The urgent pointer counts.
    pub fn urg(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Congestion was seen, or, in a SYN, the sender knows of congestion notification.
    pub fn ece(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// The sender reduced its congestion window.
    pub fn cwr(self) -> bool {
        self.0 & 0x80 != 0
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
