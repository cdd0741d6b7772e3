// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests with a real engine.

#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

mod containers;
mod images;
mod lifetime;
mod support;
