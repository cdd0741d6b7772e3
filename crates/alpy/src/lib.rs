// SPDX-License-Identifier: GPL-3.0-or-later
//! Test network virtual appliances: a QEMU machine whose NICs are taps in containers' namespaces.
