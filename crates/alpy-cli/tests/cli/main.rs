// SPDX-License-Identifier: GPL-3.0-or-later
//! The command `alpy` as it is typed, on real testbeds. Their machines have nothing to boot: they stay in their firmware.

#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod ending;
mod held;
mod support;
mod typed;
mod up;
