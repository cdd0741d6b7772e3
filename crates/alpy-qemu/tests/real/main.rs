// SPDX-License-Identifier: GPL-3.0-or-later
//! Real QEMU processes, under TCG, so that these tests mean the same everywhere.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod captures;
mod ends;
mod full_disk;
mod guest;
mod life;
mod media;
mod nics;
mod refuses;
mod secure;
mod seeds;
mod states;
mod tpm;
