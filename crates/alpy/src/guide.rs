// SPDX-License-Identifier: GPL-3.0-or-later
//! The guide: how alpy wires things up, and how to watch it.

#[doc = include_str!("guide/network-design.md")]
pub mod network_design {}

#[doc = include_str!("guide/network-of-nodes.md")]
pub mod network_of_nodes {}

#[doc = include_str!("guide/wire.md")]
pub mod wire {}

#[doc = include_str!("guide/several-machines.md")]
pub mod several_machines {}

#[doc = include_str!("guide/report.md")]
pub mod report {}

#[doc = include_str!("guide/at-the-testbed.md")]
pub mod at_the_testbed {}

#[doc = include_str!("guide/faq.md")]
pub mod faq {}

#[doc = include_str!("guide/rights.md")]
pub mod rights {}

#[doc = include_str!("guide/endings.md")]
pub mod endings {}

#[doc = include_str!("guide/capacity.md")]
pub mod capacity {}

#[doc = include_str!("guide/saved-states.md")]
pub mod saved_states {}

#[doc = include_str!("guide/strangers.md")]
pub mod strangers {}
