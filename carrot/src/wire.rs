// SPDX-License-Identifier: GPL-3.0-or-later
//! What the captures of a finished test show.

use std::collections::HashMap;

use alpy::pcap::{Capture, Packet};
use anyhow::{Result, bail, ensure};

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
            bail!("expected an IPv4 packet, saw {packet}");
        };
        // A stack may send the same packet more than once, to reset a connection for example: each one has to arrive.
        let left = arrived
            .get_mut(&(rest, ttl.saturating_sub(1)))
            .filter(|left| **left > 0);
        let Some(left) = left else {
            bail!(
                "expected in {} with a time to live of {}, saw no such packet (any more): {packet}",
                to.path().display(),
                ttl.saturating_sub(1)
            );
        };
        *left -= 1;
    }
    Ok(sent.len())
}

/// The payload rate of wanted packets on the wire in bits per second, Ethernet headers included, from the first to the last.
pub fn bits_per_second(capture: &Capture, wanted: impl Fn(&Packet<'_>) -> bool) -> Result<f64> {
    let packets = capture.filter(wanted)?;
    let (Some(first), Some(last)) = (packets.first(), packets.last()) else {
        bail!("expected packets in {}, saw none", capture.path().display());
    };
    let seconds = last
        .frame()
        .timestamp()
        .saturating_sub(first.frame().timestamp())
        .as_secs_f64();
    ensure!(
        seconds > 0.0,
        "expected packets over some time in {}, saw {} at once",
        capture.path().display(),
        packets.len()
    );
    // The first packet begins the time, so that its bytes do not count.
    let bytes: f64 = packets[1..]
        .iter()
        .map(|packet| f64::from(packet.frame().original_len()))
        .sum();
    Ok(bytes * 8.0 / seconds)
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
