// SPDX-License-Identifier: GPL-3.0-or-later
//! A console whose far end is played by the test.

mod expecting;
mod far_end;
mod rexpect_session;
mod sending;
mod transcript;
