// SPDX-License-Identifier: GPL-3.0-or-later
//! From which end of a link a frame comes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use alpy_netns::{IpPrefix, MacAddr};
use alpy_pcap::{Frame, Packet};

use super::record::{End, Link, Record};
use super::source;

/// Of how many packets of each link it is learnt.
const LEARNT: usize = 200;

/// Who has which hardware address.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<[u8; 6], End>);

/// From which ends the frames of one link come. What was found out is remembered, for there are many frames and few sources.
pub(super) struct Sources<'a> {
    owners: &'a Owners,
    link: &'a Link,
    known: Vec<([u8; 6], Option<usize>)>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(owners: &'a Owners, link: &'a Link) -> Self {
        Self {
            owners,
            link,
            known: Vec::new(),
        }
    }

    pub(super) fn end(&mut self, frame: &Frame<'_>) -> Option<usize> {
        /// More than this is an attack on a switch.
        const REMEMBERED: usize = 64;
        let source: [u8; 6] = frame.bytes().get(6..12)?.try_into().ok()?;
        if let Some((_, end)) = self.known.iter().find(|(known, _)| *known == source) {
            return *end;
        }
        let end = self.owners.end(self.link, source);
        if self.known.len() < REMEMBERED {
            self.known.push((source, end));
        }
        end
    }
}

impl Owners {
    /// As the record has it, and as the first packets of the links to nodes tell: whoever sends from a node's own address is the node.
    pub(super) fn learn(dir: &Path, record: &Record) -> Self {
        let mut owners: HashMap<[u8; 6], End> = HashMap::new();
        // On which links there are frames of which source.
        let mut seen: HashMap<[u8; 6], BTreeSet<usize>> = HashMap::new();
        for (index, link) in record.links.iter().enumerate() {
            for end in &link.ends {
                if let Some(mac) = mac_of(end) {
                    owners.insert(mac, end.clone());
                }
            }
            let node = link.ends.first().filter(|end| end.node.is_some());
            let addresses = node.map_or(&[][..], |node| &node.addresses);
            let own: Vec<IpAddr> = addresses
                .iter()
                .filter_map(|text| Some(text.parse::<IpPrefix>().ok()?.address()))
                .collect();
            let Ok(mut reader) = source::frames(&dir.join(&link.capture)) else {
                continue;
            };
            for _ in 0..LEARNT {
                let Ok(Some(frame)) = reader.next_frame() else {
                    break;
                };
                let packet = Packet::decode(frame);
                let sender = packet
                    .arp()
                    .map(|arp| IpAddr::from(arp.sender_ip))
                    .or_else(|| packet.ip().map(|ip| ip.source));
                let Some(ethernet) = packet.ethernet() else {
                    continue;
                };
                seen.entry(ethernet.source.0).or_default().insert(index);
                if let (Some(sender), Some(node)) = (sender, node) {
                    if own.contains(&sender) {
                        owners.entry(ethernet.source.0).or_insert_with(|| node.clone());
                    }
                }
            }
        }
        // A node without an address, as one that asks for it: whoever is on its link alone. What a machine passes on is on two links.
        for (source, links) in seen {
            let (Some(index), 1) = (links.first(), links.len()) else {
                continue;
            };
            let node = record.links[*index].ends.first();
            let Some(node) = node.filter(|end| end.node.is_some()) else {
                continue;
            };
            let known = owners.values().any(|owner| owner.node == node.node);
            if !known && node.addresses.is_empty() {
                owners.entry(source).or_insert_with(|| node.clone());
            }
        }
        Self(owners)
    }

    /// From which end of a link comes what has this source.
    fn end(&self, link: &Link, source: [u8; 6]) -> Option<usize> {
        let Some(owner) = self.0.get(&source) else {
            // One that the machine passes on: whatever is not the node's.
            let node = link.ends.first().filter(|end| end.node.is_some())?;
            let known = self.0.values().any(|owner| owner.node == node.node);
            return known.then_some(1);
        };
        let is = |end: &End| end.node == owner.node && end.machine == owner.machine;
        let at = link.ends.iter().position(is);
        // Of two NICs of one machine at one cable, only the address tells which it is.
        let same = |end: &End| mac_of(end) == Some(source);
        let exact = link.ends.iter().position(same);
        exact.or(at).or_else(|| {
            // Passed on: by the machine, if there is a node here.
            link.ends
                .first()
                .is_some_and(|end| end.node.is_some())
                .then_some(1)
        })
    }
}

fn mac_of(end: &End) -> Option<[u8; 6]> {
    let mac: MacAddr = end.mac.as_deref()?.parse().ok()?;
    Some(mac.octets())
}
