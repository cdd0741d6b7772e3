// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests with a real engine.

mod containers;
mod images;
mod lifetime;
mod support;
