// SPDX-License-Identifier: GPL-3.0-or-later
//! The client against a fake server, which can be as bad as needed, and against real ones.

mod commands;
mod connecting;
mod descriptors;
mod events;
mod fake;
mod hostile;
mod process;
mod real_qemu;
mod real_storage_daemon;
