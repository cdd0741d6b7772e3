// SPDX-License-Identifier: GPL-3.0-or-later
//! Random damage: whatever the bytes are, nothing panics and nothing loops.

use alpy_pcap::{Packet, Reader};

use crate::build::{file_of, zoo};

/// Marsaglia's xorshift64: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Flips bits, overwrites bytes, and cuts or repeats a part.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => drop(bytes.drain(at..at + random.below(bytes.len() - at).min(20))),
            _ => bytes.extend_from_within(at..at + random.below(bytes.len() - at).min(40)),
        }
    }
}

/// Calls everything that looks into the bytes.
fn look_at(packet: &Packet<'_>) {
    let line = packet.to_string();
    assert!(!line.contains('\n'));
    let payload = packet.payload().len();
    assert!(payload <= packet.frame().bytes().len());
    assert_eq!(packet.ethernet().is_some(), packet.frame().bytes().len() >= 14);
    // What was recognized at first is still so when it is asked for.
    assert!(packet.tcp().is_none_or(|tcp| tcp.payload.len() == payload));
    assert!(packet.udp().is_none_or(|udp| udp.payload.len() == payload));
    assert!(packet.icmp().is_none_or(|icmp| icmp.payload.len() == payload));
    let transports = [
        packet.tcp().is_some(),
        packet.udp().is_some(),
        packet.icmp().is_some(),
    ];
    assert!(transports.iter().filter(|is| **is).count() <= 1);
    assert!(packet.ip().is_some() || !transports.contains(&true));
    assert!(packet.vlans().count() <= packet.frame().bytes().len() / 4);
    packet.arp();
}

#[test]
fn no_mutated_frame_makes_the_decoder_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2000 {
        for mut frame in zoo() {
            mutate(&mut frame, &mut random);
            look_at(&Packet::decode(alpy_pcap::Frame::new(
                std::time::Duration::ZERO,
                frame,
            )));
        }
    }
}

#[test]
fn no_mutated_capture_makes_the_reader_panic_or_loop() {
    let whole = file_of(&zoo());
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut outcomes = [0; 3];
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        mutate(&mut bytes, &mut random);
        // The smallest record is its header.
        let most = bytes.len() / 16;
        let mut count = 0;
        let Ok(mut reader) = Reader::new(&bytes[..], "mutated") else {
            continue;
        };
        let outcome = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => look_at(&Packet::decode(frame)),
                Ok(None) => break 0,
                Err(error) if error.is_torn() => break 1,
                Err(_) => break 2,
            }
            count += 1;
            assert!(count <= most);
        };
        outcomes[outcome] += 1;
    }
    // The mutations are strong enough to give each outcome.
    assert!(
        outcomes.iter().all(|count| *count > 50),
        "whole, torn, damaged: {outcomes:?}"
    );
}
