// SPDX-License-Identifier: GPL-3.0-or-later
//! A console whose far end is played by the test.
#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

mod expecting;
mod far_end;
mod rexpect_session;
mod sending;
mod transcript;
