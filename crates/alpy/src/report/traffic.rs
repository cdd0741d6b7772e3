// SPDX-License-Identifier: GPL-3.0-or-later
//! Which questions were asked on a link, and which of them were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use alpy_pcap::{Icmp, Ip, MacAddr, Packet};

/// How many different addresses, servers and errors are remembered of a link.
const REMEMBERED: usize = 2000;

/// The questions and answers of one link.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Requests and replies, by whom they are for.
    pub(super) exchanges: BTreeMap<Server, Exchange>,
    /// Questions for a hardware address: ARP and neighbor discovery.
    pub(super) resolutions: BTreeMap<IpAddr, Resolution>,
    /// Errors that routers and hosts report.
    pub(super) errors: BTreeMap<Complaint, u64>,
    /// Messages of DHCP and DHCPv6 by their types.
    pub(super) dhcp: BTreeMap<(IpVersion, u8), u64>,
    /// Something was not remembered. Nothing is then known to be absent.
    pub(super) is_full: bool,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum IpVersion {
    V4,
    V6,
}

/// Who is asked, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Server {
    pub(super) service: Service,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Echo,
    Tcp,
    Dns,
    Udp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    /// Echo requests, TCP's SYNs, datagrams to the server.
    pub(super) asked: u64,
    /// Echo replies, SYNs with ACK, datagrams from the server.
    pub(super) answered: u64,
    /// Resets in answer to a SYN.
    pub(super) refused: u64,
}

/// A question for the hardware address of an IP address.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    pub(super) asked: u64,
    pub(super) by: BTreeSet<IpAddr>,
    pub(super) answers: u64,
    /// Who has said that it is him.
    pub(super) owners: BTreeSet<MacAddr>,
}

/// An error of ICMP or ICMPv6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    pub(super) from: IpAddr,
    pub(super) what: &'static str,
    /// The destination of the packet that it is about.
    pub(super) about: IpAddr,
}

impl Traffic {
    /// Takes note of a packet.
    pub(super) fn add(&mut self, packet: &Packet<'_>) {
        if let Some(arp) = packet.arp() {
            let (sender, target) = (IpAddr::from(arp.sender_ip), IpAddr::from(arp.target_ip));
            match arp.operation {
                // A probe and an announcement wait for no answer (RFC 5227).
                1 if !sender.is_unspecified() && sender != target => self.asked(target, sender),
                2 => self.resolved(sender, Some(arp.sender_mac)),
                _ => {}
            }
            return;
        }
        let Some(ip) = packet.ip() else {
            return;
        };
        if let Some(icmp) = packet.icmp() {
            self.add_icmp(&ip, &icmp);
        } else if let Some(tcp) = packet.tcp() {
            let of = |address, port| Server {
                service: Service::Tcp,
                address,
                port,
            };
            let (client, server) = (
                of(ip.destination, tcp.destination_port),
                of(ip.source, tcp.source_port),
            );
            match (tcp.flags.syn(), tcp.flags.ack(), tcp.flags.rst()) {
                (true, false, _) => self.count(client, |exchange| &mut exchange.asked),
                (true, true, _) => self.count(server, |exchange| &mut exchange.answered),
                // RFC 9293, 3.5.2: the reset of a segment without ACK has the sequence number zero.
                (_, true, true) if tcp.sequence == 0 => self.count(server, |exchange| &mut exchange.refused),
                _ => {}
            }
        } else if let Some(udp) = packet.udp() {
            self.add_udp(&ip, udp.source_port, udp.destination_port, udp.payload);
        }
    }

    fn add_icmp(&mut self, ip: &Ip, icmp: &Icmp<'_>) {
        let echo = |address| Server {
            service: Service::Echo,
            address,
            port: 0,
        };
        let target = || {
            Some(Ipv6Addr::from(
                <[u8; 16]>::try_from(icmp.payload.get(..16)?).ok()?,
            ))
        };
        match (icmp.echo, icmp.is_v6, icmp.icmp_type) {
            (Some(message), ..) if message.request => {
                self.count(echo(ip.destination), |exchange| &mut exchange.asked);
            }
            (Some(_), ..) => self.count(echo(ip.source), |exchange| &mut exchange.answered),
            // Duplicate address detection waits for no answer (RFC 4862, 5.4).
            (_, true, 135) if !ip.source.is_unspecified() => {
                if let Some(target) = target() {
                    self.asked(target.into(), ip.source);
                }
            }
            (_, true, 136) => {
                if let Some(target) = target() {
                    self.resolved(target.into(), None);
                }
            }
            _ => {
                let (Some(what), Some(about)) = (error_name(icmp), destination_within(icmp)) else {
                    return;
                };
                let complaint = Complaint {
                    from: ip.source,
                    what,
                    about,
                };
                if let Some(count) = remember(&mut self.errors, complaint, &mut self.is_full) {
                    *count += 1;
                }
            }
        }
    }

    fn add_udp(&mut self, ip: &Ip, from: u16, to: u16, payload: &[u8]) {
        let version = if ip.source.is_ipv4() {
            IpVersion::V4
        } else {
            IpVersion::V6
        };
        let message = match (version, from, to) {
            (IpVersion::V4, 67 | 68, 67 | 68) => dhcp_type(payload),
            (IpVersion::V6, _, 546 | 547) => payload.first().copied(),
            _ => None,
        };
        if let Some(message) = message {
            *self.dhcp.entry((version, message)).or_default() += 1;
            return;
        }
        let of = |address, port| Server {
            service: if port == 53 { Service::Dns } else { Service::Udp },
            address,
            port,
        };
        if let Some(exchange) = self.exchanges.get_mut(&of(ip.source, from)) {
            exchange.answered += 1;
        } else if is_unicast(ip.destination) {
            self.count(of(ip.destination, to), |exchange| &mut exchange.asked);
        }
    }

    fn asked(&mut self, target: IpAddr, by: IpAddr) {
        const ASKERS: usize = 3;
        if let Some(resolution) = remember(&mut self.resolutions, target, &mut self.is_full) {
            resolution.asked += 1;
            if resolution.by.len() < ASKERS {
                resolution.by.insert(by);
            }
        }
    }

    fn resolved(&mut self, address: IpAddr, owner: Option<MacAddr>) {
        const OWNERS: usize = 4;
        if let Some(resolution) = remember(&mut self.resolutions, address, &mut self.is_full) {
            resolution.answers += 1;
            if resolution.owners.len() < OWNERS {
                resolution.owners.extend(owner);
            }
        }
    }

    fn count(&mut self, server: Server, counter: fn(&mut Exchange) -> &mut u64) {
        if let Some(exchange) = remember(&mut self.exchanges, server, &mut self.is_full) {
            *counter(exchange) += 1;
        }
    }
}

fn remember<'a, K: Ord, V: Default>(
    map: &'a mut BTreeMap<K, V>,
    key: K,
    is_full: &mut bool,
) -> Option<&'a mut V> {
    if map.len() >= REMEMBERED && !map.contains_key(&key) {
        *is_full = true;
        return None;
    }
    Some(map.entry(key).or_default())
}

fn is_unicast(address: IpAddr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && address != IpAddr::from(Ipv4Addr::BROADCAST)
}

/// The message type of a DHCP message (RFC 2131, 2; RFC 2132, 9.6).
fn dhcp_type(message: &[u8]) -> Option<u8> {
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    let mut options = message.get(236..)?.strip_prefix(&COOKIE)?;
    loop {
        options = match options {
            [0, rest @ ..] => rest,
            [53, 1, kind, ..] => return Some(*kind),
            [255, ..] | [] => return None,
            [_, length, rest @ ..] => rest.get(usize::from(*length)..)?,
            [_] => return None,
        };
    }
}

/// The destination of the packet within an error.
fn destination_within(icmp: &Icmp<'_>) -> Option<IpAddr> {
    Some(match icmp.is_v6 {
        false => <[u8; 4]>::try_from(icmp.payload.get(16..20)?).ok()?.into(),
        true => <[u8; 16]>::try_from(icmp.payload.get(24..40)?).ok()?.into(),
    })
}

fn error_name(icmp: &Icmp<'_>) -> Option<&'static str> {
    Some(match (icmp.is_v6, icmp.icmp_type, icmp.code) {
        (false, 3, 0) => "network unreachable",
        (false, 3, 1) | (true, 1, 3) => "host unreachable",
        (false, 3, 2) => "protocol unreachable",
        (false, 3, 3) | (true, 1, 4) => "port unreachable",
        (false, 3, 4) => "fragmentation needed",
        (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6) => "administratively prohibited",
        (false, 3, _) | (true, 1, _) => "destination unreachable",
        (false, 11, _) | (true, 3, _) => "time exceeded",
        (false, 5, _) | (true, 137, _) => "redirect",
        (true, 2, _) => "packet too big",
        (false, 12, _) | (true, 4, _) => "parameter problem",
        _ => return None,
    })
}
