// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether the captures hold all that was on the wire.

use std::sync::Arc;

use alpy_netns::{Counters, Gauge};
use alpy_pcap::Capture;

use crate::error::Result;
use crate::failure::chain;
use crate::node::{Node, state_of};

/// What the kernel has counted at the taps when QEMU started, to be compared with the captures when it has ended.
///
/// A tap counts a frame when QEMU takes it or gives it, and QEMU writes it to the capture in the same breath: what was counted is in
/// the capture when QEMU has ended, unless it was killed just between the two. There may be more in the capture, for a guest may send to a node whose interface is
/// down.
#[derive(Debug)]
pub(super) struct Completeness(Vec<Tap>);

#[derive(Debug)]
struct Tap {
    gauge: Arc<Gauge>,
    before: u64,
}

impl Completeness {
    /// Begins, before QEMU does.
    pub(super) fn begin(nodes: &[Node]) -> Result<Self> {
        let begin = |node: &Node| {
            Ok(Tap {
                gauge: node.gauge(),
                before: frames(&node.link_state()?.counters),
            })
        };
        nodes.iter().map(begin).collect::<Result<_>>().map(Self)
    }

    /// What is missing in the captures, or why that is not known. QEMU has ended.
    pub(super) fn faults(self, captures: &[Capture]) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, (tap, capture)) in self.0.iter().zip(captures).enumerate() {
            let counted = state_of(index, &tap.gauge).map(|state| frames(&state.counters) - tap.before);
            let captured = capture.count(|_| true).map(|count| count as u64);
            let name = capture.path().display();
            match (counted, captured) {
                (Ok(counted), Ok(captured)) if captured >= counted => {}
                (Ok(counted), Ok(captured)) => faults.push(format!(
                    "capture {name} is not complete: {counted} frames passed the tap, and {captured} are in it"
                )),
                (Err(error), _) => faults.push(format!("count the frames of link {index}: {}", chain(&error))),
                (_, Err(error)) => faults.push(format!("count the frames in {name}: {}", chain(&error))),
            }
        }
        faults
    }
}

fn frames(counters: &Counters) -> u64 {
    counters.rx_packets + counters.tx_packets
}
