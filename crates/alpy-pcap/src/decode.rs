// SPDX-License-Identifier: GPL-3.0-or-later
//! Where in a frame each layer is.

use std::ops::Range;

use etherparse::{
    ArpPacketSlice, EtherType, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, IpNumber, Ipv6ExtensionSlice,
    LaxIpPayloadSlice, LaxIpv4Slice, LaxIpv6Slice, SingleVlanHeaderSlice, TcpSlice, UdpSlice, ether_type,
    ip_number,
};

use crate::Fragment;

/// Less than this, the type field of a frame is the length of its payload (IEEE 802.3).
const FIRST_ETHER_TYPE: u16 = 0x0600;

/// The layers of a frame by their places, so that who owns the bytes can own this too.
///
/// What cannot be decoded is left out, with all that is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    /// Whether there is an Ethernet header.
    pub(crate) ethernet: bool,
    /// How many VLAN tags there are.
    pub(crate) vlans: usize,
    /// What the frame carries, behind the tags.
    pub(crate) ether_type: u16,
    pub(crate) network: Network,
    /// Where the network header begins.
    pub(crate) network_at: usize,
    /// What the IP packet carries, behind the extension headers.
    pub(crate) protocol: u8,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) transport: Transport,
    /// What the IP packet carries, the transport header included.
    pub(crate) segment: Range<usize>,
    /// What follows the last header.
    pub(crate) payload: Range<usize>,
}

/// The layer above Ethernet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Network {
    #[default]
    Unknown,
    Arp,
    Ipv4,
    Ipv6,
}

/// The layer above IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Transport {
    #[default]
    Unknown,
    Icmp,
    Icmpv6,
    Udp,
    Tcp,
}

impl Layers {
    /// Finds the layers of an Ethernet frame.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let mut layers = Self {
            payload: 0..frame.len(),
            ..Self::default()
        };
        let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else {
            return layers;
        };
        layers.ethernet = true;
        layers.payload.start = ethernet.slice().len();
        let ether_type = layers.untag(frame, ethernet.ether_type());
        layers.ether_type = ether_type.0;
        layers.network_at = layers.payload.start;
        match ether_type {
            ether_type::ARP => layers.arp(frame),
            ether_type::IPV4 => layers.ipv4(frame),
            ether_type::IPV6 => layers.ipv6(frame),
            EtherType(length) if length < FIRST_ETHER_TYPE => {
                layers.payload.end = frame.len().min(layers.payload.start + usize::from(length));
            }
            _ => {}
        }
        layers
    }

    /// Goes behind the VLAN tags.
    fn untag(&mut self, frame: &[u8], mut ether_type: EtherType) -> EtherType {
        while let ether_type::VLAN_TAGGED_FRAME
        | ether_type::PROVIDER_BRIDGING
        | ether_type::VLAN_DOUBLE_TAGGED_FRAME = ether_type
        {
            let Ok(tag) = SingleVlanHeaderSlice::from_slice(&frame[self.payload.start..]) else {
                break;
            };
            self.vlans += 1;
            self.payload.start += tag.slice().len();
            ether_type = tag.ether_type();
        }
        ether_type
    }

    fn arp(&mut self, frame: &[u8]) {
        if ArpPacketSlice::from_slice(&frame[self.network_at..]).is_ok() {
            self.network = Network::Arp;
            // What follows is padding.
            self.payload = frame.len()..frame.len();
        }
    }

    fn ipv4(&mut self, frame: &[u8]) {
        let Ok((ip, stop)) = LaxIpv4Slice::from_slice(&frame[self.network_at..]) else {
            return;
        };
        self.network = Network::Ipv4;
        let header = ip.header();
        if header.is_fragmenting_payload() {
            self.fragment = Some(Fragment {
                id: header.identification().into(),
                offset: header.fragments_offset().byte_offset(),
                more: header.more_fragments(),
            });
        }
        self.transport(frame, ip.payload(), stop.is_none());
    }

    fn ipv6(&mut self, frame: &[u8]) {
        let Ok((ip, stop)) = LaxIpv6Slice::from_slice(&frame[self.network_at..]) else {
            return;
        };
        self.network = Network::Ipv6;
        if ip.is_payload_fragmented() {
            self.fragment = ip
                .extensions()
                .clone()
                .into_iter()
                .find_map(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(header) => Some(Fragment {
                        id: header.identification(),
                        offset: header.fragment_offset().byte_offset(),
                        more: header.more_fragments(),
                    }),
                    _ => None,
                });
        }
        self.transport(frame, ip.payload(), stop.is_none());
    }

    fn transport(&mut self, frame: &[u8], ip: &LaxIpPayloadSlice<'_>, extensions_are_whole: bool) {
        let start = ip.payload.as_ptr().addr() - frame.as_ptr().addr();
        self.segment = start..start + ip.payload.len();
        self.payload = self.segment.clone();
        self.protocol = ip.ip_number.0;
        let behind_the_first = self.fragment.is_some_and(|fragment| fragment.offset > 0);
        if behind_the_first || !extensions_are_whole {
            return;
        }
        if let Some((transport, payload)) = transport(ip.ip_number, ip.payload) {
            self.transport = transport;
            self.payload = start + payload.start..start + payload.end;
        }
    }
}

/// Which transport header `segment` begins with, and where in it the payload is.
fn transport(protocol: IpNumber, segment: &[u8]) -> Option<(Transport, Range<usize>)> {
    match protocol {
        ip_number::ICMP => Icmpv4Slice::from_slice(segment)
            .ok()
            .map(|_| (Transport::Icmp, 8..segment.len())),
        ip_number::IPV6_ICMP => Icmpv6Slice::from_slice(segment)
            .ok()
            .map(|_| (Transport::Icmpv6, 8..segment.len())),
        ip_number::UDP => {
            let udp = UdpSlice::from_slice_lax(segment).ok()?;
            Some((Transport::Udp, 8..udp.slice().len()))
        }
        ip_number::TCP => {
            let tcp = TcpSlice::from_slice(segment).ok()?;
            Some((Transport::Tcp, tcp.header_len()..segment.len()))
        }
        _ => None,
    }
}
