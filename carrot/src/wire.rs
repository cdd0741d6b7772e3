// SPDX-License-Identifier: GPL-3.0-or-later
//! What the captures of a finished test show.

use std::collections::HashMap;
use std::time::Duration;

use alpy::pcap::{Capture, Packet};
use alpy::{Node, Testbed};
use anyhow::{Result, bail, ensure};

/// A link on which nothing passes for so long is quiet.
const QUIET: Duration = Duration::from_millis(300);
const LOOKS: u32 = 100;

/// Expects that every wanted IPv4 packet of one capture is in the other one too, as a router leaves it: its time to live one
/// less, and nothing else changed from the IP header on; and as often. Returns how many there are; none is an error.
pub fn forwarded(from: &Capture, to: &Capture, wanted: impl Fn(&Packet<'_>) -> bool) -> Result<usize> {
    let mut arrived: HashMap<(Vec<u8>, u8), usize> = HashMap::new();
    to.for_each(|packet| {
        if let Some(key) = without_ttl(packet) {
            *arrived.entry(key).or_default() += 1;
        }
    })?;
    let sent = from.filter(wanted)?;
    ensure!(
        !sent.is_empty(),
        "expected packets to be forwarded in {}, saw none",
        from.path().display()
    );
    for packet in &sent {
        let Some((rest, ttl)) = without_ttl(packet) else {
            bail!("expected an IPv4 packet, saw {}", packet.summary());
        };
        // A stack may send the same packet more than once, to reset a connection for example: each one has to arrive.
        let left = arrived
            .get_mut(&(rest, ttl.saturating_sub(1)))
            .filter(|left| **left > 0);
        let Some(left) = left else {
            bail!(
                "expected in {} with a time to live of {}, saw no such packet (any more): {}",
                to.path().display(),
                ttl.saturating_sub(1),
                packet.summary()
            );
        };
        *left -= 1;
    }
    Ok(sent.len())
}

/// How many frames a link has carried from here on, as the kernel counts at its tap: for a link without a capture.
#[derive(Debug)]
pub struct Count<'a> {
    node: &'a Node,
    before: u64,
}

impl<'a> Count<'a> {
    /// From now on.
    pub fn begin(bed: &'a Testbed, link: usize) -> Result<Self> {
        let node = bed.node(link);
        let before = counted(node)?;
        Ok(Self { node, before })
    }

    /// Waits until the link is quiet again; how many.
    pub async fn end(self) -> Result<u64> {
        let mut looks = tokio::time::interval(QUIET);
        let mut last = None;
        for _ in 0..LOOKS {
            looks.tick().await;
            let passed = counted(self.node)? - self.before;
            if last.replace(passed) == Some(passed) {
                return Ok(passed);
            }
        }
        bail!(never_quiet(self.node));
    }
}

/// What a link has carried from here on: what the kernel counts at its tap, and what its capture shows.
#[derive(Debug)]
pub struct Flow<'a> {
    node: &'a Node,
    capture: Capture,
    before: u64,
}

impl<'a> Flow<'a> {
    /// From now on.
    pub fn begin(bed: &'a Testbed, link: usize) -> Result<Self> {
        let (node, capture) = (bed.node(link), bed.capture(link));
        for _ in 0..LOOKS {
            let before = counted(node)?;
            let mark = capture.mark("flow")?;
            // A frame that passes just then would be on one side of the mark and on the other one of the count.
            if counted(node)? == before {
                let capture = capture.since(&mark)?;
                return Ok(Self {
                    node,
                    capture,
                    before,
                });
            }
        }
        bail!("link {link} is not quiet");
    }

    /// Waits until the link is quiet again, and expects that the capture then holds as many frames as passed the tap: neither fewer
    /// nor more. Returns how many, and the time from the first to the last.
    pub async fn end(self) -> Result<(u64, Duration)> {
        let mut looks = tokio::time::interval(QUIET);
        let mut counted_last = None;
        for _ in 0..LOOKS {
            looks.tick().await;
            let passed = counted(self.node)? - self.before;
            if counted_last.replace(passed) != Some(passed) {
                continue;
            }
            let (captured, time) = self.captured()?;
            // A node asks for its neighbours now and then, without anybody's doing.
            if counted(self.node)? - self.before != passed {
                continue;
            }
            ensure!(
                captured == passed,
                "expected the {passed} frames that passed the tap of link {} in its capture, saw {captured}",
                self.node.index()
            );
            return Ok((passed, time));
        }
        bail!(never_quiet(self.node));
    }

    /// How many frames, and the time from the first to the last.
    fn captured(&self) -> Result<(u64, Duration)> {
        let (mut count, mut first, mut last) = (0, None, Duration::ZERO);
        self.capture.for_each(|packet| {
            count += 1;
            last = packet.frame().timestamp();
            first.get_or_insert(last);
        })?;
        Ok((count, last.saturating_sub(first.unwrap_or(last))))
    }
}

fn never_quiet(node: &Node) -> String {
    format!("link {} is not quiet within {:?}", node.index(), QUIET * LOOKS)
}

fn counted(node: &Node) -> Result<u64> {
    let counters = node.link_state()?.counters;
    Ok(counters.rx_packets + counters.tx_packets)
}

/// The bytes of an untagged IPv4 packet with the time to live and the checksum over it taken out, and the time to live.
fn without_ttl(packet: &Packet<'_>) -> Option<(Vec<u8>, u8)> {
    const ETHERNET: usize = 14;
    const TTL: usize = ETHERNET + 8;
    const CHECKSUM: usize = ETHERNET + 10;
    let ip = packet
        .ip()
        .filter(|ip| ip.source.is_ipv4() && packet.vlans().next().is_none())?;
    let mut bytes = packet.frame().bytes().to_vec();
    bytes[TTL] = 0;
    bytes[CHECKSUM..CHECKSUM + 2].fill(0);
    Some((bytes.split_off(ETHERNET), ip.ttl))
}
