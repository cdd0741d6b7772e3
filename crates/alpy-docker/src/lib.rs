// SPDX-License-Identifier: GPL-3.0-or-later
//! Containers whose lifetime is tied to a test.
