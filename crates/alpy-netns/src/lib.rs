// SPDX-License-Identifier: GPL-3.0-or-later
//! Tap devices and network namespaces through rtnetlink.
