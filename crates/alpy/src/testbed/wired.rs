// SPDX-License-Identifier: GPL-3.0-or-later
//! The links of a testbed while it runs, and whether their captures hold all that was on the wire.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alpy_netns::{Counters, Gauge};
use alpy_pcap::Capture;

use crate::error::Result;
use crate::failure::chain;
use crate::node::{Node, state_of};

/// A link.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) index: usize,
    /// The NIC of the machine, the first one of a direct link, with the capture beside it.
    pub(super) nic: NicOf,
    pub(super) far: Far,
    /// None if the test wants none.
    pub(super) capture: Option<Capture>,
    /// It was plugged in while the machine ran.
    pub(super) hot: bool,
}

/// A NIC of a machine, both by number.
#[derive(Debug)]
pub(super) struct NicOf {
    pub(super) dut: usize,
    pub(super) nic: usize,
    /// It was pulled out.
    pub(super) gone: AtomicBool,
}

/// What is at the other end.
#[derive(Debug)]
pub(super) enum Far {
    Node {
        node: Box<Node>,
        /// To pull the cable with. QEMU has it too.
        tap: OwnedFd,
        counted: Counted,
    },
    Nic(NicOf),
}

/// What the kernel has counted at a tap before QEMU had it, to be compared with the capture when QEMU has ended.
///
/// A tap counts a frame when QEMU takes it or gives it, and QEMU writes it to the capture in the same breath: what was counted is in
/// the capture when QEMU has ended, unless it was killed just between the two. There may be more in the capture, for a guest may send to a
/// node whose interface is down.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    link: usize,
    gauge: Arc<Gauge>,
    before: u64,
    dropped_before: u64,
}

impl Wired {
    pub(super) fn node(&self) -> Option<&Node> {
        match &self.far {
            Far::Node { node, .. } => Some(node),
            Far::Nic(_) => None,
        }
    }

    /// The NICs that it has.
    pub(super) fn nics(&self) -> impl Iterator<Item = &NicOf> {
        let second = match &self.far {
            Far::Node { .. } => None,
            Far::Nic(nic) => Some(nic),
        };
        [&self.nic].into_iter().chain(second)
    }
}

impl NicOf {
    pub(super) fn new(dut: usize, nic: usize) -> Self {
        Self {
            dut,
            nic,
            gone: AtomicBool::new(false),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Counted {
    pub(super) fn begin(node: &Node) -> Result<Self> {
        let counters = node.link_state()?.counters;
        Ok(Self {
            link: node.index(),
            gauge: node.gauge(),
            before: frames(&counters),
            dropped_before: counters.tx_dropped,
        })
    }

    pub(super) fn link(&self) -> usize {
        self.link
    }

    /// What is missing in the capture, which has so many frames, or why that is not known. QEMU has ended.
    pub(super) fn fault(&self, capture: &Path, captured: u64) -> Option<String> {
        match state_of(self.link, &self.gauge) {
            Ok(state) => {
                let counted = frames(&state.counters).saturating_sub(self.before);
                let name = capture.display();
                (captured < counted).then(|| format!(
                    "capture {name} is not complete: {counted} frames passed the tap, and {captured} are in it"
                ))
            }
            Err(error) => Some(format!(
                "count the frames of link {}: {}",
                self.link,
                chain(&error)
            )),
        }
    }

    /// How many frames of the node the tap has dropped so far, because the machine did not take them: its queue holds 500 to 1,000.
    ///
    /// Not after QEMU has ended: the kernel counts what a node sends then too.
    pub(super) fn dropped(&self) -> Result<u64> {
        let dropped = state_of(self.link, &self.gauge)?.counters.tx_dropped;
        Ok(dropped.saturating_sub(self.dropped_before))
    }
}

fn frames(counters: &Counters) -> u64 {
    counters.rx_packets + counters.tx_packets
}

/// The name of a link's capture in the evidence.
pub(super) fn capture_name(link: usize) -> PathBuf {
    format!("link{link}.pcap").into()
}
