// SPDX-License-Identifier: GPL-3.0-or-later
//! A packet in one line, in tcpdump's manner.

use std::fmt;
use std::net::Ipv6Addr;

use crate::{Arp, Icmp, Ip, Packet, Tcp};

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timestamp = self.frame().timestamp();
        let second = timestamp.as_secs() % 86_400;
        let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{hours:02}:{minutes:02}:{seconds:02}.{:06} ",
            timestamp.subsec_micros()
        )?;
        self.summary().fmt(f)
    }
}

impl Packet<'_> {
    /// The packet in one line, in tcpdump's manner, without its time.
    pub fn summary(&self) -> impl fmt::Display {
        Summary(self)
    }
}

struct Summary<'a>(&'a Packet<'a>);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        for vlan in packet.vlans() {
            write!(f, "vlan {}, p {}, ", vlan.id, vlan.priority)?;
        }
        if let Some(arp) = packet.arp() {
            write_arp(f, &arp)?;
            write!(f, ", length {}", packet.network().len())?;
        } else if let Some(ip) = packet.ip() {
            write_ip(f, packet, &ip)?;
        } else if let Some(ethernet) = packet.ethernet() {
            let (source, destination) = (ethernet.source, ethernet.destination);
            let length = packet.payload().len();
            write!(
                f,
                "{source} > {destination}, ethertype 0x{:04x}, length {length}",
                ethernet.ether_type
            )?;
        } else {
            write!(f, "[no ethernet header]")?;
        }
        let frame = packet.frame();
        if frame.is_truncated() {
            write!(
                f,
                " [{} of {} bytes captured]",
                frame.bytes().len(),
                frame.original_len()
            )?;
        }
        Ok(())
    }
}

fn write_arp(f: &mut fmt::Formatter<'_>, arp: &Arp) -> fmt::Result {
    match arp.operation {
        1 => write!(f, "ARP, Request who-has {} tell {}", arp.target_ip, arp.sender_ip),
        2 => write!(f, "ARP, Reply {} is-at {}", arp.sender_ip, arp.sender_mac),
        operation => write!(f, "ARP, operation {operation}"),
    }
}

fn write_ip(f: &mut fmt::Formatter<'_>, packet: &Packet<'_>, ip: &Ip) -> fmt::Result {
    let (source, destination) = (ip.source, ip.destination);
    f.write_str(if source.is_ipv4() { "IP " } else { "IP6 " })?;
    let length = packet.segment().len();
    if let Some(tcp) = packet.tcp() {
        let (from, to) = (tcp.source_port, tcp.destination_port);
        write!(f, "{source}.{from} > {destination}.{to}: ")?;
        write_tcp(f, &tcp)?;
    } else if let Some(udp) = packet.udp() {
        let (from, to) = (udp.source_port, udp.destination_port);
        write!(
            f,
            "{source}.{from} > {destination}.{to}: UDP, length {}",
            udp.payload.len()
        )?;
    } else if let Some(icmp) = packet.icmp() {
        write!(f, "{source} > {destination}: ")?;
        write_icmp(f, &icmp)?;
        write!(f, ", length {length}")?;
    } else {
        write!(
            f,
            "{source} > {destination}: ip-proto-{}, length {length}",
            ip.protocol
        )?;
    }
    if let Some(fragment) = ip.fragment {
        let more = if fragment.more { "+" } else { "" };
        write!(f, " (frag {}:{length}@{}{more})", fragment.id, fragment.offset)?;
    }
    Ok(())
}

fn write_tcp(f: &mut fmt::Formatter<'_>, tcp: &Tcp<'_>) -> fmt::Result {
    let flags = tcp.flags;
    let letters = [
        (flags.fin(), "F"),
        (flags.syn(), "S"),
        (flags.rst(), "R"),
        (flags.psh(), "P"),
        (flags.ack(), "."),
        (flags.urg(), "U"),
        (flags.ece(), "E"),
        (flags.cwr(), "W"),
    ];
    f.write_str("Flags [")?;
    if flags.0 == 0 {
        f.write_str("none")?;
    }
    for (_, letter) in letters.iter().filter(|(set, _)| *set) {
        f.write_str(letter)?;
    }
    f.write_str("]")?;
    let length = tcp.payload.len();
    if length > 0 {
        let end = tcp.sequence.wrapping_add(length as u32);
        write!(f, ", seq {}:{end}", tcp.sequence)?;
    } else if flags.syn() || flags.fin() || flags.rst() {
        write!(f, ", seq {}", tcp.sequence)?;
    }
    if flags.ack() {
        write!(f, ", ack {}", tcp.acknowledgment)?;
    }
    write!(f, ", win {}, length {length}", tcp.window)
}

fn write_icmp(f: &mut fmt::Formatter<'_>, icmp: &Icmp<'_>) -> fmt::Result {
    f.write_str(if icmp.is_v6 { "ICMP6, " } else { "ICMP " })?;
    if let Some(echo) = icmp.echo {
        let kind = if echo.request { "request" } else { "reply" };
        return write!(f, "echo {kind}, id {}, seq {}", echo.id, echo.sequence);
    }
    let name = match (icmp.is_v6, icmp.icmp_type) {
        (false, 3) | (true, 1) => "destination unreachable",
        (false, 11) | (true, 3) => "time exceeded",
        (false, 5) | (true, 137) => "redirect",
        (true, 2) => "packet too big",
        (true, 133) => "router solicitation",
        (true, 134) => "router advertisement",
        (true, 135) => "neighbor solicitation",
        (true, 136) => "neighbor advertisement",
        (true, 143) => "multicast listener report v2",
        _ => return write!(f, "type {}, code {}", icmp.icmp_type, icmp.code),
    };
    f.write_str(name)?;
    if icmp.code > 0 {
        write!(f, ", code {}", icmp.code)?;
    }
    // RFC 4861, 4.3 and 4.4: the target comes first.
    let target = icmp
        .payload
        .first_chunk::<16>()
        .map(|bytes| Ipv6Addr::from(*bytes));
    match (icmp.is_v6, icmp.icmp_type, target) {
        (true, 135, Some(target)) => write!(f, ", who has {target}"),
        (true, 136, Some(target)) => write!(f, ", tgt is {target}"),
        _ => Ok(()),
    }
}
