// SPDX-License-Identifier: GPL-3.0-or-later
//! Sentences about the traffic of a run that compare its links: what was asked on one and is absent on another, and what was never answered.
//!
//! They are true of the captures. Nothing is said to be absent where a capture was not read to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use alpy_netns::IpPrefix;

use super::packets::Summary;
use super::page::end_name;
use super::record::Record;
use super::traffic::{Exchange, IpVersion, Server, Service, Traffic};

/// How many sentences there are at most, and how many of one kind.
const SENTENCES: usize = 14;
const OF_A_KIND: usize = 4;

/// What a person should know first of the traffic of a run that failed.
pub(super) fn sentences(record: &Record, summaries: &[Summary]) -> Vec<String> {
    let links = Links { record, summaries };
    let kinds = [
        one_sided(&links),
        resolutions(&links),
        dhcp(&links),
        exchanges(&links),
        errors(&links),
    ];
    let mut all = Vec::new();
    for mut kind in kinds {
        let more = kind.len().saturating_sub(OF_A_KIND);
        kind.truncate(OF_A_KIND);
        all.extend(kind);
        if more > 0 {
            all.push(format!("and {more} more of this kind"));
        }
    }
    all.truncate(SENTENCES);
    all
}

struct Links<'a> {
    record: &'a Record,
    summaries: &'a [Summary],
}

impl Links<'_> {
    fn traffic(&self) -> impl Iterator<Item = (usize, &Traffic)> {
        self.summaries
            .iter()
            .enumerate()
            .map(|(link, summary)| (link, &summary.traffic))
    }

    /// Whether it is known that what was not seen on a link was not there.
    fn is_known(&self, link: usize) -> bool {
        self.summaries
            .get(link)
            .is_some_and(|summary| summary.is_whole && !summary.traffic.is_full)
    }

    fn are_known(&self) -> bool {
        (0..self.summaries.len()).all(|link| self.is_known(link))
    }

    /// The link whose node has this address.
    fn of_node(&self, address: IpAddr) -> Option<usize> {
        self.record.links.iter().position(|link| {
            let node = link.ends.first().filter(|end| end.node.is_some());
            let mut addresses = node.into_iter().flat_map(|node| &node.addresses);
            addresses.any(|text| {
                text.parse::<IpPrefix>()
                    .is_ok_and(|prefix| prefix.address() == address)
            })
        })
    }

    /// "3 echo requests on link 0, none on link 1": how often something was seen, and that it is absent on the links of `must`. Nothing if the
    /// counts are the same everywhere.
    fn across(&self, what: Words, counts: &BTreeMap<usize, u64>, must: &[usize]) -> Option<String> {
        let seen: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
        let (_, first) = *seen.first()?;
        let absent = must
            .iter()
            .filter(|link| counts.get(link).is_none_or(|count| *count == 0) && self.is_known(**link));
        let absent: BTreeSet<_> = absent.collect();
        let is_same = seen.iter().all(|(_, count)| *count == first);
        let is_known = seen.iter().all(|(link, _)| self.is_known(**link));
        if !is_known || (absent.is_empty() && is_same) {
            return None;
        }
        let mut parts = vec![format!("{} on link {}", what.counted(*first), seen[0].0)];
        parts.extend(
            seen[1..]
                .iter()
                .map(|(link, count)| format!("{count} on link {link}")),
        );
        parts.extend(absent.iter().map(|link| format!("none on link {link}")));
        Some(parts.join(", "))
    }
}

/// What is counted: of one, of several, and what belongs behind them.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str, &'a str, &'a str);

impl Words<'_> {
    fn counted(self, count: u64) -> String {
        let Self(one, several, rest) = self;
        match count {
            1 => format!("1 {one}{rest}"),
            _ => format!("{count} {several}{rest}"),
        }
    }
}

/// Links on which one end has never said anything.
fn one_sided(links: &Links<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    for (index, summary) in links.summaries.iter().enumerate() {
        let [first, second] = summary.from;
        let is_known = links.is_known(index) && first + second == summary.frames;
        let Some(link) = links.record.links.get(index).filter(|_| is_known) else {
            continue;
        };
        let name = |end: usize| match end_name(links.record, link.ends.get(end)) {
            name if name == "machine" => "the machine".to_owned(),
            name => name,
        };
        let (frames, from, silent) = match (first, second) {
            (1.., 0) => (first, name(0), name(1)),
            (0, 1..) => (second, name(1), name(0)),
            _ => continue,
        };
        let frames = match frames {
            1 => "the only frame".to_owned(),
            count => format!("all {count} frames"),
        };
        let sentence = format!("{frames} on link {index} came from {from}, none from {silent}");
        sentences.push(sentence);
    }
    sentences
}

/// Addresses that nobody has, and those that two have.
fn resolutions(links: &Links<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    for (link, traffic) in links.traffic() {
        for (address, resolution) in &traffic.resolutions {
            let name = if address.is_ipv4() {
                "ARP"
            } else {
                "neighbor solicitation"
            };
            if resolution.asked > 0 && resolution.answers == 0 && links.is_known(link) {
                let requests = Words("request", "requests", "").counted(resolution.asked);
                let by: Vec<_> = resolution.by.iter().map(ToString::to_string).collect();
                sentences.push(format!(
                    "{name} for {address} was never answered: {requests} on link {link}, from {}",
                    by.join(" and ")
                ));
            }
            if resolution.owners.len() > 1 {
                let owners: Vec<_> = resolution.owners.iter().map(ToString::to_string).collect();
                sentences.push(format!(
                    "{address} had {} hardware addresses on link {link}: {}",
                    owners.len(),
                    owners.join(" and ")
                ));
            }
        }
    }
    sentences
}

fn dhcp(links: &Links<'_>) -> Vec<String> {
    // The types of RFC 2131 and of RFC 8415: what asks, what answers, and what refuses.
    type Step = (IpVersion, u8, &'static [u8], &'static str, &'static str);
    const STEPS: [Step; 4] = [
        (IpVersion::V4, 1, &[2, 5], "DHCP discover", "no offer"),
        (IpVersion::V4, 3, &[5, 6], "DHCP request", "no acknowledgement"),
        (IpVersion::V6, 1, &[2, 7], "DHCPv6 solicit", "no advertise"),
        (IpVersion::V6, 3, &[7], "DHCPv6 request", "no reply"),
    ];
    let mut sentences = Vec::new();
    for (link, traffic) in links.traffic() {
        let count = |version, kind| traffic.dhcp.get(&(version, kind)).copied().unwrap_or(0);
        for (version, asks, answers, name, absent) in STEPS {
            let asked = count(version, asks);
            let answered: u64 = answers.iter().map(|kind| count(version, *kind)).sum();
            if asked > 0 && answered == 0 && links.is_known(link) {
                let plural = format!("{name}s");
                let asked = Words(name, &plural, "").counted(asked);
                sentences.push(format!("{asked} on link {link}, {absent}"));
            }
        }
        let refused = count(IpVersion::V4, 6);
        if refused > 0 {
            let refused = Words("DHCP request was", "DHCP requests were", "").counted(refused);
            sentences.push(format!("{refused} refused (NAK) on link {link}"));
        }
    }
    sentences
}

fn exchanges(links: &Links<'_>) -> Vec<String> {
    let servers: BTreeSet<&Server> = links
        .traffic()
        .flat_map(|(_, traffic)| traffic.exchanges.keys())
        .collect();
    servers
        .into_iter()
        .filter_map(|server| exchange(links, server))
        .collect()
}

/// How far the requests to a server came, and the answers.
fn exchange(links: &Links<'_>, server: &Server) -> Option<String> {
    let counts = |of: fn(&Exchange) -> u64| -> BTreeMap<usize, u64> {
        let seen = links
            .traffic()
            .filter_map(|(link, traffic)| Some((link, of(traffic.exchanges.get(server)?))));
        seen.filter(|(_, count)| *count > 0).collect()
    };
    let (asked, answered) = (counts(|one| one.asked), counts(|one| one.answered));
    // A router passes a reset on: it is on several links.
    let refused = counts(|one| one.refused).values().copied().max().unwrap_or(0);
    let Server {
        service,
        address,
        port,
    } = server;
    let socket = std::net::SocketAddr::new(*address, *port);
    let to = match service {
        Service::Echo => format!(" to {address}"),
        _ => format!(" to {socket}"),
    };
    let from = to.replacen(" to ", " from ", 1);
    let (request, answer) = match service {
        Service::Echo => (
            Words("echo request", "echo requests", &to),
            Words("echo reply", "echo replies", &from),
        ),
        Service::Tcp => (Words("SYN", "SYNs", &to), Words("SYN-ACK", "SYN-ACKs", &from)),
        Service::Dns => (
            Words("DNS query", "DNS queries", &to),
            Words("DNS response", "DNS responses", &from),
        ),
        Service::Udp => (
            Words("UDP datagram", "UDP datagrams", &to),
            Words("UDP datagram", "UDP datagrams", &from),
        ),
    };
    let mut parts = Vec::new();
    let is_multicast = address.is_multicast();
    let at_node = links.of_node(*address);
    let must: Vec<_> = at_node.into_iter().collect();
    // Only what was asked on another link has to come to the one of the node.
    let requests = links.across(request, &asked, &must);
    let unanswered = *service != Service::Udp
        && !is_multicast
        && !asked.is_empty()
        && answered.is_empty()
        && refused == 0
        && links.are_known();
    match (requests, unanswered) {
        (requests, true) => {
            let places: Vec<_> = asked.keys().map(|link| format!("link {link}")).collect();
            let total = asked.values().copied().max().unwrap_or(0);
            let all = || format!("{} on {}", request.counted(total), places.join(" and "));
            parts.push(format!("{}; none was answered", requests.unwrap_or_else(all)));
        }
        (Some(requests), false) => parts.push(requests),
        (None, false) => {}
    }
    let asked_on: Vec<_> = asked.keys().copied().collect();
    if !is_multicast {
        parts.extend(links.across(answer, &answered, &asked_on));
    }
    if refused > 0 {
        parts.push(format!(
            "{} refused by RST",
            Words("SYN", "SYNs", &to).counted(refused)
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The errors that routers and hosts have reported.
fn errors(links: &Links<'_>) -> Vec<String> {
    let mut all: BTreeMap<_, Vec<(usize, u64)>> = BTreeMap::new();
    for (link, traffic) in links.traffic() {
        for (complaint, count) in &traffic.errors {
            all.entry(complaint).or_default().push((link, *count));
        }
    }
    let sentence = |(complaint, places): (&super::traffic::Complaint, Vec<(usize, u64)>)| {
        let places: Vec<_> = places
            .iter()
            .map(|(link, count)| match count {
                1 => format!("once on link {link}"),
                _ => format!("{count} times on link {link}"),
            })
            .collect();
        format!(
            "{} reported \"{}\" for packets to {}, {}",
            complaint.from,
            complaint.what,
            complaint.about,
            places.join(", ")
        )
    };
    all.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alpy_pcap::{Frame, Packet};

    use super::*;
    use crate::report::record::{End, Link, Machine};

    const CLIENT: [u8; 4] = [192, 168, 0, 1];
    const SERVER: [u8; 4] = [192, 168, 1, 1];

    fn ethernet(ether_type: u16, rest: &[u8]) -> Vec<u8> {
        [
            &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..],
            &ether_type.to_be_bytes(),
            rest,
        ]
        .concat()
    }

    fn ip(protocol: u8, from: [u8; 4], to: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + rest.len()).unwrap().to_be_bytes();
        let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend([&from[..], &to, rest].concat());
        ethernet(0x0800, &header)
    }

    fn echo(kind: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        ip(1, from, to, &[kind, 0, 0, 0, 0, 7, 0, 1])
    }

    fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
        let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        let rest = [0, 0, 0, 0, 0, 0, 0, 1, 0x50, flags, 0, 9, 0, 0, 0, 0];
        ip(6, from.0, to.0, &[&ports[..], &rest].concat())
    }

    fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let header = [from.1, to.1, length, 0].map(u16::to_be_bytes).concat();
        ip(17, from.0, to.0, &[&header[..], payload].concat())
    }

    fn dhcp(kind: u8) -> Vec<u8> {
        let message = [
            &[1; 236][..],
            &[99, 130, 83, 99, 0, 12, 1, b'x', 53, 1, kind, 255],
        ]
        .concat();
        udp(([0; 4], 68), ([255; 4], 67), &message)
    }

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4], mac: u8) -> Vec<u8> {
        let rest = [
            &[0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, mac][..],
            &sender,
            &[0; 6],
            &target,
        ];
        ethernet(0x0806, &rest.concat())
    }

    fn neighbor(kind: u8, source: u8) -> Vec<u8> {
        let target = [&[0xfd][..], &[0; 14], &[9]].concat();
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
        let mut rest = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        rest.extend([&[0; 15][..], &[source], &[0xff, 2], &[0; 14]].concat());
        rest.extend(message);
        ethernet(0x86dd, &rest)
    }

    /// Sentences about a router between the client's link 0 and the server's link 1.
    fn of(links: &[&[Vec<u8>]]) -> Vec<String> {
        sentences(
            &router(),
            &links.iter().map(|frames| summary(frames)).collect::<Vec<_>>(),
        )
    }

    fn router() -> Record {
        let link = |node: usize, address: &str| Link {
            ends: vec![
                End {
                    node: Some(node),
                    addresses: vec![address.to_owned()],
                    ..End::default()
                },
                End {
                    machine: Some(0),
                    ..End::default()
                },
            ],
            ..Link::default()
        };
        Record {
            machines: vec![Machine::default()],
            links: vec![link(0, "192.168.0.1/24"), link(1, "192.168.1.1/24")],
            ..Record::default()
        }
    }

    fn summary(frames: &[Vec<u8>]) -> Summary {
        let mut traffic = Traffic::default();
        for bytes in frames {
            traffic.add(&Packet::decode(Frame::new(Duration::ZERO, bytes)));
        }
        Summary {
            frames: frames.len() as u64,
            is_whole: true,
            traffic,
            ..Summary::default()
        }
    }

    #[test]
    fn a_request_that_does_not_cross_is_told_with_the_link_where_it_is_absent() {
        let request = || echo(8, CLIENT, SERVER);
        let reply = || echo(0, SERVER, CLIENT);
        let three = [request(), request(), request()];
        assert_eq!(
            of(&[&three, &[]]),
            ["3 echo requests to 192.168.1.1 on link 0, none on link 1; none was answered"]
        );
        // It comes back to the router, and no further.
        assert_eq!(
            of(&[&[request()], &[request(), reply()]]),
            ["1 echo reply from 192.168.1.1 on link 1, none on link 0"]
        );
        assert_eq!(
            of(&[&[request()], &[request()]]),
            ["1 echo request to 192.168.1.1 on link 0 and link 1; none was answered"]
        );
        assert_eq!(
            of(&[&[request(), reply(), request(), reply()], &[request(), reply()]]),
            [
                "2 echo requests to 192.168.1.1 on link 0, 1 on link 1; 2 echo replies from 192.168.1.1 on link 0, 1 on link 1"
            ]
        );
        assert!(of(&[&[request(), reply()], &[request(), reply()]]).is_empty());
        // An address that no node has: nobody knows on which link it belongs.
        let elsewhere = [10, 0, 0, 1];
        assert_eq!(
            of(&[&[echo(8, CLIENT, elsewhere)], &[]]),
            ["1 echo request to 10.0.0.1 on link 0; none was answered"]
        );
    }

    #[test]
    fn nothing_is_absent_where_not_all_was_read() {
        let summaries = [
            summary(&[echo(8, CLIENT, SERVER), arp(1, CLIENT, SERVER, 1)]),
            summary(&[]),
        ];
        assert_eq!(sentences(&router(), &summaries).len(), 2);
        for is_first in [true, false] {
            let mut summaries = [
                summary(&[echo(8, CLIENT, SERVER), arp(1, CLIENT, SERVER, 1)]),
                summary(&[]),
            ];
            let [first, second] = &mut summaries;
            if is_first {
                first.is_whole = false;
            } else {
                second.traffic.is_full = true;
            }
            let sentences = sentences(&router(), &summaries);
            let absent = sentences
                .iter()
                .any(|text| text.contains("on link 1") || text.contains("none was"));
            assert!(!absent, "{sentences:?}");
            assert_eq!(
                sentences.iter().any(|text| text.contains("ARP")),
                !is_first,
                "{sentences:?}"
            );
        }
    }

    #[test]
    fn an_address_that_nobody_has_is_told_and_one_that_two_have() {
        let nobody = [192, 168, 0, 9];
        let asked = arp(1, CLIENT, nobody, 1);
        assert_eq!(
            of(&[&[asked.clone(), asked.clone()], &[]]),
            ["ARP for 192.168.0.9 was never answered: 2 requests on link 0, from 192.168.0.1"]
        );
        assert!(of(&[&[asked.clone(), arp(2, nobody, CLIENT, 5)], &[]]).is_empty());
        // A probe for an address that shall be one's own, and an announcement of it.
        assert!(of(&[&[arp(1, [0; 4], nobody, 1), arp(1, nobody, nobody, 1)], &[]]).is_empty());
        assert_eq!(
            of(&[
                &[asked, arp(2, nobody, CLIENT, 5), arp(2, nobody, CLIENT, 6)],
                &[]
            ]),
            ["192.168.0.9 had 2 hardware addresses on link 0: 02:00:00:00:00:05 and 02:00:00:00:00:06"]
        );
        assert_eq!(
            of(&[&[neighbor(135, 1)], &[]]),
            ["neighbor solicitation for fd00::9 was never answered: 1 request on link 0, from ::1"]
        );
        assert!(of(&[&[neighbor(135, 1), neighbor(136, 9)], &[]]).is_empty());
        assert!(of(&[&[neighbor(135, 0)], &[]]).is_empty());
    }

    #[test]
    fn a_connection_is_lost_on_the_way_refused_or_without_an_answer() {
        let (client, server) = ((CLIENT, 4000), (SERVER, 80));
        let (syn, both, reset) = (0x02, 0x12, 0x14);
        let asks = tcp(client, server, syn);
        assert_eq!(
            of(&[&[asks.clone(), asks.clone()], &[]]),
            ["2 SYNs to 192.168.1.1:80 on link 0, none on link 1; none was answered"]
        );
        let accepts = tcp(server, client, both);
        assert_eq!(
            of(&[std::slice::from_ref(&asks), &[asks.clone(), accepts.clone()]]),
            ["1 SYN-ACK from 192.168.1.1:80 on link 1, none on link 0"]
        );
        let refuses = tcp(server, client, reset);
        assert_eq!(
            of(&[&[asks.clone(), refuses.clone()], &[asks.clone(), refuses]]),
            ["1 SYN to 192.168.1.1:80 refused by RST"]
        );
        assert!(of(&[&[asks.clone(), accepts.clone()], &[asks, accepts]]).is_empty());
    }

    #[test]
    fn datagrams_names_and_addresses_are_asked_for() {
        let ask = |port| udp((CLIENT, 5000), (SERVER, port), b"?");
        assert_eq!(
            of(&[&[ask(53)], &[]]),
            ["1 DNS query to 192.168.1.1:53 on link 0, none on link 1; none was answered"]
        );
        // A datagram may go without an answer.
        assert!(of(&[&[ask(9)], &[ask(9)]]).is_empty());
        assert_eq!(
            of(&[&[ask(9), ask(9)], &[]]),
            ["2 UDP datagrams to 192.168.1.1:9 on link 0, none on link 1"]
        );
        assert_eq!(
            of(&[&[dhcp(1), dhcp(1)], &[]]),
            ["2 DHCP discovers on link 0, no offer"]
        );
        assert!(of(&[&[dhcp(1), dhcp(2), dhcp(3), dhcp(5)], &[]]).is_empty());
        assert_eq!(
            of(&[&[dhcp(3), dhcp(6)], &[]]),
            ["1 DHCP request was refused (NAK) on link 0"]
        );
    }

    #[test]
    fn an_error_names_who_reports_it_and_what_it_is_about() {
        let about = ip(17, CLIENT, SERVER, &[0; 8])[14..].to_vec();
        let error = ip(
            1,
            [192, 168, 0, 2],
            CLIENT,
            &[&[3, 1, 0, 0, 0, 0, 0, 0][..], &about].concat(),
        );
        assert_eq!(
            of(&[&[error.clone(), error], &[]]),
            ["192.168.0.2 reported \"host unreachable\" for packets to 192.168.1.1, 2 times on link 0"]
        );
    }

    #[test]
    fn an_end_that_never_spoke_is_named() {
        let mut silent = summary(&[arp(2, CLIENT, CLIENT, 1)]);
        silent.from = [1, 0];
        let other = summary(&[]);
        assert_eq!(
            sentences(&router(), &[silent, other]),
            ["the only frame on link 0 came from node 0, none from the machine"]
        );
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_makes_nothing_absent() {
        let flood: Vec<_> = (0..5000_u16)
            .map(|host| echo(8, CLIENT, [10, 1, host.to_be_bytes()[0], host.to_be_bytes()[1]]))
            .collect();
        let summary = summary(&flood);
        assert!(summary.traffic.is_full && summary.traffic.exchanges.len() <= 2000);
        assert!(sentences(&router(), &[summary]).is_empty());
    }
}
