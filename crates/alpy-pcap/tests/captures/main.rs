// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures made by hand: read, damaged, decoded, still being written, and read by tcpdump too.

mod asking;
mod build;
mod decoding;
mod growing;
#[cfg(feature = "live")]
mod live;
mod marks;
mod merging;
mod reading;
mod tcpdump;
