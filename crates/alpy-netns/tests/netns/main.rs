// SPDX-License-Identifier: GPL-3.0-or-later
//! The embedded helper at work in namespaces of its own, looked at with `ip`; and what the test's side makes of bad peers.
#![expect(clippy::unwrap_used, reason = "the first surprise ends a test")]

mod configures;
mod guards;
mod holds;
mod image;
mod impairs;
mod lab;
mod lends;
mod once;
mod refuses;
mod session;
mod taps;
mod undoes;
