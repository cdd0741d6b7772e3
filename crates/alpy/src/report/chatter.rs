// SPDX-License-Identifier: GPL-3.0-or-later
//! The last frames of a link that may explain a failure: housekeeping of kernels and daemons is counted, not shown.

use std::collections::{BTreeMap, VecDeque};

use alpy_pcap::{Frame, Ip, Packet};

/// How many frames are shown at most.
pub(super) const TELLING: usize = 12;

/// Frames of housekeeping by their kind.
pub(super) type Folded = BTreeMap<&'static str, u64>;

/// A frame, and what came before it and is not shown.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) at: f64,
    /// From which end, if that is known.
    pub(super) from: Option<usize>,
    pub(super) frame: Frame<'static>,
    /// Housekeeping between the frame before and this one.
    pub(super) before: Folded,
    /// How often it came in a row, and when it came last.
    pub(super) times: u64,
    pub(super) last: f64,
}

/// The last frames of a link that are no housekeeping.
#[derive(Debug, Default)]
pub(super) struct LastFrames {
    frames: VecDeque<Telling>,
    /// Housekeeping after the last of them.
    after: Folded,
    is_cut: bool,
}

impl LastFrames {
    /// The next frame of the link, and from which end it comes. The first end may be a node.
    pub(super) fn push(&mut self, at: f64, packet: &Packet<'_>, from: Option<usize>, first_is_node: bool) {
        if let Some(kind) = chatter(packet, first_is_node && from == Some(0)) {
            *self.after.entry(kind).or_default() += 1;
            return;
        }
        let frame = packet.frame();
        let before = std::mem::take(&mut self.after);
        if let Some(last) = self.frames.back_mut() {
            if before.is_empty() && is_repeated(&last.frame, frame) {
                (last.times, last.last) = (last.times + 1, at);
                return;
            }
        }
        if self.frames.len() == TELLING {
            self.frames.pop_front();
            self.is_cut = true;
        }
        self.frames.push_back(Telling {
            at,
            from,
            frame: frame.clone().into_owned(),
            before,
            times: 1,
            last: at,
        });
    }

    /// The frames, and the housekeeping after them. What came before the first frame is told only if no frame is missing there.
    pub(super) fn finish(mut self) -> (Vec<Telling>, Folded) {
        if let Some(first) = self.frames.front_mut().filter(|_| self.is_cut) {
            first.before.clear();
        }
        (self.frames.into(), self.after)
    }
}

/// What was folded, as a line.
pub(super) fn folded_line(folded: &Folded) -> Option<String> {
    let parts: Vec<_> = folded
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    (!parts.is_empty()).then(|| format!("(not shown: {})", parts.join(", ")))
}

/// Whether the same frame came again. The identification of an IPv4 packet differs each time, and its checksum with it.
fn is_repeated(one: &Frame<'_>, other: &Frame<'_>) -> bool {
    let (one, other) = (one.bytes(), other.bytes());
    if one.len() != other.len() {
        return false;
    }
    if one.get(12..14) != Some(&[8, 0]) || one.len() < 34 {
        return one == other;
    }
    one[..18] == other[..18] && one[20..24] == other[20..24] && one[26..] == other[26..]
}

/// The kind of housekeeping that a frame is, if it is any.
///
/// The kernel of a node sends a few kinds of multicast by itself. All others come from a program that the test has started there, and are never
/// folded. A machine may run daemons besides.
fn chatter(packet: &Packet<'_>, from_node: bool) -> Option<&'static str> {
    let ethernet = packet.ethernet()?;
    let destination = ethernet.destination.0;
    if destination[0] & 1 == 0 {
        return None;
    }
    if let (Some(ip), Some(icmp)) = (packet.ip(), packet.icmp()) {
        return match icmp.icmp_type {
            143 if icmp.is_v6 && is_link_local_report(icmp.payload) => Some("MLD"),
            133 if icmp.is_v6 => Some("router solicitation"),
            135 if icmp.is_v6 && ip.source.is_unspecified() => Some("duplicate address detection"),
            _ => None,
        };
    }
    if from_node {
        return None;
    }
    if let (Some(Ip { protocol: 2, .. }), None) = (packet.ip(), packet.udp()) {
        return Some("IGMP");
    }
    if let Some(udp) = packet.udp() {
        return match udp.destination_port {
            5353 => Some("mDNS"),
            5355 => Some("LLMNR"),
            1900 => Some("SSDP"),
            _ => None,
        };
    }
    match (destination, ethernet.ether_type) {
        (_, 0x88cc) => Some("LLDP"),
        // IEEE 802.1D, 7.12.6: the bridge group address.
        ([0x01, 0x80, 0xc2, 0, 0, 0], ..0x600) => Some("STP"),
        ([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd], _) => Some("CDP or PVST"),
        _ => None,
    }
}

/// Whether an MLDv2 report is of groups that a kernel joins by itself, which end at the link. Its records are those of RFC 3810, 5.2.
fn is_link_local_report(mut records: &[u8]) -> bool {
    while let Some(group) = records.get(4..20) {
        // RFC 4291, 2.7: the scope is in the second byte.
        if group[0] != 0xff || group[1] & 0x0f > 2 {
            return false;
        }
        let sources = usize::from(u16::from_be_bytes([records[2], records[3]]));
        let length = 20 + 16 * sources + 4 * usize::from(records[1]);
        records = records.get(length..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MACHINE: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn frame(destination: [u8; 6], ether_type: u16, rest: &[u8]) -> Frame<'static> {
        let bytes = [&destination[..], &MACHINE, &ether_type.to_be_bytes(), rest].concat();
        Frame::new(Duration::ZERO, bytes)
    }

    fn icmp6(source: u8, kind: u8, body: &[u8]) -> Frame<'static> {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 1][..], body].concat();
        let mut rest = vec![0x60, 0, 0, 0, 0, u8::try_from(message.len()).unwrap(), 58, 255];
        rest.extend([&[0; 15][..], &[source], &[0xff, 2], &[0; 13], &[0x16]].concat());
        rest.extend(message);
        frame([0x33, 0x33, 0, 0, 0, 0x16], 0x86dd, &rest)
    }

    fn udp(destination: [u8; 6], port: u16) -> Frame<'static> {
        let mut rest = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 224, 0, 0, 251,
        ];
        rest.extend([0, 9]);
        rest.extend(port.to_be_bytes());
        rest.extend([0, 8, 0, 0]);
        frame(destination, 0x0800, &rest)
    }

    fn arp(target: u8) -> Frame<'static> {
        let mut rest = vec![0, 1, 8, 0, 6, 4, 0, 1];
        rest.extend(MACHINE);
        rest.extend([192, 168, 0, 1, 0, 0, 0, 0, 0, 0, 192, 168, 0, target]);
        frame([0xff; 6], 0x0806, &rest)
    }

    fn report(group: [u8; 2]) -> Frame<'static> {
        icmp6(1, 143, &[&[4, 0, 0, 0][..], &group, &[0; 14]].concat())
    }

    #[test]
    fn folds_what_kernels_and_daemons_send_by_themselves_and_nothing_else() {
        let multicast = [0x01, 0x00, 0x5e, 0, 0, 0xfb];
        let stp = [0x01, 0x80, 0xc2, 0, 0, 0];
        for (frame, by_machine, by_node) in [
            (report([0xff, 2]), Some("MLD"), Some("MLD")),
            // A group that a program has joined.
            (report([0xff, 0x0e]), None, None),
            (
                icmp6(1, 133, &[]),
                Some("router solicitation"),
                Some("router solicitation"),
            ),
            (
                icmp6(0, 135, &[0; 16]),
                Some("duplicate address detection"),
                Some("duplicate address detection"),
            ),
            // A question that waits for an answer, an advertisement of a router, an answer.
            (icmp6(1, 135, &[0; 16]), None, None),
            (icmp6(1, 134, &[0; 16]), None, None),
            (icmp6(1, 136, &[0; 16]), None, None),
            (udp(multicast, 5353), Some("mDNS"), None),
            (udp(multicast, 5354), None, None),
            (udp([0x52, 0, 0, 0, 0, 1], 5353), None, None),
            (
                frame([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &[]),
                Some("LLDP"),
                None,
            ),
            (frame(stp, 38, &[0x42, 0x42, 3]), Some("STP"), None),
            (arp(9), None, None),
        ] {
            let packet = Packet::decode(frame);
            assert_eq!(chatter(&packet, false), by_machine, "{packet}");
            assert_eq!(chatter(&packet, true), by_node, "{packet}");
        }
    }

    #[test]
    fn the_request_that_explains_a_failure_outlasts_any_chatter() {
        let mut last = LastFrames::default();
        let mut at = 0.0;
        let mut push = |frame: Frame<'static>| {
            at += 1.0;
            last.push(at, &Packet::decode(frame), None, false);
        };
        push(icmp6(1, 133, &[]));
        (0..3).for_each(|_| push(arp(9)));
        (0..500).for_each(|_| push(report([0xff, 2])));
        push(arp(8));
        push(icmp6(1, 133, &[]));
        let (frames, after) = last.finish();
        let short: Vec<_> = frames
            .iter()
            .map(|one| (one.at, one.times, one.last, folded_line(&one.before)))
            .collect();
        let line = |text: &str| Some(text.to_owned());
        assert_eq!(
            short,
            [
                (2.0, 3, 4.0, line("(not shown: 1 router solicitation)")),
                (505.0, 1, 505.0, line("(not shown: 500 MLD)"))
            ]
        );
        assert_eq!(folded_line(&after), line("(not shown: 1 router solicitation)"));
    }

    #[test]
    fn keeps_the_last_ones_and_tells_no_chatter_from_before_them() {
        let mut last = LastFrames::default();
        for target in 0..100 {
            last.push(f64::from(target), &Packet::decode(arp(target)), None, false);
            last.push(
                f64::from(target),
                &Packet::decode(icmp6(1, 133, &[])),
                None,
                false,
            );
        }
        let (frames, _) = last.finish();
        assert_eq!((frames.len(), frames[0].at), (TELLING, 88.0));
        assert!(frames[0].before.is_empty() && !frames[1].before.is_empty());
    }
}
