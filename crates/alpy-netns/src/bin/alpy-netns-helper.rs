// SPDX-License-Identifier: GPL-3.0-or-later
//! Works for alpy inside a network namespace.
fn main() {}
