// SPDX-License-Identifier: GPL-3.0-or-later
//! Tasks of the alpy workspace.
fn main() {}
