// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::{InterfaceName, IpPrefix};

/// What came of a [`Request`](crate::Request).
#[derive(Debug, Default)]
pub struct Answer {
    /// The descriptor of each tap that [`Request::tap`](crate::Request::tap) asked for, in that order. Closing it ends the tap.
    pub taps: Vec<OwnedFd>,
    /// What each [`Request::inspect`](crate::Request::inspect) saw, in that order.
    pub links: Vec<LinkInfo>,
}

/// What the helper sends back; the descriptors of the taps come beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Every step is done.
    Done {
        /// What each inspection saw.
        links: Vec<LinkInfo>,
    },
    /// One step is not, and nothing is left of the others.
    Failed(Failure),
}

/// Which step of a request failed and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The step, counted from 1; 0 is the namespace of the whole request.
    pub step: usize,
    /// The step in words, with its values.
    pub operation: String,
    /// Why not.
    pub reason: String,
    /// What could not be undone; nearly always nothing.
    pub left: Vec<String>,
}

/// The state of a link at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkInfo {
    /// The link's name.
    pub name: InterfaceName,
    /// The link's number in its namespace.
    pub index: u32,
    /// The hardware address as text; empty for a link that has none. (A loopback's is all zeros.)
    pub mac: String,
    /// The greatest payload of a frame in bytes.
    pub mtu_bytes: u32,
    /// Whether it has been raised (`IFF_UP`).
    pub up: bool,
    /// Whether there is something at the other end (`IFF_LOWER_UP`); for a tap, a process that holds its descriptor.
    pub carrier: bool,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<IpPrefix>,
    /// What passed through it.
    pub counters: Counters,
}

/// What passed through a link since it was created. The namespace receives what was written to the tap's descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames that came malformed.
    pub rx_errors: u64,
    /// Frames that came and were dropped.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames dropped before they were sent, as when nobody reads the tap's descriptor fast enough.
    pub tx_dropped: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            operation,
            reason,
            left,
        } = self;
        write!(f, "step {step} ({operation}): {reason}")?;
        if !left.is_empty() {
            write!(f, "; not undone: {}", left.join(", "))?;
        }
        Ok(())
    }
}
