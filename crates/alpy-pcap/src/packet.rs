// SPDX-License-Identifier: GPL-3.0-or-later
//! A frame and its decoded layers.

use std::net::Ipv4Addr;

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6HeaderSlice,
    TcpSlice, UdpSlice, ether_type,
};

use crate::decode::{Layers, Network, Transport};
use crate::{Arp, Echo, Ethernet, Frame, Icmp, Ip, MacAddr, Tcp, TcpFlags, Udp, Vlan};

/// A frame and its decoded layers.
///
/// Each layer that the frame has, and of which the header was captured, is given as a plain struct. Nothing is reassembled:
/// only the first fragment of an IP packet has a transport layer. Checksums are not looked at.
///
/// `Display` writes one line, as `tcpdump -n` would, with the time of day in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    frame: Frame<'a>,
    layers: Layers,
}

impl<'a> Packet<'a> {
    /// Decodes an Ethernet frame.
    #[inline]
    pub fn decode(frame: Frame<'a>) -> Self {
        let layers = Layers::of(frame.bytes());
        Self { frame, layers }
    }

    /// The frame itself: timestamp, bytes, length on the wire.
    #[inline]
    pub fn frame(&self) -> &Frame<'a> {
        &self.frame
    }

    /// The same packet with bytes of its own.
    pub fn into_owned(self) -> Packet<'static> {
        Packet {
            frame: self.frame.into_owned(),
            layers: self.layers,
        }
    }

    /// The Ethernet header.
    pub fn ethernet(&self) -> Option<Ethernet> {
        let header = Ethernet2HeaderSlice::from_slice(self.frame.bytes()).ok()?;
        Some(Ethernet {
            destination: MacAddr(header.destination()),
            source: MacAddr(header.source()),
            ether_type: self.layers.ether_type,
        })
    }

    /// The VLAN tags, the outermost first.
    pub fn vlans(&self) -> impl Iterator<Item = Vlan> {
        let tags = self
            .frame
            .bytes()
            .get(12..12 + 4 * self.layers.vlans)
            .unwrap_or_default();
        tags.chunks_exact(4).map(|tag| {
            let control = u16::from_be_bytes([tag[2], tag[3]]);
            Vlan {
                tpid: u16::from_be_bytes([tag[0], tag[1]]),
                priority: (control >> 13) as u8,
                drop_eligible: control & 0x1000 != 0,
                id: control & 0x0fff,
            }
        })
    }

    /// The ARP packet, if this is one for IPv4 over Ethernet.
    pub fn arp(&self) -> Option<Arp> {
        if self.layers.network != Network::Arp {
            return None;
        }
        let arp = ArpPacketSlice::from_slice(self.network()).ok()?;
        if arp.hw_addr_type().0 != 1 || arp.proto_addr_type() != ether_type::IPV4 {
            return None;
        }
        let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
        let mac = |bytes: &[u8]| bytes.try_into().ok().map(MacAddr);
        Some(Arp {
            operation: arp.operation().0,
            sender_mac: mac(arp.sender_hw_addr())?,
            sender_ip: ip(arp.sender_protocol_addr())?,
            target_mac: mac(arp.target_hw_addr())?,
            target_ip: ip(arp.target_protocol_addr())?,
        })
    }

    /// The IPv4 or IPv6 header.
    #[inline]
    pub fn ip(&self) -> Option<Ip> {
        let Layers {
            protocol, fragment, ..
        } = self.layers;
        match self.layers.network {
            Network::Ipv4 => {
                let header = Ipv4HeaderSlice::from_slice(self.network()).ok()?;
                Some(Ip {
                    source: header.source_addr().into(),
                    destination: header.destination_addr().into(),
                    ttl: header.ttl(),
                    protocol,
                    dscp: header.dcp().value(),
                    ecn: header.ecn().value(),
                    fragment,
                })
            }
            Network::Ipv6 => {
                let header = Ipv6HeaderSlice::from_slice(self.network()).ok()?;
                Some(Ip {
                    source: header.source_addr().into(),
                    destination: header.destination_addr().into(),
                    ttl: header.hop_limit(),
                    protocol,
                    dscp: header.dscp().value(),
                    ecn: header.ecn().value(),
                    fragment,
                })
            }
            Network::Unknown | Network::Arp => None,
        }
    }

    /// The ICMP or ICMPv6 message.
    #[inline]
    pub fn icmp(&self) -> Option<Icmp<'_>> {
        let is_v6 = self.layers.transport == Transport::Icmpv6;
        let (icmp_type, code, [a, b, c, d]) = match self.layers.transport {
            Transport::Icmp => {
                let icmp = Icmpv4Slice::from_slice(self.segment()).ok()?;
                (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8())
            }
            Transport::Icmpv6 => {
                let icmp = Icmpv6Slice::from_slice(self.segment()).ok()?;
                (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8())
            }
            _ => return None,
        };
        // The types of the echo request and reply: RFC 792, RFC 4443.
        let request = match (is_v6, icmp_type) {
            (false, 8) | (true, 128) => Some(true),
            (false, 0) | (true, 129) => Some(false),
            _ => None,
        };
        let echo = request.map(|request| Echo {
            request,
            id: u16::from_be_bytes([a, b]),
            sequence: u16::from_be_bytes([c, d]),
        });
        Some(Icmp {
            is_v6,
            icmp_type,
            code,
            echo,
            payload: self.payload(),
        })
    }

    /// The UDP datagram.
    #[inline]
    pub fn udp(&self) -> Option<Udp<'_>> {
        if self.layers.transport != Transport::Udp {
            return None;
        }
        let udp = UdpSlice::from_slice_lax(self.segment()).ok()?;
        Some(Udp {
            source_port: udp.source_port(),
            destination_port: udp.destination_port(),
            payload: self.payload(),
        })
    }

    /// The TCP segment.
    #[inline]
    pub fn tcp(&self) -> Option<Tcp<'_>> {
        if self.layers.transport != Transport::Tcp {
            return None;
        }
        let segment = self.segment();
        let tcp = TcpSlice::from_slice(segment).ok()?;
        Some(Tcp {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            sequence: tcp.sequence_number(),
            acknowledgment: tcp.acknowledgment_number(),
            flags: TcpFlags(segment[13]),
            window: tcp.window_size(),
            payload: self.payload(),
        })
    }

    /// What follows the last header that is decoded, as much of it as was captured. Padding does not count.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.frame.bytes()[self.layers.payload.clone()]
    }

    /// The network header and all that follows.
    pub(crate) fn network(&self) -> &[u8] {
        &self.frame.bytes()[self.layers.network_at..]
    }

    /// What the IP packet carries, the transport header included.
    pub(crate) fn segment(&self) -> &[u8] {
        &self.frame.bytes()[self.layers.segment.clone()]
    }
}
