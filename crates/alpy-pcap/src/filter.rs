// SPDX-License-Identifier: GPL-3.0-or-later
//! Well-known questions to a frame, for all methods that take a closure.
//!
//! ```no_run
//! use alpy_pcap::{Capture, filter};
//!
//! let lan = Capture::open("link0.pcap")?;
//! let pings = lan.count(filter::icmp_echo_to([192, 168, 1, 1]))?;
//! // They are closures, and go together as closures do.
//! let (opened, from) = (filter::tcp_syn_to(80), filter::ip_from([192, 168, 0, 1]));
//! let opened = lan.count(|packet| opened(packet) && from(packet))?;
//! # Ok::<_, alpy_pcap::Error>(())
//! ```

use std::net::{IpAddr, Ipv4Addr};

use crate::Packet;

/// ICMP and ICMPv6 echo requests (pings) to an address.
pub fn icmp_echo_to(address: impl Into<IpAddr>) -> impl Fn(&Packet<'_>) -> bool + Clone {
    let to = ip_to(address);
    move |packet| is_echo(packet, true) && to(packet)
}

/// ICMP and ICMPv6 echo replies from an address.
pub fn icmp_reply_from(address: impl Into<IpAddr>) -> impl Fn(&Packet<'_>) -> bool + Clone {
    let from = ip_from(address);
    move |packet| is_echo(packet, false) && from(packet)
}

fn is_echo(packet: &Packet<'_>, request: bool) -> bool {
    let echo = packet.icmp().and_then(|icmp| icmp.echo);
    echo.is_some_and(|echo| echo.request == request)
}

/// TCP segments that ask for a connection to a port: SYN, and not ACK.
pub fn tcp_syn_to(port: u16) -> impl Fn(&Packet<'_>) -> bool + Clone {
    move |packet| {
        packet
            .tcp()
            .is_some_and(|tcp| tcp.destination_port == port && tcp.flags.syn() && !tcp.flags.ack())
    }
}

/// TCP segments to a port.
pub fn tcp_to(port: u16) -> impl Fn(&Packet<'_>) -> bool + Clone {
    move |packet| packet.tcp().is_some_and(|tcp| tcp.destination_port == port)
}

/// UDP datagrams to a port.
pub fn udp_to(port: u16) -> impl Fn(&Packet<'_>) -> bool + Clone {
    move |packet| packet.udp().is_some_and(|udp| udp.destination_port == port)
}

/// IP packets from an address.
pub fn ip_from(address: impl Into<IpAddr>) -> impl Fn(&Packet<'_>) -> bool + Clone {
    let address = address.into();
    move |packet| packet.ip().is_some_and(|ip| ip.source == address)
}

/// IP packets to an address.
pub fn ip_to(address: impl Into<IpAddr>) -> impl Fn(&Packet<'_>) -> bool + Clone {
    let address = address.into();
    move |packet| packet.ip().is_some_and(|ip| ip.destination == address)
}

/// ARP requests for an address.
pub fn arp_request_for(address: impl Into<Ipv4Addr>) -> impl Fn(&Packet<'_>) -> bool + Clone {
    let address = address.into();
    move |packet| {
        packet
            .arp()
            .is_some_and(|arp| arp.operation == 1 && arp.target_ip == address)
    }
}

/// Frames of a type behind any VLAN tags, such as 0x88cc, which is LLDP.
pub fn ether_type(ether_type: u16) -> impl Fn(&Packet<'_>) -> bool + Clone {
    move |packet| {
        packet
            .ethernet()
            .is_some_and(|ethernet| ethernet.ether_type == ether_type)
    }
}

/// Frames whose outermost tag is of this VLAN.
pub fn vlan(id: u16) -> impl Fn(&Packet<'_>) -> bool + Clone {
    move |packet| packet.vlans().next().is_some_and(|vlan| vlan.id == id)
}
