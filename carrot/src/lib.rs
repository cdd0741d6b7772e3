// SPDX-License-Identifier: GPL-3.0-or-later
//! Helpers of the rabbit tests.
//!
//! - [`login`], [`configure`], [`reboot`], [`poweroff`]: the life of a rabbit, from its boot to its end.
//! - [`judged`]: repeats a measurement that a busy host can spoil.
//! - [`ping`]: echo requests from a node, answered or lost.
//! - [`iperf3`]: throughput between two nodes, over TCP and UDP.
//! - [`http`]: servers and requests.
//! - [`server`]: a server that is asked whether it is ready.
//! - [`tcp`]: connections that are dropped.
//! - [`frames`]: frames of any kind, sent and received as they are.
//! - [`rate`]: rates on the wire, on a busy host too.
//! - [`wire`]: what the captures of a finished test show.
//! - [`disk`]: what a guest does with its disks.

pub mod disk;
pub mod frames;
pub mod http;
pub mod iperf3;
pub mod ping;
pub mod rate;
pub mod server;
pub mod tcp;
pub mod wire;

mod guest;
mod judged;

pub use guest::{configure, login, poweroff, reboot};
pub use judged::judged;
